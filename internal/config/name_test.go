package config

import (
	"net/netip"
	"strings"
	"testing"

	"example.org/meshd/internal/budget"
)

// What is a name becomes one, in one form. An address with a slip never does.
func TestNamed(t *testing.T) {
	label := strings.Repeat("a", 63)
	long := strings.Repeat(label+".", 3) + strings.Repeat("b", 61) // 253 characters
	for _, test := range []struct{ text, want string }{
		{"edge", "edge:8285"}, {"Edge-1.Example.ORG", "edge-1.example.org:8285"}, {"edge.lan.", "edge.lan:8285"},
		{"edge:9000", "edge:9000"}, {"edge.lan.:9000", "edge.lan:9000"}, {"3com.example", "3com.example:8285"},
		{"1.2.3.example", "1.2.3.example:8285"}, {"10.pool.example", "10.pool.example:8285"},
		{"xn--bro-hoa.example", "xn--bro-hoa.example:8285"}, {label, label + ":8285"}, {long, long + ":8285"},
		{"fe80.example:1", "fe80.example:1"}, {"localhost.example", "localhost.example:8285"},

		{"", ""}, {".", ""}, {"..", ""}, {".edge", ""}, {"edge..lan", ""}, {"edge.lan..", ""}, {":9000", ""},
		{"edge:", ""}, {"edge:0", ""}, {"edge:65536", ""}, {"edge:+1", ""}, {"edge:http", ""}, {"edge:1:2", ""},
		{"edge_1", ""}, {"edge 1", ""}, {" edge", ""}, {"edge ", ""}, {"edge\n", ""}, {"edge/24", ""},
		{"-edge", ""}, {"edge-", ""}, {"a.-b.c", ""}, {"büro", ""}, {"*.example", ""}, {"edge,lan", ""},
		{label + "a", ""}, {long + "b", ""}, {"1", ""}, {"8285", ""}, {"172.18.0.300", ""}, {"172.18.3", ""},
		{"172.18.0.3.4", ""}, {"edge.1", ""}, {"172.18.0.3a", ""}, {"172.18.0.1o", ""}, {"l72.18.0.3", ""},
		{"172.18.0.300:9000", ""}, {"localhost", ""}, {"LOCALHOST.", ""}, {"a.localhost", ""}, {"[edge]:1", ""},
		{"172.18.0.3", ""}, {"2001:db8::1", ""}, {"0x7f.1", ""}, {"\x00", ""},
	} {
		t.Run(test.text, func(t *testing.T) {
			a, ok := named(test.text, 8285)
			if ok != (test.want != "") || ok && (a.String() != test.want || a.Addr().IsValid()) {
				t.Errorf("%v, %t, want %q", a, ok, test.want)
			}
		})
	}
}

// Whatever stands in the file, it is an IP address, a name in its one form, or a fault in words.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"172.18.0.3", "[2001:db8::1]:1", "edge.lan:9", "172.18.0.300", "a_b", "[a]:1",
		"1.2.3.4a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer budget.Of(t)()
		r := &report{path: "x"}
		a, ok := r.endpoint("key", s, 8285)
		switch {
		case ok == (r.count > 0):
			t.Errorf("%q: %+v, %v", s, a, r.problems)
		case !ok:
		case a.Name == "" && (a.Addr().Zone() != "" || !a.AddrPort.IsValid() || a.Port() == 0):
			t.Errorf("%q gives %v", s, a)
		case a.Name != "":
			_, isIP := netip.ParseAddr(a.Name)
			again, named := named(a.String(), 1)
			if isIP == nil || !named || again != a || len(a.Name) > maxHostName || a.Name != strings.ToLower(a.Name) {
				t.Errorf("%q gives %+v, and that %+v", s, a, again)
			}
		}
	})
}
