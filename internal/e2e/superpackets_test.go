package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// segment is the size in bytes of the datagrams that a socket hands to the kernel in one piece, as QUIC does.
const segment = 1200

// UDP in superpackets, of pods that hand them to the kernel and of a network card that has merged them, mixed
// with single datagrams of the same flow: all arrive, in the order in which they were sent.
func TestUDPSuperpackets(t *testing.T) { eachEngine(t, nstest.Loaded, testUDPSuperpackets) }

func testUDPSuperpackets(t *testing.T) { superpackets(t, demoFile(t), func(*mesh) {}) }

// superpackets tests them with a file, once something about its daemons holds.
func superpackets(t *testing.T, file string, holds func(m *mesh)) {
	w := newWorld(t)
	lan := w.card()
	for _, h := range w.Hosts() { // as in TestDatagramsKeepOrder
		if err := h.KeepFlowsOnCPU(); err != nil {
			t.Fatal(err)
		}
	}
	m := w.startAll(strings.Replace(file, "\"10.244.2.0/24\"]\n",
		"\"10.244.2.0/24\"]\nroutes = [\"192.168.7.0/24\"]\n", 1))
	w.settled()
	holds(m)
	// Each is a flow of its own: one that user space has carried stays there for a while.
	blasts := func(t *testing.T, from *nstest.Namespace, address string, to *nstest.Namespace, at string) {
		t.Helper()
		// Packets that wait for a neighbour are overtaken by those sent while it is found (__neigh_update).
		run(t, from, "ping", "-c", "1", "-W", "5", "-I", address, at)
		sender, receiver := listen(t, from, address+":0"), listen(t, to, at+":7000")
		defer receiver.Close()
		segmented(t, sender)
		segmented(t, receiver)
		blast(t, sender, receiver)
	}
	const pod2, pod = "10.244.2.3", "10.244.1.2"
	for _, wire := range []string{"memory", "wire"} {
		if wire == "wire" {
			if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(wire, func(t *testing.T) {
			t.Run("pods", func(t *testing.T) { blasts(t, m.PodW2b, pod2, m.PodW, pod) })
			t.Run("pods, the other way", func(t *testing.T) { blasts(t, m.PodW, pod, m.PodW2b, pod2) })
			for _, merging := range []string{"rx-udp-gro-forwarding", "rx-gro-list"} {
				t.Run(merging, func(t *testing.T) {
					run(t, w.Worker2.Namespace, "ethtool", "-K", "lan0", "gro", "on", merging, "on")
					blasts(t, lan, "192.168.7.2", m.PodW, pod)
					transfer(t, lan, m.PodW, pod+":7001", 8<<20)
					run(t, w.Worker2.Namespace, "ethtool", "-K", "lan0", merging, "off")
				})
			}
			t.Run("the underlay's rx-gro-list", func(t *testing.T) {
				for _, on := range []string{"on", "off"} {
					for _, h := range w.Hosts() {
						run(t, h.Namespace, "ethtool", "-K", "eth0", "gro", on, "rx-gro-list", on)
					}
					if on == "on" {
						blasts(t, m.PodW2b, pod2, m.PodW, pod)
						transfer(t, m.PodW2b, m.PodW, pod+":7002", 8<<20)
					}
				}
			})
		})
	}
	s := status(t, m.w2)
	t.Logf("handed %v, calls %v", s.Dataplane.Handed, s.Dataplane.Calls)
	if n := s.Dataplane.Calls["tun_read"].Packets; s.Dataplane.Engine == "kernel" && n > 1000 {
		t.Errorf("%d datagrams went by user space", n)
	}
}

// card puts a host behind worker2, on a network of its own. Its card cuts what it sends; worker2's merges.
func (w *world) card() *nstest.Namespace {
	w.t.Helper()
	lan, err := w.Lab.Empty("lan")
	if err != nil {
		w.t.Fatal(err)
	}
	if err := errors.Join(
		w.Worker2.IP("link add lan0 type veth peer name eth0 netns "+lan.Name,
			"addr add 192.168.7.1/24 dev lan0", "link set lan0 up"),
		lan.IP("addr add 192.168.7.2/24 dev eth0", "link set eth0 up", "route add default via 192.168.7.1"),
	); err != nil {
		w.t.Fatal(err)
	}
	run(w.t, lan, "ethtool", "-K", "eth0", "tx-udp-segmentation", "off")
	return lan
}

// segmented has a socket hand over what is larger than a segment as a superpacket (UDP_SEGMENT, udp(7)), and
// hold a burst, each of whose datagrams may take a page.
func segmented(t *testing.T, conn *net.UDPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
	})
	if err := errors.Join(err, set); err != nil {
		t.Fatal(err)
	}
}

// blast sends bursts of superpackets and single datagrams in between. A burst is what the queues on the way
// hold for certain.
func blast(t *testing.T, from, to *net.UDPConn) {
	t.Helper()
	r := rand.New(rand.NewPCG(12, 12))
	address := to.LocalAddr().(*net.UDPAddr).AddrPort()
	next, got := uint64(0), make([]byte, 1<<16)
	for range 30 {
		var sizes []int // of datagrams
		if err := steady(func() error {
			for len(sizes) < 100 {
				message := make([]byte, 8+r.IntN(segment-7))
				if r.IntN(2) == 0 {
					message = make([]byte, len(message)+segment*r.IntN(40))
				}
				for at := 0; at < len(message); at += segment {
					sizes = append(sizes, min(segment, len(message)-at))
					fill(message[at:min(at+segment, len(message))], next+uint64(len(sizes)-1))
				}
				if _, err := from.WriteToUDPAddrPort(message, address); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := to.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for _, size := range sizes {
			n, err := to.Read(got)
			if err != nil {
				t.Fatalf("datagram %d: %v", next, err)
			}
			want := fill(make([]byte, size), next)
			if number := binary.BigEndian.Uint64(got); n != size || number != next {
				t.Fatalf("datagram %d of %d bytes, want %d of %d", number, n, next, size)
			}
			if !bytes.Equal(got[:n], want) {
				t.Fatalf("datagram %d was sent as\n% x, and came as\n% x", next, want, got[:n])
			}
			next++
		}
	}
}

// fill fills a datagram, which is returned, with its number and what follows from it.
func fill(b []byte, number uint64) []byte {
	binary.BigEndian.PutUint64(b, number)
	for i := 8; i < len(b); i++ {
		b[i] = byte(word(number, uint64(i)) >> 56)
	}
	return b
}
