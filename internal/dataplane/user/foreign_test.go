package user

import (
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
)

// A packet whose source is not behind this node ends here, whoever it is for, and nothing is
// answered: its receiver would take it for a lie of this host.
func TestForeignSource(t *testing.T) {
	for _, test := range []struct {
		name   string
		packet []byte
		drop   string // empty: sent
	}{
		{"a pod", udp4("10.244.0.2", "10.244.1.2", 63, 0), ""},
		{"the TUN itself", udp4("10.244.0.0", "10.244.1.2", 63, 0), ""},
		{"a further subnet", udp4("10.244.8.2", "10.244.1.2", 63, 0), ""},
		{"a route", udp4("172.31.0.2", "10.244.1.2", 63, 0), ""},
		{"a further IPv6 subnet", udp6("fd00:0:0:f::2", "fd00:0:0:b::2", 63), ""},
		{"the outside", udp4("8.8.8.8", "10.244.1.2", 63, 0), "foreign_source"},
		{"no address", udp4("0.0.0.0", "10.244.1.2", 63, 0), "foreign_source"},
		{"the underlay", udp4("172.18.0.2", "10.244.1.2", 63, 0), "foreign_source"},
		{"another node's pod", udp4("10.244.2.2", "10.244.1.2", 63, 0), "foreign_source"},
		{"another node's TUN", udp4("10.244.2.0", "10.244.1.2", 63, 0), "foreign_source"},
		{"the receiver's own pod", udp4("10.244.1.3", "10.244.1.2", 63, 0), "foreign_source"},
		{"another node's route", udp4("192.168.1.1", "10.244.1.2", 63, 0), "foreign_source"},
		{"a longer route of another node", udp4("172.31.7.2", "10.244.1.2", 63, 0), "foreign_source"},
		{"nobody's subnet", udp4("10.244.9.2", "10.244.1.2", 63, 0), "foreign_source"},
		{"to nobody", udp4("8.8.8.8", "10.244.9.2", 63, 0), "foreign_source"},
		{"to ourselves", udp4("8.8.8.8", "10.244.0.2", 63, 0), "foreign_source"},
		{"expired", udp4("10.244.2.2", "10.244.1.2", 1, 0), "foreign_source"},
		{"an IPv6 pod of another node", udp6("fd00:0:0:b::2", "fd00:0:0:b::3", 63), "foreign_source"},
		{"an IPv6 address of the outside", udp6("2001:db8::1", "fd00:0:0:b::2", 63), "foreign_source"},
		{"no IPv6 address", udp6("::", "fd00:0:0:b::2", 63), "foreign_source"},
		{"an address of the link", udp6("fe80::1", "fd00:0:0:b::2", 63), "foreign_source"},
		{"a mapped pod", udp6("::ffff:10.244.0.2", "fd00:0:0:b::2", 63), "foreign_source"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, m := newRig(t), threeNodes()
			m.Peers[0].Subnets = append(m.Peers[0].Subnets, prefixes("10.244.8.0/24", "fd00:0:0:f::/64")...)
			m.Peers[0].Routes = prefixes("172.31.0.0/16")
			m.Peers[2].Routes = append(m.Peers[2].Routes, prefixes("172.31.7.0/24")...)
			if err := r.setMesh(m); err != nil {
				t.Fatal(err)
			}
			r.send(test.packet)
			c := r.Read()
			if got := strings.Join(drops(c.Totals), " "); got != test.drop {
				t.Errorf("drops %q, want %q", got, test.drop)
			}
			if sent := test.drop == ""; sent != (len(r.wire.sent) == 1) || len(r.tun.written) != 0 {
				t.Errorf("%d sent, %d answered", len(r.wire.sent), len(r.tun.written))
			}
			for name, peer := range c.Peers {
				if len(drops(peer)) != 0 {
					t.Errorf("counted against %s", name)
				}
			}
		})
	}
}

// What a peer sent to an address of this node that nothing on this host has comes back from the kernel, by
// the route into the mesh. Its sender is told, as a pod of this host would be.
func TestReturnedToTheTUN(t *testing.T) {
	for _, test := range []struct {
		name   string
		packet []byte
		answer string
	}{
		{"IPv4", udp4("10.244.1.2", "10.244.0.7", 62, 0), "10.244.1.2"},
		{"IPv6", udp6("fd00:0:0:b::2", "fd00:0:0:a::7", 62), "fd00:0:0:b::2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.send(test.packet)
			if got := drops(r.Read().Totals); !slices.Equal(got, []string{"no_route"}) || len(r.wire.sent) != 0 {
				t.Errorf("drops %q, %d sent", got, len(r.wire.sent))
			}
			if len(r.tun.written) != 1 {
				t.Fatalf("%d answers", len(r.tun.written))
			}
			h, ok := packet.Parse(r.tun.written[0])
			if !ok || h.Dst.String() != test.answer {
				t.Errorf("the answer goes to %v", h.Dst)
			}
		})
	}
}

// A superpacket counts as the packets that it stands for.
func TestForeignSuperpacket(t *testing.T) {
	r := newRig(t, allOffloads...)
	r.out.forward([][]byte{superframe(tcp4("10.244.2.2", "10.244.1.2", 10, 1000))})
	if c := r.Read(); c.Totals.Drops[mesh.ForeignSource] != 10 || len(r.wire.sent) != 0 {
		t.Errorf("%d drops, %d sent", c.Totals.Drops[mesh.ForeignSource], len(r.wire.sent))
	}
}
