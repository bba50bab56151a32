package config

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

const meant = `[network]
cidr = "10.244.0.0/16"
[[node]]
name = "a"
address = "172.18.0.3"
subnets = ["10.244.1.0/24", "10.244.2.0/24"]
routes = ["10.1.0.0/16", "10.2.0.0/16"]
[[node]]
name = "b"
address = "172.18.0.4"
subnets = ["10.244.3.0/24"]
`

// What asks for the same has the same meaning; whatever else differs has another.
func TestMeaning(t *testing.T) {
	replace := func(old, by string) string {
		if !strings.Contains(meant, old) {
			t.Fatalf("%q is not in the file", old)
		}
		return strings.Replace(meant, old, by, 1)
	}
	first, second, _ := strings.Cut(meant, "[[node]]\nname = \"b\"")
	network, a, _ := strings.Cut(first, "[[node]]")
	for _, test := range []struct {
		name, doc string
		same      bool
	}{
		{"the file itself", meant, true},
		{"a comment", meant + "# changed\n", true},
		{"white space", replace("name = \"a\"", "  name=\"a\"\n"), true},
		{"the order of keys",
			replace("name = \"b\"\naddress = \"172.18.0.4\"", "address = \"172.18.0.4\"\nname = \"b\""), true},
		{"the order of nodes", network + "[[node]]\nname = \"b\"" + second + "[[node]]" + a, true},
		{"the order of routes", replace(`"10.1.0.0/16", "10.2.0.0/16"`, `"10.2.0.0/16", "10.1.0.0/16"`), true},
		{"defaults, written out", replace("cidr", "port = 8285\nmtu = 0\ncidr"), true},
		{"a port, written out", replace(`"172.18.0.4"`, `"172.18.0.4:8285"`), true},
		{"a list of one", replace(`"10.244.0.0/16"`, `["10.244.0.0/16"]`), true},

		{"a list of one address", replace(`"172.18.0.4"`, `["172.18.0.4"]`), true},
		{"a metric, written out",
			replace(`"10.1.0.0/16"`, `{ prefix = "10.1.0.0/16", metric = 100 }`), true},

		{"a further address", replace(`"172.18.0.4"`, `["172.18.0.4", "172.18.0.5"]`), false},
		{"a host name", replace(`"172.18.0.4"`, `"b.lan"`), false},
		{"a metric", replace(`"10.1.0.0/16"`, `{ prefix = "10.1.0.0/16", metric = 99 }`), false},
		{"the order of subnets",
			replace(`"10.244.1.0/24", "10.244.2.0/24"`, `"10.244.2.0/24", "10.244.1.0/24"`), false},
		{"a name", replace(`"b"`, `"c"`), false},
		{"an address", replace("172.18.0.4", "172.18.0.5"), false},
		{"a port", replace(`"172.18.0.4"`, `"172.18.0.4:8286"`), false},
		{"a subnet fewer", replace(`, "10.244.2.0/24"`, ""), false},
		{"a subnet's length", replace("10.244.3.0/24", "10.244.3.0/25"), false},
		{"a route that is a subnet's neighbour", replace("10.2.0.0/16", "10.3.0.0/16"), false},
		{"the MTU", replace("cidr", "mtu = 1400\ncidr"), false},
		{"the interval of probes", replace("[network]", "probe = {interval = \"2s\"}\n[network]"), false},
		{"a file for containers", replace("[network]", "container = {subnet_env = \"\"}\n[network]"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			want, err := Parse("mesh.toml", []byte(meant))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse("mesh.toml", []byte(test.doc))
			if err != nil {
				t.Fatal(err)
			}
			if (got.Meaning == want.Meaning) != test.same {
				t.Errorf("%x and %x, the same: %v", got.Meaning, want.Meaning, test.same)
			}
		})
	}
}

// The order of addresses and the metrics count, and so does which route has which metric.
func TestMeaningOfAddressesAndMetrics(t *testing.T) {
	of := func(address, routes string) Meaning {
		doc := "[network]\ncidr = '10.244.0.0/16'\n[[node]]\nname = 'a'\nsubnets = ['10.244.1.0/24']\n" +
			"address = " + address + "\nroutes = " + routes + "\n"
		c, err := Parse("mesh.toml", []byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		return c.Meaning
	}
	all := map[Meaning]string{}
	for _, test := range [][2]string{
		{"['10.0.0.1', '10.0.0.2']", "[]"}, {"['10.0.0.2', '10.0.0.1']", "[]"}, {"'10.0.0.1'", "[]"},
		{"['10.0.0.1', 'a.lan']", "[]"}, {"['a.lan', '10.0.0.1']", "[]"}, {"'a.lan'", "[]"}, {"'a.lan:9'", "[]"},
		{"'b.lan'", "[]"}, {"'a.lan'", "['10.1.0.0/16', '10.2.0.0/16']"},
		{"'a.lan'", "[{ prefix = '10.1.0.0/16', metric = 5 }, '10.2.0.0/16']"},
		{"'a.lan'", "['10.1.0.0/16', { prefix = '10.2.0.0/16', metric = 5 }]"},
	} {
		name := test[0] + " " + test[1]
		if other, taken := all[of(test[0], test[1])]; taken {
			t.Errorf("%s means the same as %s", name, other)
		}
		all[of(test[0], test[1])] = name
	}
	swapped := "[{ prefix = '10.2.0.0/16', metric = 5 }, { prefix = '10.1.0.0/16', metric = 7 }]"
	sorted := "[{ prefix = '10.1.0.0/16', metric = 7 }, { prefix = '10.2.0.0/16', metric = 5 }]"
	if of("'a.lan'", swapped) != of("'a.lan'", sorted) {
		t.Error("the order of routes with metrics counts")
	}
}

// Hosts of a mesh are upgraded one by one: a file that an earlier version knows keeps its meaning.
func TestMeaningStays(t *testing.T) {
	c, err := Parse("mesh.toml", []byte(meant))
	if err != nil {
		t.Fatal(err)
	}
	const before = "9c7ebf3f788a68ec97fb24721d30760c6b13399e87d1436736863849e7b9bd75"
	if got := hex.EncodeToString(c.Meaning[:]); got != before {
		t.Errorf("%s, want %s", got, before)
	}
}

// A table that is added to Config has to be added to its meaning.
func TestMeaningHasEveryTable(t *testing.T) {
	const tables = 9 // besides Path, Sum, Meaning, Nodes, shut, doc and edit
	if n := reflect.TypeFor[Config]().NumField(); n != tables+7 {
		t.Errorf("Config has %d fields: does meaningOf know all of them?", n)
	}
}
