// Package lookup answers where packets to an address go: by the mesh, and by this host's kernel.
package lookup

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/words"
)

// None returns an answer without a way.
func None(to netip.Addr) control.Route {
	return control.Route{Schema: control.Schema, To: to.String(), Kernel: []control.KernelRoute{}}
}

// Route tells how packets to an address go while a plan is in force. carriers are the peers that carry the
// shared prefixes; peers returns the status of all others, and is called if a node has the address.
func Route(p *plan.Plan, to netip.Addr, carriers map[mesh.Prefix]string,
	peers func() []control.Peer) control.Route {
	r := None(to)
	r.MTU, r.Masquerade = p.Link.MTU, control.MasqueradeOff
	if p.Rules.Masquerade != nil {
		r.Masquerade = masq.Explain(*p.Rules.Masquerade, to)
	}
	answer := p.Engine.Mesh.Route(to)
	if answer.Peer == "" {
		r.Reason = whyNot(p, to)
		return r
	}
	carrier := cmp.Or(carriers[answer.Prefix], answer.Peer)
	words.Carried(&r, p.Engine.Mesh, answer.Prefix, carrier, peers())
	if carrier == p.Peer.Name {
		r.Reason = "this node has " + r.Prefix + " itself: packets to it do not pass the mesh"
		return r
	}
	if source := p.Peer.TUNAddress(to.Is6()); source.IsValid() {
		r.Source = source.String()
	}
	r.Interface, r.Kernel, r.Underlay = p.Device(), kernelRoutes(p, to), underlay(r.Address)
	return r
}

// underlay asks the kernel what it does with datagrams to an underlay address; nil if it does not tell.
func underlay(address string) *control.KernelRoute {
	to, err := netip.ParseAddrPort(address)
	if err != nil { // the peer has not called yet
		return nil
	}
	w, err := link.Ask(to.Addr().Unmap(), link.Interface{}, nil)
	if err != nil {
		return nil
	}
	return new(words.KernelRoute(control.SenderHost, w.Device, w))
}

// kernelRoutes asks the kernel what it does with packets of this host and of its pods.
func kernelRoutes(p *plan.Plan, to netip.Addr) []control.KernelRoute {
	all, own := []control.KernelRoute{}, p.Self.Subnets
	if w, err := link.Ask(to, link.Interface{}, own); err == nil {
		all = append(all, words.KernelRoute(control.SenderHost, p.Device(), w))
	}
	if in := p.Forwarding.Crossing.PodLink(); in.Index != 0 {
		if w, err := link.Ask(to, in, own); err == nil {
			all = append(all, words.KernelRoute(control.SenderPods, p.Device(), w))
		}
	}
	return all
}

// whyNot explains that no node carries packets to an address.
func whyNot(p *plan.Plan, to netip.Addr) string {
	network := p.Config.Network
	cidr, ok := network.CIDROf(to)
	switch {
	case !ok:
		return "the mesh carries no addresses of that family: network.cidr is " +
			strings.Join(words.Texts(network.CIDR), ", ")
	case cidr.Contains(to):
		return fmt.Sprintf("the address is inside network.cidr %s, but no node has it in its subnets", cidr)
	}
	return fmt.Sprintf("the address is outside network.cidr %s, and no node has it in its routes", cidr)
}
