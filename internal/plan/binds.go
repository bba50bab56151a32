package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
)

// planBinds decides where this node listens: at all of its addresses that are on this host. Without any, NAT
// may lead datagrams here, so meshd listens everywhere.
func (p *Plan) planBinds(self int, host Host) {
	var elsewhere []string
	for _, a := range p.nodes.of[self] {
		if slices.Contains(host.Local, a.Addr()) {
			p.Engine.Binds = append(p.Engine.Binds, a.AddrPort)
		} else if a.name == "" || len(p.nodes.of[self]) == 1 {
			elsewhere = append(elsewhere, a.Addr().String())
		}
	}
	subject := strings.Join(elsewhere, ", ")
	switch {
	case len(p.Self.Addresses) == 0: // it calls the others, and has no address of its own
		p.Engine.Binds = p.everywhere(host.Local)
	case len(p.Engine.Binds) == 0:
		p.Engine.Binds = p.everywhere(host.Local)
		p.note(mesh.Condition{Kind: mesh.AddressElsewhere, Severity: mesh.Degraded,
			Subject: cmp.Or(subject, p.Self.Addresses[0].Host()),
			Remedy:  "add the address to an interface, or let NAT map it to this host"})
	case subject != "":
		p.note(mesh.Condition{Kind: mesh.AddressMissing, Severity: mesh.Info, Subject: subject,
			Remedy: "add it to an interface, or take it out of the file"})
	}
	p.headers = p.around(mesh.Endpoint{AddrPort: p.Engine.Binds[0]}) // until a peer asks for more
	for peer, source := range host.Underlay.Sources {
		at := slices.IndexFunc(p.Engine.Binds, func(b netip.AddrPort) bool { return b.Addr() == source })
		if at < 0 {
			continue
		}
		if p.Engine.Sources == nil {
			p.Engine.Sources = map[netip.Addr]int{}
		}
		p.Engine.Sources[peer] = at
	}
}

// everywhere returns the unspecified address of each family that this node has an address of. While its
// names are not resolved, those are the families of this host.
func (p *Plan) everywhere(local []netip.Addr) (binds []netip.AddrPort) {
	add := func(ip netip.Addr, port uint16) {
		unspecified := netip.IPv4Unspecified()
		if ip.Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		same := func(b netip.AddrPort) bool { return b.Addr() == unspecified }
		if !slices.ContainsFunc(binds, same) {
			binds = append(binds, netip.AddrPortFrom(unspecified, port))
		}
	}
	for _, a := range p.Peer.Addresses {
		add(a.Addr(), a.Port())
	}
	if len(binds) > 0 {
		return binds
	}
	port := p.Port()
	for _, ip := range local {
		if config.NotUnderlay(ip) == "" {
			add(ip, port)
		}
	}
	if len(binds) == 0 {
		add(netip.IPv4Unspecified(), port)
	}
	return binds
}

// sharesOf lists the prefixes that several nodes have, in the order of the file.
func sharesOf(c *config.Config) (shares []mesh.Share) {
	nodes := map[netip.Prefix]int{}
	for _, n := range c.Nodes {
		for _, r := range n.Routes {
			nodes[r.Prefix]++
		}
	}
	at := map[netip.Prefix]int{}
	for _, n := range c.Nodes {
		for _, r := range n.Routes {
			if nodes[r.Prefix] < 2 {
				continue
			}
			i, known := at[r.Prefix]
			if !known {
				i, at[r.Prefix] = len(shares), len(shares)
				shares = append(shares, mesh.Share{Prefix: r.Prefix})
			}
			shares[i].Carriers = append(shares[i].Carriers, mesh.Carrier{Peer: n.Name, Metric: r.Metric})
		}
	}
	for _, s := range shares {
		slices.SortStableFunc(s.Carriers, func(a, b mesh.Carrier) int { return cmp.Compare(a.Metric, b.Metric) })
	}
	return shares
}

// prefixesOf returns the routes of all nodes but one, each once, without those that this one has as well: its
// packets to them do not pass the mesh. -1 leaves out no node.
func prefixesOf(c *config.Config, self int) (all []netip.Prefix) {
	seen := map[netip.Prefix]bool{}
	if self >= 0 {
		for _, r := range c.Nodes[self].Routes {
			seen[r.Prefix] = true
		}
	}
	for i, n := range c.Nodes {
		if i == self {
			continue
		}
		for _, r := range n.Routes {
			if !seen[r.Prefix] {
				seen[r.Prefix] = true
				all = append(all, r.Prefix)
			}
		}
	}
	return all
}
