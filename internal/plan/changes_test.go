package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
)

// planned returns the plan of the first node of a file.
func planned(t testing.TB, network, c string) *Plan {
	t.Helper()
	return must(t, load(t, network, c), 0, here(1500))
}

// altered returns a plan that is another one in one thing. Lists are shared, so change replaces them.
func altered(p *Plan, change func(*Plan)) *Plan {
	next := *p
	change(&next)
	return &next
}

// back returns what undoes changes, in no order.
func back(cs []mesh.Change) (undo []mesh.Change) {
	opposite := map[mesh.Op]mesh.Op{mesh.Added: mesh.Removed, mesh.Removed: mesh.Added,
		mesh.Replaced: mesh.Replaced}
	for _, c := range cs {
		c.Op, c.Old, c.New = opposite[c.Op], c.New, c.Old
		undo = append(undo, c)
	}
	return undo
}

// sameSet tells whether two lists have the same changes. What a new peer brings is more than what an
// old one took along, so the values of whole peers are not compared.
func sameSet(a, b []mesh.Change) bool {
	known := func(cs []mesh.Change) map[mesh.Change]int {
		n := map[mesh.Change]int{}
		for _, c := range cs {
			if c.Kind == mesh.ChangedPeer && c.Field == "" {
				c.Old, c.New = "", ""
			}
			n[c]++
		}
		return n
	}
	return reflect.DeepEqual(known(a), known(b))
}

func setting(key, old, next string) mesh.Change {
	return mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedSetting, Subject: key, Old: old, New: next}
}

func TestChanges(t *testing.T) {
	base := planned(t, "", near)
	gone := base.Engine.Mesh.Peers[2]
	replaced := func(kind mesh.ChangeKind, old, next string) mesh.Change {
		return mesh.Change{Op: mesh.Replaced, Kind: kind, Old: old, New: next}
	}
	removed := func(kind mesh.ChangeKind, field, old string) mesh.Change {
		return mesh.Change{Op: mesh.Removed, Kind: kind, Field: field, Old: old}
	}
	for _, test := range []struct {
		name string
		next *Plan
		want []mesh.Change
	}{
		{"nothing", planned(t, "", near), nil},
		{"the MTU", planned(t, "mtu = 1400", near), []mesh.Change{replaced(mesh.ChangedMTU, "1472", "1400")}},
		{"the TUN's name", altered(base, func(p *Plan) { p.Link.Interface = "x" }),
			[]mesh.Change{replaced(mesh.ChangedInterface, "mesh0", "x")}},
		{"where it listens", altered(base,
			func(p *Plan) { p.Engine.Binds = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:8285")} }),
			[]mesh.Change{replaced(mesh.ChangedPort, "172.18.0.2:8285", "0.0.0.0:8285")}},
		{"an address of the TUN", altered(base, func(p *Plan) { p.Link.Addresses = p.Link.Addresses[:1] }),
			[]mesh.Change{removed(mesh.ChangedAddress, "", "fd00:0:0:1::")}},
		{"a route", altered(base, func(p *Plan) { p.Link.Routes = p.Link.Routes[1:] }),
			[]mesh.Change{removed(mesh.ChangedRoute, "", "10.244.0.0/16")}},
		{"routes in another order", altered(base, func(p *Plan) {
			p.Link.Routes = slices.Clone(p.Link.Routes)
			slices.Reverse(p.Link.Routes)
		}), nil},
		{"a peer moves", planned(t, "", "172.18.0.9"), []mesh.Change{{Op: mesh.Replaced, Kind: mesh.ChangedPeer,
			Subject: "c", Field: "address", Old: "172.18.0.4:8285", New: "172.18.0.9:8285"}}},
		{"a peer leaves", altered(base, func(p *Plan) { p.Engine.Mesh.Peers = p.Engine.Mesh.Peers[:2] }),
			[]mesh.Change{{Op: mesh.Removed, Kind: mesh.ChangedPeer, Subject: gone.Name, Old: list(gone.Subnets)}}},
		{"rules leave", altered(base, func(p *Plan) { p.Rules.Masquerade, p.Rules.Accept = nil, nil }),
			[]mesh.Change{
				removed(mesh.ChangedMasquerade, "rules", ""),
				removed(mesh.ChangedAccept, "rules for forwarded packets", ""),
			}},
		{"the guard follows from nodes", altered(base, func(p *Plan) { p.Rules.Guard.PodLinks = []string{"x"} }),
			nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Changes(base, test.next); !slices.Equal(got, test.want) {
				t.Errorf("%+v\nwant %+v", got, test.want)
			}
			if got := Changes(test.next, base); !sameSet(got, back(test.want)) {
				t.Errorf("back: %+v\nwant %+v", got, back(test.want))
			}
		})
	}
}

// A node that comes brings its networks, and one that changes says in which field.
func TestChangesOfPeers(t *testing.T) {
	base := planned(t, "", near)
	peer := func(change func(*mesh.Peer)) *Plan {
		return altered(base, func(p *Plan) {
			p.Engine.Mesh.Peers = slices.Clone(p.Engine.Mesh.Peers)
			change(&p.Engine.Mesh.Peers[1])
		})
	}
	of := func(subject, field, old, next string) mesh.Change {
		return mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedPeer, Subject: subject, Field: field, Old: old,
			New: next}
	}
	fewer := altered(base, func(p *Plan) { p.Engine.Mesh.Peers = p.Engine.Mesh.Peers[:1] })
	for _, test := range []struct {
		name      string
		old, next *Plan
		want      []mesh.Change
	}{
		{"two come, by name", fewer, base, []mesh.Change{
			{Op: mesh.Added, Kind: mesh.ChangedPeer, Subject: "b", New: "10.244.2.0/24 192.168.2.0/24 fd01::/64"},
			{Op: mesh.Added, Kind: mesh.ChangedPeer, Subject: "c", New: "10.244.3.0/24"},
		}},
		{"all leave but one", base, fewer, []mesh.Change{
			{Op: mesh.Removed, Kind: mesh.ChangedPeer, Subject: "b", Old: "10.244.2.0/24"},
			{Op: mesh.Removed, Kind: mesh.ChangedPeer, Subject: "c", Old: "10.244.3.0/24"},
		}},
		{"the order of nodes says nothing", base, altered(base, func(p *Plan) {
			p.Engine.Mesh.Peers = slices.Clone(p.Engine.Mesh.Peers)
			slices.Reverse(p.Engine.Mesh.Peers)
		}), nil},
		{"its subnets", base, peer(func(p *mesh.Peer) { p.Subnets = prefixes("10.244.9.0/24", "10.244.2.0/24") }),
			[]mesh.Change{of("b", "subnets", "10.244.2.0/24", "10.244.9.0/24 10.244.2.0/24")}},
		{"it has no routes any more", base, peer(func(p *mesh.Peer) { p.Routes = nil }),
			[]mesh.Change{of("b", "routes", "192.168.2.0/24 fd01::/64", "none")}},
		{"all of its fields", base, peer(func(p *mesh.Peer) {
			*p = mesh.Peer{Name: "b", Addresses: []mesh.Endpoint{{AddrPort: netip.MustParseAddrPort("172.18.0.3:1")}},
				Subnets: prefixes("10.244.9.0/24")}
		}), []mesh.Change{
			of("b", "address", "172.18.0.3:9000", "172.18.0.3:1"),
			of("b", "subnets", "10.244.2.0/24", "10.244.9.0/24"),
			of("b", "routes", "192.168.2.0/24 fd01::/64", "none"),
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Changes(test.old, test.next); !slices.Equal(got, test.want) {
				t.Errorf("%+v\nwant %+v", got, test.want)
			}
		})
	}
}

// Our own address is told once, as where we listen; that of another node is its own.
func TestChangeOfOurAddress(t *testing.T) {
	old := planned(t, "", near)
	host := here(1500)
	host.Local = addrs("172.18.0.9")
	moved := strings.Replace(strings.NewReplacer("NETWORK", "", "DEAF", near).Replace(file), `"172.18.0.2"`,
		`"172.18.0.9"`, 1)
	got := Changes(old, must(t, parse(t, moved), 0, host))
	want := []mesh.Change{{Op: mesh.Replaced, Kind: mesh.ChangedPort, Old: "172.18.0.2:8285",
		New: "172.18.0.9:8285"}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// A host that becomes another node of the same file.
func TestChangeOfIdentity(t *testing.T) {
	c := load(t, "", near)
	got := Changes(must(t, c, 0, here(1500)), must(t, c, 1, here(1500)))
	want := mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedIdentity, Old: "a", New: "b"}
	if len(got) == 0 || got[0] != want {
		t.Errorf("%+v", got)
	}
	for _, c := range got {
		if c.Kind == mesh.ChangedPeer {
			t.Errorf("no peer changed, but %+v", c)
		}
	}
}

func TestChangesOfRules(t *testing.T) {
	base := planned(t, "", near)
	masquerade := func(change func(*masq.Settings)) *Plan {
		return altered(base, func(p *Plan) {
			m := *p.Rules.Masquerade
			change(&m)
			p.Rules.Masquerade = &m
		})
	}
	more := prefixes("203.0.113.0/24")
	added := func(kind mesh.ChangeKind, field string) []mesh.Change {
		return []mesh.Change{{Op: mesh.Added, Kind: kind, Field: field, New: "203.0.113.0/24"}}
	}
	accept := *base.Rules.Accept
	for _, test := range []struct {
		name string
		next *Plan
		want []mesh.Change
	}{
		{"the mesh", masquerade(func(m *masq.Settings) { m.Mesh = slices.Concat(m.Mesh, more) }),
			added(mesh.ChangedMasquerade, "set mesh")},
		{"what is behind this node", masquerade(func(m *masq.Settings) { m.Local = slices.Concat(m.Local, more) }),
			added(mesh.ChangedMasquerade, "set local")},
		{"pods", masquerade(func(m *masq.Settings) { m.Pods = slices.Concat(m.Pods, more) }),
			added(mesh.ChangedMasquerade, "set pods")},
		{"excluded", masquerade(func(m *masq.Settings) { m.Exclude = more }),
			added(mesh.ChangedMasquerade, "set exclude")},
		{"ports", masquerade(func(m *masq.Settings) { m.FullyRandom = false }), []mesh.Change{{Op: mesh.Replaced,
			Kind: mesh.ChangedMasquerade, Subject: "fully_random", Old: "true", New: "false"}}},
		{"interfaces of pods are the host's", masquerade(func(m *masq.Settings) { m.PodLinks = []string{"x"} }),
			nil},
		{"accepted networks", altered(base, func(p *Plan) {
			a := accept
			a.Networks = slices.Concat(a.Networks, more)
			p.Rules.Accept = &a
		}), added(mesh.ChangedAccept, "rule for")},
		{"accepted pods", altered(base, func(p *Plan) {
			a := accept
			a.Pods = slices.Concat(a.Pods, more)
			p.Rules.Accept = &a
		}), added(mesh.ChangedAccept, "rule for pods")},
		{"accepted LANs", altered(base, func(p *Plan) {
			a := accept
			a.LANs = slices.Concat(a.LANs, more)
			p.Rules.Accept = &a
		}), added(mesh.ChangedAccept, "rule for the network")},
		{"everything accepted", altered(base, func(p *Plan) {
			a := accept
			a.All = true
			p.Rules.Accept = &a
		}), []mesh.Change{{Op: mesh.Replaced, Kind: mesh.ChangedAccept,
			Subject: "rules for packets from outside the mesh",
			Old:     "false", New: "true"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Changes(base, test.next); !slices.Equal(got, test.want) {
				t.Errorf("%+v\nwant %+v", got, test.want)
			}
			if got := Changes(test.next, base); !sameSet(got, back(test.want)) {
				t.Errorf("back: %+v", got)
			}
		})
	}
}

// Keys without kernel state of their own are told by their names in the file.
func TestChangesOfSettings(t *testing.T) {
	base := planned(t, "", near)
	for _, test := range []struct {
		table string
		want  mesh.Change
	}{
		{`name = "other"`, setting("network.name", base.Config.Network.Name, "other")},
		{"[dataplane]\nengine = \"user\"", setting("dataplane.engine", "auto", "user")},
		{"[dataplane]\nreceive = \"tcx\"", setting("dataplane.receive", "auto", "tcx")},
		{"[dataplane]\noffload = \"off\"", setting("dataplane.offload", "auto", "off")},
		{"[dataplane]\nqueues = 3", setting("queues", "1", "3")},
		{"[dataplane]\nspread = true", setting("dataplane.spread", "false", "true")},
		{"[probe]\ninterval = \"60m\"", setting("probe.interval", "1s", "1h")},
		{"[metrics]\nlisten = \"127.0.0.1:9100\"", setting("metrics.listen", "none", "127.0.0.1:9100")},
		{"[container]\nsubnet_env = \"\"", setting("container.subnet_env", base.Config.Container.SubnetEnv,
			"none")},
		{"[container]\ncni_conf = \"/x\"", setting("container.cni_conf", "none", "/x")},
	} {
		t.Run(test.want.Subject, func(t *testing.T) {
			if got := Changes(base, planned(t, test.table, near)); !slices.Equal(got, []mesh.Change{test.want}) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// Each change has its place: what goes before what comes, and the identity before all.
func TestOrderOfChanges(t *testing.T) {
	order := []mesh.ChangeKind{
		mesh.ChangedIdentity, mesh.ChangedPeer, mesh.ChangedPort, mesh.ChangedInterface, mesh.ChangedMTU,
		mesh.ChangedAddress,
		mesh.ChangedRoute, mesh.ChangedMasquerade, mesh.ChangedAccept, mesh.ChangedSetting,
	}
	next := must(t, load(t, "mtu = 1300\ninterface = \"x\"\nname = \"y\"", "172.18.0.9"), 1, here(1500))
	got := Changes(planned(t, "", near), next)
	var kinds []mesh.ChangeKind
	for _, c := range got {
		kinds = append(kinds, c.Kind)
	}
	if kinds = slices.Compact(kinds); !slices.Equal(kinds, order) {
		t.Errorf("%q, want %q", kinds, order)
	}
}

// Comparing plans changes neither.
func TestChangesArePure(t *testing.T) {
	old, next := planned(t, "", near), planned(t, "mtu = 1400", "172.18.0.9")
	sameOld, sameNext := planned(t, "", near), planned(t, "mtu = 1400", "172.18.0.9")
	first := Changes(old, next)
	if again := Changes(old, next); !slices.Equal(first, again) {
		t.Errorf("%+v\nand then %+v", first, again)
	}
	if !reflect.DeepEqual(old, sameOld) || !reflect.DeepEqual(next, sameNext) {
		t.Error("a plan changed")
	}
}

// The ways to peers are the host's: no file names them, so they are no change of a file.
func TestWays(t *testing.T) {
	c := load(t, "", near)
	by := func(ways ...string) *Plan {
		host := here(1500)
		host.Underlay.Ways = ways
		return must(t, c, 0, host)
	}
	for _, test := range []struct {
		name      string
		old, next *Plan
		want      []mesh.Change
	}{
		{"the same", by("a", "b"), by("b", "a"), nil},
		{"none", by(), by(), nil},
		{"another", by("a", "b"), by("a", "c"), []mesh.Change{
			{Op: mesh.Removed, Kind: mesh.ChangedUnderlay, Old: "b"},
			{Op: mesh.Added, Kind: mesh.ChangedUnderlay, New: "c"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Ways(test.old, test.next); !slices.Equal(got, test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			if got := Changes(test.old, test.next); len(got) != 0 {
				t.Errorf("changes of the file: %+v", got)
			}
		})
	}
}

// BenchmarkReload10000 is what a reload costs besides the engine and the kernel,
// where one node of 10,000 changed.
func BenchmarkReload10000(b *testing.B) {
	var doc strings.Builder
	doc.WriteString("[network]\ncidr = \"10.0.0.0/8\"\n")
	for i := range 10000 {
		fmt.Fprintf(&doc, "[[node]]\nname = \"n%d\"\naddress = \"172.18.%d.%d\"\nsubnets = [\"10.%d.%d.0/24\"]\n",
			i, i/250, i%250+1, i/250, i%250)
	}
	files := [2][]byte{[]byte(doc.String()), []byte(strings.Replace(doc.String(), `"n77"`, `"m77"`, 1))}
	host := Host{Local: addrs("172.18.0.1"), Underlay: link.Underlay{MTU: 1500}, CPUs: 2}
	var old *Plan
	var c *config.Config
	for i := 0; b.Loop(); i++ {
		var err error
		if c, err = config.ParseAfter(c, "mesh.toml", files[i%2]); err != nil {
			b.Fatal(err)
		}
		next := must(b, c, 0, host)
		if old != nil && len(Changes(old, next)) != 2 {
			b.Fatal(Changes(old, next))
		}
		old = next
	}
}
