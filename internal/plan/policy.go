package plan

import (
	"fmt"
	"net/netip"
	"strings"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
)

// planPolicies leaves peers to sockets whose datagrams an IPsec policy is about: programs would
// bypass it.
func (p *Plan) planPolicies(policies []link.Policy) {
	names := map[netip.AddrPort]string{}
	for _, peer := range p.Engine.Mesh.Others() {
		names[peer.Underlay.AddrPort] = peer.Name
	}
	severity := mesh.Info
	if p.Engine.Kernel.Use == dataplane.Always { // what the file asks for is not what happens
		severity = mesh.Degraded
	}
	for _, policy := range policies {
		var about []string
		for _, at := range policy.Peers {
			if name := names[at]; name != "" {
				about = append(about, name)
			}
		}
		if len(about) == 0 {
			continue
		}
		if p.Engine.Kernel.Policed == nil {
			p.Engine.Kernel.Policed = map[string]bool{}
		}
		for _, name := range about {
			p.Engine.Kernel.Policed[name] = true
		}
		p.note(mesh.Condition{Kind: mesh.PeersPoliced, Severity: severity,
			Subject: policy.Name, Cause: some(about),
			Remedy: "the policy holds and costs speed alone; `dataplane.engine = \"auto\"` makes this a hint"})
	}
}

// some lists the first few names, and says how many there are besides.
func some(names []string) string {
	const enough = 4
	if more := len(names) - enough; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:enough], ", "), more)
	}
	return strings.Join(names, ", ")
}
