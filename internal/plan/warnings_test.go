package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/seal"
	"example.org/meshd/internal/wireguard"
)

// stages are files of one mesh on its way to encryption.
func stages(t *testing.T) (plain, prepared, keyless, sealed *Plan) {
	t.Helper()
	doc := "[network]\ncidr = \"10.244.0.0/16\"\ntransport = \"wireguard\"\n"
	for i := 1; i < 4; i++ {
		doc += fmt.Sprintf("[[node]]\nname = 'n%d'\naddress = '172.18.0.%d'\nsubnets = ['10.244.%[1]d.0/24']\n"+
			"public_key = %[3]q\n", i, i+1, keyAs(byte(i)))
	}
	bare := strings.Replace(doc, "wireguard", "udp", 1)
	var without string
	for _, line := range strings.SplitAfter(bare, "\n") {
		if !strings.HasPrefix(line, "public_key") {
			without += line
		}
	}
	host := here(1500)
	plain, keyless = must(t, parse(t, without), 0, host), must(t, parse(t, bare), 0, host)
	return plain, made(t, parse(t, bare), 0, host), keyless, made(t, parse(t, doc), 0, host)
}

// Keys in the file make a host ready, whose packets leave as before.
func TestPlanPrepared(t *testing.T) {
	plain, prepared, keyless, sealed := stages(t)
	w := prepared.Seal
	if w == nil || !w.Prepared || w.Keepalive != 25*time.Second || len(w.Peers) != 2 ||
		fmt.Sprint(w.Network) != "[10.244.0.0/16]" {
		t.Fatalf("%+v", w)
	}
	if prepared.Engine.Sealed || prepared.Engine.Kernel.Use == dataplane.Never || prepared.Device() != "mesh0" ||
		prepared.ProbePort() == 0 {
		t.Errorf("engine %+v, device %s", prepared.Engine, prepared.Device())
	}
	if prepared.Link.MTU != sealed.Link.MTU || keyless.Link.MTU != sealed.Link.MTU ||
		plain.Link.MTU <= sealed.Link.MTU {
		t.Errorf("MTUs %d, %d, %d, %d", plain.Link.MTU, prepared.Link.MTU, keyless.Link.MTU, sealed.Link.MTU)
	}
	if g := prepared.Rules.Guard; g.Encrypted != wireguard.Interface || len(g.Inner) != 1 ||
		!prepared.Link.Loose || len(prepared.Rules.Masquerade.Links) != 2 {
		t.Errorf("guard %+v, links %v", g, prepared.Rules.Masquerade.Links)
	}
	if keyless.Seal != nil || !mesh.Has(keyless.Conditions, mesh.NotPrepared) ||
		mesh.Has(prepared.Conditions, mesh.NotPrepared) || mesh.Has(plain.Conditions, mesh.NotPrepared) {
		t.Errorf("without a key: %+v", keyless.Conditions)
	}
}

// A plan says what it costs before it is in force.
func TestWarnings(t *testing.T) {
	plain, prepared, keyless, sealed := stages(t)
	now := time.Unix(1e9, 0)
	told := seal.Told{Peers: map[string]seal.PeerTold{"n2": {Handshake: now}, "n3": {}}}
	for _, test := range []struct {
		name      string
		old, next *Plan
		want      []string
	}{
		{"nothing", plain, plain, nil},
		{"the keys", plain, prepared, nil},
		{"the keys, and none here", plain, keyless, []string{"not_prepared "}},
		{"the switch", prepared, sealed, []string{"not_ready n3"}},
		{"the switch at once", plain, sealed, []string{"switch_costs "}},
		{"the switch without a key", keyless, sealed, []string{"switch_costs "}},
		{"the way back", sealed, prepared, []string{"switch_costs "}},
		{"an edit later", sealed, sealed, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, c := range Warnings(test.old, test.next, told, now) {
				got = append(got, string(c.Kind)+" "+c.Peer)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
