package table

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"example.org/meshd/internal/budget"
)

// oracle is Lookup as one would explain it: look at everything, keep the
// longest prefix that contains the address.
func oracle(peers []Peer, dst netip.Addr) (best netip.Prefix, peer int32) {
	best, peer = netip.Prefix{}, None
	for i, p := range peers {
		for _, prefix := range p.Prefixes {
			if prefix.Contains(dst) && (peer == None || prefix.Bits() > best.Bits()) {
				best, peer = prefix, int32(i)
			}
		}
	}
	return best, peer
}

func addr4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

func addr6(high uint64, low uint64) netip.Addr {
	b := binary.BigEndian.AppendUint64(nil, high)
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(b, low)))
}

// randomPeers packs prefixes of all lengths into a small part of the address
// space, so that they nest and touch.
func randomPeers(r *rand.Rand, n int) []Peer {
	seen := map[netip.Prefix]bool{}
	peers := make([]Peer, n)
	for i := range peers {
		peers[i] = Peer{Name: fmt.Sprint("p", i), Addresses: []netip.Addr{addr4(0xac120000 + uint32(i))}}
		if i%3 == 0 {
			peers[i].Addresses = append(peers[i].Addresses, addr6(0x20010db8<<32, uint64(i)))
		}
		for range r.IntN(4) {
			var p netip.Prefix
			if r.IntN(2) == 0 {
				p, _ = addr4(0x0af40000 | r.Uint32N(1<<18)).Prefix(r.IntN(33))
			} else {
				p, _ = addr6(0xfd00<<48|uint64(r.Uint32N(1<<10)), r.Uint64()&0xff).Prefix(r.IntN(129))
			}
			if !seen[p] {
				seen[p] = true
				peers[i].Prefixes = append(peers[i].Prefixes, p)
			}
		}
	}
	return peers
}

// checkAgainstOracle compares every kind of lookup for addresses at, just
// before and just behind each prefix, and for random ones.
func checkAgainstOracle(t *testing.T, peers []Peer, r *rand.Rand) {
	t.Helper()
	table, err := New(peers, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(dst netip.Addr) {
		if !dst.IsValid() {
			return
		}
		wantPrefix, want := oracle(peers, dst)
		if got := table.Lookup(dst); got != want {
			t.Errorf("Lookup(%s) = %d, want %d", dst, got, want)
		}
		if prefix, got := table.LookupPrefix(dst); got != want || prefix != wantPrefix {
			t.Errorf("LookupPrefix(%s) = %s, %d, want %s, %d", dst, prefix, got, wantPrefix, want)
		}
	}
	for i, p := range peers {
		for _, prefix := range p.Prefixes {
			first := prefix.Addr()
			check(first)
			check(first.Prev())
			check(first.Next())
			last := first.AsSlice()
			for bit := prefix.Bits(); bit < first.BitLen(); bit++ {
				last[bit/8] |= 0x80 >> (bit % 8)
			}
			end, _ := netip.AddrFromSlice(last)
			check(end)
			check(end.Next())
		}
		for _, a := range p.Addresses {
			if got := table.Sender(a); got != int32(i) {
				t.Errorf("Sender(%s) = %d, want %d", a, got, i)
			}
			if got := table.Sender(a.Prev()); got != None && !slices.Contains(peers[got].Addresses, a.Prev()) {
				t.Errorf("Sender(%s) = %d", a.Prev(), got)
			}
		}
	}
	for range 200 {
		check(addr4(0x0af40000 | r.Uint32N(1<<19)))
		check(addr6(0xfd00<<48|uint64(r.Uint32N(1<<11)), r.Uint64()&0x1ff))
		check(addr4(r.Uint32()))
	}
}

func TestLookupAgainstOracle(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		checkAgainstOracle(t, randomPeers(r, r.IntN(40)), r)
	}
}

// FuzzLookup builds a table from the fuzzer's bytes: six bytes a prefix, four
// of address, one of length, one for the peer.
func FuzzLookup(f *testing.F) {
	f.Add([]byte("\x0a\xf4\x00\x00\x10\x01\x0a\xf4\x01\x00\x18\x02\x0a\xf4\x01\x80\x19\x03"), uint32(0x0af40181))
	f.Fuzz(func(t *testing.T, spec []byte, dst uint32) {
		defer budget.Of(t)()
		var peers []Peer
		seen := map[netip.Prefix]bool{}
		for ; len(spec) >= 6 && len(peers) < 64; spec = spec[6:] {
			p, err := netip.AddrFrom4([4]byte(spec[:4])).Prefix(int(spec[4] % 33))
			if err != nil || seen[p] {
				continue
			}
			seen[p] = true
			peers = append(peers, Peer{Name: "p", Prefixes: []netip.Prefix{p},
				Addresses: []netip.Addr{addr4(uint32(len(peers)))}})
		}
		table, err := New(peers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, want := oracle(peers, addr4(dst)); table.Lookup(addr4(dst)) != want {
			t.Errorf("Lookup(%s) = %d, want %d in %v", addr4(dst), table.Lookup(addr4(dst)), want, peers)
		}
	})
}

func TestConflicts(t *testing.T) {
	ten := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	one, two := []netip.Addr{addr4(1)}, []netip.Addr{addr4(2)}
	shared := func(peers ...int32) []Share { return []Share{{Prefix: ten[0], Peers: peers}} }
	for _, test := range []struct {
		name   string
		peers  []Peer
		shares []Share
		taken  bool
	}{
		{"same prefix twice", []Peer{{"a", one, ten}, {"b", two, ten}}, nil, true},
		{"same address twice", []Peer{{"a", one, ten}, {"b", []netip.Addr{addr4(2), addr4(1)}, nil}}, nil, true},
		{"one peer's address with two ports", []Peer{{"a", []netip.Addr{addr4(1), addr4(1)}, ten}}, nil, false},
		{"a share of both", []Peer{{"a", one, ten}, {"b", two, ten}}, shared(1, 0), false},
		{"a share of one", []Peer{{"a", one, ten}, {"b", two, ten}}, shared(0), true},
		{"no address yet", []Peer{{"a", nil, ten}, {"b", nil, nil}}, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := New(test.peers, test.shares); errors.Is(err, ErrTaken) != test.taken ||
				err != nil != test.taken {
				t.Errorf("%v", err)
			}
		})
	}
}

// A shared prefix leads to its carrier of now, and packets may come from all that have it.
func TestShares(t *testing.T) {
	p := netip.MustParsePrefix
	lan, inside := p("192.168.0.0/16"), p("192.168.7.0/24")
	table, err := New([]Peer{
		{Name: "a", Prefixes: []netip.Prefix{lan}}, {Name: "b", Prefixes: []netip.Prefix{lan}},
		{Name: "c", Prefixes: []netip.Prefix{inside}}, {Name: "d", Prefixes: []netip.Prefix{lan}},
	}, []Share{{Prefix: lan, Peers: []int32{3, 0, 1}}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, carrier int32) {
		t.Helper()
		for address, want := range map[string]int32{"192.168.1.1": carrier, "192.168.7.1": 2, "10.0.0.1": None} {
			dst := netip.MustParseAddr(address)
			if got := table.Lookup(dst); got != want {
				t.Errorf("%s: Lookup(%s) = %d, want %d", when, dst, got, want)
			}
			if _, got := table.LookupPrefix(dst); got != want {
				t.Errorf("%s: LookupPrefix(%s) = %d, want %d", when, dst, got, want)
			}
			for peer := range int32(4) {
				owns := peer == want || address == "192.168.1.1" && peer != 2
				if got := table.Owns(dst, peer); got != owns {
					t.Errorf("%s: Owns(%s, %d) = %t", when, dst, peer, got)
				}
			}
		}
	}
	check("at first", 3)
	if !table.Carry(lan, 1) {
		t.Error("b does not carry")
	}
	check("then", 1)
	if table.Carry(lan, 2) || table.Carry(lan, None) || table.Carry(inside, 0) ||
		table.Carry(p("192.168.0.0/17"), 0) {
		t.Error("one carries what it does not have")
	}
	check("still", 1)
}

// tenThousand is a mesh of 10,000 nodes with a /24 and a /64 each.
func tenThousand(tb testing.TB) (*Table, []netip.Addr) {
	peers := make([]Peer, 10000)
	dsts := make([]netip.Addr, 1<<12)
	for i := range peers {
		v4, _ := addr4(10<<24 | uint32(i)<<8).Prefix(24)
		v6, _ := addr6(0xfd00<<48|uint64(i), 0).Prefix(64)
		own := []netip.Prefix{v4, v6}
		peers[i] = Peer{Name: fmt.Sprint(i), Addresses: []netip.Addr{addr4(0xac100000 + uint32(i))}, Prefixes: own}
	}
	table, err := New(peers, nil)
	if err != nil {
		tb.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range dsts {
		dsts[i] = addr4(10<<24 | r.Uint32N(10000)<<8 | r.Uint32N(256))
	}
	return table, dsts
}

func TestLookupDoesNotAllocate(t *testing.T) {
	table, dsts := tenThousand(t)
	lan := netip.MustParsePrefix("192.168.0.0/16")
	shared, err := New([]Peer{{Name: "a"}, {Name: "b"}}, []Share{{Prefix: lan, Peers: []int32{0, 1}}})
	if err != nil {
		t.Fatal(err)
	}
	six := netip.MustParseAddr("fd00::1")
	if n := testing.AllocsPerRun(100, func() {
		table.Lookup(dsts[0])
		table.Lookup(six)
		table.Sender(dsts[1])
		table.Owns(dsts[2], 7)
		shared.Lookup(lan.Addr())
		shared.Owns(lan.Addr(), 1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLookup10000(b *testing.B) {
	table, dsts := tenThousand(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if peer := table.Find(dsts[i&(1<<12-1)]); peer < 0 { // as the packet path does
			table.Carrier(peer)
		}
		i++
	}
}

func BenchmarkSender10000(b *testing.B) {
	table, dsts := tenThousand(b)
	for i := range dsts {
		dsts[i] = addr4(0xac100000 + uint32(i)*7919%10000)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		table.Sender(dsts[i&(1<<12-1)])
		i++
	}
}

func BenchmarkNew10000(b *testing.B) {
	peers := randomPeers(rand.New(rand.NewPCG(1, 2)), 10000)
	for b.Loop() {
		if _, err := New(peers, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// After makes the table that New makes, whatever was edited, and leaves the one before as it was.
func TestAfter(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 50 {
		was := randomPeers(r, 200)
		before, err := New(was, nil)
		if err != nil {
			t.Fatal(err)
		}
		now := slices.Clone(was)
		taken := netip.Prefix{}
		for range r.IntN(20) { // more than a sixteenth of them, too
			a, b := r.IntN(len(now)), r.IntN(len(now))
			switch r.IntN(5) {
			case 0: // two change places
				now[a].Prefixes, now[b].Prefixes = now[b].Prefixes, now[a].Prefixes
				now[a].Addresses, now[b].Addresses = now[b].Addresses, now[a].Addresses
			case 1:
				now[a].Prefixes = nil
			case 2:
				now[a].Addresses = []netip.Addr{addr4(0xac130000 + r.Uint32())}
			case 3:
				now[a].Name += "'"
			case 4:
				if len(now[b].Prefixes) > 0 && a != b && r.IntN(8) == 0 {
					taken = now[b].Prefixes[0]
					now[a].Prefixes = append(slices.Clone(now[a].Prefixes), taken)
				}
			}
		}
		want, wantErr := New(now, nil)
		got, err := After(before, was, now, nil)
		if (err == nil) != (wantErr == nil) || err != nil && !errors.Is(err, ErrTaken) {
			t.Fatalf("round %d: %v, want %v", round, err, wantErr)
		}
		if again, _ := New(was, nil); !sameTables(before, again) {
			t.Fatalf("round %d: the table before has changed", round)
		}
		if err == nil && !sameTables(got, want) {
			t.Fatalf("round %d: another table than New's", round)
		}
	}
}

func sameTables(a, b *Table) bool {
	return a.overlay.Equal(b.overlay) && a.underlay.Equal(b.underlay) && slices.Equal(a.names, b.names)
}

// Where prefixes are shared, or peers come and go, a table is made anew.
func TestAfterOfShares(t *testing.T) {
	shared := netip.MustParsePrefix("192.168.7.0/24")
	was := []Peer{{Name: "a", Prefixes: []netip.Prefix{shared}}, {Name: "b", Prefixes: []netip.Prefix{shared}}}
	before, err := New(was, []Share{{shared, []int32{0, 1}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		peers  []Peer
		shares []Share
		want   int32 // who carries the prefix
	}{
		{"another carrier", was, []Share{{shared, []int32{1, 0}}}, 1},
		{"not shared any more", []Peer{{Name: "a"}, was[1]}, nil, 1},
		{"one less", was[:1], nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := After(before, was, test.peers, test.shares)
			if err != nil || got.Lookup(shared.Addr()) != test.want {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func BenchmarkAfter10000(b *testing.B) {
	was := randomPeers(rand.New(rand.NewPCG(1, 2)), 10000)
	before, err := New(was, nil)
	if err != nil {
		b.Fatal(err)
	}
	now := slices.Clone(was)
	now[5000].Addresses = []netip.Addr{addr4(1)}
	for b.Loop() {
		if _, err := After(before, was, now, nil); err != nil {
			b.Fatal(err)
		}
	}
}
