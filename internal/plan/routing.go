package plan

import (
	"fmt"
	"net/netip"
	"strings"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/wireguard"
)

// This file says which ways of packets matter, and what of the host's own routing works against
// the mesh.

// Datagrams returns what node self sends to its peers, and the peers' endpoints: those of all nodes, in the
// order of the file.
func (n *Nodes) Datagrams(self int) (own link.Datagrams, all []netip.AddrPort) {
	own.Mark = udp.Mark
	for i := range n.of {
		for _, a := range n.of[i] {
			if all = append(all, a.AddrPort); i == self {
				own.From = append(own.From, a.AddrPort)
			}
		}
	}
	return own, all
}

// Pods returns the packets of pods that node self of a file has to carry. Where they come in is a
// fact of the host, not of the file: Link stays zero.
func Pods(c *config.Config, self int) link.Pods {
	p := link.Pods{TUN: c.Network.Interface, Beside: []string{wireguard.Interface}, Networks: c.Network.CIDR,
		Own: c.Nodes[self].Subnets}
	for i, n := range c.Nodes {
		if i != self {
			p.Others = append(p.Others, n.Subnets...)
		}
	}
	p.Others = append(p.Others, prefixesOf(c, self)...)
	return p
}

// planRouting notes routes, rules and filters that lead packets past the mesh.
func (p *Plan) planRouting(host Host) {
	for _, s := range host.Shadows {
		remedy := "run `ip route del` for it"
		if s.Host { // which would cut the operator off
			remedy = "choose another network.cidr or other subnets: this host lives by the route"
		}
		p.note(mesh.Condition{Kind: mesh.RouteShadowed, Severity: mesh.Degraded, Subject: s.Route, Remedy: remedy})
	}
	for i, d := range host.Diverted {
		if both := sameRule(host.Diverted, d); both[0] == i {
			p.note(p.diverted(host.Diverted, both))
		}
	}
	for _, f := range host.Underlay.Filtered {
		p.note(mesh.Condition{Kind: mesh.ReversePath, Severity: mesh.Info, Subject: f.Interface,
			Cause: fmt.Sprintf("rp_filter is 1 there, and the way back to %s leads by %s", f.Peer, f.By),
			Remedy: fmt.Sprintf("if the peer's datagrams arrive at %s, run `sysctl -w %s=2`",
				f.Interface, link.SysctlName("ipv4", f.Interface, "rp_filter"))})
	}
}

// sameRule returns the indices of the diversions by the rule of d: one rule can take packets in
// both directions, and that is one fault with one remedy.
func sameRule(all []link.Diversion, d link.Diversion) (same []int) {
	for i, other := range all {
		if other.Rule == d.Rule && other.Prefixes[0].Addr().Is6() == d.Prefixes[0].Addr().Is6() {
			same = append(same, i)
		}
	}
	return same
}

// diverted is the condition about one rule. It is Failed where the rule takes all packets in a
// direction.
func (p *Plan) diverted(all []link.Diversion, same []int) mesh.Condition {
	c := mesh.Condition{Kind: mesh.RuleDiverts, Severity: mesh.Degraded, Subject: all[same[0]].Rule}
	ip := "ip"
	if all[same[0]].Prefixes[0].Addr().Is6() {
		ip, c.Subject = "ip -6", c.Subject+" (ip -6 rule)"
	}
	var causes []string
	for _, i := range same {
		if all[i].Whole {
			c.Severity = mesh.Failed
		}
		causes = append(causes, fateOf(all[i]))
	}
	c.Cause = strings.Join(causes, ", and ")
	first := all[same[0]]
	// The new rule concerns the mesh's own prefixes alone, so it cuts nobody off who is not in them.
	to := first.Prefixes[0]
	for _, cidr := range p.Config.Network.CIDR {
		if cidr.Contains(to.Addr()) {
			to = cidr
		}
	}
	c.Remedy = fmt.Sprintf("run `%s rule add to %s lookup main pref %d`", ip, to, first.Priority-1)
	if first.Priority < 2 { // nothing can stand between it and the rule for table local
		c.Remedy = fmt.Sprintf("limit that rule so that it does not match packets to %s", to)
	}
	return c
}

// fateOf says which packets a rule takes, and where they go instead.
func fateOf(d link.Diversion) string {
	text := "packets to " + someOf(d.Prefixes)
	if d.Inbound {
		text = "packets from other nodes to " + someOf(d.Prefixes)
	}
	if d.By == "" {
		return text + " are dropped"
	}
	return fmt.Sprintf("%s leave by %s (table %d)", text, d.By, d.Table)
}

// someOf lists a few prefixes and how many more there are.
func someOf(ps []netip.Prefix) string {
	const enough = 3
	var words []string
	for _, p := range ps[:min(len(ps), enough)] {
		words = append(words, p.String())
	}
	if more := len(ps) - enough; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, ", ")
}
