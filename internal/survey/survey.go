// Package survey looks at this host with a file in mind: all that a plan needs to know of it.
package survey

import (
	"runtime"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/forwarding"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/rules"
)

// A Viewer is what of the command line matters for a look at the host.
type Viewer struct {
	Node   string        // which node this host is; empty: found by its address
	State  string        // the state folder
	Sysctl bool          // forwarding may be turned on
	Others *rules.Others // what is known of other programs' rules
	// Names returns what DNS names of the file stand for, as far as that is known; nil: none is resolved.
	Names func() map[string]plan.Name
	Keys  *Keys // hear of each key that was read; may be nil
}

// Look looks at this host with a file in mind, and returns which node of the file the host is. The
// error has plan.ErrNotHere in it if the host is no node yet, and plan.ErrIdentity if the file or --node
// is at fault; other errors are the host's.
func (v Viewer) Look(c *config.Config) (self int, host plan.Host, err error) {
	if host.Local, err = link.LocalAddresses(); err != nil {
		return 0, host, err
	}
	var names map[string]plan.Name
	if v.Names != nil {
		names = v.Names()
	}
	host.OwnKey, err = ownKey(c)
	if v.Keys.read(c, host.OwnKey, err); err != nil {
		return 0, host, err
	}
	nodes := plan.Expand(c, names)
	if self, err = nodes.Identify(v.Node, host.Local, host.Key); err != nil {
		return 0, host, plan.Keyless(c, host.OwnKey, err)
	}
	host.CPUs, host.Nodes = runtime.NumCPU(), nodes.SeenFrom(self, host.Local)
	own, endpoints := host.Nodes.Datagrams(self)
	if host.Underlay, err = link.FindUnderlay(own, endpoints); err != nil {
		return self, host, err
	}
	pods := plan.Pods(c, self)
	if host.Shadows, err = link.Shadows(pods.TUN, pods.Others, pods.Beside...); err != nil {
		return self, host, err
	}
	if host.IPsec, err = link.Policed(own.From, endpoints); err != nil {
		return self, host, err
	}
	host.Outgoing = v.Others.Outgoing(c.Nodes[self].Port(), endpoints)
	node := forwarding.Node{TUN: pods.TUN, Beside: pods.Beside, Networks: pods.Networks, Subnets: pods.Own,
		Routes: c.Nodes[self].Prefixes(), Underlay: host.Underlay.Devices}
	if host.Forwarding, err = forwarding.Look(node, v.State, v.Sysctl); err != nil {
		return self, host, err
	}
	pods.Link = host.Forwarding.Crossing.PodLink()
	host.Diverted, err = link.FindDiversions(pods)
	return self, host, err
}
