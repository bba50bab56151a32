package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// A Meaning is the SHA-256 of what a file means. Two files have the same one if they ask for the same:
// comments, white space, the order of keys and nodes, and defaults that are written out do not count.
// Other versions of meshd may compute another one.
type Meaning [sha256.Size]byte

// meaningOf returns the meaning of a valid file. The tables are written as Go writes values, which is
// slow but follows every new key; the nodes, which may be thousands, are written by hand.
func meaningOf(c *Config) Meaning {
	b := fmt.Appendf(nil, "%+v %+v %+v %+v %+v %+v",
		c.Network, c.Dataplane, c.Masquerade, c.Probe, c.Metrics, c.Container)
	nodes := slices.Clone(c.Nodes)
	slices.SortFunc(nodes, func(x, y Node) int { return cmp.Compare(x.Name, y.Name) })
	for _, n := range nodes {
		b = appendText(b, n.Name)
		b = appendText(b, n.Address.String())
		b = appendPrefixes(b, n.Subnets) // in order: the first gives the TUN its address
		routes := slices.Clone(n.Routes)
		slices.SortFunc(routes, netip.Prefix.Compare)
		b = appendPrefixes(b, routes)
	}
	return sha256.Sum256(b)
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
