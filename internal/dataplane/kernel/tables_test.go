package kernel

import (
	"net/netip"
	"testing"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// A node that takes another's place in one change inherits nothing: not what was counted, and
// not, for a moment, its packets. What was counted for who is gone stays in the totals.
func TestNumbersAreNotInherited(t *testing.T) {
	nstest.Require(t)
	m := meshOver(false)
	p := programsOf(t, m)
	p.lie(t, m)
	before := p.tables.numbers["b"]
	m.Peers = append([]mesh.Peer{}, m.Peers...)
	m.Peers[1] = mesh.Peer{Name: "d", Addresses: []mesh.Endpoint{endpoint("172.18.0.7:8285")},
		Subnets: m.Peers[1].Subnets}
	if err := p.set(m); err != nil {
		t.Fatal(err)
	}
	if n := p.tables.numbers["d"]; n == before {
		t.Errorf("d has number %d, which was b's until now", n)
	}
	c := p.counters(t)
	if c.Peers["d"] != (mesh.Traffic{}) || c.Totals.Drops[mesh.SpoofedSource] != 1 {
		t.Errorf("%+v", c)
	}
	// Later somebody may have it: numbers are few.
	m.Peers = append(m.Peers, mesh.Peer{Name: "e", Addresses: []mesh.Endpoint{endpoint("172.18.0.8:8285")},
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.8.0/24")}})
	if err := p.set(m); err != nil || p.tables.numbers["e"] != before {
		t.Errorf("%v, numbers %v", err, p.tables.numbers)
	}
	if c := p.counters(t); c.Peers["e"] != (mesh.Traffic{}) {
		t.Errorf("%+v", c.Peers["e"])
	}
}
