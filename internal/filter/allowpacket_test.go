package filter

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// openTUN makes a TUN of this namespace, whose packets have no header of their own.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// A judged is a packet that opens a connection, with what the oracle says of it.
type judged struct {
	from, to netip.Addr
	protocol uint8 // in the numbers of IPv4
	port     uint16
	own      uint16 // the port that it comes from, or the ID of an echo; no two packets have the same
}

// bytes returns the packet, or the answer to it.
func (j judged) bytes(answer bool) []byte {
	src, dst, from, to := j.from, j.to, j.own, j.port
	if answer {
		src, dst, from, to = dst, src, to, from
	}
	protocol, body, sum := j.protocol, binary.BigEndian.AppendUint16(nil, from), 0
	body = binary.BigEndian.AppendUint16(body, to)
	switch {
	case protocol == 17:
		body, sum = append(body, 0, 8, 0, 0), 6
	case protocol == 6:
		body = append(body, make([]byte, 16)...)
		body[12], body[13], body[15], sum = 5<<4, 2, 255, 16 // SYN
		if answer {
			body[13], body[11] = 2|16, 1 // and ACK
		}
	case protocol == 1:
		echo := map[[2]bool]byte{{false, false}: 8, {true, false}: 0, {false, true}: 128, {true, true}: 129}
		body, sum = []byte{echo[[2]bool{answer, src.Is6()}], 0, 0, 0, byte(j.own >> 8), byte(j.own), 0, 1}, 2
		if src.Is6() {
			protocol = 58
		}
	}
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, protocol, 0, byte(len(body)))
	if protocol == 1 {
		pseudo = nil
	}
	binary.BigEndian.PutUint16(body[sum:], ^sumOf(append(pseudo, body...)))
	return ipTo(src, dst, protocol, body)
}

// decide is the oracle: whether a packet passes, and by which rule; empty: none is about it.
func (s *AllowSettings) decide(j judged) (pass bool, rule string) {
	inside := func(ps []netip.Prefix, ip netip.Addr) int {
		best := -1
		for _, p := range ps {
			if p.Contains(ip) {
				best = max(best, p.Bits())
			}
		}
		return best
	}
	if s == nil || inside(s.Closed, j.to) < 0 || inside(s.Pods, j.from) >= 0 {
		return true, ""
	}
	best := []int{-1}
	for _, r := range s.Rules {
		to, from := inside(r.To, j.to), inside(r.From, j.from)
		served := len(r.Services) == 0 || slices.ContainsFunc(r.Services, func(o Service) bool {
			return o.Protocol4 == j.protocol && (j.protocol == 1 || o.First <= j.port && j.port <= o.Last)
		})
		if to < 0 || !served {
			continue
		}
		inMesh := inside(s.Mesh, j.from) >= 0
		for _, rank := range [][]int{{to, 2, from}, {to, 1, -1}, {to, 0, -1}} {
			is := rank[1] == 2 && from >= 0 || rank[1] == 1 && r.Mesh && inMesh ||
				rank[1] == 0 && r.Outside && !inMesh
			if is && slices.Compare(rank, best) > 0 {
				best, rule = rank, r.Name
			}
		}
	}
	return rule != "", rule
}

var (
	someSources = prefixes("10.244.2.0/24", "10.244.2.0/25", "10.244.2.9/32", "10.244.0.0/16", "0.0.0.0/0",
		"198.51.100.0/24", "fd00:0:0:2::/64", "fd00:0:0:2::9/128", "fd00::/16", "203.0.113.0/24")
	someDestinations = prefixes("10.244.1.0/24", "10.244.1.0/26", "10.244.1.5/32", "203.0.113.0/24",
		"203.0.113.128/25", "fd00:0:0:1::/64", "fd00:0:0:1::5/128")
	someServices = []Service{{6, 6, 0, 65535}, tcp(443, 443), tcp(400, 500), tcp(450, 600), tcp(1, 65535), icmp,
		{17, 17, 53, 53}, {17, 17, 0, 65535}, tcp(65535, 65535)}
	senders = []string{"10.244.2.5", "10.244.2.9", "10.244.2.200", "10.244.3.7", "198.51.100.7", "192.0.2.1",
		"10.244.1.77", "203.0.113.9", "fd00:0:0:2::5", "fd00:0:0:2::9", "2001:db8::7", "fd00:0:0:3::1"}
	receivers = []string{"10.244.1.5", "10.244.1.6", "10.244.1.200", "203.0.113.5", "203.0.113.200",
		"10.244.9.9", "fd00:0:0:1::5", "fd00:0:0:1::6", "fd00:0:0:9::9"}
)

// some returns up to most of a list.
func some[T any](r *rand.Rand, all []T, most int) (few []T) {
	for range r.IntN(most + 1) {
		few = append(few, all[r.IntN(len(all))])
	}
	return few
}

// randomRules returns up to 8 rules, which overlap in many ways.
func randomRules(r *rand.Rand) *AllowSettings {
	s := someRules()
	s.Rules, s.Closed = nil, nil
	for i := range r.IntN(9) {
		rule := AllowRule{Name: string(rune('a' + i)), From: some(r, someSources, 3), Mesh: r.IntN(4) == 0,
			Outside: r.IntN(4) == 0, To: some(r, someDestinations, 3), Services: some(r, someServices, 3)}
		s.Rules, s.Closed = append(s.Rules, rule), append(s.Closed, rule.To...)
	}
	return s
}

// randomPacket returns one whose addresses and ports rules are about.
func randomPacket(r *rand.Rand, own uint16) judged {
	for {
		j := judged{from: netip.MustParseAddr(senders[r.IntN(len(senders))]),
			to:       netip.MustParseAddr(receivers[r.IntN(len(receivers))]),
			protocol: []uint8{6, 17, 1}[r.IntN(3)],
			port:     []uint16{1, 53, 399, 400, 443, 450, 500, 501, 600, 601, 65535}[r.IntN(11)], own: own}
		if j.from.Is6() == j.to.Is6() {
			return j
		}
	}
}

// A wire is a host with the mesh on one side and pods on the other.
type wire struct {
	t          testing.TB
	mesh, pods *os.File
	sent       uint16
}

// through writes packets into one side, and returns which of them come out of the other, in their order. The
// last one that is written always does.
func (w *wire) through(packets []judged, answer bool) (passed []bool) {
	w.t.Helper()
	in, out := w.mesh, w.pods
	if answer {
		in, out = out, in
	}
	w.sent++
	end := judged{netip.MustParseAddr("10.244.2.5"), netip.MustParseAddr("10.244.9.9"), 17, 9, w.sent}
	passed = make([]bool, len(packets))
	index := map[string]int{string(end.bytes(answer)[20:]): -1}
	for i, p := range packets {
		b := p.bytes(answer)
		index[string(b[len(b)-bodyOf(b):])+p.to.String()] = i
		if _, err := in.Write(b); err != nil {
			w.t.Fatal(err)
		}
	}
	if _, err := in.Write(end.bytes(answer)); err != nil {
		w.t.Fatal(err)
	}
	if err := out.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	buf := make([]byte, 2000)
	for {
		n, err := out.Read(buf)
		if err != nil {
			w.t.Fatal(err)
		}
		to := destinationOf(buf[:n], answer)
		body := string(buf[n-bodyOf(buf[:n]) : n])
		if i, ok := index[body+to]; ok {
			passed[i] = true
		} else if index[body] == -1 && to == end.to.String() {
			return passed
		}
	}
}

// bodyOf returns the length of what is behind the IP header.
func bodyOf(b []byte) int {
	if b[0]>>4 == 6 {
		return len(b) - 40
	}
	return len(b) - 20
}

// destinationOf returns where a packet goes, or where an answer comes from.
func destinationOf(b []byte, answer bool) string {
	at, length := 16, 4
	if b[0]>>4 == 6 {
		at, length = 24, 16
	}
	if answer {
		at -= length
	}
	ip, _ := netip.AddrFromSlice(b[at : at+length])
	return ip.String()
}

// newWire makes a host: everything that is sent to receivers leaves to pods, everything else to the mesh.
func newWire(t testing.TB, n *nstest.Namespace) *wire {
	w := &wire{t: t, sent: 60000}
	var err, podsErr error
	w.mesh, err = openTUN("mesh0")
	w.pods, podsErr = openTUN("cni0")
	if err := errors.Join(err, podsErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.mesh.Close(); w.pods.Close() })
	if err := errors.Join(n.Sysctl("ipv4.ip_forward", "1"), n.Sysctl("ipv6.conf.all.forwarding", "1"),
		n.Sysctl("ipv4.conf.all.rp_filter", "0"), n.Sysctl("ipv4.conf.default.rp_filter", "0"),
		n.IP("link set lo up", "link set mesh0 up", "link set cni0 up", "route add default dev mesh0",
			"route add ::/0 dev mesh0", "addr add 10.244.1.0/32 dev mesh0",
			"addr add fd00:0:0:1::/128 dev mesh0 nodad")); err != nil {
		t.Fatal(err)
	}
	for _, to := range receivers {
		if err := n.IP("route add " + to + " dev cni0"); err != nil {
			t.Fatal(err)
		}
	}
	// Connections are tracked also while there are no rules, as masquerading has it.
	run(t, n, "nft", "add table inet track { chain c { "+
		"type filter hook forward priority 0; ct state new accept; }; }")
	return w
}

// 200 random rule sets say of random packets what a slow and obvious function says, also of answers, and of
// answers after the rules have changed: a connection follows the rules of today. What passes is counted by
// the rule that the function names, and the rest as dropped.
func TestAllowByPackets(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		w, a, r := newWire(t, n), NewAllow(), rand.New(rand.NewPCG(1, 2))
		var s *AllowSettings
		counted, dropped := map[string]uint64{}, uint64(0)
		expect := func(round int, packets []judged, answer bool) (open []judged) {
			t.Helper()
			for i, passed := range w.through(packets, answer) {
				want, rule := s.decide(packets[i])
				if passed != want {
					t.Fatalf("round %d, answer %v: %+v passed: %v by %q\n%+v", round, answer, packets[i], passed, rule, s)
				}
				if want && rule != "" {
					counted[rule]++
				}
				if !want {
					dropped++
					continue
				}
				open = append(open, packets[i])
			}
			return open
		}
		var open []judged
		for round := range 200 {
			s = randomRules(r)
			if round%20 == 19 {
				s = nil
			}
			if _, err := a.Set(s); err != nil {
				t.Fatal(err)
			}
			expect(round, open, true)
			packets := make([]judged, 40)
			for i := range packets {
				packets[i] = randomPacket(r, uint16(1024+round*40+i))
			}
			open = expect(round, packets, false)
			expect(round, open, true)
			if drops, err := a.Dropped(); err != nil || drops != dropped {
				t.Fatalf("round %d: dropped %d, %v, want %d", round, drops, err, dropped)
			}
			passed, drops, err := a.Counters()
			if err != nil || drops != dropped {
				t.Fatalf("round %d: dropped %d, %v, want %d", round, drops, err, dropped)
			}
			for name, want := range counted {
				if passed[name].Packets != want {
					t.Fatalf("round %d: rule %s passed %d, want %d\n%+v", round, name, passed[name].Packets, want, s)
				}
			}
		}
		if dropped < 500 || len(counted) < 5 {
			t.Errorf("too little happened: %d dropped, %v", dropped, counted)
		}
	})
}
