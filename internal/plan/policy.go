package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// planPolicies leaves peers to sockets whose datagrams an IPsec policy is about, or a rule on the way out:
// programs would bypass both.
func (p *Plan) planPolicies(host Host) {
	if len(host.IPsec)+len(host.Outgoing) == 0 {
		return
	}
	names := map[netip.AddrPort]string{}
	for peer := range p.Engine.Mesh.Others() {
		for _, a := range peer.Addresses {
			names[a.AddrPort] = peer.Name
		}
	}
	for _, policy := range host.IPsec {
		if about := p.police(names, policy.Peers, dataplane.Policed{Out: true, In: true}); len(about) > 0 {
			p.notePolicy(mesh.PeersPoliced, policy.Name, some(about))
		}
	}
	for _, chain := range host.Outgoing {
		if about := p.police(names, chain.Peers, dataplane.Policed{Out: true}); len(about) > 0 {
			rule := strconv.Quote(chain.Rule)
			if more := chain.Rules - 1; more > 0 {
				rule += fmt.Sprintf(" and %d more", more)
			}
			p.notePolicy(mesh.PeersRuled, chain.Chain, fmt.Sprintf("%s, about %s", rule, some(about)))
		}
	}
}

// police leaves peers that listen at some addresses to user space, and returns their names, each once.
func (p *Plan) police(names map[netip.AddrPort]string, at []netip.AddrPort, what dataplane.Policed) (
	about []string) {
	for _, address := range at {
		name := names[address]
		if name == "" { // this node, or one that cannot be spoken to
			continue
		}
		if p.Engine.Kernel.Policed == nil {
			p.Engine.Kernel.Policed = map[string]dataplane.Policed{}
		}
		have := p.Engine.Kernel.Policed[name]
		p.Engine.Kernel.Policed[name] = dataplane.Policed{Out: have.Out || what.Out, In: have.In || what.In}
		if !slices.Contains(about[max(0, len(about)-1):], name) { // the addresses of a peer stand together
			about = append(about, name)
		}
	}
	return about
}

// notePolicy tells why some peers are left to user space.
func (p *Plan) notePolicy(kind mesh.Kind, subject, cause string) {
	severity := mesh.Info
	if p.Engine.Kernel.Use == dataplane.Always { // what the file asks for is not what happens
		severity = mesh.Degraded
	}
	what := map[mesh.Kind]string{mesh.PeersPoliced: "the policy holds", mesh.PeersRuled: "the rule holds"}[kind]
	p.note(mesh.Condition{Kind: kind, Severity: severity, Subject: subject, Cause: cause,
		Remedy: what + " and costs speed alone; `dataplane.engine = \"auto\"` makes this a hint"})
}

// some lists the first few names, and says how many there are besides.
func some(names []string) string {
	const enough = 4
	if more := len(names) - enough; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:enough], ", "), more)
	}
	return strings.Join(names, ", ")
}
