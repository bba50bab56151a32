package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/seal"
	"example.org/meshd/internal/wireguard"
)

// keyAs returns a key as text, by a number.
func keyAs(n byte) string { return mesh.Key{31: n}.String() }

// encrypted is a mesh of two nodes with addresses, the second with two and behind a router that forwards a
// port,
// and of three that call in: x and y have a hub, and z has none.
func encrypted(settings string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n[network]\ncidr = [\"10.244.0.0/16\", \"fd00::/48\"]\ntransport = \"wireguard\"\n",
		settings)
	for i, n := range []string{
		"name = 'a'\naddress = ['172.18.0.2', '2001:db8::2']\nroutes = ['192.168.1.0/24']",
		"name = 'hub'\naddress = ['172.18.0.3']\nendpoint = '203.0.113.3:1'\nroutes = ['192.168.1.0/24']",
		"name = 'x'\nvia = 'hub'", "name = 'y'\nroutes = ['192.168.9.0/24']", "name = 'z'\nvia = 'hub'",
		"name = 'w'",
	} {
		fmt.Fprintf(&b, "[[node]]\n%s\npublic_key = %q\nsubnets = ['10.244.%d.0/24']\n", n, keyAs(byte(i+1)), i+1)
	}
	return b.String()
}

// made makes a plan for the host that has the node's key.
func made(t *testing.T, c *config.Config, self int, host Host) *Plan {
	t.Helper()
	host.Key = c.Nodes[self].PublicKey
	return must(t, c, self, host)
}

func byPeer(w *seal.Wanted) map[string]string {
	all := map[string]string{}
	for _, p := range w.Peers {
		all[p.Name] = strings.TrimSpace(fmt.Sprint(p.Endpoints, " ", p.Relay))
	}
	return all
}

func TestPlanSeal(t *testing.T) {
	c := parse(t, encrypted(""))
	for _, test := range []struct {
		self      int
		peers     map[string]string // where they are called, and by which relay
		never     []string          // whom this node never meets
		inner     []netip.Prefix
		keepalive time.Duration
	}{
		{0, map[string]string{"hub": "[203.0.113.3:1]", "x": "[]", "y": "[]", "z": "[]", "w": "[]"}, nil,
			prefixes("10.244.1.0/24", "192.168.1.0/24"), 0},
		{1, map[string]string{"a": "[172.18.0.2:51820 [2001:db8::2]:51820]", "x": "[]", "y": "[]", "z": "[]",
			"w": "[]"},
			nil, prefixes("10.244.2.0/24", "192.168.1.0/24", "10.244.3.0/24", "10.244.4.0/24", "192.168.9.0/24",
				"10.244.5.0/24", "10.244.6.0/24"), 0},
		{2, map[string]string{"a": "[172.18.0.2:51820 [2001:db8::2]:51820]", "hub": "[203.0.113.3:1]",
			"y": "[] hub",
			"z": "[] hub", "w": "[] hub"}, nil, prefixes("10.244.3.0/24"), 0},
		{5, map[string]string{"a": "[172.18.0.2:51820 [2001:db8::2]:51820]", "hub": "[203.0.113.3:1]",
			"x": "[] hub",
			"z": "[] hub"}, []string{"y"}, prefixes("10.244.6.0/24"), 0},
	} {
		t.Run(c.Nodes[test.self].Name, func(t *testing.T) {
			p := made(t, c, test.self, here(1500))
			if got := byPeer(p.Seal); fmt.Sprint(got) != fmt.Sprint(test.peers) {
				t.Errorf("peers %v, want %v", got, test.peers)
			}
			var never []string
			for _, note := range p.Conditions {
				if note.Kind == mesh.NeverMeets {
					never = append(never, note.Peer)
				}
			}
			if !slices.Equal(never, test.never) || p.Seal.Keepalive != test.keepalive {
				t.Errorf("never meets %v, want %v; keepalive %v", never, test.never, p.Seal.Keepalive)
			}
			if got := p.inner(); !slices.Equal(got, test.inner) {
				t.Errorf("inner %v, want %v", got, test.inner)
			}
			if !p.Engine.Sealed || p.Engine.Kernel.Use != dataplane.Never || p.Port() != 8285 {
				t.Errorf("engine %+v", p.Engine)
			}
		})
	}
}

// A relay is the same for both ends, or a prefix would be expected of two peers.
func TestRelayIsOneForBoth(t *testing.T) {
	c := parse(t, encrypted(""))
	for a := range c.Nodes {
		for b := range c.Nodes {
			if one, other := relay(c, a, b), relay(c, b, a); one != other {
				t.Errorf("between %d and %d: %q and %q", a, b, one, other)
			}
		}
	}
}

func TestKeepalive(t *testing.T) {
	for settings, want := range map[string]time.Duration{
		"[probe]\ninterval = '0s'": 25 * time.Second, "[probe]\ninterval = '1m'": 25 * time.Second, "": 0,
	} {
		t.Run(settings, func(t *testing.T) {
			c := parse(t, encrypted(settings))
			if got := made(t, c, 2, here(1500)).Seal.Keepalive; got != want {
				t.Errorf("of a node that calls: %v, want %v", got, want)
			}
			if got := made(t, c, 0, here(1500)).Seal.Keepalive; got != 0 {
				t.Errorf("of a node with an address: %v", got)
			}
		})
	}
}

// WireGuard fills packets up to 16 bytes, so the MTU is a multiple of them.
func TestSealedMTU(t *testing.T) {
	only4 := strings.ReplaceAll(encrypted(""), ", '2001:db8::2'", "")
	for _, test := range []struct {
		doc            string
		underlay, want int
	}{
		{only4, 1500, 1440}, {only4, 1505, 1440}, {only4, 9000, 8928}, {encrypted(""), 1500, 1408},
	} {
		c := parse(t, test.doc)
		host := here(test.underlay)
		host.Local = append(host.Local, netip.MustParseAddr("2001:db8::2"))
		host.Underlay.Lower = map[netip.Addr]int{netip.MustParseAddr("172.18.0.3"): 1400}
		p := made(t, c, 0, host)
		if p.Link.MTU != test.want || p.Seal.MTU != test.want {
			t.Errorf("underlay of %d: %d and %d, want %d", test.underlay, p.Link.MTU, p.Seal.MTU, test.want)
		}
		hub, _ := p.Engine.Mesh.Peer("hub")
		if got := p.MTUTo(hub); got != 1328 { // 1400 - 60, in steps of 16
			t.Errorf("over a route of 1400: %d", got)
		}
	}
}

// The TUN has a route for all that the encrypted interface carries, and no better one.
func TestFloor(t *testing.T) {
	p := made(t, parse(t, encrypted("")), 2, here(1500))
	metrics := map[string]int{}
	for _, r := range p.Link.Routes {
		metrics[r.Prefix.String()] = r.Metric
	}
	want := map[string]int{"10.244.0.0/16": 0, "fd00::/48": 0, "192.168.1.0/24": 8285, "192.168.9.0/24": 8285}
	if fmt.Sprint(metrics) != fmt.Sprint(want) || !p.Link.Loose || p.Link.Kind != link.TUN {
		t.Errorf("floor %+v", p.Link)
	}
	for _, prefix := range p.Config.Prefixes() {
		if !slices.Contains(p.Backstops, prefix) {
			t.Errorf("%v has no backstop", prefix)
		}
	}
}

// A file that is run shut forwards nothing, and needs no key.
func TestShut(t *testing.T) {
	host := here(1500)
	host.OwnKey = OwnKey{Key: mesh.Key{1}} // which the file, that of before, does not list
	p := must(t, load(t, "", near).Shut(), 0, host)
	if !p.Engine.Sealed || p.Seal != nil || p.Engine.Kernel.Use != dataplane.Never || len(p.Backstops) == 0 {
		t.Errorf("plan %+v", p)
	}
	if !slices.ContainsFunc(p.Conditions, func(c mesh.Condition) bool {
		return c.Kind == mesh.Shut && c.Severity == mesh.Failed
	}) {
		t.Errorf("conditions %v", p.Conditions)
	}
}

// A node behind a name is called at all that the name stands for, but never inside the mesh.
func TestNamedEndpoint(t *testing.T) {
	c := parse(t, strings.Replace(encrypted(""), "203.0.113.3:1", "hub.example:7", 1))
	if got := Names(c); !slices.Equal(got, []string{"hub.example"}) {
		t.Errorf("names %v", got)
	}
	n := Expand(c, map[string]Name{"hub.example": {Addrs: addrs("198.51.100.7", "10.244.3.3", "2001:db8::9")}})
	host := here(1500)
	host.Nodes = n.SeenFrom(0, host.Local)
	got := byPeer(made(t, c, 0, host).Seal)["hub"]
	if got != "[198.51.100.7:7 [2001:db8::9]:7]" {
		t.Errorf("called at %s", got)
	}
	if notes := n.Conditions(); len(notes) != 1 || notes[0].Kind != mesh.NameUnusable {
		t.Errorf("conditions %v", notes)
	}
}

// A plan names each difference of encryption.
func TestChangesOfEncryption(t *testing.T) {
	base := encrypted("")
	before := made(t, parse(t, base), 0, here(1500))
	for name, test := range map[string]struct {
		old, next string
		want      mesh.Change
	}{
		"another key": {keyAs(2), keyAs(77), mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedPeer, Subject: "hub",
			Field: "public_key", Old: keyAs(2), New: keyAs(77)}},
		"another endpoint": {"203.0.113.3:1", "203.0.113.3:2", mesh.Change{Op: mesh.Replaced,
			Kind:    mesh.ChangedPeer,
			Subject: "hub", Field: "endpoint", Old: "203.0.113.3:1", New: "203.0.113.3:2"}},
		"no relay any more": {"name = 'z'\nvia = 'hub'", "name = 'z'", mesh.Change{Op: mesh.Replaced,
			Kind: mesh.ChangedPeer, Subject: "z", Field: "via", Old: "hub", New: "none"}},
		"another port": {"[[node]]\nname = 'a'", "[wireguard]\nport = 4\n[[node]]\nname = 'a'",
			setting("wireguard.port", "51820", "4")},
	} {
		t.Run(name, func(t *testing.T) {
			next := made(t, parse(t, strings.Replace(base, test.old, test.next, 1)), 0, here(1500))
			if got := Changes(before, next); !slices.Equal(got, []mesh.Change{test.want}) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// The rules of an encrypted mesh are about both interfaces, also while it is shut: an earlier run has left
// the encrypted one, which must not be without its guard. Those of another mesh know one alone.
func TestRulesOfSealedPlan(t *testing.T) {
	for _, test := range []struct {
		name       string
		file       *config.Config
		encrypted  string
		interfaces []string
	}{
		{"sealed", parse(t, encrypted("")), wireguard.Interface, []string{"mesh0", wireguard.Interface}},
		{"shut", load(t, "", near).Shut(), wireguard.Interface, []string{"mesh0", wireguard.Interface}},
		{"bare", load(t, "", near), "", []string{"mesh0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := made(t, test.file, 0, here(1500)).Rules
			if r.Guard.Encrypted != test.encrypted || (len(r.Guard.Inner) > 0) != (test.encrypted != "") {
				t.Errorf("guard of %q for %s", r.Guard.Encrypted, r.Guard.Inner)
			}
			others := 0
			for i := range test.file.Nodes[1:] {
				others += len(test.file.Nodes[1+i].Subnets)
			}
			if test.encrypted == "" {
				others = 0
			}
			if len(r.Guard.Sealed) != others || slices.Contains(r.Guard.Sealed, test.file.Nodes[0].Subnets[0]) {
				t.Errorf("%v must leave encrypted, want the subnets of all others: %d", r.Guard.Sealed, others)
			}
			if !slices.Equal(r.Accept.Interfaces, test.interfaces) ||
				!slices.Equal(r.Clamp.Interfaces, test.interfaces) {
				t.Errorf("accepts for %q, segments for %q", r.Accept.Interfaces, r.Clamp.Interfaces)
			}
		})
	}
}
