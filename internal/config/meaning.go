package config

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A Meaning is the SHA-256 of what a file means. Two files have the same one if they ask for the same:
// comments, white space, the order of keys and nodes, and defaults that are written out do not count.
// Other versions of meshd may compute another one.
type Meaning [sha256.Size]byte

// meaningOf returns the meaning of a valid file. The tables are written as Go writes values, which is
// slow but follows every new key; the nodes, which may be thousands, have their own sum.
func meaningOf(c *Config) Meaning {
	probe := struct{ Interval time.Duration }{c.Probe.Interval}
	b := fmt.Appendf(nil, "%+v %+v %+v %+v %+v %+v",
		c.Network, c.Dataplane, c.Masquerade, probe, c.Metrics, c.Container)
	// As of hashOf: only where there is some of it.
	if c.Probe.Speed {
		b = append(b, " speed"...)
	}
	if c.Transport != TransportUDP || c.WireGuard != defaultWireGuard {
		b = fmt.Appendf(b, " %s %+v", c.Transport, c.WireGuard)
	}
	if len(c.Allow) > 0 { // whose order says nothing, but it names those without a name
		b = fmt.Appendf(b, " allow %v", c.Allow)
	}
	for _, part := range c.edit.sum {
		b = binary.BigEndian.AppendUint64(b, part)
	}
	return sha256.Sum256(b)
}

// A nodeSum is the sum of the hashes of nodes, in whatever order they are added: a node that changes
// costs two hashes, however many others there are.
type nodeSum [sha256.Size / 8]uint64

// add adds nodes to the sum.
func (s *nodeSum) add(nodes []Node) {
	for i := range nodes {
		for j, part := range hashOf(&nodes[i]) {
			s[j] += part
		}
	}
}

// remove takes nodes out of the sum that were added before.
func (s *nodeSum) remove(nodes []Node) {
	for i := range nodes {
		for j, part := range hashOf(&nodes[i]) {
			s[j] -= part
		}
	}
}

// hashOf returns the hash of what one node means. What other versions of meshd do not know comes last and is
// left out where the node has none of it: hosts whose files are equal must not differ after an upgrade.
func hashOf(n *Node) (parts nodeSum) {
	routes := slices.Clone(n.Routes)
	slices.SortFunc(routes, func(a, b Route) int { return a.Prefix.Compare(b.Prefix) })
	b := appendAddress(appendText(make([]byte, 0, 256), n.Name), n.Address())
	b = appendPrefixes(b, n.Subnets) // in order: the first gives the TUN its address
	b = appendPrefixes(b, Node{Routes: routes}.Prefixes())
	if len(n.Addresses) > 1 || !n.Address().IsValid() { // in order: it is that of preference
		b = append(b, "addresses"...)
		for _, a := range n.Addresses {
			b = appendAddress(appendText(b, a.Name), a.AddrPort)
		}
	}
	if slices.ContainsFunc(routes, func(r Route) bool { return r.Metric != DefaultMetric }) {
		b = append(b, "metrics"...)
		for _, r := range routes {
			b = binary.BigEndian.AppendUint16(b, uint16(r.Metric))
		}
	}
	if n.PublicKey.IsValid() || n.Endpoint != (Address{}) || n.Via != "" {
		b = append(append(b, "key"...), n.PublicKey[:]...)
		b = appendText(appendAddress(appendText(b, n.Endpoint.Name), n.Endpoint.AddrPort), n.Via)
	}
	if n.NextKey.IsValid() {
		b = append(append(b, "next key"...), n.NextKey[:]...)
	}
	sum := sha256.Sum256(b)
	for i := range parts {
		parts[i] = binary.BigEndian.Uint64(sum[8*i:])
	}
	return parts
}

// appendAddress appends an address and its port.
func appendAddress(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().As16()
	return binary.BigEndian.AppendUint16(append(b, ip[:]...), a.Port())
}

// appendText appends a text with its length, so that no two lists of texts look alike.
func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// appendPrefixes appends prefixes with their number, each with its length.
func appendPrefixes(b []byte, ps []netip.Prefix) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(ps)))
	for _, p := range ps {
		address := p.Addr().As16()
		b = append(append(b, address[:]...), byte(p.Bits()), byte(p.Addr().BitLen()))
	}
	return b
}
