package user

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/wireguard"
)

// TestMain makes this program a helper where it is started as `meshd wireguard-user`.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "wireguard-user" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	o := Options{Interface: wireguard.Interface, Log: log, Ready: func() { log.Info("ready", "event", "ready") }}
	if err := Run(ctx, o); err != nil {
		log.Error("the helper ends", "error", err, "event", "ended", "runs", errors.Is(err, ErrRuns))
		os.Exit(1)
	}
	os.Exit(0)
}

// A host is one with a helper.
type host struct {
	*nstest.Host
	number byte
	client wireguard.Client
	helper *nstest.Daemon
}

func (h *host) private() wireguard.Private { return wireguard.PrivateOf([32]byte{1: h.number, 2: 9}) }
func (h *host) public() mesh.Key           { return h.private().Public() }

// Its addresses: on the underlay, and inside.
func (h *host) outer() string     { return fmt.Sprintf("192.0.2.%d", h.number) }
func (h *host) inner() netip.Addr { return netip.AddrFrom4([4]byte{10, 244, h.number, 0}) }
func (h *host) allowed() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(h.inner(), 24)}
}

// as returns the host as a peer of others.
func (h *host) as() wireguard.Peer {
	return wireguard.Peer{Key: h.public(), Allowed: h.allowed(),
		Endpoint: netip.MustParseAddrPort(h.outer() + ":51820")}
}

// set sets the interface with peers.
func (h *host) set(peers ...wireguard.Peer) error {
	_, err := wireguard.Set(h.client, wireguard.Settings{Interface: wireguard.Interface, Private: h.private(),
		Port: 51820, Peers: peers})
	return err
}

// up does what meshd does with the interface.
func (h *host) up() error {
	return h.IP(fmt.Sprintf("addr replace %s/32 dev meshd-wg", h.inner()), "link set meshd-wg mtu 1440 up",
		fmt.Sprintf("route replace 10.244.0.0/16 dev meshd-wg src %s", h.inner()))
}

// inNamespace asks the kernel from within a host.
type inNamespace struct {
	host   *nstest.Host
	client wireguard.Client
}

func (n inNamespace) Device(name string) (d *wgtypes.Device, err error) {
	err = n.host.Do(func() error { d, err = n.client.Device(name); return err })
	return d, err
}

func (n inNamespace) ConfigureDevice(name string, c wgtypes.Config) error {
	return n.host.Do(func() error { return n.client.ConfigureDevice(name, c) })
}

func (n inNamespace) Close() error { return n.client.Close() }

// byKernel tells whether the first two hosts have the kernel's WireGuard: MESH_WIREGUARD=kernel, as the trial
// of kernels has it.
var byKernel = os.Getenv("MESH_WIREGUARD") == "kernel"

// start makes the interface of a host: it starts the helper, or has the kernel do it.
func (h *host) start() (err error) {
	if byKernel && h.number < 3 {
		h.client = inNamespace{h.Host, h.client}
		return h.IP("link add meshd-wg type wireguard")
	}
	self, err := os.Executable()
	if err == nil {
		h.helper, err = h.StartHelper(self)
	}
	return err
}

// ping waits until another host answers through the tunnel.
func (h *host) ping(to *host) error {
	_, err := h.Run("ping", "-c", "1", "-w", "20", "-i", "0.2", "-I", h.inner().String(), to.inner().String())
	return err
}

// hosts makes hosts with helpers.
func hosts(t testing.TB, n byte) (all []*host) {
	t.Helper()
	lab := nstest.LabForTest(t)
	for number := byte(1); number <= n; number++ {
		h := &host{number: number}
		var err error
		if h.Host, err = lab.Host(string('a'+rune(number)), h.outer()+"/24"); err != nil {
			t.Fatal(err)
		}
		h.client = wireguard.OpenAt(h.WireGuardFolder())
		if err := h.start(); err != nil {
			t.Fatal(err)
		}
		if h.helper != nil {
			t.Cleanup(func() {
				if h.helper != nil {
					h.helper.Kill()
				}
			})
		}
		all = append(all, h)
	}
	return all
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Two helpers that Set has set, and a third one that only wg(8) knows, reach each other; and what may happen
// to them costs no more than it has to.
func TestHelpers(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	nstest.RequirePrograms(t, "run `make deps`", "wg", "ping")
	all := hosts(t, 3)
	a, b, stock := all[0], all[1], all[2]
	must(t, a.set(b.as(), stock.as()))
	must(t, b.set(a.as()))
	for _, h := range all {
		must(t, h.up())
	}
	t.Run("tunnel", func(t *testing.T) {
		must(t, a.ping(b))
		s, err := wireguard.Read(b.client, wireguard.Interface)
		peer := s.Peers[a.public()]
		if err != nil || s.User == byKernel || s.Public != b.public() || s.Port != 51820 ||
			peer.Handshake.IsZero() || peer.Received == 0 || peer.Sent == 0 ||
			peer.Endpoint.String() != a.outer()+":51820" {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("stock peer", func(t *testing.T) { testStock(t, a, stock) })
	t.Run("reload under traffic", func(t *testing.T) { testReload(t, a, b) })
	if byKernel {
		return
	}
	t.Run("MTU", func(t *testing.T) { testMTU(t, a, b) })
	t.Run("renamed", func(t *testing.T) { testRenamed(t, a, b) })
	t.Run("deleted", func(t *testing.T) { testDeleted(t, a, b) })
	t.Run("killed", func(t *testing.T) { testKilled(t, a, b) })
	t.Run("stopped", func(t *testing.T) {
		if _, err := a.helper.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := wireguard.Read(a.client, wireguard.Interface); !errors.Is(err, wireguard.ErrNone) {
			t.Errorf("after the end: %v", err)
		}
		must(t, a.IP("link show meshd-wg")) // packets are dropped there
	})
}

// testStock reaches a peer that only wg(8) has set, and wg(8) sees what Set has set.
func testStock(t *testing.T, a, stock *host) {
	key := filepath.Join(t.TempDir(), "key")
	private, err := stock.WG("genkey")
	must(t, err)
	must(t, os.WriteFile(key, []byte(private), 0o600))
	_, err = stock.WG("set", "meshd-wg", "listen-port", "51820", "private-key", key, "peer", a.public().String(),
		"allowed-ips", a.allowed()[0].String(), "endpoint", a.outer()+":51820")
	must(t, err)
	out, err := stock.WG("show", "meshd-wg", "public-key")
	must(t, err)
	public, err := mesh.ParseKey(strings.TrimSpace(out))
	must(t, err)
	peer := stock.as()
	peer.Key = public
	b := &host{number: 2}
	must(t, a.set(b.as(), peer))
	must(t, a.ping(stock))
	must(t, stock.ping(a))
	out, err = a.WG("show", "meshd-wg", "allowed-ips")
	if err != nil || !strings.Contains(out, public.String()+"\t"+stock.allowed()[0].String()) {
		t.Errorf("wg show: %q, %v", out, err)
	}
}

// testReload has a flow lose nothing while peers come, go and exchange prefixes.
func testReload(t *testing.T, a, b *host) {
	const packets, pause = 4000, 500 * time.Microsecond
	got := make(chan int, 1)
	ready := make(chan error)
	go func() {
		n := 0
		defer func() { got <- n }()
		var conn *net.UDPConn
		err := b.Do(func() (err error) {
			conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: b.inner().AsSlice(), Port: 7000})
			return err
		})
		ready <- err
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetReadBuffer(4 << 20)
		for buf := make([]byte, 64); n < packets; n++ {
			_ = conn.SetReadDeadline(time.Now().Add(nstest.Patience / 3))
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	}()
	must(t, <-ready)
	sent := make(chan error, 1)
	go func() { sent <- send(a, b, packets, pause) }()
	r := rand.New(rand.NewPCG(1, 1))
	sets := 0
	for done := false; !done || sets < 200; sets++ {
		must(t, a.set(randomPeers(r, b)...))
		select {
		case err := <-sent:
			must(t, err)
			done = true
			sent = nil
		default:
		}
	}
	if n := <-got; n != packets {
		t.Errorf("%d of %d packets arrived during %d Sets", n, packets, sets)
	}
	must(t, a.set(b.as()))
}

// send sends packets from one host to another, through the tunnel.
func send(from, to *host, packets int, pause time.Duration) error {
	return from.Do(func() error {
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: to.inner().AsSlice(), Port: 7000})
		if err != nil {
			return err
		}
		defer conn.Close()
		for range packets {
			if _, err := conn.Write([]byte("packet")); err != nil {
				return err
			}
			time.Sleep(pause)
		}
		return nil
	})
}

// randomPeers returns one peer that stays and some that do not, with prefixes that move between them.
func randomPeers(r *rand.Rand, stays *host) []wireguard.Peer {
	peers := []wireguard.Peer{stays.as()}
	for n := range byte(8) {
		if r.IntN(3) > 0 {
			peers = append(peers, wireguard.Peer{Key: mesh.Key{n + 1, 8}})
		}
	}
	for n := range byte(24) {
		if i := r.IntN(len(peers) + 1); i < len(peers) {
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, 100 + n, 0}), 24)
			peers[i].Allowed = append(peers[i].Allowed, prefix)
		}
	}
	return peers
}

// testMTU finds out by the size of a message whether the helper knows the MTU: messages are padded up to it.
func testMTU(t *testing.T, a, b *host) {
	const mtu, header = 1301, 32 // of a message; 1301 is padded to 1312 where the MTU allows it
	sentTo := func() uint64 {
		s, err := wireguard.Read(a.client, wireguard.Interface)
		must(t, err)
		return s.Peers[b.public()].Sent
	}
	must(t, a.ping(b))
	must(t, a.IP(fmt.Sprintf("link set meshd-wg mtu %d", mtu)))
	deadline := time.Now().Add(nstest.Patience)
	for {
		before := sentTo()
		must(t, send1(a, b, mtu-28))
		size := sentTo() - before
		for size < mtu && time.Now().Before(deadline) { // it is on its way
			size = sentTo() - before
		}
		if size == mtu+header {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a packet of %d bytes became a message of %d", mtu, size)
		}
	}
	must(t, a.IP("link set meshd-wg mtu 1440"))
}

// send1 sends one datagram with a payload of a size.
func send1(from, to *host, size int) error {
	return from.Do(func() error {
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: to.inner().AsSlice(), Port: 7001})
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _ = conn.Write(make([]byte, size)) // an earlier one may be answered by "port unreachable"
		return nil
	})
}

// handshake returns when a and b agreed on a session.
func handshake(t *testing.T, a, b *host) time.Time {
	t.Helper()
	s, err := wireguard.Read(a.client, wireguard.Interface)
	must(t, err)
	return s.Peers[b.public()].Handshake
}

func testRenamed(t *testing.T, a, b *host) {
	before := handshake(t, a, b)
	must(t, a.IP("link set meshd-wg name elsewhere"))
	must(t, a.helper.WaitEvent("interface_repaired", "field", "name"))
	must(t, a.up())
	must(t, a.ping(b))
	if after := handshake(t, a, b); !after.Equal(before) {
		t.Errorf("the session of %v was lost: %v", before, after)
	}
}

func testDeleted(t *testing.T, a, b *host) {
	for range 3 {
		skip := len(a.helper.Records())
		must(t, a.IP("link del meshd-wg"))
		_, err := a.helper.WaitNextEvent(skip, "wireguard_started")
		must(t, err)
		must(t, a.set(b.as()))
		must(t, a.up())
		must(t, a.ping(b))
	}
}

func testKilled(t *testing.T, a, b *host) {
	second, err := os.Executable()
	must(t, err)
	if d, err := a.StartHelper(second); err == nil {
		d.Kill()
		t.Error("a second helper runs")
	}
	must(t, a.ping(b)) // it has not harmed the first
	a.helper.Kill()
	// Nothing goes by another way, such as a default route.
	must(t, a.IP("route replace default via 192.0.2.2 dev eth0"))
	way, err := a.Run("ip", "route", "get", b.inner().String())
	if err != nil || !strings.Contains(way, "dev meshd-wg ") {
		t.Errorf("without a helper packets go by %q, %v", way, err)
	}
	if err := a.set(b.as()); !errors.Is(err, wireguard.ErrNone) {
		t.Errorf("without a helper: %v", err)
	}
	must(t, a.start())
	must(t, a.set(b.as()))
	must(t, a.ping(b))
}

// A helper stays where another program deletes its interface while it starts, as a meshd does that finds the
// interface of an earlier run.
func TestDeletedAtStart(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	h := hosts(t, 1)[0]
	for range 10 {
		if _, err := h.helper.Stop(); err != nil {
			t.Fatalf("%v\n%s", err, h.helper.Log())
		}
		_ = h.IP("link del meshd-wg") // the helper may have been about to make it
		deleted := make(chan error, 1)
		go func() {
			deleted <- h.Do(func() error {
				for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
					if l, err := netlink.LinkByName("meshd-wg"); err == nil {
						return netlink.LinkDel(l)
					}
				}
				return errors.New("there was no interface to delete")
			})
		}()
		must(t, h.start())
		must(t, <-deleted)
		err := h.set()
		for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); err = h.set() {
			time.Sleep(10 * time.Millisecond) // the device that had started may be about to end
		}
		must(t, err)
	}
}

// A helper whose socket was removed ends, so that the service manager starts one that can be reached.
func TestSocketRemoved(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	h := hosts(t, 1)[0]
	must(t, os.Remove(filepath.Join(h.WireGuardFolder(), "meshd-wg.sock")))
	if code, err := h.helper.Exit(); err != nil || code != 1 {
		t.Errorf("exit code %d, %v", code, err)
	}
}
