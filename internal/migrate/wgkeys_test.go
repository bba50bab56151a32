package migrate

import (
	"fmt"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
)

// publicOf returns the public key of a further host.
func publicOf(i int) string {
	return fmt.Sprintf("jSD4x7v7mvPaTvUy7UTvxozmQrxdDFyx17kblsdO3%cI=", 'a'+i)
}

// What wg-quick knows of ports and places becomes wireguard.port, addresses, endpoints and nodes that call
// in; the draft is a valid file wherever nothing is marked.
func TestPlacesOfHosts(t *testing.T) {
	const own = "[Interface]\nAddress = 10.8.0.1/24\nPrivateKey = " + keyA + "\n"
	peer := func(i int, rest string) string {
		return fmt.Sprintf("[Peer]\nPublicKey = %s\nAllowedIPs = 10.8.0.%d\n%s\n", publicOf(i), i+10, rest)
	}
	for _, test := range []struct {
		name, doc string
		port      int
		places    []string // of each node: address, endpoint, via, or FILL IN
	}{
		{"one port", own + "ListenPort = 51820\n" + peer(0, "Endpoint = 192.0.2.1:51820"), 51820,
			[]string{"FILL IN", "192.0.2.1"}},
		{"another port", own + peer(0, "Endpoint = 192.0.2.1:4500") + peer(1, "Endpoint = 192.0.2.2:4500"), 4500,
			[]string{"", "192.0.2.1", "192.0.2.2"}},
		{"a port of its own", own + peer(0, "Endpoint = 192.0.2.1:4500") + peer(1, "Endpoint = 192.0.2.2:4500") +
			peer(2, "Endpoint = 192.0.2.3:99"), 4500,
			[]string{"", "192.0.2.1", "192.0.2.2", "192.0.2.3 192.0.2.3:99"}},
		{"behind one router", own + peer(0, "Endpoint = R.example.org:51820") +
			peer(1, "Endpoint = r.example.org:51821"), 51820,
			[]string{"", "r.example.org:51820", "r.example.org:51821"}},
		{"behind one router, of IPv6", own + peer(0, "Endpoint = [2001:db8::1]:51820") +
			peer(1, "Endpoint = [2001:db8::1]:51821"), 51820,
			[]string{"", "[2001:db8::1]:51820", "[2001:db8::1]:51821"}},
		{"no endpoint: by the one hub", own + peer(0, "Endpoint = 192.0.2.1:51820") + peer(1, "") + peer(2, ""),
			51820, []string{"via hub", "192.0.2.1", "via hub", "via hub"}},
		{"no endpoint, and two hubs", own + peer(0, "Endpoint = 192.0.2.1:51820") +
			peer(1, "Endpoint = 192.0.2.2:51820") + peer(2, ""), 51820, []string{"", "192.0.2.1", "192.0.2.2", ""}},
		{"the port of meshd", own + peer(0, "Endpoint = 192.0.2.1:8285"), 51820,
			[]string{"", "192.0.2.1 192.0.2.1:8285"}},
		{"no port", own + peer(0, "Endpoint = 192.0.2.1:0"), 51820, []string{"", "192.0.2.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := wgDraft(t, "wg0.conf", strings.Replace(test.doc, "[Peer]", "[Peer] # hub", 1))
			if d.WGPort != test.port || len(d.Nodes) != len(test.places) {
				t.Fatalf("port %d, %+v", d.WGPort, d.Nodes)
			}
			for i, n := range d.Nodes {
				got := strings.TrimSpace(n.Address + " " + n.Endpoint)
				switch {
				case n.Via != "":
					got = strings.TrimSpace(got + " via " + n.Via)
				case got == "" && !n.CallsIn:
					got = "FILL IN"
				}
				if got != test.places[i] {
					t.Errorf("node %s is at %q, want %q", n.Name, got, test.places[i])
				}
			}
			_, err := config.Parse("mesh.toml", d.TOML())
			if marked := strings.Contains(string(d.TOML()), "FILL IN"); marked != (err != nil) {
				t.Errorf("%v in\n%s", err, d.TOML())
			}
		})
	}
}

// A key that is none is asked for.
func TestKeysOfHosts(t *testing.T) {
	for _, test := range []struct {
		name, key string
		kept      bool
	}{
		{"a key", publicB, true},
		{"no base64", "none", false},
		{"zeros", strings.Repeat("A", 43) + "=", false},
		{"33 bytes", publicB[:43] + "A", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := wgDraft(t, "wg0.conf", "[Interface]\nAddress = 10.8.0.1/24\nPrivateKey = "+keyA+"\n[Peer]\n"+
				"PublicKey = "+test.key+"\nAllowedIPs = 10.8.0.2\nEndpoint = 192.0.2.1:51820\n")
			if got := d.Nodes[1].PublicKey; got == test.key != test.kept {
				t.Errorf("%q", got)
			}
			if marked := strings.Contains(string(d.TOML()), "public_key = \"\" # FILL IN"); marked == test.kept {
				t.Errorf("%s", d.TOML())
			}
		})
	}
}
