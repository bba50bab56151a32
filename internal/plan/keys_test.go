package plan

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
)

// keys are public keys of nodes a, b and c, and one that no node has.
var keys = [4]mesh.Key{{1}, {2}, {3}, {4}}

// sealed is a mesh in which node c calls the others.
var sealed = `[network]
cidr = "10.244.0.0/16"
transport = "wireguard"
[[node]]
name = "a"
address = "172.18.0.2"
subnets = ["10.244.1.0/24"]
public_key = "` + keys[0].String() + `"
[[node]]
name = "b"
address = ["172.18.0.3", "b.lan"]
subnets = ["10.244.2.0/24"]
public_key = "` + keys[1].String() + `"
[[node]]
name = "c"
subnets = ["10.244.3.0/24"]
public_key = "` + keys[2].String() + `"
`

// bare is the same mesh without encryption.
var bare = strings.NewReplacer(`"wireguard"`, `"udp"`,
	`name = "c"`, "name = \"c\"\naddress = \"172.18.0.4\"").Replace(sealed)

// The key says which node this is where no address does, and never against one.
func TestIdentifyByKey(t *testing.T) {
	highest := keys[2]
	highest[31] |= 0x80 // the same key for X25519
	names := map[string]Name{"b.lan": {Addrs: addrs("192.0.2.9")}}
	for _, test := range []struct {
		name  string
		doc   string
		node  string
		local []netip.Addr
		own   mesh.Key
		want  int
		err   error
	}{
		{"by its key alone", sealed, "", nil, keys[2], 2, nil},
		{"by its key with the highest bit", sealed, "", nil, highest, 2, nil},
		{"by its key, at an address that no node has", sealed, "", addrs("192.0.2.1"), keys[0], 0, nil},
		{"by its address and its key", sealed, "", addrs("172.18.0.3"), keys[1], 1, nil},
		{"by its address, without a key", sealed, "", addrs("172.18.0.3"), mesh.Key{}, 1, nil},
		{"by its address, with a key of no node", sealed, "", addrs("172.18.0.3"), keys[3], 1, nil},
		{"by its name, whatever its key is", sealed, "a", addrs("172.18.0.3"), keys[2], 0, nil},
		{"by its key, though DNS says that it is another", sealed, "", addrs("192.0.2.9"), keys[2], 2, nil},
		{"by DNS, without a key", sealed, "", addrs("192.0.2.9"), mesh.Key{}, 1, nil},
		{"addresses of two nodes and the key of one", sealed, "", addrs("172.18.0.2", "172.18.0.3"), keys[1], 1,
			nil},
		{"addresses of two nodes and the key of a third", sealed, "", addrs("172.18.0.2", "172.18.0.3"), keys[2],
			0, ErrIdentity},
		{"address of one node and key of another", sealed, "", addrs("172.18.0.2"), keys[1], 0, ErrIdentity},
		{"the same without encryption", bare, "", addrs("172.18.0.2"), keys[1], 0, nil},
		{"by its key without encryption", bare, "", addrs("192.0.2.1"), keys[2], 2, nil},
		{"neither", sealed, "", addrs("192.0.2.1"), keys[3], 0, ErrNotHere},
		{"nothing", sealed, "", nil, mesh.Key{}, 0, ErrNotHere},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Expand(parse(t, test.doc), names).Identify(test.node, test.local, test.own)
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("%d, %v, want %d, %v", got, err, test.want, test.err)
			}
			if test.err == ErrIdentity && test.own == keys[1] {
				for _, key := range keys[:2] { // that of the host, and that of the node with its address
					if !strings.Contains(err.Error(), key.String()) {
						t.Errorf("%v does not show %s", err, key)
					}
				}
			}
		})
	}
}

// With encryption, a plan needs the key that the file has for the node. The fault has its place.
func TestKeyFault(t *testing.T) {
	none := errors.New("there is none")
	for _, test := range []struct {
		name string
		doc  string
		own  OwnKey
		line int // of the fault; 0: there is none
		says []string
	}{
		{"its key", sealed, OwnKey{Key: keys[1]}, 0, nil},
		{"no key", sealed, OwnKey{KeyErr: none, KeyRemedy: "make one"}, 13,
			[]string{"b", none.Error(), "make one"}},
		{"another key", sealed, OwnKey{Key: keys[3]}, 13, []string{keys[3].String(), keys[1].String()}},
		{"the next key is listed", sealed, OwnKey{Key: keys[3], KeyNext: keys[1], KeyBefore: keys[0]}, 13,
			[]string{keys[3].String(), "`meshd key --activate`"}},
		{"the key before is listed", sealed, OwnKey{Key: keys[3], KeyNext: keys[0], KeyBefore: keys[1]}, 13,
			[]string{keys[3].String(), "mv /etc/meshd/private.key.old /etc/meshd/private.key`"}},
		{"the private key in the file", sealed,
			OwnKey{Key: keys[1], KeyExposed: keys[2], KeyRemedy: "make a new one"}, 17, []string{"make a new one"}},
		{"no key without encryption", bare, OwnKey{KeyErr: none, KeyRemedy: "make one"}, 0, nil},
		{"another key without encryption", bare, OwnKey{Key: keys[3]}, 0, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := Host{Local: addrs("172.18.0.3"), OwnKey: test.own, CPUs: 1}
			host.Underlay.MTU = 1500
			_, err := Make(parse(t, test.doc), 1, host)
			faults, _ := errors.AsType[config.Faults](err)
			if test.line == 0 && err != nil || test.line > 0 && (len(faults) != 1 || faults[0].Line != test.line) {
				t.Fatalf("%v", err)
			}
			for _, words := range test.says {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%v does not have %q", err, words)
				}
			}
		})
	}
}

// A host without a key that no address identifies waits for no address: a fault of the file on this host.
func TestKeyless(t *testing.T) {
	own := OwnKey{KeyErr: errors.New("there is none"), KeyRemedy: "make one"}
	for _, test := range []struct {
		name     string
		doc      string
		own      OwnKey
		err      error
		identity bool
		command  string // that it names
	}{
		{"no address and no key", sealed, own, ErrNotHere, true, ""},
		{"no address, and a key", sealed, OwnKey{Key: keys[3]}, ErrNotHere, false, ""},
		{"its next key is a node's", sealed, OwnKey{Key: keys[3], KeyNext: keys[2]}, ErrNotHere, false,
			"`meshd key --activate`"},
		{"its key before is a node's", sealed, OwnKey{Key: keys[3], KeyBefore: keys[2]}, ErrNotHere, false,
			"mv /etc/meshd/private.key.old /etc/meshd/private.key`"},
		{"without encryption", bare, own, ErrNotHere, false, ""},
		{"another error", sealed, own, errors.ErrUnsupported, false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := Keyless(parse(t, test.doc), test.own, test.err)
			_, placed := errors.AsType[config.Faults](err)
			if errors.Is(err, ErrIdentity) != test.identity || placed != test.identity ||
				errors.Is(err, test.err) == test.identity || !strings.Contains(err.Error(), test.command) {
				t.Error(err)
			}
		})
	}
}

// A node without an address has a plan: it listens everywhere, and nothing about that is wrong.
func TestPlanWithoutAnAddress(t *testing.T) {
	host := Host{Local: addrs("192.168.1.2"), OwnKey: OwnKey{Key: keys[2]}, CPUs: 1}
	host.Underlay.MTU = 1500
	p, err := Make(parse(t, sealed), 2, host)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Conditions {
		if c.Kind == mesh.AddressElsewhere || c.Kind == mesh.AddressMissing {
			t.Errorf("%+v", c)
		}
	}
	if len(p.Engine.Binds) == 0 || p.Engine.Binds[0].Port() != p.Config.Network.Port {
		t.Errorf("%v", p.Engine.Binds)
	}
	if p.Peer.Key != keys[2] || p.Engine.Mesh.Peers[0].Key != keys[0] {
		t.Error("peers have no keys")
	}
}
