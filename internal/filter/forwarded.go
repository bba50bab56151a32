package filter

import (
	"errors"
	"fmt"
	"net/netip"

	"example.org/meshd/internal/nft"
)

// A forwarded probe shows what this host's firewall does to pods' packets: it takes their way through
// prerouting and forward, and ends where the firewall has passed it. No pod gets it, nothing leaves,
// and connection tracking forgets it, since it is dropped before its connection is confirmed:
//
//	table inet meshd-probe {
//		chain take { type filter hook postrouting priority 2147483646; policy accept;
//			meta l4proto tcp                                          accept
//			... echo request to our subnets with meshd's payload  limit rate 500/second log group N
//			... the same                                          counter drop
//		}
//		chain trace { type filter hook prerouting priority -2147483648; policy accept;
//			... the same, of one ID                               meta nftrace set 1
//		}
//	}
//
// The chain trace is there only while this host looks for the rule that drops its probes: as long as
// one rule sets nftrace, the kernel does more work for every packet (nft_trace_enabled).

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

// Forwarded keeps the rules that take forwarded probes. Set belongs to one goroutine.
type Forwarded struct{ rules *nft.Keeper }

// NewForwarded returns a Forwarded. It does not touch the kernel.
func NewForwarded() *Forwarded { return &Forwarded{nft.NewKeeper(nft.Both(nft.ProbeTable))} }

// Set makes the rules match s, in one transaction. If they match already, Set changes nothing. It
// needs CAP_NET_ADMIN.
func (f *Forwarded) Set(s ProbeSettings) error {
	if _, err := f.rules.Set([]nft.Table{s.table()}); err != nil {
		return fmt.Errorf("take forwarded probes: %w", err)
	}
	return nil
}

// Remove removes the rules, also those of an earlier run, and reports whether it found any.
func (f *Forwarded) Remove() (removed bool, err error) {
	if removed, err = nft.Remove(nft.Both(nft.ProbeTable)); err != nil {
		err = fmt.Errorf("remove the rules for forwarded probes: %w", err)
	}
	return removed, err
}

// table returns the wanted table.
func (s ProbeSettings) table() nft.Table {
	take := nft.Chain{Name: "take", Type: nft.Filter, Hook: nft.Postrouting, Priority: nft.Last}
	// All packets of this host come here. No probe is of TCP, which most of them are.
	take.Rules = []nft.Rule{{Name: "other", Exprs: nft.Join(nft.TCP(), nft.Pass())}}
	trace := nft.Chain{Name: "trace", Type: nft.Filter, Hook: nft.Prerouting, Priority: nft.First}
	for _, f := range nft.Families {
		f = f.InBoth()
		for _, to := range f.PrefixesOf(s.To) {
			probe := nft.Join(f.Guard(), f.EchoWith(s.Payload), f.DestinationInside(to))
			take.Rules = append(take.Rules, s.taking(probe)...)
			if s.Port != 0 {
				take.Rules = append(take.Rules, s.taking(nft.Join(f.Guard(), nft.DatagramWith(s.Port, s.Payload),
					f.DestinationInside(to)))...)
			}
			trace.Rules = append(trace.Rules,
				nft.Rule{Name: "trace", Exprs: nft.Join(probe, nft.EchoID(s.Trace), nft.SetTrace())})
		}
	}
	t := nft.Table{ID: nft.Both(nft.ProbeTable), Chains: []nft.Chain{take}}
	if s.Trace != 0 {
		t.Chains = append(t.Chains, trace)
	}
	return t
}

// taking are the rules that take probes out of the way.
func (s ProbeSettings) taking(probe nft.Exprs) []nft.Rule {
	return []nft.Rule{{Name: "log", Exprs: nft.Join(probe, nft.LogTo(s.Group, probeRate))},
		{Name: "taken", Exprs: nft.Join(probe, nft.Drop())}}
}

// CleanUp removes meshd's tables of filters and its rules in chains of other programs, also those of
// earlier runs, and reports whether it found any.
func CleanUp() (removed bool, err error) {
	accepts, err := NewForward().Remove()
	if err != nil {
		return accepts, err
	}
	guard, err := nft.Remove(nft.Both(TableName), nft.Both(StandbyName), nft.Both(ClampName),
		allowTables[0], allowTables[1])
	if err != nil {
		err = fmt.Errorf("remove tables of filters: %w", err)
	}
	probes, probesErr := NewForwarded().Remove()
	return accepts || guard || probes, errors.Join(err, probesErr)
}
