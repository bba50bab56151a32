package plan

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/masq"
)

const file = `
[network]
cidr = ["10.244.0.0/16", "fd00::/48"]
%NETWORK%
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
address = "%C%"
subnets = ["10.244.3.0/24"]
`

func load(t *testing.T, network, c string) *config.Config {
	t.Helper()
	parsed, err := config.Parse("mesh.toml", []byte(strings.NewReplacer("%NETWORK%", network, "%C%", c).Replace(file)))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
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

func TestIdentify(t *testing.T) {
	c := load(t, "", "172.18.0.4")
	tests := []struct {
		name    string
		local   []netip.Addr
		want    int
		notHere bool
		err     string
	}{
		{"", addrs("127.0.0.1", "172.18.0.3", "10.0.0.1"), 1, false, ""},
		{"", addrs("127.0.0.1", "10.0.0.1", "fe80::1"), 0, true, "no node of mesh.toml has an address of this host; list it there, or choose with --node NAME. Local addresses: 10.0.0.1"},
		{"", addrs("127.0.0.1"), 0, true, "Local addresses: none"},
		{"", addrs("172.18.0.2", "172.18.0.4"), 0, false, "addresses of 2 nodes of mesh.toml: a (172.18.0.2), c (172.18.0.4); choose with --node NAME"},
		{"c", addrs("172.18.0.2", "172.18.0.3"), 2, false, ""},
		{"c", nil, 2, false, ""},
		{"d", addrs("172.18.0.2"), 0, false, `no node of mesh.toml is named "d"`},
	}
	for _, test := range tests {
		got, notHere, err := identify(c, test.name, test.local)
		if got != test.want || notHere != test.notHere || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("identify(%q, %v) = %d, %v, %v", test.name, test.local, got, notHere, err)
		}
	}
}

func TestMakePlan(t *testing.T) {
	local := addrs("172.18.0.2", "172.18.0.3", "172.18.0.4")
	tests := []struct {
		name     string
		config   *config.Config
		self     int
		host     surroundings
		bind     string
		link     link.Settings
		warnings []string
	}{
		{"first node", load(t, "", "172.18.0.4"), 0, surroundings{local: local, underlay: link.Underlay{MTU: 1500}, cpus: 2}, "172.18.0.2:8285", link.Settings{
			Interface: "mesh0", MTU: 1472, Addresses: addrs("10.244.1.0", "fd00:0:0:1::"),
			Routes: prefixes("10.244.0.0/16", "fd00::/48", "192.168.2.0/24", "fd01::/64"),
		}, nil},
		{"own port, one family, jumbo frames", load(t, `interface = "x"`, "172.18.0.4"), 1, surroundings{local: local, underlay: link.Underlay{MTU: 9000}, cpus: 2}, "172.18.0.3:9000", link.Settings{
			Interface: "x", MTU: 8972, Addresses: addrs("10.244.2.0"),
			Routes: prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24"),
		}, nil},
		{"MTU too large", load(t, "mtu = 1473", "172.18.0.4"), 1, surroundings{local: local, underlay: link.Underlay{MTU: 1500}, cpus: 2}, "172.18.0.3:9000", link.Settings{
			Interface: "mesh0", MTU: 1473, Addresses: addrs("10.244.2.0"),
			Routes: prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24"),
		}, []string{"network.mtu 1473 is more than the 1472 that fit"}},
		{"over IPv6, not here, with a deaf peer", load(t, "", "2001:db8::4"), 2, surroundings{local: local, underlay: link.Underlay{MTU: 1500}, cpus: 2}, "[::]:8285", link.Settings{
			Interface: "mesh0", MTU: 1452, Addresses: addrs("10.244.3.0"),
			Routes: prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24", "192.168.2.0/24", "fd01::/64"),
		}, []string{`2001:db8::4, the address of node "c", is not on this host`, "peer a has the address 172.18.0.2, of another family", "peer b has the address"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := makePlan(test.config, test.self, test.host)
			if err != nil {
				t.Fatal(err)
			}
			if p.bind.String() != test.bind {
				t.Errorf("bind %s, want %s", p.bind, test.bind)
			}
			if !reflect.DeepEqual(p.link, test.link) {
				t.Errorf("link %+v\nwant %+v", p.link, test.link)
			}
			if p.mesh.Self != test.config.Nodes[test.self].Name || len(p.mesh.Peers) != 3 || p.mesh.Peers[1].Underlay.Port() != 9000 {
				t.Errorf("mesh %+v", p.mesh)
			}
			if len(p.warnings) != len(test.warnings) {
				t.Fatalf("warnings %q", p.warnings)
			}
			for i, want := range test.warnings {
				if !strings.HasPrefix(p.warnings[i], want) {
					t.Errorf("warning %q, want %q", p.warnings[i], want)
				}
			}
		})
	}
}

func TestPlanMasquerade(t *testing.T) {
	host := surroundings{local: addrs("172.18.0.2"), underlay: link.Underlay{MTU: 1500}, cpus: 2}
	p, err := makePlan(load(t, "[masquerade]\nexclude = [\"10.0.0.0/16\"]\nfully_random = false", "172.18.0.4"), 0, host)
	want := &masq.Settings{
		Mesh:    prefixes("10.244.0.0/16", "fd00::/48", "192.168.1.0/24", "192.168.2.0/24", "fd01::/64"),
		Local:   prefixes("10.244.1.0/24", "10.244.0.0/24", "fd00:0:0:1::/64", "192.168.1.0/24"),
		Pods:    prefixes("10.244.1.0/24", "10.244.0.0/24", "fd00:0:0:1::/64"),
		Exclude: prefixes("10.0.0.0/16"),
	}
	if err != nil || !reflect.DeepEqual(p.masq, want) {
		t.Errorf("got  %+v, %v\nwant %+v", p.masq, err, want)
	}
	p, err = makePlan(load(t, "[masquerade]\nenabled = false", "172.18.0.4"), 0, host)
	if err != nil || p.masq != nil {
		t.Errorf("off: %+v, %v", p.masq, err)
	}
}

func TestPlanRefusesTooSmallAnUnderlay(t *testing.T) {
	if _, err := makePlan(load(t, "", "172.18.0.4"), 0, surroundings{local: addrs("172.18.0.2"), underlay: link.Underlay{MTU: 1300}, cpus: 2}); err == nil || !strings.Contains(err.Error(), "leaves 1272 for pods, but IPv6 needs 1280") {
		t.Errorf("%v", err)
	}
}

// Making a plan leaves the file's values as they were.
func TestPlanIsPure(t *testing.T) {
	c, again := load(t, "", "172.18.0.4"), load(t, "", "172.18.0.4")
	for i := range c.Nodes {
		if _, err := makePlan(c, i, surroundings{local: addrs("172.18.0.2"), underlay: link.Underlay{MTU: 1500}, cpus: 2}); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(c, again) {
		t.Error("the configuration changed")
	}
}
