package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/container"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/forwarding"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/rules"
	"example.org/meshd/internal/wireguard"
)

// file is a mesh of three nodes. NETWORK stands for further lines of [network] or tables after it,
// DEAF for the address of node c.
const file = `
[network]
cidr = ["10.244.0.0/16", "fd00::/48"]
NETWORK
[[node]]
name = "a"
address = "172.18.0.2"
subnets = ["10.244.1.0/24", "10.244.0.0/24", "fd00:0:0:1::/64"]
routes = ["192.168.1.0/24"]
[[node]]
name = "b"
address = "172.18.0.3:9000"
subnets = ["10.244.2.0/24"]
routes = ["192.168.2.0/24", "fd01::/64"]
[[node]]
name = "c"
address = "DEAF"
subnets = ["10.244.3.0/24"]
`

// Addresses of node c: of the family of the other nodes, and of the other one.
const (
	near = "172.18.0.4"
	deaf = "2001:db8::4"
)

func load(t testing.TB, network, c string) *config.Config {
	t.Helper()
	return parse(t, strings.NewReplacer("NETWORK", network, "DEAF", c).Replace(file))
}

func parse(t testing.TB, doc string) *config.Config {
	t.Helper()
	c, err := config.Parse("mesh.toml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func addrs(ss ...string) (as []netip.Addr) {
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// here is a host with the addresses of all nodes of one family, and an underlay of an MTU.
func here(mtu int) Host {
	return Host{Local: addrs("172.18.0.2", "172.18.0.3", near), Underlay: link.Underlay{MTU: mtu}, CPUs: 2}
}

// must makes a plan that a test cannot do without.
func must(t testing.TB, c *config.Config, self int, host Host) *Plan {
	t.Helper()
	p, err := Make(c, self, host)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// about is what a condition is about, without what varies with its words.
type about struct {
	kind          mesh.Kind
	severity      mesh.Severity
	peer, subject string
}

func aboutAll(cs []mesh.Condition) (all []about) {
	for _, c := range cs {
		all = append(all, about{c.Kind, c.Severity, c.Peer, c.Subject})
	}
	return all
}

func TestIdentify(t *testing.T) {
	c := load(t, "", near)
	for _, test := range []struct {
		name  string
		node  string
		local []netip.Addr
		want  int
		err   error
	}{
		{"by its address", "", addrs("127.0.0.1", "172.18.0.3"), 1, nil},
		{"by its name, at an address of another node", "c", addrs("172.18.0.2", "172.18.0.3"), 2, nil},
		{"by its name, without an address", "c", nil, 2, nil},
		{"no address of the file", "", addrs("192.0.2.1"), 0, ErrNotHere},
		{"no address at all", "", nil, 0, ErrNotHere},
		{"addresses of two nodes", "", addrs("172.18.0.2", "172.18.0.3"), 0, ErrIdentity},
		{"a name that no node has", "d", addrs("172.18.0.2"), 0, ErrIdentity},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Identify(c, test.node, test.local, mesh.Key{})
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("%d, %v, want %d, %v", got, err, test.want, test.err)
			}
			if errors.Is(err, ErrNotHere) && errors.Is(err, ErrIdentity) {
				t.Error("time mends one of them, and an edit the other")
			}
		})
	}
}

// A host that has the addresses of many nodes tells of some of them: the error is one line of a status.
func TestManyNodesInErrors(t *testing.T) {
	doc := "[network]\nname = \"demo\"\ncidr = \"10.244.0.0/16\"\n"
	var local []netip.Addr
	for i := range 20 {
		at := netip.AddrFrom4([4]byte{172, 18, 0, byte(i + 2)})
		local = append(local, at)
		doc += fmt.Sprintf("[[node]]\nname = \"edge-%d\"\naddress = %q\nsubnets = [\"10.244.%[1]d.0/24\"]\n", i, at)
	}
	_, err := Identify(parse(t, doc), "", local, mesh.Key{})
	if got := strings.Count(fmt.Sprint(err), "edge-"); !errors.Is(err, ErrIdentity) || got == 0 || got > 8 {
		t.Errorf("%d nodes are named: %v", got, err)
	}
}

// What an operator can choose from stands in the error: neither loopback nor link-local addresses,
// and a few of many.
func TestLocalAddressesInErrors(t *testing.T) {
	many := addrs("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7",
		"192.0.2.8")
	for _, test := range []struct {
		name  string
		local []netip.Addr
		want  []string
	}{
		{"useless ones", addrs("127.0.0.1", "::1", "fe80::1", "169.254.0.1"), []string{"none"}},
		{"none", nil, []string{"none"}},
		{"some", addrs("127.0.0.1", "192.0.2.1", "2001:db8::1"), []string{"192.0.2.1", "2001:db8::1"}},
		{"as many as fit", many, []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4",
			"192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8"}},
		{"one more", append(slices.Clone(many), addrs("192.0.2.9")...), []string{"192.0.2.1", "192.0.2.2",
			"192.0.2.3",
			"192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8", "and more"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := strings.Split(addresses(test.local), ", "); !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestMake(t *testing.T) {
	for _, test := range []struct {
		name   string
		config *config.Config
		self   int
		mtu    int // of the underlay
		bind   string
		link   link.Settings
		wrong  []about
	}{
		{name: "first node", config: load(t, "", near), self: 0, mtu: 1500, bind: "172.18.0.2:8285",
			link: link.Settings{
				Interface: "mesh0", MTU: 1472, Addresses: addrs("10.244.1.0", "fd00:0:0:1::"),
				Routes: link.RoutesTo(prefixes("10.244.0.0/16", "fd00::/48", "192.168.2.0/24", "fd01::/64")...),
			}},
		{name: "own port, one family, jumbo frames", config: load(t, `interface = "x"`, near), self: 1, mtu: 9000,
			bind: "172.18.0.3:9000", link: link.Settings{
				Interface: "x", MTU: 8972, Addresses: addrs("10.244.2.0"),
				Routes: link.RoutesTo(prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24")...),
			}},
		{name: "an underlay larger than datagrams", config: load(t, "", near), self: 1, mtu: 65536 + 28,
			bind: "172.18.0.3:9000", link: link.Settings{
				Interface: "mesh0", MTU: maxMTU, Addresses: addrs("10.244.2.0"),
				Routes: link.RoutesTo(prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24")...),
			}},
		{name: "an MTU of the file that fits", config: load(t, "mtu = 1400", near), self: 1, mtu: 1500,
			bind: "172.18.0.3:9000", link: link.Settings{
				Interface: "mesh0", MTU: 1400, Addresses: addrs("10.244.2.0"),
				Routes: link.RoutesTo(prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24")...),
			}},
		{name: "an MTU of the file that does not", config: load(t, "mtu = 1473", near), self: 1, mtu: 1500,
			bind: "172.18.0.3:9000", link: link.Settings{
				Interface: "mesh0", MTU: 1473, Addresses: addrs("10.244.2.0"),
				Routes: link.RoutesTo(prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24")...),
			}, wrong: []about{{mesh.MTUTooLarge, mesh.Degraded, "", "network.mtu 1473"}}},
		{name: "over IPv6, elsewhere, among peers of IPv4", config: load(t, "", deaf), self: 2, mtu: 1500,
			bind: "[::]:8285", link: link.Settings{
				Interface: "mesh0", MTU: 1452, Addresses: addrs("10.244.3.0"),
				Routes: link.RoutesTo(prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24", "192.168.2.0/24",
					"fd01::/64")...),
			}, wrong: []about{
				{mesh.AddressElsewhere, mesh.Degraded, "", deaf},
				{mesh.UnderlayFamilies, mesh.Degraded, "a", ""}, {mesh.UnderlayFamilies, mesh.Degraded, "b", ""},
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := must(t, test.config, test.self, here(test.mtu))
			if p.Engine.Binds[0].String() != test.bind {
				t.Errorf("bind %s, want %s", p.Engine.Binds, test.bind)
			}
			test.link.Beside = []string{wireguard.Interface}
			if !reflect.DeepEqual(p.Link, test.link) {
				t.Errorf("link %+v\nwant %+v", p.Link, test.link)
			}
			if got := aboutAll(p.Conditions); !slices.Equal(got, test.wrong) {
				t.Errorf("conditions %+v, want %+v", got, test.wrong)
			}
			self := test.config.Nodes[test.self]
			m := p.Engine.Mesh
			if m.Self != self.Name || p.Self.Name != self.Name || p.Peer.Name != self.Name || len(m.Peers) != 3 ||
				m.Peers[1].Underlay().Port() != 9000 || p.Config != test.config {
				t.Errorf("mesh %+v, self %+v, peer %+v", m, p.Self, p.Peer)
			}
		})
	}
}

// Where the address is elsewhere, the sockets take datagrams for any of its family.
func TestBindElsewhere(t *testing.T) {
	host := here(1500)
	host.Local = nil
	p := must(t, load(t, "", near), 0, host)
	if p.Engine.Binds[0] != netip.MustParseAddrPort("0.0.0.0:8285") ||
		!mesh.Has(p.Conditions, mesh.AddressElsewhere) {
		t.Errorf("%v, %+v", p.Engine.Binds, p.Conditions)
	}
}

func TestEngineSettings(t *testing.T) {
	for _, test := range []struct {
		name, table string
		cpus        int
		want        dataplane.Wanted // without what is the same for all
	}{
		{"one CPU", "", 1, dataplane.Wanted{Queues: 1, Offload: true}},
		{"two CPUs", "", 2, dataplane.Wanted{Queues: 1, Offload: true}},
		{"half of eight CPUs", "", 8, dataplane.Wanted{Queues: 4, Offload: true}},
		{"four queues of many CPUs", "", 128, dataplane.Wanted{Queues: 4, Offload: true}},
		{"as the file says", "queues = 7\nspread = true\noffload = \"off\"", 2,
			dataplane.Wanted{Queues: 7, Spread: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := here(1500)
			host.CPUs = test.cpus
			e := must(t, load(t, "[dataplane]\n"+test.table, near), 0, host).Engine
			got := dataplane.Wanted{Queues: e.Queues, Offload: e.Offload, Spread: e.Spread}
			if !reflect.DeepEqual(got, test.want) || e.Interface != "mesh0" {
				t.Errorf("%+v of %q, want %+v", got, e.Interface, test.want)
			}
		})
	}
}

func TestPrograms(t *testing.T) {
	elsewhere := here(1500)
	elsewhere.Local = nil
	policed := here(1500)
	policed.IPsec = []link.Policy{
		{Name: "dir in index 8", Peers: []netip.AddrPort{netip.MustParseAddrPort("172.18.0.3:9000")}}}
	ruled := here(1500)
	ruled.Outgoing = []rules.Outgoing{{Chain: "ip mangle OUTPUT", Rule: "udp dport 9000 meta set", Rules: 2,
		Peers: []netip.AddrPort{netip.MustParseAddrPort("172.18.0.3:9000")}}}
	narrow := here(1400)
	narrow.Underlay.Devices = []int{3, 5}
	for _, test := range []struct {
		name, table string
		host        Host
		want        dataplane.Programs
		why         bool // it is said why they are not used
	}{
		{"if possible", "", here(1500), dataplane.Programs{Use: dataplane.IfPossible, MTU: 1472, Outer: 1500},
			false},
		{"always", `engine = "kernel"`, here(1500), dataplane.Programs{Use: dataplane.Always, MTU: 1472,
			Outer: 1500}, false},
		{"not asked for", `engine = "user"`, here(1500),
			dataplane.Programs{Use: dataplane.Never, MTU: 1472, Outer: 1500, Chosen: true}, true},
		{"where the file says", `receive = "tcx"`, here(1500),
			dataplane.Programs{Use: dataplane.IfPossible, MTU: 1472, Outer: 1500, Receive: dataplane.TCX}, false},
		{"by XDP", `receive = "xdp"`, here(1500),
			dataplane.Programs{Use: dataplane.IfPossible, MTU: 1472, Outer: 1500, Receive: dataplane.XDP}, false},
		{"by the socket", `receive = "socket"`, here(1500),
			dataplane.Programs{Use: dataplane.IfPossible, MTU: 1472, Outer: 1500, Receive: dataplane.Socket}, false},
		{"through these devices", "", narrow,
			dataplane.Programs{Use: dataplane.IfPossible, MTU: 1372, Outer: 1400, Underlay: []int{3, 5}}, false},
		{"not past IPsec", `engine = "kernel"`, policed,
			dataplane.Programs{Use: dataplane.Always, MTU: 1472, Outer: 1500,
				Policed: map[string]dataplane.Policed{"b": {Out: true, In: true}}}, false},
		{"not past a rule on the way out", "", ruled, dataplane.Programs{Use: dataplane.IfPossible, MTU: 1472,
			Outer:   1500,
			Policed: map[string]dataplane.Policed{"b": {Out: true}}}, false},
		{"by user space, whatever IPsec says", `engine = "user"`, policed,
			dataplane.Programs{Use: dataplane.Never, MTU: 1472, Outer: 1500, Chosen: true}, true},
		{"not without the address", `engine = "kernel"`, elsewhere,
			dataplane.Programs{Use: dataplane.Never, MTU: 1472, Outer: 1500}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := must(t, load(t, "[dataplane]\n"+test.table, near), 0, test.host).Engine.Kernel
			if (got.Why != "") != test.why {
				t.Errorf("why: %q", got.Why)
			}
			if got.Why = ""; !reflect.DeepEqual(got, test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// The programs take no packet that the path does not carry, whatever the file says of the TUN.
func TestProgramsFitThePath(t *testing.T) {
	p := must(t, load(t, "mtu = 2000", near), 0, here(1500))
	if k := p.Engine.Kernel; p.Link.MTU != 2000 || k.MTU != 1472 || k.Outer != 1500 {
		t.Errorf("TUN %d, programs %d, datagrams %d", p.Link.MTU, k.MTU, k.Outer)
	}
}

// The node's own bridge has its subnets, so the network goes through the TUN only if there is more of it.
func TestOwnNetworkIsNotRouted(t *testing.T) {
	c := parse(t, `network = {cidr = "10.244.0.0/16"}
		node = [{name = "a", address = "172.18.0.2", subnets = ["10.244.0.0/16"], routes = ["192.168.1.0/24"]}]`)
	p := must(t, c, 0, here(1500))
	if len(p.Link.Routes) != 0 || !slices.Equal(p.Backstops, prefixes("10.244.0.0/16")) {
		t.Errorf("routes %v, backstops %v", p.Link.Routes, p.Backstops)
	}
}

// No packet for another node leaves bare while the TUN is away. What is behind this node is its own matter.
func TestBackstops(t *testing.T) {
	p := must(t, load(t, "", near), 1, here(1500))
	if want := prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24"); !slices.Equal(p.Backstops, want) {
		t.Errorf("%v, want %v", p.Backstops, want)
	}
}

func TestTooSmallAnUnderlay(t *testing.T) {
	const v4 = `network = {cidr = "10.244.0.0/16"}
		node = [{name = "a", address = "172.18.0.2", subnets = ["10.244.1.0/24"]}]`
	for _, test := range []struct {
		name   string
		config *config.Config
		mtu    int
		good   bool
	}{
		{"IPv6 does not fit", load(t, "", near), 1280 + 27, false},
		{"IPv6 just fits", load(t, "", near), 1280 + 28, true},
		{"IPv4 alone needs less", parse(t, v4), 600, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := Make(test.config, 0, here(test.mtu))
			if (err == nil) != test.good || (p == nil) != (err != nil) {
				t.Errorf("%v, %v", p, err)
			}
		})
	}
}

// What a mesh or a host cannot give is a condition with something to do about it, and not an error.
func TestConditions(t *testing.T) {
	mixed := parse(t, `network = {cidr = ["10.244.0.0/16", "fd00::/48"]}
		node = [{name = "a", address = "172.18.0.2", subnets = ["10.244.1.0/24"]},
			{name = "b", address = "172.18.0.3", subnets = ["fd00:0:0:2::/64"]},
			{name = "c", address = "172.18.0.4", subnets = ["10.244.3.0/24", "fd00:0:0:3::/64"]}]`)
	tiny := func(paths string) *config.Config {
		return parse(t, `network = {cidr = "10.244.0.0/16"}
			node = [{name = "a", address = "172.18.0.2", subnets = ["10.244.1.0/31"]}]
			[container]
			`+paths)
	}
	shadowed := here(1500)
	shadowed.Shadows = []link.Shadow{{Route: "10.244.2.0/24 dev eth1"},
		{Route: "10.244.3.0/24 dev eth1", Host: true}}
	for _, test := range []struct {
		name   string
		config *config.Config
		host   Host
		want   []about
	}{
		{"nothing is wrong", load(t, "", near), here(1500), nil},
		{"no family in common", mixed, here(1500), []about{{mesh.SubnetFamilies, mesh.Degraded, "b", ""}}},
		{"a deaf peer", load(t, "", deaf), here(1500), []about{{mesh.UnderlayFamilies, mesh.Degraded, "c", ""}}},
		{"routes of others", load(t, "", near), shadowed, []about{
			{mesh.RouteShadowed, mesh.Degraded, "", "10.244.2.0/24 dev eth1"},
			{mesh.RouteShadowed, mesh.Degraded, "", "10.244.3.0/24 dev eth1"},
		}},
		{"no room for pods", tiny(`cni_conf = ""`), here(1500),
			[]about{{mesh.NoRoomForPods, mesh.Degraded, "", ""}}},
		{"no room, and no files", tiny("subnet_env = \"\"\ncni_conf = \"\""), here(1500), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := must(t, test.config, 0, test.host)
			if got := aboutAll(p.Conditions); !slices.Equal(got, test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			for _, c := range p.Conditions {
				if c.Remedy == "" {
					t.Errorf("nothing to do about %+v", c)
				}
			}
		})
	}
}

func TestRulesOf(t *testing.T) {
	links := []string{"cni0"}
	all := &masq.Settings{
		Mesh:     prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24", "192.168.2.0/24", "fd01::/64"),
		Local:    prefixes("10.244.1.0/24", "10.244.0.0/24", "fd00:0:0:1::/64", "192.168.1.0/24"),
		Pods:     prefixes("10.244.1.0/24", "10.244.0.0/24", "fd00:0:0:1::/64"),
		PodLinks: links, FullyRandom: true, Links: []string{"mesh0"},
		Sources: addrs("10.244.1.0", "fd00:0:0:1::"),
	}
	with := func(change func(*masq.Settings)) *masq.Settings {
		s := *all
		change(&s)
		return &s
	}
	accept := &filter.Accept{Interfaces: []string{"mesh0"}, Networks: prefixes("10.244.0.0/16", "fd00::/48"),
		Pods: all.Pods, LANs: prefixes("192.168.1.0/24")}
	acceptAll := *accept
	acceptAll.All = true
	for _, test := range []struct {
		name, table string
		masquerade  *masq.Settings
		accept      *filter.Accept
	}{
		{"as files are", "", all, accept},
		{"excluded networks and known ports", "exclude = [\"10.0.0.0/16\"]\nfully_random = false",
			with(func(s *masq.Settings) { s.Exclude, s.FullyRandom = prefixes("10.0.0.0/16"), false }), accept},
		{"no masquerade", "enabled = false", nil, accept},
		{"no accept rules", "forward = false", all, nil},
		{"whatever goes through the TUN", `forward = "all"`, all, &acceptAll},
		{"none at all", "enabled = false\nforward = false", nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := load(t, "[masquerade]\n"+test.table, near)
			got := RulesOf(c, c.Nodes[0], links)
			if !reflect.DeepEqual(got.Masquerade, test.masquerade) {
				t.Errorf("masquerade %+v\nwant %+v", got.Masquerade, test.masquerade)
			}
			if !reflect.DeepEqual(got.Accept, test.accept) {
				t.Errorf("accept %+v\nwant %+v", got.Accept, test.accept)
			}
		})
	}
}

// A plan has the rules of its file, for the interfaces of pods that the host has, and a guard for all nodes.
func TestRulesOfPlan(t *testing.T) {
	host := here(1500)
	host.Forwarding = forwarding.Host{Crossing: link.Crossing{Pods: []link.Interface{{Index: 2, Name: "cni0"}}}}
	p := must(t, load(t, "", near), 0, host)
	want := RulesOf(p.Config, p.Self, []string{"cni0"})
	want.Guard = filter.GuardSettings{
		Nodes: []netip.AddrPort{netip.MustParseAddrPort("172.18.0.2:8285"),
			netip.MustParseAddrPort("172.18.0.3:9000"),
			netip.MustParseAddrPort("172.18.0.4:8285")},
		Binds: p.Engine.Binds, TUN: "mesh0", PodLinks: []string{"cni0"}, Mark: udp.Mark,
		Closed: map[bool][]string{}, OnePort: true,
	}
	want.Clamp = filter.ClampSettings{Interfaces: []string{"mesh0"}, MTU: 1472}
	if !reflect.DeepEqual(p.Rules, want) || !reflect.DeepEqual(p.Forwarding, host.Forwarding) {
		t.Errorf("%+v\nwant %+v", p.Rules, want)
	}
}

func TestContainerSettings(t *testing.T) {
	c := load(t, "mtu = 1400\n[masquerade]\nenabled = false\n"+
		"[container]\nsubnet_env = \"/a\"\ncni_conf = \"/b\"", near)
	want := container.Settings{SubnetEnv: "/a", CNIConf: "/b", Networks: c.Network.CIDR,
		Subnets: c.Nodes[1].Subnets, MTU: 1400}
	if got := must(t, c, 1, here(1500)).Container; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	c = load(t, "", near)
	if got := must(t, c, 0, here(1500)).Container; !got.Masquerade || got.MTU != 1472 {
		t.Errorf("as files are: %+v", got)
	}
}

// Making a plan leaves the file's values as they were, and two plans of one file are equal.
func TestMakeIsPure(t *testing.T) {
	c, again := load(t, "", near), load(t, "", near)
	host, same := here(1500), here(1500)
	var plans []*Plan
	for range 2 {
		for i := range c.Nodes {
			plans = append(plans, must(t, c, i, host))
		}
	}
	if !reflect.DeepEqual(c, again) || !reflect.DeepEqual(host, same) {
		t.Error("the configuration or the host changed")
	}
	for i := range c.Nodes {
		if !reflect.DeepEqual(plans[i], plans[i+len(c.Nodes)]) {
			t.Errorf("node %d: two plans of the same values differ", i)
		}
	}
}

// The lists that a plan puts together are its own: who writes into them does not reach the file.
func TestPlansOwnTheirLists(t *testing.T) {
	c, again := load(t, "", near), load(t, "", near)
	p := must(t, c, 0, here(1500))
	for _, list := range [][]netip.Prefix{p.Backstops, p.Link.Prefixes(), p.Rules.Masquerade.Mesh,
		p.Rules.Masquerade.Local} {
		clear(list)
	}
	clear(p.Engine.Mesh.Peers)
	if !reflect.DeepEqual(c, again) {
		t.Error("the configuration changed")
	}
}

func TestNeedsRestart(t *testing.T) {
	base := must(t, load(t, "", near), 0, here(1500))
	for _, test := range []struct {
		name, network string
		needs         bool
	}{
		{"the same file", "", false},
		{"another MTU and port", "mtu = 1400\nport = 9999", false},
		{"another interface", `interface = "other"`, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := NeedsRestart(base, must(t, load(t, test.network, near), 0, here(1500)))
			if (err != nil) != test.needs {
				t.Fatal(err)
			}
			if !test.needs {
				return
			}
			faults, ok := errors.AsType[config.Faults](err)
			if !ok || !errors.Is(err, ErrRestart) || len(faults) != 1 ||
				faults[0].Key != "network.interface" || faults[0].Line != 4 {
				t.Errorf("%#v", err)
			}
		})
	}
}

// A status says what the MTU follows from.
func TestUnderlayOfThePlan(t *testing.T) {
	host := here(1500)
	host.Underlay.Narrowest = "eth0"
	p := must(t, load(t, "", near), 1, host)
	if device, mtu, headers := p.Underlay(); device != "eth0" || mtu != 1500 || headers != mtu-p.Link.MTU {
		t.Errorf("%s %d - %d, for %d", device, mtu, headers, p.Link.MTU)
	}
}
