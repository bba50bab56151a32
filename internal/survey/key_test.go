package survey

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/rules"
	"example.org/meshd/internal/wireguard"
)

// sealed is a mesh of which node b calls the others. KEYA and KEYB stand for the public keys, PATH for the
// private one.
const sealed = `
[network]
cidr = "10.244.0.0/16"
transport = "wireguard"
[wireguard]
private_key = "PATH"
[[node]]
name = "a"
address = "172.18.0.2"
subnets = ["10.244.1.0/24"]
public_key = "KEYA"
[[node]]
name = "b"
subnets = ["10.244.2.0/24"]
public_key = "KEYB"
`

// A look at a host finds its key, knows the node by it, and says what is wrong with it.
func TestLookReadsTheKey(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	path := filepath.Join(t.TempDir(), "private.key")
	key, err := wireguard.MakeKey(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	private, public, a := strings.TrimSpace(string(text)), key.Public().String(), other.PublicKey().String()
	file := func(b, path string) string {
		return strings.NewReplacer("KEYA", a, "KEYB", b, "PATH", path).Replace(sealed)
	}
	udp := strings.NewReplacer(`"wireguard"`, `"udp"`, `name = "b"`, "name = \"b\"\naddress = \"192.0.2.7\"")
	for _, test := range []struct {
		name string
		doc  string
		look error // of Look
		own  error // KeyErr
	}{
		{"its key is b's", file(public, path), nil, nil},
		{"its key is no node's", file(wgtypes.Key{1}.String(), path), plan.ErrNotHere, nil},
		{"no key", file(public, path+"x"), plan.ErrIdentity, wireguard.ErrNoKey},
		{"no key without encryption", udp.Replace(file(public, path+"x")), nil, wireguard.ErrNoKey},
		{"its private key is in the file", udp.Replace(file(private, path)), nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				if err := n.IP("link add u type veth peer name v", "link set v up", "link set u up",
					"addr add 192.0.2.7/24 dev u", "route add default via 192.0.2.1"); err != nil {
					t.Error(err)
					return
				}
				c := plantest.Parse(t, test.doc)
				view := Viewer{State: t.TempDir(), Others: rules.NewOthers(slog.New(slog.DiscardHandler))}
				self, host, err := view.Look(c)
				if !errors.Is(err, test.look) || !errors.Is(host.KeyErr, test.own) {
					t.Errorf("%v, %v", err, host.KeyErr)
				}
				if (host.KeyErr == nil && !host.KeyExposed.IsValid()) != (host.KeyRemedy == "") {
					t.Errorf("remedy %q of %v", host.KeyRemedy, host.KeyErr)
				}
				if host.KeyExposed.IsValid() != strings.Contains(test.doc, private) {
					t.Errorf("exposed as %q", host.KeyExposed)
				}
				if err != nil || test.look != nil {
					return
				}
				if _, err := plan.Make(c, self, host); self != 1 || err != nil {
					t.Errorf("node %d, %v", self, err)
				}
			})
		})
	}
}

// A file without keys does not need one, and no disk is read for it.
func TestNoKeyWithoutKeys(t *testing.T) {
	own, err := ownKey(plantest.Parse(t, named))
	if err != nil || own != (plan.OwnKey{}) {
		t.Errorf("%+v, %v", own, err)
	}
	if key := OwnKey(plantest.Parse(t, named)); key.IsValid() {
		t.Error(key)
	}
}

// The private key in the place of a public one is a fault at its place that does not repeat it.
func TestExposedKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private.key")
	if _, err := wireguard.MakeKey(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	private := strings.TrimSpace(string(text))
	values := strings.NewReplacer("KEYA", wgtypes.Key{1}.String(), "KEYB", private, "PATH", path)
	c := plantest.Parse(t, values.Replace(sealed))
	own, err := ownKey(c)
	if err != nil || own.KeyExposed.String() != private {
		t.Fatalf("%+v, %v", own, err)
	}
	faults, _ := errors.AsType[config.Faults](plan.KeyFault(c, 0, own))
	if len(faults) != 1 || faults[0].Line != 15 || strings.Contains(faults.Error(), private) {
		t.Errorf("%v", faults)
	}
}

// Where the file lists another key than the host has, the host looks for it among those that stand beside.
func TestKeysAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private.key")
	var all [3]mesh.Key // before, in use, next
	for i := range all {
		key, err := wireguard.MakeKey(wireguard.NextPath(path))
		if err != nil {
			t.Fatal(err)
		}
		if all[i] = key.Public(); i < 2 {
			if _, err := wireguard.ActivateKey(t.Context(), path); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		listed mesh.Key
		want   plan.OwnKey
	}{
		{all[0], plan.OwnKey{Key: all[1], KeyBefore: all[0], KeyNext: all[2]}},
		{all[1], plan.OwnKey{Key: all[1]}},
		{all[2], plan.OwnKey{Key: all[1], KeyBefore: all[0], KeyNext: all[2]}},
	} {
		values := strings.NewReplacer("KEYA", wgtypes.Key{1}.String(), "KEYB", test.listed.String(), "PATH", path)
		if own, err := ownKey(plantest.Parse(t, values.Replace(sealed))); err != nil || own != test.want {
			t.Errorf("%+v, %v, want %+v", own, err, test.want)
		}
	}
}
