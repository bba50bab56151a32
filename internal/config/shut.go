package config

import (
	"net/netip"
	"slices"
)

// Shut returns the same mesh with nothing that may pass: it is for a host whose packets have travelled
// encrypted, and whose last good file would have them travel bare. The mesh's prefixes stay, so that no
// packet to them leaves by another way.
func (c *Config) Shut() *Config {
	next := *c
	next.Transport, next.shut = TransportWireGuard, true
	return &next
}

// IsShut tells whether it comes from Shut.
func (c *Config) IsShut() bool { return c.shut }

// NeedsKey tells whether a host needs the private key of its node. One that is shut has nobody to encrypt
// for, and its file lists no keys as a rule.
func (c *Config) NeedsKey() bool { return c.Sealed() && !c.shut }

// Prefixes returns everything behind the mesh: the pod network, and the routes of all nodes, each once.
func (c *Config) Prefixes() []netip.Prefix {
	all, seen := slices.Clone(c.Network.CIDR), map[netip.Prefix]bool{}
	for _, n := range c.Nodes {
		for _, r := range n.Routes {
			if !seen[r.Prefix] {
				seen[r.Prefix] = true
				all = append(all, r.Prefix)
			}
		}
	}
	return all
}
