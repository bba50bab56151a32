package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"example.org/meshd/internal/mesh"
)

// path returns how datagrams get to a peer, via one of its addresses if that can be. It is the zero value
// if no program can send to the peer: none of its names is resolved, or this host has no address of
// a family of its addresses. A bind for a whole family is no address to send from.
func (c *contents) path(p mesh.Peer, via netip.AddrPort) (path meshPath) {
	to, ok := c.To(p, via)
	if !ok || !to.IsValid() {
		return path
	}
	index, _ := c.From(to.Addr())
	from := c.Binds[index]
	if from.Addr().IsUnspecified() {
		return path
	}
	return meshPath{
		To: bytesOf(to.Addr()), Port: networkOrder(to.Port()), V6: boolean(to.Addr().Is6()),
		From: bytesOf(from.Addr()), FromPort: networkOrder(from.Port()),
	}
}

// sum returns what programs compare a copy of the path of a node with (is_whole in bpf/out.c).
func (p meshPath) sum(number uint32) uint32 {
	p.Sum = 0
	b, _ := binary.Append(nil, binary.NativeEndian, &p) // never fails
	for ; len(b) > 0; b = b[4:] {
		number += binary.NativeEndian.Uint32(b)
	}
	return number
}

// via returns the address of the node that a path leads to; the zero value without one.
func (p meshPath) via() netip.AddrPort {
	if p.Port == 0 {
		return netip.AddrPort{}
	}
	address := netip.AddrFrom16(p.To)
	if p.V6 == 0 {
		address = netip.AddrFrom4([4]byte(p.To[:4]))
	}
	return netip.AddrPortFrom(address, networkOrder(p.Port)) // which is its own inverse
}

// goesAlike tells whether datagrams to a peer leave from the same addresses of ours with other contents,
// whichever of its addresses they go to.
func (c *contents) goesAlike(other *contents, p mesh.Peer) bool {
	for _, a := range p.Addresses {
		i, can := c.From(a.Addr())
		j, could := other.From(a.Addr())
		if can != could || can && c.Binds[i] != other.Binds[j] {
			return false
		}
	}
	return true
}

// endpointOf returns a place as the maps have it.
func endpointOf(at netip.AddrPort) meshEndpoint {
	return meshEndpoint{Address: bytesOf(at.Addr()), V6: uint32(boolean(at.Addr().Is6())),
		Port: networkOrder(at.Port())}
}

// sourceOf returns the key in senders of an address that datagrams come from.
func sourceOf(a netip.Addr) meshEndpoint { return endpointOf(netip.AddrPortFrom(a, 0)) }

// setOwn notes where this node listens, as far as datagrams that come there are for programs: not where it
// listens at all addresses, since those may be of another program.
func (t *tables) setOwn(binds []netip.AddrPort) {
	t.own, t.owns = meshEndpoint{}, map[meshEndpoint]uint16{}
	for _, b := range slices.Backward(binds) { // the first of an address, and of all, is noted last
		if b.Addr().IsUnspecified() {
			continue
		}
		t.own = endpointOf(b)
		t.owns[t.own], t.owns[sourceOf(b.Addr())] = t.own.Port, t.own.Port
	}
	t.more = len(t.owns) > 2 // one place has two keys
}
