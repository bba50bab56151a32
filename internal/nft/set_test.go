package nft

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// Of intervals the oracle is what they say: an address is inside if and only if one of the
// prefixes contains it.
func TestIntervalsAgainstOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	ip := func(n uint32) netip.Addr { return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))) }
	for range 500 {
		var ps []netip.Prefix
		for range r.IntN(6) {
			base := r.Uint32() & 0x3ff
			if r.IntN(3) == 0 {
				base |= 0xfffffc00
			}
			p, _ := ip(base).Prefix(20 + r.IntN(13))
			ps = append(ps, p)
		}
		all := intervals(ps)
		for range 200 {
			a := ip(r.Uint32()&0x7ff | uint32(r.IntN(2))*0xfffff800)
			want := slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
			inside := false
			for i, e := range all {
				start := mustAddr(e.key[:4])
				if i > 0 && start.Compare(mustAddr(all[i-1].key[:4])) <= 0 {
					t.Fatalf("out of order: %v from %v", all, ps)
				}
				if start.Compare(a) <= 0 {
					inside = !e.end
				}
			}
			if inside != want {
				t.Fatalf("%s inside %v: %v, want %v", a, ps, inside, want)
			}
		}
	}
}

// Prefixes that overlap or touch are one interval; one that reaches to the last address has no end.
func TestIntervals(t *testing.T) {
	for name, test := range map[string]struct {
		prefixes []netip.Prefix
		want     string // begin and end of each interval
	}{
		"none":             {nil, ""},
		"one":              {prefixes("10.0.0.0/24"), "10.0.0.0 -10.0.1.0"},
		"unordered, apart": {prefixes("10.0.2.0/24", "10.0.0.0/24"), "10.0.0.0 -10.0.1.0 10.0.2.0 -10.0.3.0"},
		"touching":         {prefixes("10.0.0.0/24", "10.0.1.0/24"), "10.0.0.0 -10.0.2.0"},
		"one in another":   {prefixes("10.0.0.0/8", "10.1.0.0/16"), "10.0.0.0 -11.0.0.0"},
		"twice":            {prefixes("10.0.0.0/24", "10.0.0.0/24"), "10.0.0.0 -10.0.1.0"},
		"all":              {prefixes("0.0.0.0/0", "10.0.0.0/8"), "0.0.0.0"},
		"to the last":      {prefixes("255.0.0.0/8", "255.255.0.0/16"), "255.0.0.0"},
		"IPv6":             {prefixes("fd00::/64", "fd00:0:0:1::/64"), "fd00:: -fd00:0:0:2::"},
	} {
		t.Run(name, func(t *testing.T) {
			width := 4
			if name == "IPv6" {
				width = 16
			}
			var words []string
			for _, e := range intervals(test.prefixes) {
				word := mustAddr(e.key[:width]).String()
				if e.end {
					word = "-" + word
				}
				words = append(words, word)
			}
			if got := strings.Join(words, " "); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// keys returns a set's name and its elements in hex.
func keys(s Set) string {
	words := []string{s.name}
	for _, e := range s.elements {
		words = append(words, hex.EncodeToString(e.key[:s.key.Bytes]))
	}
	return strings.Join(words, " ")
}

// Each set has the elements of its family, in order and once, in the kernel's form.
func TestElements(t *testing.T) {
	ips := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::1"),
		netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	ports := endpoints("10.0.0.1:8285", "[fd00::1]:1", "10.0.0.1:8285", "10.0.0.1:80")
	lo, eth0 := "6c6f"+strings.Repeat("00", 14), "65746830"+strings.Repeat("00", 12) // IFNAMSIZ bytes each
	for name, test := range map[string]struct {
		set  Set
		want string
	}{
		"addresses":      {IPv4.Addresses("a", ips), "a 0a000001 0a000002"},
		"IPv6 addresses": {IPv6.InBoth().Addresses("a", ips), "a6 fd000000000000000000000000000001"},
		"endpoints":      {IPv4.InBoth().Endpoints("n", ports), "n4 0a00000100500000 0a000001205d0000"},
		"IPv6 endpoints": {IPv6.Endpoints("n", ports),
			"n fd00000000000000000000000000000100010000"},
		"interfaces":              {Interfaces("i", []string{"lo", "eth0", "lo"}), "i " + eth0 + " " + lo},
		"interfaces, each itself": {SameInterfaces("p", []string{"lo"}), "p " + lo + lo},
		"prefixes":                {IPv4.Prefixes("p", prefixes("10.0.0.0/24", "::/0")), "p 0a000000 0a000100"},
		"no element":              {IPv6.InBoth().Prefixes("p", nil), "p6"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := keys(test.set); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// PrefixesOf keeps the order and leaves out the other family.
func TestPrefixesOf(t *testing.T) {
	all := prefixes("10.0.0.0/8", "fd00::/8", "9.0.0.0/8")
	for i, want := range [][]netip.Prefix{prefixes("10.0.0.0/8", "9.0.0.0/8"), prefixes("fd00::/8")} {
		if got := Families[i].PrefixesOf(all); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// Names of tables are ours by their beginning, and not by chance.
func TestOurs(t *testing.T) {
	for name, want := range map[string]bool{
		"meshd": true, "meshd-filter": true, "meshdata": false, "filter": false, "": false, "mesh": false,
	} {
		if got := Ours(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

func mustAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Goroutines write tables of their own at the same time, and each set gets its own elements.
func TestTablesAreWrittenTogether(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		ended := make(chan error)
		const writers = 4
		for i := range writers {
			go func() {
				ended <- n.Do(func() error {
					id := Both(fmt.Sprintf("meshd-%d", i))
					for range 25 {
						k, table := NewKeeper(id), Table{ID: id}
						for j := range 5 {
							names := []string{fmt.Sprintf("i%d-%d", i, j)}
							table.Sets = append(table.Sets, Interfaces(fmt.Sprintf("s%d", j), names))
						}
						if _, err := k.Set([]Table{table}); err != nil {
							return err
						}
						if changed, err := k.Set([]Table{table}); err != nil || changed {
							return fmt.Errorf("changed %v: %w", changed, err)
						}
					}
					return nil
				})
			}()
		}
		for range writers {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}
