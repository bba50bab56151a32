package plan

import (
	"fmt"
	"slices"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
)

// This file turns the endpoints of the file, at which nodes are called with encryption, into addresses.
// Unlike an address, an endpoint says nothing about where packets come from: keys do. So several nodes may
// share one IP address, with a port for each, and it may be that of a third node: their router.

// planEndpoints fills in the endpoints of all nodes, with names as far as they are resolved.
func (n *Nodes) planEndpoints() {
	var inside blocks
	for i, node := range n.config.Nodes {
		e := node.Endpoint
		switch {
		case e == config.Address{}:
			continue
		case n.calls == nil:
			n.calls = make([][]placed, len(n.config.Nodes))
			inside = blocksOf(n.config)
		}
		if e.Name == "" {
			n.calls[i] = []placed{{Endpoint: mesh.Endpoint{AddrPort: e.AddrPort}}}
			continue
		}
		var refused []string
		for _, ip := range n.names[e.Name].Addrs {
			says := config.NotUnderlay(ip)
			if block, within := inside.holding(ip); within {
				says = fmt.Sprintf("is inside %s, which is behind the mesh", block)
			}
			if says != "" {
				refused = append(refused, ip.String()+" "+says)
				continue
			}
			n.calls[i] = append(n.calls[i], placed{endpointOf(ip, e.Port()), e.Name})
		}
		if !slices.ContainsFunc(node.Addresses, func(a config.Address) bool { return a.Name == e.Name }) {
			n.judge(i, e.Name, refused) // else it was judged as an address
		}
	}
}

// Endpoints returns where the WireGuard of a node is called, if the file has an endpoint for it: of a name
// all that it stands for, in order of preference as SeenFrom knows it. There are none if the file has no
// endpoint, so that the node is called at its addresses, or calls in; and none while its name is not
// resolved.
func (n *Nodes) Endpoints(node int) (all []mesh.Endpoint) {
	if n.calls == nil {
		return nil
	}
	for _, a := range n.calls[node] {
		all = append(all, a.Endpoint)
	}
	return all
}

// Names returns the DNS names of all nodes of a file, each once.
func Names(c *config.Config) (names []string) {
	var seen map[string]bool
	for _, n := range c.Nodes {
		for _, a := range n.Addresses {
			if a.Name != "" {
				names = append(names, a.Name) // as an address, a name is in one node alone
			}
		}
	}
	for _, n := range c.Nodes {
		if n.Endpoint.Name == "" {
			continue
		}
		if seen == nil { // few files have names in endpoints
			seen = make(map[string]bool, len(names))
			for _, name := range names {
				seen[name] = true
			}
		}
		if !seen[n.Endpoint.Name] {
			seen[n.Endpoint.Name] = true
			names = append(names, n.Endpoint.Name)
		}
	}
	return names
}
