package kernel

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"example.org/meshd/internal/mesh"
)

// self is the number of this node (SELF in bpf/mesh.c).
const self = 0

// tables are what the maps hold, as pure data.
type tables struct {
	numbers   map[string]uint32 // of nodes, by name; nil before the first mesh
	nodes     map[uint32]meshNode
	senders   map[meshSender]uint32
	prefixes4 map[meshPrefix4]uint32
	prefixes6 map[meshPrefix6]uint32

	tun4 [4]byte // our own TUN's addresses; zero if there is none
	tun6 [16]byte

	home4, mask4 [4]byte // our own first subnet
	home6, mask6 [16]byte
}

func newTables() tables {
	// Without a subnet of a family no address is in it: none is all ones after a mask of zeros.
	none := [16]byte(bytes.Repeat([]byte{0xff}, 16))
	return tables{home4: [4]byte(none[:4]), home6: none, nodes: map[uint32]meshNode{}, senders: map[meshSender]uint32{}, prefixes4: map[meshPrefix4]uint32{}, prefixes6: map[meshPrefix6]uint32{}}
}

// next returns the tables of a mesh, in which some peers finish checksums. A name that t
// knows keeps its number, and nobody gets one that t has for somebody else: what was counted
// for that, and packets on their way, would be taken for his.
func (t tables) next(m mesh.Mesh, finishes map[string]bool) (tables, error) {
	n := newTables()
	n.numbers = map[string]uint32{m.Self: self}
	var free []uint32 // numbers below the highest in use that nobody has
	highest := uint32(0)
	taken := map[uint32]bool{self: true}
	for _, number := range t.numbers {
		taken[number] = true
		highest = max(highest, number)
	}
	for _, peer := range m.Peers {
		if number, known := t.numbers[peer.Name]; known && peer.Name != m.Self && number != self {
			n.numbers[peer.Name] = number
		}
	}
	for number := range highest {
		if !taken[number] {
			free = append(free, number)
		}
	}
	found := false
	for _, peer := range m.Peers {
		number, known := n.numbers[peer.Name]
		found = found || peer.Name == m.Self
		switch {
		case known:
		case len(free) > 0:
			number, free = free[0], free[1:]
		default:
			highest++
			number = highest
		}
		n.numbers[peer.Name] = number
		n.add(peer, number, finishes[peer.Name])
	}
	if !found {
		return tables{}, fmt.Errorf("set mesh: no node is named %q", m.Self)
	}
	return n, nil
}

// add enters a node.
func (t *tables) add(p mesh.Peer, number uint32, finishes bool) {
	address := bytesOf(p.Underlay.Addr())
	node := meshNode{Address: address, Port: networkOrder(p.Underlay.Port()), Finishes: boolean(finishes)}
	copy(node.Name[:], p.Name)
	t.nodes[number] = node
	t.senders[meshSender{Address: address}] = number
	for _, prefix := range slices.Concat(p.Subnets, p.Routes) {
		if prefix.Addr().Is4() {
			t.prefixes4[meshPrefix4{Length: uint32(prefix.Bits()), Address: prefix.Masked().Addr().As4()}] = number
		} else {
			t.prefixes6[meshPrefix6{Length: uint32(prefix.Bits()), Address: prefix.Masked().Addr().As16()}] = number
		}
	}
	if number != self {
		return
	}
	for _, subnet := range slices.Backward(p.Subnets) {
		if bits := net.CIDRMask(subnet.Bits(), subnet.Addr().BitLen()); subnet.Addr().Is4() {
			t.home4, t.mask4 = subnet.Masked().Addr().As4(), [4]byte(bits)
		} else {
			t.home6, t.mask6 = subnet.Masked().Addr().As16(), [16]byte(bits)
		}
	}
	if ip := p.TUNAddress(false); ip.IsValid() {
		t.tun4 = ip.As4()
	}
	if ip := p.TUNAddress(true); ip.IsValid() {
		t.tun6 = ip.As16()
	}
}

// bytesOf returns an address as struct node has it.
func bytesOf(ip netip.Addr) (b [16]byte) {
	if ip.Is4() {
		v4 := ip.As4()
		copy(b[:], v4[:])
		return b
	}
	return ip.As16()
}
