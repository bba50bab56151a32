package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Each function that reads one value is tested by itself here: with a good value, with none, and
// with what it must refuse. The words of the faults are in testdata/bad.

// A reading is one leaf with the value that it must give; fault says that it must be refused.
type reading struct {
	leaf  any
	want  any
	fault bool
}

// readings runs a table on a function that reads leaves.
func readings(t *testing.T, read func(r *report, leaf any) any, table map[string]reading) {
	t.Helper()
	for name, test := range table {
		t.Run(name, func(t *testing.T) {
			r := &report{path: "x"}
			got := read(r, test.leaf)
			if (r.count > 0) != test.fault {
				t.Errorf("faults %+v, want one: %v", r.problems, test.fault)
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
			for _, p := range r.problems {
				if p.path != "key" || p.message == "" {
					t.Errorf("the fault is at %q: %q", p.path, p.message)
				}
			}
		})
	}
}

func TestReadText(t *testing.T) {
	readings(t, func(r *report, leaf any) any { return r.text("key", leaf, "def") }, map[string]reading{
		"none": {nil, "def", false}, "empty": {"", "", false}, "a word": {"a", "a", false},
		"a number": {int64(1), "def", true}, "a list": {[]any{"a"}, "def", true},
	})
}

func TestReadFlag(t *testing.T) {
	readings(t, func(r *report, leaf any) any { return r.flag("key", leaf, true) }, map[string]reading{
		"none": {nil, true, false}, "true": {true, true, false}, "false": {false, false, false},
		"a word": {"yes", true, true}, "a number": {int64(0), true, true},
	})
}

func TestReadFlagOrAll(t *testing.T) {
	both := func(on, all bool) string { return fmt.Sprint(on, all) }
	read := func(r *report, leaf any) any { return both(r.flagOrAll("key", leaf, true)) }
	readings(t, read, map[string]reading{
		"none": {nil, both(true, false), false}, "false": {false, both(false, false), false},
		"true": {true, both(true, false), false}, "all": {"all", both(true, true), false},
		"another word": {"ALL", both(true, false), true}, "a number": {int64(1), both(true, false), true},
	})
}

// Both bounds are allowed, and one beyond them is not.
func TestReadNumber(t *testing.T) {
	readings(t, func(r *report, leaf any) any { return r.number("key", leaf, 10, 20, 15) }, map[string]reading{
		"none": {nil, 15, false}, "the lowest": {int64(10), 10, false}, "the highest": {int64(20), 20, false},
		"below": {int64(9), 15, true}, "above": {int64(21), 15, true}, "huge": {int64(1) << 62, 15, true},
		"a float": {12.0, 15, true}, "a word": {"12", 15, true},
	})
}

func TestReadOneOf(t *testing.T) {
	readings(t, func(r *report, leaf any) any { return r.oneOf("key", leaf, "auto", "off") }, map[string]reading{
		"none": {nil, "auto", false}, "the first": {"auto", "auto", false}, "another": {"off", "off", false},
		"in capitals": {"OFF", "OFF", true}, "unknown": {"on", "on", true}, "a boolean": {false, "auto", true},
	})
}

func TestReadDuration(t *testing.T) {
	read := func(r *report, leaf any) any {
		return r.duration("key", leaf, 100*time.Millisecond, time.Hour, time.Second)
	}
	readings(t, read, map[string]reading{
		"none": {nil, time.Second, false}, "zero": {"0s", time.Duration(0), false},
		"the lowest": {"100ms", 100 * time.Millisecond, false}, "the highest": {"60m", time.Hour, false},
		"below": {"99ms", time.Second, true}, "above": {"1h1ns", time.Second, true},
		"negative": {"-1s", time.Second, true}, "without a unit": {"1", time.Second, true},
		"a number": {int64(1), time.Second, true},
	})
}

func TestReadListen(t *testing.T) {
	readings(t, func(r *report, leaf any) any { return r.listen("key", leaf) }, map[string]reading{
		"none": {nil, "", false}, "empty": {"", "", false}, "IPv4": {"127.0.0.1:9285", "127.0.0.1:9285", false},
		"IPv6": {"[::1]:9285", "[::1]:9285", false}, "all addresses": {":9285", ":9285", false},
		"a name": {"localhost:1", "localhost:1", false}, "the last port": {"a:65535", "a:65535", false},
		"port 0": {"a:0", "a:0", true}, "a port too large": {"a:65536", "a:65536", true},
		"a service": {"a:http", "a:http", true}, "no port": {"127.0.0.1", "127.0.0.1", true},
		"IPv6 without brackets": {"::1:9285", "::1:9285", true}, "a blank": {"a b:1", "a b:1", true},
		"not ASCII": {"ä:1", "ä:1", true},
	})
}

func TestReadFile(t *testing.T) {
	readings(t, func(r *report, leaf any) any { return r.file("key", leaf, "/def") }, map[string]reading{
		"none": {nil, "/def", false}, "empty": {"", "", false}, "a path": {"/run/a.env", "/run/a.env", false},
		"relative": {"a.env", "a.env", true}, "a slash at the end": {"/run/", "/run/", true},
		"a dot": {"/run/./a", "/run/./a", true}, "two dots": {"/run/../a", "/run/../a", true},
		"two slashes": {"//a", "//a", true},
	})
}

// The kernel's rules for names of interfaces, and what the TUN driver would do with a name.
func TestReadInterfaceName(t *testing.T) {
	read := func(r *report, leaf any) any { return r.interfaceName("key", leaf, "mesh0") }
	readings(t, read, map[string]reading{
		"none": {nil, "mesh0", false}, "15 bytes": {"abcdefghijklmno", "abcdefghijklmno", false},
		"dots": {"eth0.7", "eth0.7", false}, "16 bytes": {"abcdefghijklmnop", "abcdefghijklmnop", true},
		"empty": {"", "", true}, "a dot": {".", ".", true}, "two dots": {"..", "..", true},
		"a slash": {"a/b", "a/b", true}, "a colon": {"a:b", "a:b", true}, "a pattern": {"mesh%d", "mesh%d", true},
		"a blank": {"a b", "a b", true}, "a line break": {"a\nb", "a\nb", true}, "not ASCII": {"à", "à", true},
		"loopback": {"lo", "lo", true}, "all": {"all", "all", true}, "default": {"default", "default", true},
	})
}

func TestReadPrefix(t *testing.T) {
	read := func(r *report, leaf any) any { p, ok := r.prefix("key", leaf); return fmt.Sprint(p, ok) }
	is := func(s string) string { return fmt.Sprint(netip.MustParsePrefix(s), true) }
	none := fmt.Sprint(netip.Prefix{}, false)
	readings(t, read, map[string]reading{
		"IPv4": {"10.0.0.0/8", is("10.0.0.0/8"), false}, "IPv6": {"fd00::/48", is("fd00::/48"), false},
		"all": {"0.0.0.0/0", is("0.0.0.0/0"), false}, "an address": {"10.0.0.1/32", is("10.0.0.1/32"), false},
		"no length": {"10.0.0.0", none, true}, "host bits": {"10.0.0.1/8", none, true},
		"too long": {"10.0.0.0/33", none, true}, "mapped": {"::ffff:10.0.0.0/104", none, true},
		"a zone": {"fe80::%eth0/64", none, true}, "a word": {"pods", none, true},
		"a number": {int64(10), none, true},
	})
}

// A lone prefix counts as a list of one where the file allows that; faults have the index of their
// element.
func TestReadPrefixes(t *testing.T) {
	for name, test := range map[string]struct {
		leaf   any
		single bool
		want   string
		at     string
		faults int
	}{
		"none":   {nil, false, "[]", "", 0},
		"a list": {[]any{"10.0.0.0/8", "fd00::/8"}, false, "[10.0.0.0/8 fd00::/8]", "key[0] key[1]", 0},
		"one faulty": {[]any{"10.0.0.0/8", 1, "fd00::/8"}, false, "[10.0.0.0/8 fd00::/8]",
			"key[0] key[2]", 1},
		"a lone one":       {"10.0.0.0/8", true, "[10.0.0.0/8]", "key", 0},
		"a lone one, no":   {"10.0.0.0/8", false, "[]", "", 1},
		"a list in a list": {[]any{[]any{"10.0.0.0/8"}}, false, "[]", "", 1},
		"an empty list":    {[]any{}, false, "[]", "", 0},
		"a table, no list": {map[string]any{}, false, "[]", "", 1},
		"the same one twice": {[]any{"10.0.0.0/8", "10.0.0.0/8"}, false, "[10.0.0.0/8 10.0.0.0/8]",
			"key[0] key[1]", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report{}
			ps, at := r.prefixes("key", test.leaf, test.single)
			if fmt.Sprint(ps) != test.want || strings.Join(at, " ") != test.at || r.count != test.faults {
				t.Errorf("%v at %q with %d faults, want %+v", ps, at, r.count, test)
			}
		})
	}
}

// An address of a node means the same on all hosts.
func TestReadEndpoint(t *testing.T) {
	read := func(r *report, leaf any) any { e, ok := r.endpoint("key", leaf, 8285); return fmt.Sprint(e, ok) }
	is := func(s string) string { return fmt.Sprint(netip.MustParseAddrPort(s), true) }
	none := fmt.Sprint(Address{}, false)
	readings(t, read, map[string]reading{
		"IPv4":              {"172.18.0.3", is("172.18.0.3:8285"), false},
		"with a port":       {"172.18.0.3:9000", is("172.18.0.3:9000"), false},
		"IPv6":              {"2001:db8::1", is("[2001:db8::1]:8285"), false},
		"IPv6 with a port":  {"[2001:db8::1]:1", is("[2001:db8::1]:1"), false},
		"IPv4 link-local":   {"169.254.1.1", is("169.254.1.1:8285"), false},
		"port 0":            {"172.18.0.3:0", none, true},
		"a name":            {"Host.example.org.", "host.example.org:8285 true", false},
		"a name and a port": {"host.example.org:1", "host.example.org:1 true", false},
		"a name's slip":     {"host_1.example.org", none, true},
		"a prefix":          {"172.18.0.3/24", none, true},
		"a zone":            {"fe80::1%eth0", none, true},
		"IPv6 link-local":   {"fe80::1", none, true},
		"mapped":            {"::ffff:172.18.0.3", none, true},
		"loopback":          {"127.0.0.1", none, true},
		"IPv6 loopback":     {"::1", none, true},
		"unspecified":       {"0.0.0.0", none, true},
		"IPv6, unspecified": {"::", none, true},
		"multicast":         {"224.0.0.1", none, true},
		"IPv6 multicast":    {"ff02::1", none, true},
		"class E":           {"240.0.0.1", none, true},
		"a number":          {int64(1), none, true},
	})
}

// Prefixes with addresses that no host has are told from all others.
func TestUnicast(t *testing.T) {
	for prefix, want := range map[string]bool{
		"10.0.0.0/8": true, "100.64.0.0/10": true, "fd00::/8": true, "2001:db8::/32": true,
		"223.255.255.255/32": true,
		"0.0.0.0/0":          false, "0.0.0.0/8": false, "127.0.0.0/8": false, "126.0.0.0/7": false,
		"169.254.7.0/24": false,
		"224.0.0.0/4":    false, "255.255.255.255/32": false, "::/0": false, "::1/128": false, "fe80::/64": false,
		"ff00::/8": false,
	} {
		t.Run(strings.ReplaceAll(prefix, "/", "_"), func(t *testing.T) {
			if got := unicast(netip.MustParsePrefix(prefix)); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// What meshd writes must be two files, neither of them its own configuration.
func TestOwnFiles(t *testing.T) {
	for name, test := range map[string]struct {
		c      Container
		faulty string // key
	}{
		"nothing":                {Container{}, ""},
		"two":                    {Container{"/run/a", "/etc/b"}, ""},
		"the same twice":         {Container{"/run/a", "/run/a"}, "container.cni_conf"},
		"the file as subnet_env": {Container{"/etc/mesh.toml", ""}, "container.subnet_env"},
		"the file as cni_conf":   {Container{"", "/etc/mesh.toml"}, "container.cni_conf"},
		"only its neighbour":     {Container{"/etc/mesh.toml.env", ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report{path: "/etc/mesh.toml"}
			r.ownFiles(&Config{Container: test.c})
			if got := r.count; (got > 0) != (test.faulty != "") || got > 0 && !r.has(test.faulty) {
				t.Errorf("%+v, want a fault of %q", r.problems, test.faulty)
			}
		})
	}
}

// Values of the wrong type are shown as the file has them.
func TestShow(t *testing.T) {
	for want, leaf := range map[string]any{
		`"a\nb"`: "a\nb", "true": true, "7": int64(7), "7.0": 7.0, "7.5": 7.5, "a list": []any{1},
		"a table": map[string]any{}, "a list of tables": []map[string]any{},
		"2026-11-27 00:00:00 +0000 UTC": time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC),
	} {
		t.Run(want, func(t *testing.T) {
			if got := show(leaf); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}
