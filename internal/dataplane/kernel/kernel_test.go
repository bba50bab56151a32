package kernel

import (
	"net/netip"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/nstest"
)

func TestLoad(t *testing.T) {
	nstest.Require(t)
	p, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	m := dataplane.Mesh{Self: "a", Peers: []dataplane.Peer{
		{Name: "a", Underlay: netip.MustParseAddrPort("172.18.0.2:8285"), Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")}},
		{Name: "b", Underlay: netip.MustParseAddrPort("172.18.0.3:8285"), Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}},
	}}
	if err := p.SetMesh(m); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Counters(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Handed(); err != nil {
		t.Fatal(err)
	}
}
