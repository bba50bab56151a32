package daemon

import (
	"runtime"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/forwarding"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/rules"
)

// observe looks at this host with a file in mind, and returns which node of the file the host is. The
// error has plan.ErrNotHere in it if the host is no node yet, and plan.ErrIdentity if the file or --node
// is at fault; other errors are the host's.
func observe(c *config.Config, o Options, others *rules.Others) (self int, host plan.Host, err error) {
	if host.Local, err = link.LocalAddresses(); err != nil {
		return 0, host, err
	}
	if self, err = plan.Identify(c, o.Node, host.Local); err != nil {
		return 0, host, err
	}
	host.CPUs = runtime.NumCPU()
	own, endpoints := plan.Datagrams(c, self)
	if host.Underlay, err = link.FindUnderlay(own, endpoints); err != nil {
		return self, host, err
	}
	pods := plan.Pods(c, self)
	if host.Shadows, err = link.Shadows(pods.TUN, pods.Others); err != nil {
		return self, host, err
	}
	if host.IPsec, err = link.Policed(own.From, endpoints); err != nil {
		return self, host, err
	}
	host.Outgoing = others.Outgoing(own.From.Port(), endpoints)
	node := forwarding.Node{TUN: pods.TUN, Networks: pods.Networks, Subnets: pods.Own,
		Routes: c.Nodes[self].Routes, Underlay: host.Underlay.Devices}
	if host.Forwarding, err = forwarding.Look(node, o.State, o.Sysctl); err != nil {
		return self, host, err
	}
	pods.Link = host.Forwarding.Crossing.PodLink()
	host.Diverted, err = link.FindDiversions(pods)
	return self, host, err
}
