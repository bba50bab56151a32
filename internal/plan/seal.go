package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"example.org/meshd/internal/ask"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/seal"
	"example.org/meshd/internal/wireguard"
)

// This file says how packets travel encrypted.

const (
	// sealing is what WireGuard adds to a packet, in bytes: the header of a data message and the tag behind
	// it (struct message_data in drivers/net/wireguard/messages.h).
	sealing = 32
	// padding is the multiple of bytes to which WireGuard fills packets up (MESSAGE_PADDING_MULTIPLE). One
	// that is filled up beyond the underlay's MTU leaves in two fragments.
	padding = 16
	// keepalive is how often a node behind NAT lets its router see a packet. Most forget a flow of UDP after
	// 30 s (RFC 4787 section 4.3 asks for two minutes, which few of them keep).
	keepalive = 25 * time.Second
)

// around returns how many bytes the wire puts around a packet that is sent to an address. The MTU is that of
// encryption from the moment on in which the file lists keys, so that it stays when encryption begins.
func (p *Plan) around(to mesh.Endpoint) int {
	if p.keyed {
		return to.OuterHeaders() + sealing
	}
	return to.OuterHeaders()
}

// fits returns the largest packet that an MTU of the underlay leaves room for, with what the wire puts
// around it, in bytes.
func (p *Plan) fits(underlay, around int) int {
	if p.keyed {
		return (underlay - around) / padding * padding
	}
	return underlay - around
}

// Port returns the UDP port of this node's bare datagrams.
func (p *Plan) Port() uint16 {
	return cmp.Or(p.Self.Port(), p.Config.Network.Port)
}

// Device returns the interface by which packets leave to peers.
func (p *Plan) Device() string {
	if p.Seal == nil || p.Seal.Prepared {
		return p.Link.Interface
	}
	return wireguard.Interface
}

// ProbePort returns the UDP port to which peers send probes inside the tunnel; 0 while there is none.
func (p *Plan) ProbePort() uint16 {
	if p.Seal == nil {
		return 0
	}
	return ask.Port
}

// relay returns the node that forwards between two others, which both have no fixed address; empty if none
// has to, or none does. Both ends have to name the same one, since a prefix belongs to one peer of WireGuard:
// so the node that comes first in the file decides.
func relay(c *config.Config, a, b int) string {
	if !c.Nodes[a].CallsIn() || !c.Nodes[b].CallsIn() {
		return ""
	}
	return cmp.Or(c.Nodes[min(a, b)].Via, c.Nodes[max(a, b)].Via)
}

// planSeal decides whom this node exchanges encrypted packets with, now or once the file asks for it.
func (p *Plan) planSeal(self int, own OwnKey) {
	c := p.Config
	switch {
	case !p.keyed:
		return
	case c.IsShut():
		p.note(mesh.Condition{Kind: mesh.Shut, Severity: mesh.Failed, Subject: c.Path,
			Remedy: "correct the file on disk: with a good one meshd forwards again, encrypted or not as it says"})
		return
	case !c.Sealed():
		if err := wrongKey(c, self, own); err != nil { // with encryption it would be an error
			p.note(mesh.Condition{Kind: mesh.NotPrepared, Severity: mesh.Degraded, Cause: err.Error(),
				Remedy: "mend that before transport = \"wireguard\""})
			return
		}
	}
	w := &seal.Wanted{Self: p.Peer, TUN: p.Link.Interface, Port: c.WireGuard.Port,
		KeyFile: c.WireGuard.PrivateKey,
		MTU:     p.Link.MTU, Shares: p.Engine.Mesh.Shares, Prepared: !c.Sealed()}
	// A node that changes its key has to speak first: the others do not know the time of the change.
	first := p.Self.CallsIn() || p.Peer.Next.IsValid()
	if first && (c.Probe.Interval == 0 || c.Probe.Interval > keepalive) { // else probes keep NAT open
		w.Keepalive = keepalive
	}
	if w.Prepared {
		w.Keepalive = keepalive // nothing else would make sessions, and show that they can be made
		w.Network = slices.DeleteFunc(slices.Clone(c.Network.CIDR), func(cidr netip.Prefix) bool {
			return slices.Contains(p.Self.Subnets, cidr)
		})
	}
	for i, peer := range p.Engine.Mesh.Peers {
		if i == self {
			continue
		}
		one := seal.Peer{Peer: peer, Endpoints: p.endpoints(i), Relay: relay(c, self, i)}
		if p.Self.CallsIn() && c.Nodes[i].CallsIn() && one.Relay == "" {
			p.note(mesh.Condition{Kind: mesh.NeverMeets, Severity: mesh.Degraded, Peer: peer.Name,
				Remedy: "give one of both nodes an address, or `via = \"NODE\"` with a node that forwards for it"})
			continue
		}
		w.Peers = append(w.Peers, one)
	}
	p.Seal = w
}

// endpoints returns where the WireGuard of a node listens, in order of preference.
func (p *Plan) endpoints(node int) (all []netip.AddrPort) {
	if p.Config.Nodes[node].Endpoint != (config.Address{}) {
		for _, e := range p.nodes.Endpoints(node) {
			all = append(all, e.AddrPort)
		}
		return all
	}
	for _, a := range p.nodes.endpoints(node) {
		all = append(all, netip.AddrPortFrom(a.Addr(), p.Config.WireGuard.Port))
	}
	return all
}

// inner returns to which destinations packets may go that come in encrypted: those behind this node, and
// those behind nodes between which it forwards.
func (p *Plan) inner() (all []netip.Prefix) {
	all = slices.Concat(p.Self.Subnets, p.Self.Prefixes())
	nodes := p.Config.Nodes
	if !slices.ContainsFunc(nodes, func(n config.Node) bool { return n.CallsIn() && n.Via == p.Self.Name }) {
		return all
	}
	for i := range nodes {
		if nodes[i].CallsIn() {
			all = append(all, slices.Concat(nodes[i].Subnets, nodes[i].Prefixes())...)
		}
	}
	return all
}

// planFloor has the encrypted interface stand above the TUN: its routes are preferred, and where one is
// missing, the TUN has the packets.
func (p *Plan) planFloor() {
	p.Link.Loose = p.keyed // during the switch, answers leave by the other interface
	if !p.Engine.Sealed {
		return
	}
	for i, r := range p.Link.Routes {
		if !slices.Contains(p.Config.Network.CIDR, r.Prefix) {
			p.Link.Routes[i].Metric = seal.Behind
		}
	}
}

// interfacesOf returns the interfaces by which packets of pods come from other nodes and leave to them.
func interfacesOf(c *config.Config) []string {
	if c.Sealed() || c.Keyed() {
		return []string{c.Network.Interface, wireguard.Interface}
	}
	return []string{c.Network.Interface}
}
