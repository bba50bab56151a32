package e2e

import (
	"bytes"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// rawSender returns a function that sends whole IP packets of one family from a pod, with any
// source: what CAP_NET_RAW allows, which container runtimes give by default.
func rawSender(t *testing.T, pod *nstest.Namespace, v6 bool) func(b []byte) error {
	t.Helper()
	domain := unix.AF_INET
	if v6 {
		domain = unix.AF_INET6
	}
	fd := -1
	if err := pod.Do(func() (err error) {
		fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(b []byte) error {
		if v6 {
			return unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: [16]byte(b[24:40])})
		}
		return unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: [4]byte(b[16:20])})
	}
}

// unfiltered has a host forward what its pods send with any source, also one of its own.
func unfiltered(t *testing.T, h *nstest.Host) {
	t.Helper()
	for _, key := range []string{"ipv4.conf.all.rp_filter=0", "ipv4.conf.cni0.rp_filter=0", "ipv4.conf.cni0.accept_local=1"} {
		run(t, h.Namespace, "sysctl", "-qw", "net."+key)
	}
}

// A host whose meshd is dead is down for its peers, though the programs in its kernel still
// forward what its pods send, and though a pod asks and answers as if it were its meshd.
func TestPodsKeepNoHostUp(t *testing.T) {
	w := newWorld(t)
	unfiltered(t, w.Worker)
	m := w.startAll(engineFile(t, "kernel", "auto"))
	known(t, m.w2, "worker")
	known(t, m.w, "worker2")
	waitPeer(t, m.w2, "worker", "up", isIn(control.Up))
	wire := capture(t, w.Worker.Namespace, "eth0")
	if err := syscall.Kill(m.w.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Kill(m.w.PID(), syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	})

	send, done := rawSender(t, w.PodW, false), make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		own, theirs := netip.MustParseAddr("10.244.1.0"), netip.MustParseAddr("10.244.2.0")
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
			for _, b := range [][]byte{
				packet.Echo{Src: own, Dst: theirs, Payload: probePayload('q')}.Append(nil),
				packet.Echo{Src: own, Dst: theirs, Reply: true, Payload: probePayload('a')}.Append(nil),
				udpPacket("10.244.1.2", "10.244.2.3", 7000, 64, "data"),
			} {
				if err := send(b); err != nil {
					t.Error(err)
				}
			}
		}
	})
	defer sending.Wait()
	defer close(done)

	down := waitPeer(t, m.w2, "worker", "down", isIn(control.Down))
	later := waitPeer(t, m.w2, "worker", "still sending", func(p control.Peer) bool {
		return p.RxPackets > down.RxPackets+20 && p.LastSeen.After(*down.Since)
	})
	if later.State != control.Down {
		t.Errorf("%+v", later)
	}
	waitPeer(t, m.cp, "worker", "down", isIn(control.Down)) // for whom it sends nothing
	// The forged questions did arrive: they are answered.
	answer := []byte("meshd\x00\x01\na")
	if _, err := wire.Next(10*time.Second, func(f []byte) bool {
		return isIPv4(f) && bytes.Contains(f, answer) && netip.AddrFrom4([4]byte(f[26:30])).String() == "172.18.0.3"
	}); err != nil {
		t.Error(err)
	}
}

// probePayload is that of a probe (internal/probe/payload.go), made up.
func probePayload(kind byte) []byte {
	return append([]byte("meshd\x00\x01\n"+string(kind)), make([]byte, 71)...)
}
