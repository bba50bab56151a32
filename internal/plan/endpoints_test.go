package plan

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
)

// Endpoints are addresses of the file, or what their names stand for, but for what cannot be called.
func TestEndpoints(t *testing.T) {
	doc := strings.NewReplacer(`name = "a"`, "name = \"a\"\nendpoint = \"203.0.113.7:51821\"",
		`name = "c"`, "name = \"c\"\nendpoint = \"router.lan:51822\"",
		`name = "b"`, "name = \"b\"\nendpoint = \"b.lan\"").Replace(sealed)
	c := parse(t, doc)
	if got := Names(c); !slices.Equal(got, []string{"b.lan", "router.lan"}) {
		t.Errorf("names %v", got)
	}
	ports := func(words ...string) (all []netip.AddrPort) {
		for _, word := range words {
			all = append(all, netip.MustParseAddrPort(word))
		}
		return all
	}
	for _, test := range []struct {
		name  string
		names map[string]Name
		local []netip.Addr
		want  [3][]netip.AddrPort
		kinds []mesh.Kind // of what is wrong
	}{
		{"nothing is resolved", nil, nil, [3][]netip.AddrPort{ports("203.0.113.7:51821")},
			[]mesh.Kind{mesh.NameUnresolved, mesh.NameUnresolved}},
		{"all is", map[string]Name{"b.lan": {Addrs: addrs("192.0.2.2")},
			"router.lan": {Addrs: addrs("203.0.113.7")}}, nil,
			[3][]netip.AddrPort{ports("203.0.113.7:51821"), ports("192.0.2.2:51820"),
				ports("203.0.113.7:51822")}, nil},
		{"the address of another node", map[string]Name{"router.lan": {Addrs: addrs("172.18.0.2")}}, nil,
			[3][]netip.AddrPort{ports("203.0.113.7:51821"), nil, ports("172.18.0.2:51822")},
			[]mesh.Kind{mesh.NameUnresolved}},
		{"nonsense", map[string]Name{"router.lan": {Addrs: addrs("10.244.9.9", "127.0.0.1")}}, nil,
			[3][]netip.AddrPort{ports("203.0.113.7:51821")},
			[]mesh.Kind{mesh.NameUnresolved, mesh.NameUnusable}},
		{"the family of this host first", map[string]Name{"router.lan": {Addrs: addrs("192.0.2.9", "2001:db8::9")}},
			addrs("172.18.0.2"), [3][]netip.AddrPort{ports("203.0.113.7:51821"), nil,
				ports("192.0.2.9:51822", "[2001:db8::9]:51822")}, []mesh.Kind{mesh.NameUnresolved}},
	} {
		t.Run(test.name, func(t *testing.T) {
			nodes := Expand(c, test.names).SeenFrom(0, test.local)
			for i, want := range test.want {
				var got []netip.AddrPort
				for _, e := range nodes.Endpoints(i) {
					got = append(got, e.AddrPort)
				}
				if !slices.Equal(got, want) {
					t.Errorf("node %d: %v, want %v", i, got, want)
				}
			}
			var kinds []mesh.Kind
			for _, c := range nodes.Conditions() {
				kinds = append(kinds, c.Kind)
			}
			if !slices.Equal(kinds, test.kinds) {
				t.Errorf("%v, want %v", kinds, test.kinds)
			}
		})
	}
}

// Of an endpoint any address may be used that is not inside the mesh: it may be that of a router which is a
// node.
func TestUsableOfEndpoints(t *testing.T) {
	doc := strings.Replace(sealed, `name = "c"`, "name = \"c\"\nendpoint = \"router.lan\"", 1)
	usable := Usable(parse(t, doc))
	for ip, want := range map[string]bool{"172.18.0.2": true, "203.0.113.9": true, "10.244.1.1": false,
		"::1": false} {
		if got := usable("router.lan", netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: %t", ip, got)
		}
	}
	if usable("b.lan", netip.MustParseAddr("172.18.0.2")) {
		t.Error("as an address, the name would take that of another node")
	}
}

// A mesh without endpoints has none, and a name's fault has the place of its endpoint.
func TestNoEndpoints(t *testing.T) {
	if got := Expand(parse(t, sealed), nil).SeenFrom(0, nil).Endpoints(1); got != nil {
		t.Error(got)
	}
	c := parse(t, strings.Replace(sealed, `name = "c"`, "name = \"c\"\nendpoint = \"router.lan\"", 1))
	want := config.Faults{{Path: "mesh.toml", Line: 16, Col: 12, Key: "node.endpoint", Message: "x"}}
	if got := c.NameFault("router.lan", "x"); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}
