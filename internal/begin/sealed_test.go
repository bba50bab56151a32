package begin

import (
	"net/netip"
	"testing"

	"example.org/meshd/internal/lastgood"
)

// Once packets of a host travel encrypted, a last good file that would have them travel bare lets none pass.
func TestLastGoodOfSealedHost(t *testing.T) {
	inside := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	w := at(t, "nonsense", "")
	must(t, lastgood.Write(w.State, lastgood.File{Path: w.Path, Text: good, Since: since, Sealed: inside}))
	f, err := w.load(t)
	must(t, err)
	if !f.Config.IsShut() || !f.Config.Sealed() || len(f.Config.Nodes) != 1 {
		t.Errorf("runs %+v", f.Config)
	}
	must(t, lastgood.Write(w.State, lastgood.File{Path: w.Path, Text: good, Since: since}))
	if f, err = w.load(t); err != nil || f.Config.IsShut() || f.Config.Sealed() {
		t.Errorf("a host that was never sealed: %+v, %v", f.Config, err)
	}
}
