package filter

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nft"
)

// WireGuard checks that a peer sends from its own addresses, and does not ask to whom: a node could reach
// the network of this host, the host's other addresses, or a third node through it. So this host drops what
// comes out of the encrypted interface and is for nothing behind this node. The engine does the same with
// what comes bare (mesh.WrongDestination).
//
//	inner    the prefixes behind this node, and those that it forwards to, compared one by one, or in sets,
//	         one for each length
//
//	ingress  of the encrypted interface: to nothing in inner              drop
//
// No such prefix has multicast or link-local addresses, so these are dropped as well: a file with one is
// refused. In a family without prefixes everything is dropped.
//
// They are in no set of intervals: that is empty for a moment each time the table is replaced, at each start,
// and packets of peers would be dropped (nft/lengths.go).
//
// The chain is at the interface, since all others of a host cost each of its packets: so it ends with the
// interface, and a new one has to get it before it has peers. Kernels without such chains (NF_TABLES_NETDEV)
// have it at the hook prerouting.
//
// Rules that encryption rests on must not go with `nft flush ruleset`, so the table belongs to this process
// while it lives, and stays when it ends. On kernels before 6.9 it does not; there the rules stand a second
// time, in a standby table (Linux 5.12).

// Names of the table and of the standby table.
const (
	InnerName        = "meshd-inner"
	InnerStandbyName = "meshd-inner-2"
)

// setInner is the name of the sets.
const setInner = "inner"

// An Inner keeps the rules. Set, Stands and Close belong to one goroutine; Drops may be called from any.
type Inner struct {
	rules   *nft.Keeper
	standby nft.Standby
	nowhere bool // the kernel has no chains at devices
	index   int  // of the interface at the last Set
}

// NewInner returns an Inner. It does not touch the kernel.
func NewInner() *Inner { return &Inner{rules: nft.NewOwner(nft.AtDevices(InnerName))} }

// Set makes the rules match s, in one transaction. Index is that of the encrypted interface; not above 0:
// there is none, and so there are no rules. If they match already, Set changes nothing and changed is false.
// It needs CAP_NET_ADMIN.
func (i *Inner) Set(s GuardSettings, index int) (changed bool, err error) {
	changed, err = i.set(s, index)
	if errors.Is(err, unix.EOPNOTSUPP) && !i.nowhere {
		i.nowhere, i.rules = true, nft.NewOwner(nft.Both(InnerName))
		changed, err = i.set(s, index)
	}
	if err != nil {
		return false, fmt.Errorf("guard the encrypted interface: %w", err)
	}
	return changed, nil
}

func (i *Inner) set(s GuardSettings, index int) (changed bool, err error) {
	var tables []nft.Table
	if s.Encrypted != "" && index > 0 {
		tables = []nft.Table{s.innerTable(InnerName, nft.Raw, i.nowhere)}
	}
	if index != i.index { // its chain is gone with the last one, which the standby does not know
		err = i.standby.Close()
	}
	i.index = index
	changed, setErr := i.rules.Set(tables)
	if err = errors.Join(err, setErr); len(tables) == 0 || err == nil && i.rules.Owns() {
		return changed, errors.Join(err, i.standby.Close())
	}
	return changed, errors.Join(err, i.standby.Set(s.innerTable(InnerStandbyName, nft.Raw+1, i.nowhere)))
}

// Stands reports whether nobody can have removed the rules of the last Set.
func (i *Inner) Stands() bool { return i.standby.Stands() || i.rules.Owns() }

// Drops returns how many packets the rules have dropped since NewInner.
func (i *Inner) Drops() (uint64, error) {
	counters, err := i.rules.Counters()
	more, standbyErr := i.standby.Counters()
	if err = errors.Join(err, standbyErr); err != nil {
		return 0, fmt.Errorf("read drops at the encrypted interface: %w", err)
	}
	return counters[WrongDestination].Packets + more[WrongDestination].Packets, nil
}

// Close ends the ownership of the rules, which would end with the process in any case. They stay in force.
func (i *Inner) Close() error { return errors.Join(i.rules.Close(), i.standby.Close()) }

// innerTable returns the table of a name; without chains at devices it is one of both families.
func (s GuardSettings) innerTable(name string, priority nft.Priority, nowhere bool) nft.Table {
	t := nft.Table{ID: nft.AtDevices(name)}
	c := nft.Chain{Name: "ingress", Type: nft.Filter, Hook: nft.Ingress, Device: s.Encrypted, Priority: priority}
	in, from := nft.Family.AtDevice, nft.Exprs(nil)
	if nowhere {
		t.ID, in, from = nft.Both(name), nft.Family.InBoth, nft.FromInterface(s.Encrypted)
		c = nft.Chain{Name: "prerouting", Type: nft.Filter, Hook: nft.Prerouting, Priority: priority}
	}
	for _, f := range nft.Families {
		f = in(f)
		inner := placesOf(f, setInner, s.Inner).prefixes
		outside := f.DestinationOutside(inner)
		if len(inner) > few {
			outside = f.DestinationNotByLength(setInner, inner)
			t.Sets = append(t.Sets, f.ByLength(setInner, inner)...)
		}
		c.Rules = append(c.Rules, nft.Rule{Name: WrongDestination, Exprs: nft.Join(from, f.Guard(), outside,
			nft.Drop())})
	}
	t.Chains = []nft.Chain{c}
	return t
}
