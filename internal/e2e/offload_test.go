package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// perCall returns how many packets a daemon moved with each system call.
func perCall(s control.Status, kind string) float64 {
	c := s.Dataplane.Calls[kind]
	return float64(c.Packets) / float64(max(1, c.Calls))
}

// Content arrives as it was sent, whatever the kernel and we merge and cut on the
// way, and it is merged and cut indeed.
func TestLargeTransfer(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	w := newWorldMTU(t, 1452)
	if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
		t.Fatal(err)
	}
	m := w.startAll(dualStack("172.18.0.%d") + "[dataplane]\nengine = \"user\"\n")
	transfer(t, m.PodW2b, m.PodW, "10.244.1.2:80", 256<<20)
	transfer(t, m.PodW, m.PodW2b, "[fd00:10:244:2::3]:80", 64<<20)

	sender, receiver := status(t, m.w2), status(t, m.w)
	want := []string{"tso4", "tso6", "uso", "udp_gso", "udp_gro"}
	if d := sender.Dataplane; !slices.Equal(d.Offloads, want) || len(d.Refused) != 0 || d.Queues < 1 {
		t.Errorf("dataplane %+v", d)
	}
	for kind, s := range map[string]control.Status{"tun_read": sender, "wire_write": sender,
		"wire_read": receiver, "tun_write": receiver} {
		t.Logf("%s: %.1f packets a call", kind, perCall(s, kind))
		if perCall(s, kind) < 3 {
			t.Errorf("%s: %+v", kind, s.Dataplane.Calls[kind])
		}
	}
}

// The same with other wires and other neighbours.
func TestTransfers(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	for _, test := range []struct {
		name string
		mtu  int       // of the underlay
		keys [2]string // [dataplane] of worker2 and of worker
		prep func(t *testing.T, w *world)
	}{
		{"neighbour without offload", 1500, [2]string{"", `offload = "off"`}, nil},
		{"without offload", 1500, [2]string{`offload = "off"`, ""}, nil},
		{"jumbo frames", 9000, [2]string{}, nil},
		{"several queues", 1500, [2]string{"queues = 3\nspread = true", "queues = 2"}, nil},
		{"ECN", 1500, [2]string{}, func(t *testing.T, w *world) {
			for _, pod := range []*nstest.Namespace{w.PodW, w.PodW2b} {
				if err := pod.Sysctl("ipv4.tcp_ecn", "1"); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"packets lost", 1500, [2]string{}, func(t *testing.T, w *world) {
			run(t, w.Worker.Namespace, "nft",
				"add table ip lossy { chain in { type filter hook input priority 0; "+
					"udp dport 8285 numgen random mod 100 < 2 drop; }; }")
		}},
		{"packets out of order", 1500, [2]string{}, func(t *testing.T, w *world) {
			// Two classes of one queue: every eighth datagram waits in 1:2.
			run(t, w.Worker2.Namespace, "nft",
				"add table ip mixed { chain out { type filter hook output priority 0; "+
					"udp dport 8285 numgen inc mod 8 == 0 meta priority set 65538; }; }")
			run(t, w.Worker2.Namespace, "tc", "qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default",
				"1")
			run(t, w.Worker2.Namespace, "tc", "class", "add", "dev", "eth0", "parent", "1:", "classid", "1:1", "htb",
				"rate", "2gbit")
			run(t, w.Worker2.Namespace, "tc", "class", "add", "dev", "eth0", "parent", "1:", "classid", "1:2", "htb",
				"rate", "200mbit")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorldMTU(t, test.mtu-48)
			if test.mtu != 1500 {
				if err := w.Lab.SetUnderlayMTU(test.mtu); err != nil {
					t.Fatal(err)
				}
				for _, h := range w.Hosts() {
					if err := h.IP(fmt.Sprintf("link set eth0 mtu %d", test.mtu)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
				t.Fatal(err)
			}
			if test.prep != nil {
				test.prep(t, w)
			}
			var daemons []*nstest.Daemon
			for i, h := range []*nstest.Host{w.Worker2, w.Worker} {
				doc := dualStack("172.18.0.%d") + "[dataplane]\n" + test.keys[i]
				daemons = append(daemons, w.start(h, w.write(doc)))
			}
			for _, d := range daemons {
				if err := d.WaitReady(); err != nil {
					t.Fatal(err)
				}
			}
			transfer(t, w.PodW2b, w.PodW, "10.244.1.2:80", 32<<20)
			transfer(t, w.PodW, w.PodW2b, "10.244.2.3:80", 8<<20)
			transfer(t, w.PodW2b, w.PodW, "[fd00:10:244:1::2]:80", 8<<20)
			for i, d := range daemons {
				s := status(t, d)
				if off := strings.Contains(test.keys[i], "off"); off != (len(s.Dataplane.Offloads) == 0) {
					t.Errorf("%+v with %q", s.Dataplane, test.keys[i])
				}
				for _, reason := range []string{"malformed", "write_error", "send_error", "unknown_sender",
					"spoofed_source", "wrong_destination"} {
					if n := s.Totals.Drops[reason]; n != 0 {
						t.Errorf("%d drops of %s", n, reason)
					}
				}
			}
		})
	}
}

// whatFollows returns the numbers of the datagrams that a socket has or gets within a moment.
func whatFollows(t *testing.T, conn *net.UDPConn) (numbers string) {
	t.Helper()
	buf := make([]byte, 1<<16)
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return numbers
		}
		numbers += fmt.Sprintf("%.8s ", buf[:n])
	}
}

// UDP of every size, large datagrams in fragments too, in the order in which it
// was sent, at whatever speed offloads move it.
func TestDatagramsKeepOrder(t *testing.T) { eachEngine(t, nstest.Loaded, testDatagramsKeepOrder) }

func testDatagramsKeepOrder(t *testing.T) {
	w := newWorld(t)
	if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
		t.Fatal(err)
	}
	// A veth that merges is polled on the CPU that woke it. Where that is another one than the CPU of
	// the poll before, a packet may pass the last one of that, which waits in a backlog.
	for _, h := range w.Hosts() {
		if err := h.KeepFlowsOnCPU(); err != nil {
			t.Fatal(err)
		}
	}
	m := w.startAll(demoFile(t))
	w.settled()
	server, client := listen(t, m.PodW, "10.244.1.2:7000"), listen(t, m.PodW2b, "10.244.2.3:0")
	if err := server.SetReadBuffer(8 << 20); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(10, 10))
	size, next := 8, uint64(0)
	for range 100 { // bursts of what the queues on the way hold for certain
		if r.IntN(3) > 0 {
			size = 8 + r.IntN(3000)
		}
		payloads := make([][]byte, 20)
		if err := steady(func() error {
			for i := range payloads {
				payloads[i] = make([]byte, size)
				copy(payloads[i], fmt.Sprintf("%08d", next+uint64(i)))
				send(t, client, "10.244.1.2:7000", payloads[i])
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for i := range payloads {
			got, _ := receive(t, server)
			if string(got) != string(payloads[i]) {
				t.Fatalf("datagram %d of %d bytes: %.8s, %d bytes, and then %s", next, size, got, len(got),
					whatFollows(t, server))
			}
			next++
		}
	}
}
