package filter

import (
	"fmt"
	"slices"
	"sync"

	"example.org/meshd/internal/nft"
)

// A Last keeps the chain that comes behind all others, in the table nft.LastTable:
//
//	table inet meshd-last {
//		chain to-mesh {
//			... to a peer with a narrow path                      tcp option maxseg size set
//		}
//		chain probe {
//			limit rate 500/second log group N
//			counter drop
//		}
//		chain last {
//			type filter hook postrouting priority 2147483646; policy accept;
//			tcp flags syn,rst != syn                              accept
//			tcp, to the mesh                                      goto to-mesh
//			udp, to a port that no probe has                      accept
//			... a forwarded probe, see ProbeSettings              goto probe
//		}
//	}
//
// Its methods may be called from any goroutine.
type Last struct {
	mu    sync.Mutex // guards all
	rules *nft.Keeper
	clamp ClampSettings
	probe *ProbeSettings // nil: no probe is taken
}

// NewLast returns a Last. It does not touch the kernel.
func NewLast() *Last { return &Last{rules: nft.NewKeeper(nft.Both(nft.LastTable))} }

// Clamp has the sizes of TCP segments to the mesh match s, in one transaction. If they do already, it changes
// nothing and changed is false. It needs CAP_NET_ADMIN.
func (l *Last) Clamp(s ClampSettings) (changed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clamp = s
	if changed, err = l.set(); err != nil {
		err = fmt.Errorf("set the largest TCP segments: %w", err)
	}
	return changed, err
}

// Take has forwarded probes end here, in one transaction. It needs CAP_NET_ADMIN.
func (l *Last) Take(s ProbeSettings) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probe = &s
	if _, err := l.set(); err != nil {
		return fmt.Errorf("take forwarded probes: %w", err)
	}
	return nil
}

// set makes the kernel's table the wanted one. The caller holds mu.
func (l *Last) set() (changed bool, err error) { return l.rules.Set([]nft.Table{l.table()}) }

// table returns the wanted table.
func (l *Last) table() nft.Table {
	t := nft.Table{ID: nft.Both(nft.LastTable)}
	last := nft.Chain{Name: "last", Type: nft.Filter, Hook: nft.Postrouting, Priority: nft.Last,
		Rules: l.clamp.addTo(&t, "to-mesh", nft.Family.DestinationIn, nft.ToInterfaceIn(setMesh))}
	if l.probe != nil {
		last.Rules = append(last.Rules, l.probe.taking(&t)...)
	}
	t.Chains = append(t.Chains, last)
	if l.probe != nil && l.probe.Trace != 0 {
		t.Chains = append(t.Chains, l.probe.tracing())
	}
	return t
}

// former are tables of versions before 0.2, whose rules are in others now.
var former = []nft.ID{nft.Both("meshd-mss"), nft.Both("meshd-probe")}

// RemoveFormer removes tables of versions before this one that nobody keeps any more.
func RemoveFormer() error {
	if _, err := nft.Remove(former...); err != nil {
		return fmt.Errorf("remove tables of an earlier version: %w", err)
	}
	return nil
}

// CleanUp removes meshd's tables of filters and its rules in chains of other programs, also those of
// earlier runs, and reports whether it found any.
func CleanUp() (removed bool, err error) {
	accepts, err := NewForward().Remove()
	if err != nil {
		return accepts, err
	}
	tables, err := nft.Remove(slices.Concat(former, allowTables,
		[]nft.ID{nft.Both(TableName), nft.AtDevices(InnerName), nft.Both(InnerName),
			nft.AtDevices(InnerStandbyName), nft.Both(InnerStandbyName), nft.Both(nft.LastTable)})...)
	if err != nil {
		err = fmt.Errorf("remove tables of filters: %w", err)
	}
	return accepts || tables, err
}
