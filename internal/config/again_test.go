package config

import (
	"reflect"
	"strings"
	"testing"

	"example.org/meshd/internal/budget"
)

// sameParse holds ParseAfter to Parse: the same Config, or the same faults with the same places.
// It returns the Config.
func sameParse(t *testing.T, old *Config, doc string) *Config {
	t.Helper()
	got, gotErr := ParseAfter(old, "x", []byte(doc))
	want, wantErr := Parse("x", []byte(doc))
	if !reflect.DeepEqual(gotErr, wantErr) {
		t.Fatalf("faults:\n%v\nwant:\n%v\nof %q", gotErr, wantErr, doc)
	}
	if want == nil || got == nil {
		return got
	}
	result := *got
	if got.edit.keys < want.edit.keys || got.edit.values < want.edit.values {
		t.Errorf("counted %+v, there are %+v", got.edit, want.edit)
	}
	got = &Config{}
	*got = result
	got.edit.keys, got.edit.values = want.edit.keys, want.edit.values
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v\nwant\n%+v\nof %q", got, want, doc)
	}
	return &result
}

// threeNodes is a file with settings on both sides of its nodes, and comments between them.
const threeNodes = `[network]
cidr = "10.0.0.0/8"
# before

[[node]] # the first
name = "a"
address = "172.18.0.1"
subnets = ["10.1.0.0/24"]
[[node]]
name = "b"
address = "172.18.0.2:99"
subnets = ["10.2.0.0/24", "10.2.1.0/24"]
routes = ["192.168.2.0/24"]

# the last
[[node]]
name = "c"
address = ["172.18.0.3", "c.lan", "192.0.2.3"]
subnets = ["10.3.0.0/24"]
routes = ["192.168.1.0/24"]

[probe]
interval = "2s"
`

// nodeB is the second node of threeNodes.
var (
	startOfB = strings.Index(threeNodes, "[[node]]\nname = \"b\"")
	nodeB    = threeNodes[startOfB:strings.Index(threeNodes, "# the last")]
)

func TestParseAfter(t *testing.T) {
	for _, test := range []struct {
		name, old, new string
		fast           bool // parsed without a look at the rest
	}{
		{"nothing", "", "", true},
		{"name", `"b"`, `"bb"`, true},
		{"port", `:99`, `:98`, true},
		{"subnet", `10.2.1.0`, `10.2.2.0`, true},
		{"route goes", `routes = ["192.168.2.0/24"]` + "\n", "", true},
		{"comment", "# the last", "# the very last", true},
		{"node comes", "# the last\n", "[[node]]\nname='d'\naddress='172.18.0.4'\nsubnets=['10.4.0.0/24']\n", true},
		{"node goes", nodeB, "", true},
		{"settings in front", `"10.0.0.0/8"`, `"10.0.0.0/9"`, false},
		{"settings behind", `"2s"`, `"3s"`, false},
		{"addresses", `"172.18.0.2:99"`, `["172.18.0.2", "b.lan", "172.18.0.4"]`, true},
		{"metric", `["192.168.2.0/24"]`, `[{ prefix = "192.168.2.0/24", metric = 7 }]`, true},
		{"route of another node", `192.168.2.0/24`, `192.168.1.0/24`, true},
		{"second address taken", `"172.18.0.2:99"`, `["172.18.0.2", "172.18.0.3"]`, false},
		{"host name taken", `"172.18.0.2:99"`, `["172.18.0.2", "C.lan."]`, false},
		{"second address inside a subnet", `"172.18.0.2:99"`, `["172.18.0.2", "10.3.0.7"]`, false},
		{"second address of others inside the route", `192.168.2.0/24`, `192.0.2.0/24`, false},
		{"route twice", `["192.168.2.0/24"]`, `["192.168.2.0/24", "192.168.2.0/24"]`, false},
		{"name taken", `"b"`, `"a"`, false},
		{"name taken behind", `"b"`, `"c"`, false},
		{"address taken", `172.18.0.2:99`, `172.18.0.3`, false},
		{"subnet taken", `10.2.1.0`, `10.3.0.0`, false},
		{"subnet around", `10.2.1.0/24`, `10.2.0.0/15`, false},
		{"subnet outside", `10.2.1.0`, `11.2.1.0`, false},
		{"address inside a subnet", `172.18.0.2:99`, `10.3.0.7`, false},
		{"others inside the route", `192.168.2.0/24`, `172.18.0.0/16`, false},
		{"no name", `name = "b"` + "\n", "", false},
		{"unknown key", `routes = [`, `rotes = [`, false},
		{"key twice", `name = "b"`, "name = \"b\"\nname = \"b\"", false},
		{"not TOML", `"b"`, `"b`, false},
		{"open text", `"b"`, `"""b`, false},
		{"text over a header", "# the last\n", "x = '''\n", false},
		{"header in a text", "# the last\n", "[[node]]\nname = '''\n[[node]]\n'''\n", false},
		{"header behind something", "# the last\n", "x = 1 ", false},
		{"header as a comment", "# the last\n", "# ", false},
		{"other table", "# the last\n", "[masquerade]\nenabled = false\n", false},
		{"table of a node", "# the last\n", "[node.name]\n", false},
		{"tables of a node", "# the last\n", "[[node.subnets]]\n", false},
		{"byte order mark", "[[node]]\nname = \"b\"", "\xef\xbb\xbf[[node]]\nname = \"b\"", false},
		{"zero byte", "# the last", "\x00", false},
		{"carriage returns", "[[node]]\nname = \"b\"\n", "[[node]]\r\nname = \"b\"\r\n", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			old, err := Parse("x", []byte(threeNodes))
			if err != nil {
				t.Fatal(err)
			}
			before := *old
			doc := strings.Replace(threeNodes, test.old, test.new, 1)
			next := sameParse(t, old, doc)
			if fast := old.edited("x", doc) != nil; fast != test.fast {
				t.Errorf("fast: %t", fast)
			}
			if next != nil { // and back, from what was parsed in part
				sameParse(t, next, threeNodes)
			}
			if !reflect.DeepEqual(before, *old) {
				t.Error("the file before was changed")
			}
		})
	}
}

// Nodes of one line, and files that share nothing.
func TestParseAfterOthers(t *testing.T) {
	inline := "[network]\ncidr='10.0.0.0/8'\n[node]\n"
	if _, err := Parse("x", []byte(inline)); err == nil {
		t.Fatal("no fault")
	}
	oneLine := "node = [{name='a',address='172.18.0.1',subnets=['10.1.0.0/24']}]\n[network]\ncidr='10.0.0.0/8'\n"
	old := sameParse(t, nil, oneLine)
	for _, doc := range []string{threeNodes, strings.Replace(oneLine, "'a'", "'b'", 1), "", "x"} {
		sameParse(t, old, doc)
	}
	other, err := ParseAfter(old, "y", []byte(oneLine))
	if err != nil || other.Path != "y" {
		t.Errorf("%+v, %v", other, err)
	}
}

// The limits count for a file that grew edit by edit, too.
func TestParseAfterCountsOn(t *testing.T) {
	old, err := Parse("x", manyNodes(10))
	if err != nil {
		t.Fatal(err)
	}
	full := *old
	full.edit.keys = maxKeys - 1
	doc := strings.Replace(string(manyNodes(10)), "edge-5", "edge-x", 1)
	if old.edited("x", doc) == nil || full.edited("x", doc) != nil {
		t.Error("a file at the limit is not parsed whole")
	}
	if next := sameParse(t, &full, doc); next.edit.keys > maxKeys/2 {
		t.Errorf("%d keys", next.edit.keys)
	}
}

// Whatever is put in the place of whatever, the outcome is that of parsing the whole.
func FuzzParseAfter(f *testing.F) {
	for _, text := range []string{"", "\n", "x", "c.lan", "192.168.1.0/24", "'''", "[[node]]\n", "#",
		"[probe]\n",
		"\"",
		"]", "10.2.0.0/24"} {
		for at := 0; at < len(threeNodes); at += 13 {
			f.Add(uint16(at), uint16(7), text, uint16(90), uint16(1), "\n")
		}
	}
	f.Fuzz(func(t *testing.T, at, cut uint16, text string, at2, cut2 uint16, text2 string) {
		defer budget.Of(t)()
		if len(text)+len(text2) > 4096 {
			return
		}
		replace := func(doc string, at, cut int, text string) string {
			at = min(at, len(doc))
			return doc[:at] + text + doc[min(at+cut, len(doc)):]
		}
		c := sameParse(t, nil, threeNodes)
		for _, doc := range []string{
			replace(threeNodes, int(at), int(cut), text),
			replace(threeNodes, int(at2), int(cut2), text2),
		} {
			if next := sameParse(t, c, doc); next != nil {
				c = next
			}
		}
		sameParse(t, c, threeNodes)
	})
}

// The same with keys, endpoints and ways, which lead from node to node.
func FuzzParseAfterOfKeys(f *testing.F) {
	for _, text := range []string{"", "a", "c", "via = \"c\"\n", someKeys[0], someKeys[3], "172.18.0.1:51820",
		"[[node]]\n", "10.3.0.9", "endpoint = \"router.lan\"\n"} {
		for at := 0; at < len(sealed); at += 13 {
			f.Add(uint16(at), uint16(7), text)
		}
	}
	for _, line := range strings.SplitAfter(sealed, "\n") { // without it, and with a way in its place
		at := strings.Index(sealed, line)
		f.Add(uint16(at), uint16(len(line)), "")
		f.Add(uint16(at), uint16(len(line)), "via = \"a\"\n")
	}
	f.Fuzz(func(t *testing.T, at, cut uint16, text string) {
		defer budget.Of(t)()
		if len(text) > 4096 {
			return
		}
		c := sameParse(t, nil, sealed)
		begin := min(int(at), len(sealed))
		doc := sealed[:begin] + text + sealed[min(begin+int(cut), len(sealed)):]
		if next := sameParse(t, c, doc); next != nil {
			sameParse(t, next, sealed)
		}
	})
}

func BenchmarkParseAfter10000Nodes(b *testing.B) {
	doc := string(manyNodes(10000))
	docs := [2][]byte{[]byte(doc), []byte(strings.Replace(doc, "edge-7777\"", "changed\"", 1))}
	c, err := Parse("x", docs[0])
	for i := 1; b.Loop(); i++ {
		if err != nil {
			b.Fatal(err)
		}
		c, err = ParseAfter(c, "x", docs[i%2])
	}
}
