package survey

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/wireguard"
)

// A key that appears, and one that is exchanged, are news until a look at the host has seen them.
func TestKeysTellOfChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private.key")
	doc := strings.NewReplacer("KEYA", wgtypes.Key{1}.String(), "KEYB", wgtypes.Key{2}.String(), "PATH",
		path).Replace(sealed)
	c, told := plantest.Parse(t, doc), 0
	k := NewKeys(func() { told++ })
	second := time.Unix(1e9, 0)
	after := func(what string, want int) {
		t.Helper()
		second = second.Add(time.Hour)
		if k.Look(second); told != want {
			t.Errorf("%s: told %d times, want %d", what, told, want)
		}
		told = 0
	}
	seen := func() {
		own, err := ownKey(c)
		k.read(c, own, err)
	}
	after("before any look", 0)
	seen()
	after("no key", 0)
	make := func(path string) {
		if _, err := wireguard.MakeKey(path); err != nil {
			t.Fatal(err)
		}
	}
	make(path)
	after("a key appears", 1)
	after("it was not seen", 1)
	seen()
	after("it was seen", 0)
	make(wireguard.NextPath(path))
	after("a next key", 0)
	if _, err := wireguard.ActivateKey(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	after("activated", 1)
	seen()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	after("gone", 0) // the one in force stays
	make(path)
	after("another one", 1)
	k.read(plantest.Parse(t, named), plan.OwnKey{}, nil)
	after("a file without keys", 0)
}

// The next key in the place of a public one is found before it is of use.
func TestExposedNextKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private.key")
	for _, at := range []string{path, wireguard.NextPath(path)} {
		if _, err := wireguard.MakeKey(at); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(wireguard.NextPath(path))
	if err != nil {
		t.Fatal(err)
	}
	private := strings.TrimSpace(string(text))
	keys := wgtypes.Key{2}.String() + "\"\nnext_public_key = \"" + private
	doc := strings.NewReplacer("KEYA", wgtypes.Key{1}.String(), "KEYB", keys, "PATH", path).Replace(sealed)
	own, err := ownKey(plantest.Parse(t, doc))
	if err != nil || own.KeyExposed.String() != private || own.KeyRemedy == "" {
		t.Errorf("%v, %v", own.KeyExposed.IsValid(), err)
	}
}
