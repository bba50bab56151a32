package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/mesh"
)

// named is a mesh of three nodes. A stands for the address of a, B for that of b.
const named = `
[network]
cidr = "10.244.0.0/16"
[[node]]
name = "a"
address = A
subnets = ["10.244.1.0/24"]
[[node]]
name = "b"
address = B
subnets = ["10.244.2.0/24"]
[[node]]
name = "c"
address = "172.18.0.4"
subnets = ["10.244.3.0/24"]
routes = ["192.168.3.0/24"]
`

// answers returns names that were resolved at one time: "NAME ADDRESS..." each.
func answers(all ...string) map[string]Name {
	names := map[string]Name{}
	for _, one := range all {
		words := strings.Fields(one)
		names[words[0]] = Name{Addrs: addrs(words[1:]...), At: time.Unix(1e9, 0)}
	}
	return names
}

// texts writes the addresses of a peer.
func texts(p mesh.Peer) string {
	var words []string
	for _, a := range p.Addresses {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

// withNames makes the plan of a host with some addresses, as a survey would.
func withNames(t *testing.T, a, b string, names map[string]Name, local ...string) *Plan {
	t.Helper()
	c := parse(t, strings.NewReplacer("= A", "= "+a, "= B", "= "+b).Replace(named))
	host := here(1500)
	host.Local = addrs(local...)
	nodes := Expand(c, names)
	self, err := nodes.Identify("", host.Local, host.Key)
	if err != nil {
		t.Fatal(err)
	}
	host.Nodes = nodes.SeenFrom(self, host.Local)
	return must(t, c, self, host)
}

// Node a is this host. What b's names stand for becomes b's addresses, or a condition says why not.
func TestNames(t *testing.T) {
	const fixed = `"172.18.0.2"`
	broken := answers("b.lan 172.18.0.3", "other.lan")
	broken["b.lan"] = Name{Addrs: broken["b.lan"].Addrs, At: broken["b.lan"].At, Cause: "SERVFAIL"}
	broken["other.lan"] = Name{Cause: "no such host"}
	unusable := func(severity mesh.Severity) about { return about{mesh.NameUnusable, severity, "b", "b.lan"} }
	for _, test := range []struct {
		name, b string
		names   map[string]Name
		want    string
		wrong   []about
	}{
		{"one answer", `"b.lan"`, answers("b.lan 172.18.0.3"), "172.18.0.3:8285", nil},
		{"with a port", `"b.lan:9"`, answers("b.lan 172.18.0.3"), "172.18.0.3:9", nil},
		{"between others", `["10.9.0.1", "b.lan:9", "10.9.0.2:7"]`, answers("b.lan 172.18.0.3 172.18.0.5"),
			"10.9.0.1:8285 172.18.0.3:9 172.18.0.5:9 10.9.0.2:7", nil},
		{"the family of this host first", `"b.lan"`, answers("b.lan 2001:db8::3 172.18.0.3"),
			"172.18.0.3:8285 [2001:db8::3]:8285", nil},
		{"its own fixed address", `["b.lan", "172.18.0.3"]`, answers("b.lan 172.18.0.3"), "172.18.0.3:8285", nil},
		{"more than fit, and each element keeps its place", `["b.lan", "10.9.0.1", "other.lan"]`,
			answers("b.lan 10.8.0.1 10.8.0.2 10.8.0.3 10.8.0.4 10.8.0.5 10.8.0.6 10.8.0.7 10.8.0.8",
				"other.lan 10.7.0.1 10.7.0.2"),
			"10.8.0.1:8285 10.8.0.2:8285 10.8.0.3:8285 10.8.0.4:8285 10.8.0.5:8285 10.8.0.6:8285 10.9.0.1:8285 " +
				"10.7.0.1:8285", nil},

		{"not asked for yet", `"b.lan"`, nil, "", []about{{mesh.NameUnresolved, mesh.Info, "b", "b.lan"}}},
		{"never resolved", `["other.lan", "10.9.0.1"]`, broken, "10.9.0.1:8285",
			[]about{{mesh.NameUnresolved, mesh.Degraded, "b", "other.lan"}}},
		{"an old answer", `"b.lan"`, broken, "172.18.0.3:8285", []about{{mesh.NameStale, mesh.Info, "b", "b.lan"}}},

		{"loopback", `"b.lan"`, answers("b.lan 127.0.0.1 ::1"), "", []about{unusable(mesh.Degraded)}},
		{"unspecified", `"b.lan"`, answers("b.lan 0.0.0.0 ::"), "", []about{unusable(mesh.Degraded)}},
		{"multicast", `"b.lan"`, answers("b.lan 224.0.0.5 ff02::5"), "", []about{unusable(mesh.Degraded)}},
		{"link-local of IPv6", `"b.lan"`, answers("b.lan fe80::5"), "", []about{unusable(mesh.Degraded)}},
		{"inside the network", `"b.lan"`, answers("b.lan 10.244.99.1 172.18.0.3"), "172.18.0.3:8285",
			[]about{unusable(mesh.Degraded)}},
		{"inside a route", `"b.lan"`, answers("b.lan 192.168.3.7"), "", []about{unusable(mesh.Degraded)}},
		{"a fixed address of a later node", `"b.lan"`, answers("b.lan 172.18.0.4"), "",
			[]about{unusable(mesh.Degraded)}},
		{"an address of this node", `"b.lan"`, answers("b.lan 172.18.0.2"), "", []about{unusable(mesh.Degraded)}},
		{"an address of this host that is in no file", `"b.lan"`, answers("b.lan 10.5.0.1"), "",
			[]about{unusable(mesh.Degraded)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := withNames(t, fixed, test.b, test.names, "172.18.0.2", "10.5.0.1")
			b := p.Engine.Mesh.Peers[1]
			if got := texts(b); got != test.want {
				t.Errorf("addresses %q, want %q", got, test.want)
			}
			if got := aboutAll(p.Conditions); !slices.Equal(got, test.wrong) {
				t.Errorf("conditions %+v, want %+v", got, test.wrong)
			}
			for _, c := range p.Conditions {
				if c.Severity > mesh.Info && (c.Cause == "" && c.Kind == mesh.NameUnusable || c.Remedy == "") {
					t.Errorf("%+v", c)
				}
			}
			onlyOnce(t, p)
		})
	}
}

// onlyOnce fails if two nodes have one address, or if the guard would believe one that is nobody's.
func onlyOnce(t *testing.T, p *Plan) {
	t.Helper()
	owners, all := map[netip.Addr]string{}, 0
	for _, peer := range p.Engine.Mesh.Peers {
		all += len(peer.Addresses)
		for _, a := range peer.Addresses {
			if other := owners[a.Addr()]; other != "" {
				t.Errorf("%s is an address of %s and of %s", a, other, peer.Name)
			}
			owners[a.Addr()] = peer.Name
		}
	}
	for _, a := range p.Rules.Guard.Nodes {
		if owners[a.Addr()] == "" || len(p.Rules.Guard.Nodes) != all {
			t.Errorf("the guard knows %v", p.Rules.Guard.Nodes)
		}
	}
}

// Of two names with one answer the first node of the file has the address.
func TestNamesOfTwoNodesWithOneAnswer(t *testing.T) {
	c := parse(t, strings.NewReplacer("= A", `= "a.lan"`, "= B", `= "b.lan"`).Replace(named))
	host := here(1500)
	host.Local = addrs("172.18.0.4")
	host.Nodes = Expand(c, answers("a.lan 10.9.0.1", "b.lan 10.9.0.1 10.9.0.2")).SeenFrom(2, host.Local)
	p := must(t, c, 2, host)
	a, b := p.Engine.Mesh.Peers[0], p.Engine.Mesh.Peers[1]
	if texts(a) != "10.9.0.1:8285" || texts(b) != "10.9.0.2:8285" {
		t.Errorf("%s, %s", texts(a), texts(b))
	}
	want := []about{{mesh.NameUnusable, mesh.Degraded, "b", "b.lan"}}
	if got := aboutAll(p.Conditions); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	onlyOnce(t, p)
}

// A thousand answers, and names that all claim the same, cost no more than they should and change no node.
func TestNamesWithHostileAnswers(t *testing.T) {
	var many []netip.Addr
	for i := range 1000 {
		many = append(many, netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}))
	}
	names := map[string]Name{"b.lan": {Addrs: many}}
	p := withNames(t, `"172.18.0.2"`, `["b.lan", "172.18.0.3"]`, names, "172.18.0.2")
	b := p.Engine.Mesh.Peers[1]
	if len(b.Addresses) != 8 || b.Addresses[7].Addr() != addrs("172.18.0.3")[0] {
		t.Errorf("%s", texts(b))
	}
	onlyOnce(t, p)
}

func TestOrigin(t *testing.T) {
	p := withNames(t, `"172.18.0.2"`, `["b.lan", "10.9.0.1"]`, answers("b.lan 172.18.0.3"), "172.18.0.2")
	if name, at := p.Origin(addrs("172.18.0.3")[0]); name != "b.lan" || !at.Equal(time.Unix(1e9, 0)) {
		t.Errorf("%q, %s", name, at)
	}
	if name, at := p.Origin(addrs("10.9.0.1")[0]); name != "" || !at.IsZero() {
		t.Errorf("%q, %s", name, at)
	}
	if got := Names(p.Config); !slices.Equal(got, []string{"b.lan"}) {
		t.Errorf("%q", got)
	}
}

// A host knows itself by any of its addresses, also by those behind a name; what DNS says never makes it
// another node.
func TestIdentifyByNames(t *testing.T) {
	for _, test := range []struct {
		name, a, b string
		names      map[string]Name
		local      string
		want       int
		err        error
	}{
		{"by the second address", `["10.9.0.1", "10.9.0.2"]`, `"10.9.0.3"`, nil, "10.9.0.2", 0, nil},
		{"by a name", `"a.lan"`, `"10.9.0.3"`, answers("a.lan 10.9.0.1"), "10.9.0.1", 0, nil},
		{"before the name is resolved", `"a.lan"`, `"10.9.0.3"`, nil, "10.9.0.1", 0, ErrNotHere},
		{"a fixed address wins", `"a.lan"`, `"10.9.0.3"`, answers("a.lan 10.9.0.1"), "10.9.0.1 10.9.0.3", 1, nil},
		{"two names", `"a.lan"`, `"b.lan"`, answers("a.lan 10.9.0.1", "b.lan 10.9.0.2"), "10.9.0.1 10.9.0.2", 0,
			ErrNotHere},
		{"two fixed addresses of one node", `["10.9.0.1", "10.9.0.2"]`, `"10.9.0.3"`, nil, "10.9.0.1 10.9.0.2", 0,
			nil},
		{"two fixed addresses of two nodes", `["10.9.0.1", "10.9.0.2"]`, `"10.9.0.3"`, nil, "10.9.0.2 10.9.0.3", 0,
			ErrIdentity},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := parse(t, strings.NewReplacer("= A", "= "+test.a, "= B", "= "+test.b).Replace(named))
			got, err := Expand(c, test.names).Identify("", addrs(strings.Fields(test.local)...), mesh.Key{})
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("%d, %v, want %d, %v", got, err, test.want, test.err)
			}
		})
	}
}

// This node listens at those of its addresses that are here, and leaves by the one that the routes choose.
func TestBinds(t *testing.T) {
	list := `["172.18.0.2", "a.lan:9", "2001:db8::2"]`
	names := answers("a.lan 10.9.0.1")
	for _, test := range []struct {
		name, local, want string
		wrong             []about
		mtu               int
	}{
		{"all are here", "172.18.0.2 10.9.0.1 2001:db8::2", "172.18.0.2:8285 10.9.0.1:9 [2001:db8::2]:8285", nil,
			1452},
		{"one is not here", "10.9.0.1 172.18.0.2", "172.18.0.2:8285 10.9.0.1:9",
			[]about{{mesh.AddressMissing, mesh.Info, "", "2001:db8::2"}}, 1472},
		{"none is here", "192.0.2.1", "0.0.0.0:8285 [::]:8285",
			[]about{{mesh.AddressElsewhere, mesh.Degraded, "", "172.18.0.2, 2001:db8::2"}}, 1452},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := parse(t, strings.NewReplacer("= A", "= "+list, "= B", `= ["10.9.0.3", "2001:db8::3"]`).Replace(named))
			host := here(1500)
			host.Local = addrs(strings.Fields(test.local)...)
			host.Nodes = Expand(c, names).SeenFrom(0, host.Local)
			second := addrs("10.9.0.1")[0]
			host.Underlay.Sources = map[netip.Addr]netip.Addr{addrs("10.9.0.3")[0]: second}
			p := must(t, c, 0, host)
			if got := strings.Trim(fmt.Sprint(p.Engine.Binds), "[]"); got != strings.Trim(test.want, "[]") {
				t.Errorf("%s, want %s", got, test.want)
			}
			if got := aboutAll(p.Conditions); !slices.Equal(got, test.wrong) {
				t.Errorf("%+v, want %+v", got, test.wrong)
			}
			if p.Link.MTU != test.mtu || p.Engine.Kernel.MTU != test.mtu {
				t.Errorf("MTU %d, %d", p.Link.MTU, p.Engine.Kernel.MTU)
			}
			at, known := p.Engine.Sources[addrs("10.9.0.3")[0]]
			isSecond := func(b netip.AddrPort) bool { return b.Addr() == second }
			if known != slices.ContainsFunc(p.Engine.Binds, isSecond) ||
				known && p.Engine.Binds[at].Addr() != second {
				t.Errorf("sources %v of %v", p.Engine.Sources, p.Engine.Binds)
			}
			if !slices.Equal(p.Rules.Guard.Binds, p.Engine.Binds) {
				t.Errorf("the guard has %v", p.Rules.Guard.Binds)
			}
		})
	}
}

// A peer whose addresses are of both families is reached as soon as one of them is this node's.
func TestMixedFamilies(t *testing.T) {
	p := withNames(t, `"172.18.0.2"`, `["2001:db8::3", "172.18.0.3"]`, nil, "172.18.0.2")
	if len(p.Conditions) > 0 || p.Link.MTU != 1472 {
		t.Errorf("%+v, MTU %d", p.Conditions, p.Link.MTU)
	}
	p = withNames(t, `"172.18.0.2"`, `["2001:db8::3", "2001:db8::4"]`, nil, "172.18.0.2")
	want := []about{{mesh.UnderlayFamilies, mesh.Degraded, "b", ""}}
	if got := aboutAll(p.Conditions); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

// A prefix of several nodes is in each list once, and not in the TUN of a node that has it itself.
func TestShares(t *testing.T) {
	doc := `
[network]
cidr = "10.244.0.0/16"
[[node]]
name = "a"
address = "172.18.0.2"
subnets = ["10.244.1.0/24"]
routes = [{ prefix = "192.168.7.0/24", metric = 200 }, "192.168.8.0/24"]
[[node]]
name = "b"
address = "172.18.0.3"
subnets = ["10.244.2.0/24"]
routes = ["192.168.7.0/24"]
[[node]]
name = "c"
address = "172.18.0.4"
subnets = ["10.244.3.0/24"]
routes = [{ prefix = "192.168.7.0/24", metric = 100 }, "192.168.9.0/24"]
[[node]]
name = "d"
address = "172.18.0.5"
subnets = ["10.244.4.0/24"]
`
	c := parse(t, doc)
	for self, want := range [][]netip.Prefix{
		prefixes("192.168.9.0/24"), prefixes("192.168.8.0/24", "192.168.9.0/24"), prefixes("192.168.8.0/24"),
		prefixes("192.168.7.0/24", "192.168.8.0/24", "192.168.9.0/24"),
	} {
		t.Run(c.Nodes[self].Name, func(t *testing.T) {
			p := must(t, c, self, here(1500))
			shares := []mesh.Share{{Prefix: prefixes("192.168.7.0/24")[0],
				Carriers: []mesh.Carrier{{Peer: "b", Metric: 100}, {Peer: "c", Metric: 100}, {Peer: "a", Metric: 200}}}}
			if got := p.Engine.Mesh.Shares; fmt.Sprint(got) != fmt.Sprint(shares) {
				t.Errorf("shares %v, want %v", got, shares)
			}
			network := c.Network.CIDR
			routes := slices.Concat(network, want)
			if !slices.Equal(p.Link.Prefixes(), routes) || !slices.Equal(p.Backstops, routes) {
				t.Errorf("routes %v, backstops %v", p.Link.Routes, p.Backstops)
			}
			if got := Pods(c, self).Others[3:]; !slices.Equal(got, want) {
				t.Errorf("pods' ways %v", got)
			}
			behind := prefixes("192.168.7.0/24", "192.168.8.0/24", "192.168.9.0/24")
			if got := p.Rules.Masquerade.Mesh; !slices.Equal(got, slices.Concat(network, behind)) {
				t.Errorf("masquerade %v", got)
			}
		})
	}
}

// People see lists of addresses, names with what they stand for, and metrics.
func TestChangesOfAddresses(t *testing.T) {
	const fixed = `"172.18.0.2"`
	plan := func(b string, names map[string]Name) *Plan { return withNames(t, fixed, b, names, "172.18.0.2") }
	for _, test := range []struct {
		name      string
		old, next *Plan
		want      string
	}{
		{"nothing", plan(`["b.lan"]`, answers("b.lan 10.9.0.1")), plan(`"b.lan"`, answers("b.lan 10.9.0.1")), ""},
		{"one more", plan(`"10.9.0.1"`, nil), plan(`["10.9.0.1", "10.9.0.2:9"]`, nil),
			"~ peer b address 10.9.0.1:8285 -> 10.9.0.1:8285 10.9.0.2:9"},
		{"another order", plan(`["10.9.0.2", "10.9.0.1"]`, nil), plan(`["10.9.0.1", "10.9.0.2"]`, nil),
			"~ peer b address 10.9.0.2:8285 10.9.0.1:8285 -> 10.9.0.1:8285 10.9.0.2:8285"},
		{"a name resolves", plan(`"b.lan"`, nil), plan(`"b.lan"`, answers("b.lan 10.9.0.1")),
			"~ peer b address b.lan (no address) -> b.lan (10.9.0.1:8285)"},
		{"a name for an address", plan(`"10.9.0.1"`, nil), plan(`"b.lan"`, answers("b.lan 10.9.0.1")),
			"~ peer b address 10.9.0.1:8285 -> b.lan (10.9.0.1:8285)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var lines []string
			for _, c := range Changes(test.old, test.next) {
				lines = append(lines, c.String())
			}
			if got := strings.Join(lines, "\n"); got != test.want {
				t.Errorf("%s\nwant %s", got, test.want)
			}
		})
	}
}

// What the file alone says of answers; the rest shows with the other names, and on this host.
func TestUsable(t *testing.T) {
	c := parse(t, strings.NewReplacer("= A", `= "a.lan"`, "= B", `= ["b.lan", "172.18.0.3"]`).Replace(named))
	usable := Usable(c)
	for _, test := range []struct {
		name, address string
		want          bool
	}{
		{"a.lan", "10.9.0.1", true}, {"a.lan", "2001:db8::1", true}, {"b.lan", "172.18.0.3", true},
		{"a.lan", "172.18.0.3", false}, {"a.lan", "10.244.9.9", false}, {"a.lan", "192.168.3.1", false},
		{"a.lan", "127.0.0.1", false}, {"a.lan", "::", false}, {"other.lan", "10.9.0.1", true},
	} {
		t.Run(test.name+" "+test.address, func(t *testing.T) {
			if got := usable(test.name, addrs(test.address)[0]); got != test.want {
				t.Errorf("%t", got)
			}
		})
	}
}
