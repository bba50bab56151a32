package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
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
	return rawSocket(t, pod, v6, func(int) error { return nil })
}

// rawBy is rawSender for IPv4 and an interface, whatever the routes say.
func rawBy(t *testing.T, n *nstest.Namespace, device string) func(b []byte) error {
	t.Helper()
	return rawSocket(t, n, false, func(fd int) error {
		return errors.Join(unix.BindToDevice(fd, device),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
	})
}

// rawSocket is rawSender with some options of the socket. A goroutine that still sends when the test has
// ended sends nothing, and not to whatever has the descriptor's number by then.
func rawSocket(t *testing.T, n *nstest.Namespace, v6 bool, options func(fd int) error) func(b []byte) error {
	t.Helper()
	domain := unix.AF_INET
	if v6 {
		domain = unix.AF_INET6
	}
	var file *os.File
	if err := n.Do(func() error {
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "raw packets")
		return options(fd)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return func(b []byte) (err error) {
		var to unix.Sockaddr
		if v6 {
			to = &unix.SockaddrInet6{Addr: [16]byte(b[24:40])}
		} else {
			to = &unix.SockaddrInet4{Addr: [4]byte(b[16:20])}
		}
		closed := raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), b, 0, to) })
		return errors.Join(err, closed)
	}
}

// unfiltered has a host forward what its pods send with any source, also one of its own.
func unfiltered(t *testing.T, h *nstest.Host) {
	t.Helper()
	for _, key := range []string{
		"ipv4.conf.all.rp_filter=0", "ipv4.conf.cni0.rp_filter=0", "ipv4.conf.cni0.accept_local=1",
	} {
		run(t, h.Namespace, "sysctl", "-qw", "net."+key)
	}
}

// A host whose meshd is dead is down for its peers, though the programs in its kernel still
// forward what its pods send, and though a pod asks and answers as if it were its meshd.
func TestPodsKeepNoHostUp(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
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

	// What arrives is told, and never taken for an answer.
	down := waitPeer(t, m.w2, "worker", "not up", func(p control.Peer) bool {
		return p.State == control.OneWay || p.State == control.Silent
	})
	later := waitPeer(t, m.w2, "worker", "still sending", func(p control.Peer) bool {
		return *p.RxPackets > *down.RxPackets+20 && p.LastSeen.After(*down.Since)
	})
	if later.State != control.OneWay && later.State != control.Silent {
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

// udp6Packet is udpPacket for IPv6, to port 7000.
func udp6Packet(src, dst, payload string) []byte {
	b := make([]byte, 48, 48+len(payload))
	b = append(b, payload...)
	b[0], b[6], b[7] = 0x60, 17, 64
	copy(b[8:], netip.MustParseAddr(src).AsSlice())
	copy(b[24:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	binary.BigEndian.PutUint16(b[40:], 7777)
	binary.BigEndian.PutUint16(b[42:], 7000)
	copy(b[44:], b[4:6])
	binary.BigEndian.PutUint16(b[46:],
		^packet.Fold(packet.Sum(b[40:], packet.PseudoSum(b[8:40], 17, len(b)-40))))
	return b
}

// What a pod sends with an address that is not its host's stops at its host, with both engines
// and in both families, and is counted there. Its receiver has nothing to drop.
func TestForeignSource(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	for _, engine := range []string{"user", "tcx"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t)
			unfiltered(t, w.Worker)
			m := w.startAll(
				dualStack("172.18.0.%d") + "[masquerade]\nenabled = false\n[probe]\ninterval = \"200ms\"\n" +
					"[dataplane]\n" + engines[engine] + "\n")
			known(t, m.w, "worker2")
			known(t, m.w2, "worker")
			to4, to6 := listen(t, m.PodW2b, "10.244.2.3:7000"), listen(t, m.PodW2b, "[fd00:10:244:2::3]:7000")
			send4, send6 := rawSender(t, m.PodW, false), rawSender(t, m.PodW, true)
			before := status(t, m.w)
			lies := uint64(0)
			for _, src := range []string{"8.8.8.8", "10.244.0.2", "10.244.0.0", "10.244.2.2", "172.18.0.4"} {
				if err := errors.Join(send4(udpPacket(src, "10.244.2.3", 7000, 64, "lie")),
					send4(udpPacket("10.244.1.2", "10.244.2.3", 7000, 64, "good"))); err != nil {
					t.Fatal(err)
				}
				if payload, from := receive(t, to4); string(payload) != "good" {
					t.Errorf("from %s: delivered %q from %s", src, payload, from)
				}
				lies++
			}
			for _, src := range []string{"2001:db8:9::9", "fd00:10:244::2", "fd00:10:244::", "fd00:10:244:2::2"} {
				if err := errors.Join(send6(udp6Packet(src, "fd00:10:244:2::3", "lie")),
					send6(udp6Packet("fd00:10:244:1::2", "fd00:10:244:2::3", "good"))); err != nil {
					t.Fatal(err)
				}
				if payload, from := receive(t, to6); string(payload) != "good" {
					t.Errorf("from %s: delivered %q from %s", src, payload, from)
				}
				lies++
			}
			// User space counts what the programs leave to it, in its own time.
			after := waitStatus(t, m.w, "all lies are counted", func(s control.Status) bool {
				return s.Totals.Drops["foreign_source"] >= lies
			})
			if after.Totals.Drops["foreign_source"] != lies || after.Totals.Unattributed["foreign_source"] != lies {
				t.Errorf("%d lies are counted as %v, %v", lies, after.Totals.Drops, after.Totals.Unattributed)
			}
			handed := after.Dataplane.Handed["foreign_source"] - before.Dataplane.Handed["foreign_source"]
			if engine != "user" && handed != lies {
				t.Errorf("%d lies were handed over: %v", lies, after.Dataplane.Handed)
			}
			if s := status(t, m.w2); s.Totals.Drops["spoofed_source"] != 0 {
				t.Errorf("at the receiver: %v", s.Totals.Drops)
			}
		})
	}
}
