package daemon

import (
	"net/netip"
	"runtime"
	"slices"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/forwarding"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/plan"
)

// observe looks at this host with a file in mind, and returns which node of the file the host is. The
// error has plan.ErrNotHere in it if the host is no node yet, and plan.ErrIdentity if the file or --node
// is at fault; other errors are the host's.
func observe(c *config.Config, o Options) (self int, host plan.Host, err error) {
	if host.Local, err = link.LocalAddresses(); err != nil {
		return 0, host, err
	}
	if self, err = plan.Identify(c, o.Node, host.Local); err != nil {
		return 0, host, err
	}
	var peers []netip.Addr
	var endpoints []netip.AddrPort
	var others []netip.Prefix
	for i, n := range c.Nodes {
		peers, endpoints = append(peers, n.Address.Addr()), append(endpoints, n.Address)
		if i != self {
			others = append(others, slices.Concat(n.Subnets, n.Routes)...)
		}
	}
	host.CPUs = runtime.NumCPU()
	if host.Underlay, err = link.FindUnderlay(peers[self], peers); err != nil {
		return self, host, err
	}
	if host.Shadows, err = link.Shadows(c.Network.Interface, others); err != nil {
		return self, host, err
	}
	if host.IPsec, err = link.Policed(endpoints[self], endpoints); err != nil {
		return self, host, err
	}
	node := forwarding.Node{TUN: c.Network.Interface, Networks: c.Network.CIDR, Subnets: c.Nodes[self].Subnets,
		Routes: c.Nodes[self].Routes, Underlay: host.Underlay.Devices}
	host.Forwarding, err = forwarding.Look(node, o.State, o.Sysctl)
	return self, host, err
}
