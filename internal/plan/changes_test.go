package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/link"
)

// planned returns the plan of the first node of a file.
func planned(t *testing.T, extra, deafAddress string) *plan {
	t.Helper()
	p, err := makePlan(load(t, extra, deafAddress), 0, surroundings{local: addrs("172.18.0.2"), underlay: link.Underlay{MTU: 1500}, cpus: 2})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestChanges(t *testing.T) {
	base := planned(t, "", "172.18.0.4")
	if got := changes(base, planned(t, "", "172.18.0.4")); len(got) != 0 {
		t.Errorf("nothing changed, but %q", got)
	}
	for want, next := range map[string]*plan{
		"~ mtu 1472 -> 1400":     planned(t, "mtu = 1400", "172.18.0.4"),
		"~ interface mesh0 -> x": planned(t, `interface = "x"`, "172.18.0.4"),
	} {
		if got := changes(base, next); !slices.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		back := strings.Fields(want)
		last := len(back) - 1
		back[last], back[last-2] = back[last-2], back[last]
		if got := changes(next, base); !slices.Contains(got, strings.Join(back, " ")) {
			t.Errorf("back: %q, want %q", got, back)
		}
	}
	moved := changes(base, planned(t, "", "172.18.0.9"))
	if len(moved) != 1 || !strings.HasPrefix(moved[0], "~ peer ") || !strings.HasSuffix(moved[0], " address 172.18.0.4:8285 -> 172.18.0.9:8285") {
		t.Errorf("a peer moved: %q", moved)
	}

	fewer := *base
	fewer.mesh.Peers = base.mesh.Peers[:2]
	gone := base.mesh.Peers[2]
	if got := changes(base, &fewer); !slices.Equal(got, []string{"- peer " + gone.Name + " " + list(gone.Subnets)}) {
		t.Errorf("a peer left: %q", got)
	}
	if got := changes(&fewer, base); len(got) != 1 || !strings.HasPrefix(got[0], "+ peer "+gone.Name+" ") {
		t.Errorf("a peer came: %q", got)
	}
	bare := *base
	bare.masq, bare.forward = nil, nil
	if got := changes(base, &bare); !slices.Equal(got, []string{"- masquerade rules", "- accept rules for forwarded packets"}) {
		t.Errorf("rules left: %q", got)
	}
	if got := changes(&bare, base); !slices.Equal(got, []string{"+ masquerade rules", "+ accept rules for forwarded packets"}) {
		t.Errorf("rules came: %q", got)
	}
}

func TestFirstChanges(t *testing.T) {
	all := []string{"+ a", "+ b", "+ c"}
	for n, want := range map[int][]string{2: {"+ a", "+ b", "and 1 more"}, 3: all, 4: all} {
		if got := first(n, all); !slices.Equal(got, want) {
			t.Errorf("first %d: %q, want %q", n, got, want)
		}
	}
	if all[2] != "+ c" {
		t.Error("the list itself was changed")
	}
}

// BenchmarkReload10000 is what a reload costs besides the engine and the kernel,
// where one node of 10,000 changed.
func BenchmarkReload10000(b *testing.B) {
	var doc strings.Builder
	doc.WriteString("[network]\ncidr = \"10.0.0.0/8\"\n")
	for i := range 10000 {
		fmt.Fprintf(&doc, "[[node]]\nname = \"n%d\"\naddress = \"172.18.%d.%d\"\nsubnets = [\"10.%d.%d.0/24\"]\n", i, i/250, i%250+1, i/250, i%250)
	}
	files := [2][]byte{[]byte(doc.String()), []byte(strings.Replace(doc.String(), `"n77"`, `"m77"`, 1))}
	var old *plan
	for i := 0; b.Loop(); i++ {
		c, err := config.Parse("mesh.toml", files[i%2])
		if err != nil {
			b.Fatal(err)
		}
		next, err := makePlan(c, 0, surroundings{local: addrs("172.18.0.1"), underlay: link.Underlay{MTU: 1500}, cpus: 2})
		if err != nil {
			b.Fatal(err)
		}
		if old != nil && len(changes(old, next)) != 2 {
			b.Fatal(changes(old, next))
		}
		old = next
	}
}
