package kernel

import (
	"bytes"
	"net"
	"net/netip"
	"slices"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// self is the number of this node (SELF in bpf/maps.h).
const self = 0

// tables are what the maps hold, or a part of it, as pure data.
type tables struct {
	numbers   map[string]uint32 // of nodes, by name; nil before the first mesh
	nodes     map[uint32]meshNode
	senders   map[meshEndpoint]meshSender
	owns      map[meshEndpoint]uint16
	carriers  map[meshCarrier]uint32
	prefixes4 map[meshPrefix4]uint32
	prefixes6 map[meshPrefix6]uint32

	own  meshEndpoint // the first place where this node listens; zero: programs take nothing
	more bool         // there are more of them

	tun4 [4]byte // our own TUN's addresses; zero if there is none
	tun6 [16]byte

	home4, mask4 [4]byte // our own first subnet
	home6, mask6 [16]byte
}

func newTables() tables {
	// Without a subnet of a family no address matches: after a mask of zeros none is all ones.
	none := [16]byte(bytes.Repeat([]byte{0xff}, 16))
	return tables{home4: [4]byte(none[:4]), home6: none,
		nodes: map[uint32]meshNode{}, senders: map[meshEndpoint]meshSender{},
		owns: map[meshEndpoint]uint16{}, carriers: map[meshCarrier]uint32{},
		prefixes4: map[meshPrefix4]uint32{}, prefixes6: map[meshPrefix6]uint32{}}
}

// numbersFor gives each node of a mesh its number. A name that t knows keeps its number, and no name
// gets a number that t has for another one: what was counted for that node, and its packets on their
// way, would be taken for the newcomer's.
func (t tables) numbersFor(m mesh.Mesh) map[string]uint32 {
	if t.names(m) {
		return t.numbers
	}
	numbers := make(map[string]uint32, len(m.Peers))
	numbers[m.Self] = self
	// Small numbers are used again, since the maps have room for a number of nodes at most.
	taken, highest := map[uint32]bool{self: true}, uint32(0)
	for _, number := range t.numbers {
		taken[number] = true
		highest = max(highest, number)
	}
	var free []uint32 // below the highest in use, and not in use
	for number := range highest {
		if !taken[number] {
			free = append(free, number)
		}
	}
	for _, peer := range m.Peers {
		number, known := t.numbers[peer.Name]
		switch {
		case peer.Name == m.Self:
			continue
		case known && number != self: // the node that was this one before is another one now
		case len(free) > 0:
			number, free = free[0], free[1:]
		default:
			highest++
			number = highest
		}
		numbers[peer.Name] = number
	}
	return numbers
}

// names tells whether the nodes of a mesh are those of t, and this node is the same one.
func (t tables) names(m mesh.Mesh) bool {
	if number, known := t.numbers[m.Self]; !known || number != self || len(t.numbers) != len(m.Peers) {
		return false
	}
	for _, peer := range m.Peers {
		if _, known := t.numbers[peer.Name]; !known {
			return false
		}
	}
	return true
}

// senderOf returns the value of a sender's address.
func senderOf(at mesh.Endpoint, number uint32, known peers.Directive) meshSender {
	return meshSender{Number: number, Port: networkOrder(at.Port()), BySocket: boolean(known.InBySocket)}
}

// nodeOf returns the element of a peer, with what is known of it.
func (c *contents) nodeOf(p mesh.Peer, number uint32, known peers.Directive) (n meshNode) {
	copy(n.Name[:], p.Name)
	n.Path = c.path(p, known.Via)
	n.Path.Finishes, n.Path.OutByUser = boolean(known.Finishes), boolean(known.OutByUser)
	n.Path.Mtu = uint32(known.MTU)
	n.Path.Sum = n.Path.sum(number)
	return n
}

// directive returns what the tables say of a node.
func (t *tables) directive(number uint32) peers.Directive {
	n := t.nodes[number]
	d := peers.Directive{
		Finishes: n.Path.Finishes != 0, OutByUser: n.Path.OutByUser != 0, MTU: int(n.Path.Mtu), Via: n.Path.via()}
	d.InBySocket = d.Via.IsValid() && t.senders[sourceOf(d.Via.Addr())].BySocket != 0
	return d
}

// add enters a node of some contents, but for the prefixes that it shares with others. The tables have its
// number.
func (t *tables) add(c *contents, p mesh.Peer, known peers.Directive) {
	number := t.numbers[p.Name]
	t.nodes[number] = c.nodeOf(p, number, known)
	for _, from := range slices.Backward(p.Addresses) { // of an address with two ports the first counts
		if from.IsValid() {
			t.senders[sourceOf(from.Addr())] = senderOf(from, number, known)
		}
	}
	for _, prefixes := range [][]mesh.Prefix{p.Subnets, p.Routes} {
		for _, prefix := range prefixes {
			if _, shared := c.shares[prefix]; !shared {
				t.addPrefix(prefix, number)
			}
		}
	}
	if number == self {
		t.setHome(p)
	}
}

// setHome notes the first subnets and the TUN's addresses of this node.
func (t *tables) setHome(p mesh.Peer) {
	t.keepHome(newTables())
	for _, v6 := range []bool{false, true} {
		subnet := p.FirstSubnet(v6)
		if !subnet.IsValid() {
			continue
		}
		first, mask := subnet.Masked().Addr(), net.CIDRMask(subnet.Bits(), subnet.Addr().BitLen())
		if v6 {
			t.home6, t.mask6, t.tun6 = first.As16(), [16]byte(mask), p.TUNAddress(true).As16()
		} else {
			t.home4, t.mask4, t.tun4 = first.As4(), [4]byte(mask), p.TUNAddress(false).As4()
		}
	}
}

// keepHome takes over what other tables say of this node itself.
func (t *tables) keepHome(from tables) {
	t.tun4, t.tun6 = from.tun4, from.tun6
	t.home4, t.mask4, t.home6, t.mask6 = from.home4, from.mask4, from.home6, from.mask6
}

// outline returns tables without what is in the maps of nodes: numbers, and what is about this node.
func (t tables) outline() tables {
	o := tables{numbers: t.numbers, own: t.own, more: t.more}
	o.keepHome(t)
	return o
}

// bytesOf returns an address as struct endpoint has it.
func bytesOf(ip netip.Addr) (b [16]byte) {
	if ip.Is4() {
		v4 := ip.As4()
		copy(b[:], v4[:])
		return b
	}
	return ip.As16()
}
