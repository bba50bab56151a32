// Package plantest has a small mesh and its plan, for tests of the rooms that carry plans out. No program
// imports it.
package plantest

import (
	"net/netip"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/plan"
)

// File is a mesh of three nodes; the host of most tests is a.
const File = `
[network]
cidr = ["10.244.0.0/16"]
[[node]]
name = "a"
address = "172.18.0.2"
subnets = ["10.244.1.0/24"]
[[node]]
name = "b"
address = "172.18.0.3"
subnets = ["10.244.2.0/24"]
[[node]]
name = "c"
address = "172.18.0.4"
subnets = ["10.244.3.0/24"]
`

// Parse returns the mesh of a file, which has to be valid.
func Parse(t testing.TB, doc string) *config.Config {
	t.Helper()
	c, err := config.Parse("mesh.toml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Make returns the plan of a file for its first node, on a host with the address of File's a and an underlay
// of 1500 bytes.
func Make(t testing.TB, doc string) *plan.Plan {
	t.Helper()
	p, err := plan.Make(Parse(t, doc), 0, plan.Host{Local: []netip.Addr{netip.MustParseAddr("172.18.0.2")},
		Underlay: link.Underlay{MTU: 1500}, CPUs: 2})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
