package config

import (
	"fmt"
	"strings"
	"testing"

	"example.org/meshd/internal/mesh"
)

// someKeys are public keys, of which nobody has the private ones any more.
var someKeys = []string{"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
	"HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
	"gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="}

// keyOf returns one of someKeys.
func keyOf(t *testing.T, n int) mesh.Key {
	t.Helper()
	k, err := mesh.ParseKey(someKeys[n])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sealed is a file with encryption, three nodes of which call in, one by the second.
var sealed = fmt.Sprintf(`[network]
cidr = "10.0.0.0/8"
transport = "wireguard"

[[node]]
name = "a"
address = "172.18.0.1"
subnets = ["10.1.0.0/24"]
public_key = "%s"
[[node]]
name = "b"
subnets = ["10.2.0.0/24"]
public_key = "%s"
endpoint = "203.0.113.7:51821"

# the last
[[node]]
name = "c"
subnets = ["10.3.0.0/24"]
routes = ["192.168.1.0/24"]
public_key = "%s"
via = "b"
`, someKeys[0], someKeys[1], someKeys[2])

// An edit of keys, endpoints and ways leads to what parsing the whole file leads to.
func TestParseAfterOfKeys(t *testing.T) {
	for _, test := range []struct {
		name, old, new string
		fast           bool
	}{
		{"key", someKeys[1], someKeys[3], true},
		{"key taken", someKeys[1], someKeys[0], false},
		{"next key", "endpoint", fmt.Sprintf("next_public_key = %q\nendpoint", someKeys[3]), true},
		{"next key taken", "endpoint", fmt.Sprintf("next_public_key = %q\nendpoint", someKeys[0]), false},
		{"next key its own", "endpoint", fmt.Sprintf("next_public_key = %q\nendpoint", someKeys[1]), false},
		{"key goes", fmt.Sprintf("public_key = %q\nendpoint", someKeys[1]), "endpoint", false},
		{"endpoint", "203.0.113.7:51821", "router.lan:9", true},
		{"endpoint taken", "203.0.113.7:51821", "172.18.0.1:51820", false},
		{"endpoint of another port", "203.0.113.7:51821", "172.18.0.1:51821", true},
		{"endpoint inside the mesh", "203.0.113.7:51821", "10.9.0.1", true}, // no subnet has it
		{"endpoint inside a subnet", "203.0.113.7:51821", "10.3.0.9", false},
		{"endpoint inside a route", "203.0.113.7:51821", "192.168.1.9", false},
		{"route around the endpoint of another", "192.168.1.0/24", "203.0.113.0/24", false},
		{"endpoint goes: who uses it as via is lost", "endpoint = \"203.0.113.7:51821\"\n", "", false},
		{"address for an endpoint", "endpoint = \"203.0.113.7:51821\"", "address = \"203.0.113.7\"", true},
		{"address with the port of WireGuard", "endpoint = \"203.0.113.7:51821\"",
			"address = \"203.0.113.7:51820\"", false},
		{"address taken by an endpoint", `"172.18.0.1"`, `"203.0.113.7"`, true},
		{"via", `via = "b"`, `via = "a"`, true},
		{"via goes", `via = "b"`, ``, true},
		{"via is unknown", `via = "b"`, `via = "d"`, false},
		{"via is the node itself", `via = "b"`, `via = "c"`, false},
		{"name of a via", `name = "b"`, `name = "bb"`, false},
		{"cycle", "endpoint", "via = \"c\"\nendpoint", false},
		{"transport", "wireguard", "udp", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			old, err := Parse("x", []byte(sealed))
			if err != nil {
				t.Fatal(err)
			}
			doc := strings.Replace(sealed, test.old, test.new, 1)
			next := sameParse(t, old, doc)
			if fast := old.edited("x", doc) != nil; fast != test.fast {
				t.Errorf("fast: %t", fast)
			}
			if next != nil {
				sameParse(t, next, sealed)
			}
		})
	}
}

// Keys, endpoints and ways mean something; keys that all are there mean the same in each order of nodes.
func TestMeaningOfKeys(t *testing.T) {
	all := map[Meaning]string{}
	for _, test := range [][2]string{
		{"", ""}, {someKeys[1], someKeys[3]}, {"203.0.113.7:51821", "203.0.113.7:51822"},
		{"endpoint", fmt.Sprintf("next_public_key = %q\nendpoint", someKeys[3])},
		{"203.0.113.7:51821", "router.lan:51821"}, {`via = "b"`, `via = "a"`}, {`via = "b"`, ``},
		{"[network]", "[wireguard]\nport = 7\n[network]"},
		{"[network]", "[wireguard]\nprivate_key = '/k'\n[network]"},
	} {
		c, err := Parse("x", []byte(strings.Replace(sealed, test[0], test[1], 1)))
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := all[c.Meaning]; taken {
			t.Errorf("%q means the same as %q", test[1], other)
		}
		all[c.Meaning] = test[1]
	}
}

// Wherever somebody pastes a private key, no fault and no warning repeats it, whatever else is wrong.
func TestKeysStayHidden(t *testing.T) {
	const key = "/UMdSWEvHdiIlXnYvC0n7YgIhy3ZqjEWzC6fXo5nNlQ="
	hex := strings.Repeat("0123456789abcdef", 4)
	said := 0
	for _, form := range []string{"%s", "%q", "= %q", "x = %s", "private_key = %s\n", "private_key = %q\n",
		"\n%s\n",
		"[%s]", "[[%s]]", "PrivateKey = %s", "'%s", "\"%s", "[[node]]\n%s = 7\n"} {
		for _, secret := range []string{key, key[1:], key[:43], key[:42], hex} {
			text := fmt.Sprintf(form, secret)
			for _, doc := range []string{sound, sealed} {
				for at := 0; at < len(doc); at += 3 {
					c, err := Parse("x", []byte(doc[:at]+text+doc[at:]))
					var all string
					if err != nil {
						all = err.Error()
						said++
					} else {
						all = fmt.Sprint(c.Warnings())
					}
					if strings.Contains(strings.ToLower(all), strings.ToLower(secret[2:30])) {
						t.Fatalf("%q at %d: %s", text, at, all)
					}
				}
			}
		}
	}
	if said == 0 {
		t.Error("nothing was wrong")
	}
}
