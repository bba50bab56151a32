package filter

import (
	"net/netip"

	"example.org/meshd/internal/nft"
)

// A forwarded probe shows what this host's firewall does to pods' packets: it takes their way through
// prerouting and forward, and ends where the firewall has passed it (Last). No pod gets it, nothing leaves,
// and connection tracking forgets it, since it is dropped before its connection is confirmed. A probe is
//
//	an echo request, or a datagram to a port, with meshd's payload, to our subnets
//
// While this host looks for the rule that drops its probes, there is one more chain:
//
//	chain trace { type filter hook prerouting priority -2147483648; policy accept;
//		... a probe of one ID                                     meta nftrace set 1
//	}
//
// As long as one rule sets nftrace, the kernel does more work for every packet (nft_trace_enabled).

// probeRate bounds how many probes of peers are looked at each second. Others are dropped uncounted.
const probeRate = 500

// ProbeSettings is which forwarded probes end here.
type ProbeSettings struct {
	To      []netip.Prefix // destinations: this node's own subnets
	Payload []byte         // how the payload of a probe begins, at most 16 bytes
	Group   uint16         // of NFLOG, which gets them
	Port    uint16         // UDP, to which peers send them where packets travel encrypted; 0: they send echoes
	Trace   uint16         // ID of the echoes to trace; 0: none
}

// taking adds to a table the chain that takes a probe out of the way, and returns the rules by which probes
// come to it.
func (s ProbeSettings) taking(t *nft.Table) (rules []nft.Rule) {
	const name = "probe"
	t.Chains = append(t.Chains, nft.Chain{Name: name, Rules: []nft.Rule{
		{Name: "log", Exprs: nft.LogTo(s.Group, probeRate)}, {Name: "taken", Exprs: nft.Drop()}}})
	if s.Port != 0 { // each datagram of the mesh comes by here as well
		rules = otherPort([]netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, s.Port)})
	}
	s.each(func(f nft.Family, to nft.Exprs) {
		kinds := []nft.Exprs{f.EchoWith(s.Payload)}
		if s.Port != 0 {
			kinds = append(kinds, nft.DatagramWith(s.Port, s.Payload))
		}
		for _, kind := range kinds {
			rules = append(rules, nft.Rule{Name: "probe", Exprs: nft.Join(f.Guard(), kind, to, nft.Goto(name))})
		}
	})
	return rules
}

// tracing is the chain that has echoes traced.
func (s ProbeSettings) tracing() nft.Chain {
	c := nft.Chain{Name: "trace", Type: nft.Filter, Hook: nft.Prerouting, Priority: nft.First}
	s.each(func(f nft.Family, to nft.Exprs) {
		c.Rules = append(c.Rules, nft.Rule{Name: "trace", Exprs: nft.Join(f.Guard(), f.EchoWith(s.Payload), to,
			nft.EchoID(s.Trace), nft.SetTrace())})
	})
	return c
}

// each calls do for each destination, with what matches it.
func (s ProbeSettings) each(do func(f nft.Family, to nft.Exprs)) {
	for _, f := range nft.Families {
		f = f.InBoth()
		for _, to := range f.PrefixesOf(s.To) {
			do(f, f.DestinationInside(to))
		}
	}
}
