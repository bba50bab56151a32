package e2e

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/nstest"
)

// `make hostile` has each attack last for seconds, with each engine, and writes the page.
var (
	attackPage    = flag.String("attacks", "", "write the table of attacks into this `file`")
	attackEngines = flag.String("attacks.engines", "user kernel sealed", "with which engines")
)

// An attack is what somebody sends as fast as one CPU can, while pods of others talk.
type attack struct {
	name string
	// from is where it comes from: a host of the underlay that no node is, the host of a node, or a pod of the
	// host that is attacked.
	from   string
	to     string // of a datagram, its address and port; empty: packets of a pod, which have their own
	packet []byte
	reason string // by which worker2 counts it; empty: it is no drop, or the kernel's
	only   string // engine that it is about; empty: each
	// theirs tells that where the mesh is encrypted, WireGuard or the kernel drops it, and does not count it.
	theirs bool
}

const (
	stranger, listed, pod = "stranger", "peer", "pod"
	meshPort              = "172.18.0.3:8285"
	sealedPort            = "172.18.0.3:51820"
)

// question is a probe of meshd's, as worker asks it.
func question() []byte {
	payload := append([]byte("meshd\x00\x01\nq"), make([]byte, 71)...)
	return packet.Echo{Src: netip.MustParseAddr("10.244.1.0"), Dst: netip.MustParseAddr("10.244.2.0"),
		ID: 7, Seq: 7, Payload: payload}.Append(nil)
}

// part is a fragment, and not the first one.
func part(src, dst string) []byte {
	b := udpPacket(src, dst, 7000, 62, "a part of something")
	binary.BigEndian.PutUint16(b[6:], 100)
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
	return b
}

var attacks = []attack{
	{"a stranger sends a pod's packet", stranger, meshPort,
		udpPacket("10.244.1.2", "10.244.2.3", 7000, 62, "lie"), "unknown_sender", "", false},
	{"a stranger sends noise", stranger, meshPort,
		[]byte(strings.Repeat("\xff", 50)), "unknown_sender", "", false},
	{"a stranger sends empty datagrams", stranger, meshPort,
		nil, "unknown_sender", "", false},
	{"a stranger sends probes", stranger, meshPort,
		question(), "unknown_sender", "", false},
	{"a stranger sends packets that expire", stranger, meshPort,
		udpPacket("10.244.1.2", "10.244.2.3", 7000, 1, ""), "unknown_sender", "", false},
	{"a stranger sends noise to the port of WireGuard", stranger, sealedPort,
		[]byte(strings.Repeat("\xff", 148)), "",
		"sealed", false},
	{"a peer sends another node's packets", listed, meshPort,
		udpPacket("10.244.0.2", "10.244.2.3", 7000, 62, "lie"), "spoofed_source", "", false},
	{"a peer sends what is for a third node", listed, meshPort,
		udpPacket("10.244.1.2", "10.244.0.2", 7000, 62, "lie"), "wrong_destination", "", false},
	{"a peer sends packets that expire", listed, meshPort,
		udpPacket("10.244.1.2", "10.244.2.3", 7000, 1, "old"), "ttl_expired", "", true},
	{"a peer sends noise", listed, meshPort,
		[]byte(strings.Repeat("\xff", 50)), "malformed", "", false},
	{"a peer sends fragments", listed, meshPort,
		part("10.244.1.2", "10.244.2.3"), "", "", false},
	{"a peer sends probes", listed, meshPort,
		question(), "", "", false},
	{"a pod sends with another node's address", pod, "",
		udpPacket("10.244.0.2", "10.244.1.2", 7000, 64, "lie"), "foreign_source", "", true},
	{"a pod sends to the mesh port of a node", pod, "172.18.0.4:8285",
		[]byte("lie"), "not_from_meshd", "", false},
	{"a pod sends packets that expire", pod, "",
		udpPacket("10.244.2.3", "10.244.1.2", 7000, 2, "old"), "ttl_expired", "", true},
	{"a pod sends fragments", pod, "",
		part("10.244.2.3", "10.244.1.2"), "", "", false},
	{"a pod asks addresses of the mesh that nobody has", pod, "",
		udpPacket("10.244.2.3", "10.244.77.1", 7000, 64, "?"), "no_route", "", false},
}

// An attackRow is what one attack did with one engine.
type attackRow struct {
	attack, engine string
	rate           float64 // packets a second
	before, during quality // of pods of other hosts
	amplified      float64 // bytes that came back for each byte that was sent
}

// A quality is how packets of pods arrive.
type quality struct {
	lost, sent int
	median     time.Duration // one way
}

// Nobody is amplified, strangers hear nothing, attacks are counted by their reason and never logged, and
// afterwards all is as before. What others lose meanwhile is measured, and not asserted.
func TestAttacks(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	span, engines := 300*time.Millisecond, []string{"kernel"}
	if *attackPage != "" {
		span, engines = 2*time.Second, strings.Fields(*attackEngines)
	} else {
		testAttackPage(t)
	}
	var rows []attackRow
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			r := newFaultRig(t, engine, false)
			from, err := r.Lab.Host("stranger", "172.18.0.9/16")
			if err != nil {
				t.Fatal(err)
			}
			unfiltered(t, r.Worker2)
			r.settle(t)
			for _, a := range attacks {
				// Where the mesh is encrypted, the wire of a peer is the inside of the tunnel: see engines.
				if a.only != "" && a.only != engine || engine == "sealed" && a.from == listed {
					continue
				}
				t.Run(a.name, func(t *testing.T) { rows = append(rows, r.endure(t, a, from, span)) })
			}
			if *attackPage != "" { // growing drops are told for half a minute
				r.settle(t)
			}
			r.bare()
			if r.watch != nil && *attackPage == "" {
				r.watch.end(t)
			}
		})
	}
	if *attackPage != "" && !t.Failed() {
		old, err := os.ReadFile(*attackPage)
		if err != nil {
			t.Fatal(err)
		}
		if err := nstest.Rewrite(*attackPage, "attacks", attackTable(rows, string(old))); err != nil {
			t.Fatal(err)
		}
	}
}

// testAttackPage looks whether the page has a row for each attack.
func testAttackPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks {
		if !strings.Contains(string(page), "| "+a.name+" |") {
			t.Errorf("docs/security.md has no row about %q: `make hostile` writes them", a.name)
		}
	}
}

// endure has an attack happen.
func (r *faultRig) endure(t *testing.T, a attack, outside *nstest.Host, span time.Duration) attackRow {
	space, source := map[string]*nstest.Namespace{stranger: outside.Namespace, listed: r.Worker.Namespace,
		pod: r.PodW2b}[a.from], map[string]string{stranger: "172.18.0.9:0", listed: "172.18.0.4:0",
		pod: "10.244.2.3:0"}[a.from]
	row := attackRow{attack: a.name, engine: r.engine}
	log := r.victim().Log()
	was := r.counted(t, a.reason)
	m := r.meter(t)
	time.Sleep(span)
	row.before = m.take()
	in, out := bytesOf(t, space)
	began := time.Now()
	sent := shoot(t, space, source, a, span)
	took := time.Since(began)
	row.during = m.take()
	m.end()
	r.answered(t, space, a.from)
	nowIn, nowOut := bytesOf(t, space)
	row.rate = float64(sent) / took.Seconds()
	row.amplified = float64(nowIn-in) / float64(nowOut-out)
	// Frames of ARP, the node's own probes, and what its pods are asked: some hundred bytes a second.
	const noise = 20_000
	if back := nowIn - in; a.from == stranger && back > 2000 || a.from == listed && back > nowOut-out+noise {
		t.Errorf("%d bytes came back for %d", back, nowOut-out)
	}
	if a.reason != "" && !(a.theirs && r.engine == "sealed") {
		// What a full socket has lost is counted there.
		eventually(t, "counted as "+a.reason, func() bool { return r.counted(t, a.reason) > was },
			func() string { return fmt.Sprintf("%+v", status(t, r.victim()).Totals) })
	}
	if now := r.victim().Log(); strings.Count(now[len(log):], "\n") > 10 {
		t.Errorf("the log has grown by\n%s", now[len(log):])
	}
	return row
}

// answered waits until the victim has taken what waits in its sockets, and until the answer to a ping has
// come, which comes behind all others.
func (r *faultRig) answered(t *testing.T, space *nstest.Namespace, from string) {
	t.Helper()
	eventually(t, "nothing waits in the sockets", func() bool {
		for line := range strings.Lines(run(t, r.Worker2.Namespace, "cat", "/proc/net/udp", "/proc/net/udp6")) {
			words := strings.Fields(line) // udp4_format_header: sl, local, remote, state, tx_queue:rx_queue
			if strings.HasSuffix(words[1], ":205D") && !strings.HasSuffix(words[4], ":00000000") {
				return false
			}
		}
		return true
	}, func() string { return "" })
	at := "172.18.0.3"
	if from == pod {
		at = "10.244.2.1"
	}
	eventually(t, "the answer to a ping", func() bool {
		_, err := space.Run("ping", "-c", "1", "-W", "1", at)
		return err == nil
	}, func() string { return "" })
}

// counted returns how many packets worker2 has dropped with a reason.
func (r *faultRig) counted(t *testing.T, reason string) uint64 {
	return status(t, r.victim()).Totals.Drops[reason]
}

// shoot sends an attack's packets as fast as it can for a time, and returns how many it has sent.
func shoot(t *testing.T, space *nstest.Namespace, source string, a attack, span time.Duration) (sent int) {
	deadline := time.Now().Add(span)
	if a.to == "" {
		send := rawSender(t, space, false)
		for ; time.Now().Before(deadline); sent++ {
			if err := send(a.packet); err != nil { // the queue is full, or ICMP has come back
				sent--
			}
		}
		return sent
	}
	var conn *udp.Conn
	if err := space.Do(func() (err error) {
		conn, err = udp.Open(netip.MustParseAddrPort(source), false)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sender, batch := conn.NewSender(50), make([]packet.Burst, 50)
	for i := range batch {
		batch[i].Addr = netip.MustParseAddrPort(a.to)
		batch[i].Add(a.packet)
	}
	for time.Now().Before(deadline) {
		n, _ := sender.Write(batch) // refused by this host's guard, or the queue is full
		sent += max(n, 1)
	}
	return sent
}

// bytesOf returns how many bytes eth0 has received and sent.
func bytesOf(t *testing.T, n *nstest.Namespace) (in, out int) {
	t.Helper()
	text := run(t, n, "sh", "-c", "cd /sys/class/net/eth0/statistics && cat rx_bytes tx_bytes")
	words := strings.Fields(text)
	in, _ = strconv.Atoi(words[0]) // the kernel writes numbers
	out, _ = strconv.Atoi(words[1])
	return in, out
}

// A meter measures how packets get from the pod of control-plane to one of worker2.
type meter struct {
	t        *testing.T
	in, out  net.PacketConn
	stop     chan struct{}
	done     sync.WaitGroup
	mu       sync.Mutex
	sent     int
	arrived  []landing
	lastSent int
	began    time.Time
}

// A landing is a packet that came: when it was sent, after the meter began, and how long it took.
type landing struct{ sent, took time.Duration }

// meter begins to measure, 500 packets a second.
func (r *faultRig) meter(t *testing.T) *meter {
	m := &meter{t: t, stop: make(chan struct{}), began: time.Now()}
	for _, end := range []struct {
		space   *nstest.Namespace
		address string
		conn    *net.PacketConn
	}{{r.PodCP, "10.244.0.2:0", &m.out}, {r.PodW2a, "10.244.2.2:7700", &m.in}} {
		if err := end.space.Do(func() (err error) {
			*end.conn, err = net.ListenPacket("udp4", end.address)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	m.done.Go(func() {
		to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.244.2.2:7700"))
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			select {
			case <-m.stop:
				return
			case <-tick.C:
			}
			m.mu.Lock()
			stamp := binary.BigEndian.AppendUint64(nil, uint64(time.Since(m.began)))
			if _, err := m.out.WriteTo(stamp, to); err == nil {
				m.sent++
			}
			m.mu.Unlock()
		}
	})
	m.done.Go(func() {
		for b := make([]byte, 100); ; {
			n, _, err := m.in.ReadFrom(b)
			if err != nil {
				return
			}
			if n == 8 {
				stamp := time.Duration(binary.BigEndian.Uint64(b))
				m.mu.Lock()
				m.arrived = append(m.arrived, landing{stamp, time.Since(m.began) - stamp})
				m.mu.Unlock()
			}
		}
	})
	return m
}

// take returns what was measured since the last time, once a later packet has come: those that have not come
// by then are lost, since none overtakes another.
func (m *meter) take() quality {
	m.t.Helper()
	m.mu.Lock()
	sent, until := m.sent, time.Since(m.began)
	m.mu.Unlock()
	later := func(a landing) bool { return a.sent > until }
	eventually(m.t, "a later packet", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return slices.ContainsFunc(m.arrived, later)
	}, func() string { return "" })
	m.mu.Lock()
	defer m.mu.Unlock()
	var delays []time.Duration
	for _, a := range m.arrived {
		if !later(a) {
			delays = append(delays, a.took)
		}
	}
	m.arrived = slices.DeleteFunc(m.arrived, func(a landing) bool { return !later(a) })
	q := quality{sent: sent - m.lastSent, lost: max(0, sent-m.lastSent-len(delays))}
	if slices.Sort(delays); len(delays) > 0 {
		q.median = delays[len(delays)/2]
	}
	m.lastSent = sent
	return q
}

// end ends the measurement.
func (m *meter) end() {
	close(m.stop)
	m.in.Close()
	m.out.Close()
	m.done.Wait()
}

// attackTable writes the part of docs/security.md about attacks. Rows of engines that were not asked for
// stay.
func attackTable(rows []attackRow, page string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", nstest.Measured("make hostile"))
	b.WriteString("| attack | engine | packets/s | others lose, before | during | delay, during : before | " +
		"bytes back for each |\n|---|---|---|---|---|---|---|\n")
	for _, a := range attacks {
		for _, engine := range pageEngines {
			i := slices.IndexFunc(rows, func(r attackRow) bool { return r.attack == a.name && r.engine == engine })
			if i >= 0 {
				fmt.Fprintln(&b, rowBegin(a.name, engine)+rows[i].cells())
			} else {
				b.WriteString(keptRow(page, a.name, engine))
			}
		}
	}
	return b.String()
}

// cells are the cells of a row behind the first two.
func (row attackRow) cells() string {
	percent := func(q quality) float64 { return 100 * float64(q.lost) / float64(max(q.sent, 1)) }
	return fmt.Sprintf(" %.0f | %.1f %% | %.1f %% | %.1f | %.3f |", row.rate, percent(row.before),
		percent(row.during), float64(row.during.median)/float64(max(row.before.median, 1)), row.amplified)
}
