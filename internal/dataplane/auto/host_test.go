package auto_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/auto"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// host is a namespace with a TUN, an underlay and pins of its own, on which real engines follow each other.
type host struct {
	t     *testing.T
	wire  *nstest.Capture
	loops sync.WaitGroup
	sent  int
}

// wanted is what engines do on the host.
func wanted(sealed bool) (dataplane.Wanted, error) {
	at := func(s string) []mesh.Endpoint { return []mesh.Endpoint{{AddrPort: netip.MustParseAddrPort(s)}} }
	behind := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	w := dataplane.Wanted{Sealed: sealed, Interface: "mesh0", Queues: 1}
	w.Mesh = mesh.Mesh{Self: "a", Peers: []mesh.Peer{
		{Name: "a", Addresses: at("192.0.2.1:8285"), Subnets: behind("10.244.0.0/24")},
		{Name: "b", Addresses: at("192.0.2.2:8285"), Subnets: behind("10.244.1.0/24")},
	}}
	w.Binds = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:8285")}
	device, err := net.InterfaceByName("eth0")
	if err == nil {
		w.Kernel = dataplane.Programs{Use: dataplane.Always, MTU: 1472, Outer: 1500, Receive: dataplane.TCX,
			Underlay: []int{device.Index}}
	}
	return w, err
}

// engine returns a new engine, as a new process has.
func (h *host) engine() *auto.Engine {
	return auto.New(dataplane.Options{Log: slog.New(slog.DiscardHandler), Broken: func() {},
		Start: func(l dataplane.Loop) { h.loops.Go(func() { _ = l.Run(context.Background()) }) }})
}

// leave ends an engine as meshd does when it stops: programs stay.
func (h *host) leave(e *auto.Engine) error {
	err := e.Stop()
	h.loops.Wait()
	return errors.Join(err, e.Close())
}

// datagrams sends a packet of a pod to a peer, and returns how many datagrams with it left bare, once it was
// dealt with.
func (h *host) datagrams(dealt func() bool) (n int, err error) {
	h.sent++
	word := fmt.Appendf(nil, "packet %d", h.sent)
	end := fmt.Appendf(nil, "end %d", h.sent)
	if err := sendUDP("10.244.0.0:9", "10.244.1.2:9", word); err != nil {
		return 0, err
	}
	for until := time.Now().Add(10 * time.Second); !dealt(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			return 0, errors.New("the packet was not dealt with")
		}
	}
	if err := sendUDP("192.0.2.1:9", "192.0.2.2:9", end); err != nil { // the last frame to look at
		return 0, err
	}
	_, err = h.wire.Next(10*time.Second, func(frame []byte) bool {
		if bytes.Contains(frame, word) {
			n++
		}
		return bytes.Contains(frame, end)
	})
	return n, err
}

// sendUDP sends one datagram, in the namespace of the calling thread.
func sendUDP(from, to string, b []byte) error {
	at := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
	c, err := net.DialUDP("udp", at, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
	if err != nil {
		return err
	}
	_, err = c.Write(b)
	return errors.Join(err, c.Close())
}

// pinnedPrograms returns how many links are pinned.
func pinnedPrograms() int {
	pins, _ := filepath.Glob("/sys/fs/bpf/meshd/net-*/link-*")
	return len(pins)
}

// Programs that an earlier meshd pinned are detached before anything else of a sealed mesh is done: until
// then they send in the clear.
func TestPinnedProgramsAreDetached(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		h := &host{t: t}
		if err := h.build(n); err != nil {
			t.Error(err)
			return
		}
		defer h.wire.Close()
		if err := h.sealAfterOpen(); err != nil {
			t.Error(err)
		}
	})
}

// build makes the interfaces, and mounts a file system for pins that this thread alone sees.
func (h *host) build(n *nstest.Namespace) (err error) {
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("none", "/sys/fs/bpf", "bpf", 0, "mode=0700"), tun.Create("mesh0")); err != nil {
		return err
	}
	if err := n.IP("link add eth0 type veth peer name wire", "link set wire up",
		"address add 192.0.2.1/24 dev eth0", "link set eth0 up",
		"neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0",
		"address add 10.244.0.0/32 dev mesh0", "link set mesh0 up mtu 1472", "route add 10.244.0.0/16 dev mesh0",
	); err != nil {
		return err
	}
	if err := n.Sysctl("ipv4.ip_forward", "1"); err != nil { // or bpf_fib_lookup has no answer
		return err
	}
	h.wire, err = n.Capture("wire")
	return err
}

// sealAfterOpen has an open mesh run in a process of its own, which ends and with it all that is not pinned,
// and begins a sealed one.
func (h *host) sealAfterOpen() error {
	atOnce := func() bool { return true } // programs are done before the sender's call returns
	expect := func(when string, programs bool, datagrams int, dealt func() bool) {
		got, err := h.datagrams(dealt)
		if err != nil || got != datagrams || (pinnedPrograms() > 0) != programs {
			h.t.Errorf("%s: %d datagrams left, %d programs are pinned: %v", when, got, pinnedPrograms(), err)
		}
	}
	earlier := exec.Command(os.Args[0])
	earlier.Env = append(os.Environ(), earlierMeshd+"=1")
	if out, err := earlier.CombinedOutput(); err != nil { // it is in the namespaces of this thread
		return fmt.Errorf("an open mesh: %w\n%s", err, out)
	}
	expect("no meshd", true, 1, atOnce)

	w, err := wanted(true)
	if err != nil {
		return err
	}
	sealed, ctx := h.engine(), h.t.Context()
	if _, err := sealed.Prepare(ctx, w); err != nil {
		return err
	}
	expect("prepared", false, 0, atOnce)
	if _, _, err := sealed.Apply(ctx, w); err != nil {
		return err
	}
	dropped := func() bool { return sealed.Read().Peers["b"].Drops[mesh.NotEncrypted] > 0 }
	expect("a sealed mesh", false, 0, dropped)
	stopped := h.leave(sealed)
	if r := sealed.Read(); r.Works.Engine != dataplane.EngineWireGuard || r.Works.Reason != "" ||
		r.Totals.TxPackets != 0 {
		h.t.Errorf("%+v, %+v", r.Totals, r.Works)
	}
	return stopped
}

// earlierMeshd is set in the environment of a process that stands for a meshd of an open mesh.
const earlierMeshd = "MESH_TEST_EARLIER"

// TestMain implements that process.
func TestMain(m *testing.M) {
	if os.Getenv(earlierMeshd) == "" {
		os.Exit(m.Run())
	}
	if err := openMesh(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// openMesh has programs forward.
func openMesh() error {
	var h host
	e, ctx := h.engine(), context.Background()
	w, err := wanted(false)
	if err != nil {
		return err
	}
	if _, err := e.Prepare(ctx, w); err != nil {
		return err
	}
	if _, _, err := e.Apply(ctx, w); err != nil {
		return err
	}
	return errors.Join(e.Learn("b", peers.Directive{Finishes: true}), h.leave(e))
}
