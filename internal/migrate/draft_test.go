package migrate

import (
	"slices"
	"strings"
	"testing"
)

// Every node gets a valid name, and none gets another one's.
func TestNodeNames(t *testing.T) {
	for name, test := range map[string]struct{ given, want []string }{
		"as they are":    {[]string{"a", "b.c-1"}, []string{"a", "b.c-1"}},
		"made valid":     {[]string{"Edge_1", "(hall)", "Büro"}, []string{"edge-1", "hall", "b-ro"}},
		"the same twice": {[]string{"a", "a", "a"}, []string{"a", "a-2", "a-3"}},
		"taken already":  {[]string{"a", "a-2", "A"}, []string{"a", "a-2", "a-3"}},
		"none":           {[]string{"", "??"}, []string{"node-1", "node-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			var d Draft
			for i, given := range test.given { // with subnets in the order of the names
				subnet := prefixesOf("10.0." + string(rune('0'+i)) + ".0/24")
				d.Nodes = append(d.Nodes, Node{Name: given, Subnets: subnet})
			}
			d.finish()
			var got []string
			for _, n := range d.Nodes {
				got = append(got, n.Name)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// Nodes stand in the order of their first subnets, those without one at the end.
func TestOrderOfNodes(t *testing.T) {
	d := Draft{Nodes: []Node{
		{Name: "none"},
		{Name: "ten", Subnets: prefixesOf("10.0.10.0/24")},
		{Name: "six", Subnets: prefixesOf("fd00::/64")},
		{Name: "nine", Subnets: prefixesOf("10.0.9.0/24", "10.0.1.0/24")},
	}}
	d.finish()
	var got []string
	for _, n := range d.Nodes {
		got = append(got, n.Name)
	}
	if want := []string{"nine", "ten", "six", "none"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A note is one line, and stands there once.
func TestNotesAreLines(t *testing.T) {
	var d Draft
	for range 2 {
		d.losses.mesh("a %s", "b\n[[node]]\tc\x1b")
	}
	d.finish()
	if len(d.Notes) != 1 {
		t.Fatalf("%q", d.Notes)
	}
	if strings.ContainsAny(d.Notes[0], "\n\t\x1b") {
		t.Errorf("%q", d.Notes[0])
	}
}

// What is missing is marked, key by key.
func TestFillIn(t *testing.T) {
	whole := Draft{From: "x", CIDR: prefixesOf("10.0.0.0/8"),
		Nodes: []Node{{Name: "a", Address: "192.0.2.1", Subnets: prefixesOf("10.0.0.0/24")}}}
	for name, test := range map[string]struct {
		without func(*Draft)
		want    string // the line that is marked
	}{
		"nothing": {func(*Draft) {}, ""},
		"cidr":    {func(d *Draft) { d.CIDR = nil }, "cidr"},
		"address": {func(d *Draft) { d.Nodes[0].Address = "" }, "address"},
		"subnets": {func(d *Draft) { d.Nodes[0].Subnets = nil }, "subnets"},
	} {
		t.Run(name, func(t *testing.T) {
			d := whole
			d.Nodes = slices.Clone(whole.Nodes)
			test.without(&d)
			marked := ""
			for line := range strings.Lines(string(d.TOML())) {
				if strings.Contains(line, "# FILL IN") {
					marked += strings.Fields(line)[0]
				}
			}
			if marked != test.want {
				t.Errorf("marked %q, want %q\n%s", marked, test.want, d.TOML())
			}
		})
	}
}
