package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
)

// ruled is a mesh with two families, a shared route and rules.
const ruled = `[network]
cidr = ["10.244.0.0/16", "fd00::/48"]
[[node]]
name = "a"
address = "172.18.0.1"
subnets = ["10.244.1.0/24", "fd00:0:0:1::/64"]
[[node]]
name = "b"
address = "172.18.0.2"
subnets = ["10.244.2.0/24"]
routes = ["192.168.0.0/24"]
[[node]]
name = "c"
address = "172.18.0.3"
subnets = ["10.244.3.0/24", "fd00:0:0:3::/64"]
routes = ["192.168.0.0/24", "192.168.0.64/26"]
`

// parties, services and ends are what random rules are made of.
var (
	parties = []string{"a", "b", "c", "mesh", "outside", "10.244.1.0/25", "10.244.0.0/16",
		"192.168.0.0/16", "0.0.0.0/0"}
	services = []string{"tcp", "tcp/443", "tcp/400-500", "udp/53", "icmp"}
	asked    = []string{"tcp/443", "tcp/450", "tcp/501", "udp/53", "icmp", "sctp/9"}
	someEnds = []string{"10.244.1.5", "10.244.1.200", "10.244.2.9", "10.244.3.1", "192.168.0.70", "192.168.0.9",
		"198.51.100.1", "10.244.9.9"}
)

// randomRules returns a file with up to 6 rules.
func randomRules(t *testing.T, r *rand.Rand) *config.Config {
	t.Helper()
	some := func(all []string) string {
		var few []string
		for range 1 + r.IntN(3) {
			few = append(few, fmt.Sprintf("%q", all[r.IntN(len(all))]))
		}
		return "[" + strings.Join(few, ", ") + "]"
	}
	doc := ruled
	for range r.IntN(7) {
		doc += "[[allow]]\nfrom = " + some(parties) + "\nto = " + some(parties) + "\n"
		if r.IntN(3) > 0 {
			doc += "proto = " + some(services) + "\n"
		}
	}
	c, err := config.Parse("x", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// is tells whether an address is one of a party; it is the oracle's idea of the words of a rule.
func is(c *config.Config, p config.Party, ip netip.Addr) bool {
	in := func(ps []netip.Prefix) bool {
		return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(ip) })
	}
	if p.Name == "" {
		return p.Prefix.Contains(ip)
	}
	known := false
	for _, n := range c.Nodes {
		if in(n.Subnets) || in(n.Prefixes()) {
			known = true
			if p.Name == n.Name {
				return true
			}
		}
	}
	return p.Name == config.WholeMesh && known || p.Name == config.Outside && !known
}

// What Decide and what the hosts are told say of random rules is what a slow and obvious function says.
func TestDecide(t *testing.T) {
	r, dropped, allowed := rand.New(rand.NewPCG(3, 4)), 0, 0
	mesh, outside := config.Party{Name: config.WholeMesh}, config.Party{Name: config.Outside}
	for range 400 {
		c := randomRules(t, r)
		for range 40 {
			from := netip.MustParseAddr(someEnds[r.IntN(len(someEnds))])
			to := netip.MustParseAddr(someEnds[r.IntN(len(someEnds))])
			service, err := config.ParseService(asked[r.IntN(len(asked))])
			if err != nil {
				t.Fatal(err)
			}
			named, want := false, !is(c, mesh, to)
			for _, a := range c.Allow {
				if !slices.ContainsFunc(a.To, func(p config.Party) bool { return is(c, p, to) && p != outside }) {
					continue
				}
				named = true
				serves := func(s config.Service) bool {
					return s.Protocol == service.Protocol && s.First <= service.First && service.Last <= s.Last
				}
				if slices.ContainsFunc(a.From, func(p config.Party) bool { return is(c, p, from) }) &&
					(len(a.Services) == 0 || slices.ContainsFunc(a.Services, serves)) {
					want = true
				}
			}
			for _, n := range c.Nodes {
				sub := func(p netip.Prefix) bool { return p.Contains(from) }
				whole := func(p netip.Prefix) bool { return p.Contains(to) }
				if slices.ContainsFunc(n.Subnets, sub) && slices.ContainsFunc(n.Reach(), whole) {
					want = true
				}
			}
			want = want || !named
			d := Decide(c, from, to, service)
			if d.Allowed != want {
				t.Fatalf("%s to %s, %s: %+v, want %v\n%+v", from, to, service, d, want, c.Allow)
			}
			if want {
				allowed++
			} else {
				dropped++
			}
		}
	}
	if dropped < 500 || allowed < 500 {
		t.Errorf("%d dropped, %d allowed", dropped, allowed)
	}
}

// A host is told the rules about what is behind it: prefixes cut to its own, names as prefixes.
func TestPlanAllow(t *testing.T) {
	doc := ruled + `[[allow]]
name = "web"
from = ["a", "outside", "192.0.2.0/24"]
to = ["b", "10.244.3.7/32"]
proto = ["tcp/80-90", "icmp"]
[[allow]]
to = ["10.0.0.0/8"]
`
	c, err := config.Parse("x", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	for self, want := range []string{
		"[{#2 [] true false [10.244.1.0/24] []}] [10.244.1.0/24]",
		"[{web [10.244.1.0/24 fd00:0:0:1::/64 192.0.2.0/24] false true [10.244.2.0/24 192.168.0.0/24] " +
			"[{6 6 80 90} {1 58 0 65535}]} {#2 [] true false [10.244.2.0/24] []}] " +
			"[10.244.2.0/24 192.168.0.0/24 10.244.2.0/24]",
		"[{web [10.244.1.0/24 fd00:0:0:1::/64 192.0.2.0/24] false true " +
			"[192.168.0.0/24 192.168.0.64/26 10.244.3.7/32] [{6 6 80 90} {1 58 0 65535}]} " +
			"{#2 [] true false [10.244.3.0/24] []}] [192.168.0.0/24 192.168.0.64/26 10.244.3.7/32 10.244.3.0/24]",
	} {
		p := &Plan{Config: c, Self: c.Nodes[self]}
		p.planAllow()
		if got := fmt.Sprint(p.Rules.Allow.Rules, p.Rules.Allow.Closed); got != want {
			t.Errorf("%s:\n%s, want\n%s", p.Self.Name, got, want)
		}
	}
}

// Each rule that changes is a change, by its name.
func TestChangesOfAllow(t *testing.T) {
	of := func(rules ...string) []config.Allow {
		doc := ruled
		for _, r := range rules {
			name, to, _ := strings.Cut(r, " ")
			doc += fmt.Sprintf("[[allow]]\nname = %q\nto = [%s\n", name, to)
		}
		c, err := config.Parse("x", []byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		return c.Allow
	}
	d := &differences{}
	d.allow(of("x 'a']", "y 'b']", "s 'c']"), of("z 'c']", "s 'c']", "y 'b']\nproto = ['icmp']"))
	var got []string
	for _, c := range d.list {
		got = append(got, c.String())
	}
	want := []string{"+ allow rule z from mesh to c: everything",
		"~ allow rule y from mesh to b: everything -> from mesh to b: icmp",
		"- allow rule x from mesh to a: everything"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
