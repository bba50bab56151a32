package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// Forwarding. An accept in a chain of our own cannot beat a chain that drops: every base chain at a
// hook must let a packet pass. So the accepts have to stand in the very chain whose policy is drop.
// These are the only rules of ours in tables of others. They carry a comment, by which they are found
// again without any state:
//
//	chain FORWARD { type filter hook forward priority filter; policy drop;
//		iifname "mesh0" counter accept comment "meshd"
//		ip saddr 10.244.2.0/24 counter accept comment "meshd"
//		oifname "mesh0" ip saddr 192.168.7.0/24 counter accept comment "meshd"
//		ip saddr 192.168.7.0/24 ip daddr 10.244.0.0/16 counter accept comment "meshd"
//		ip daddr 10.244.0.0/16 ct state established,related counter accept comment "meshd"
//		ip daddr 10.244.0.0/16 ct status dnat counter accept comment "meshd"
//		... rules of others
//
// So a connection from outside the mesh passes only to a published port; everything else from there
// meets the host's own policy and rules.

// acceptComment marks our rules in chains of others.
const acceptComment = "meshd"

// Accept is which forwarded packets must pass chains that drop.
type Accept struct {
	Interface string         // the TUN
	Networks  []netip.Prefix // of all pods
	Pods      []netip.Prefix // of this node: they may send to the mesh and to the outside
	LANs      []netip.Prefix // behind this node (`routes`): they may send to the mesh
	All       bool           // whatever goes through the TUN, from Networks or to them
}

// Forward keeps accept rules in chains that drop. Its methods may be called from any goroutine.
type Forward struct{ guests *nft.Guests }

// NewForward returns a Forward that has not touched the kernel.
func NewForward() *Forward {
	return &Forward{nft.NewGuests(acceptComment, nft.Forward)}
}

// Set puts our rules into every chain that drops forwarded packets by its policy, and takes them out
// of chains that do not any more. It changes nothing where all is well. repaired tells that rules it
// had made were gone or changed.
func (f *Forward) Set(a Accept) (repaired bool, err error) {
	repaired, err = f.guests.Set(func(p nft.Place) []nft.Exprs {
		if !p.Drops {
			return nil
		}
		return a.exprs(p)
	})
	if err != nil {
		return repaired, fmt.Errorf("accept pods' packets where the host drops: %w", err)
	}
	return repaired, nil
}

// Remove takes our rules out of all chains, whoever made them, and tells whether there were any.
func (f *Forward) Remove() (removed bool, err error) {
	removed, err = f.guests.Remove()
	if err != nil {
		return removed, fmt.Errorf("remove accept rules: %w", err)
	}
	return removed, nil
}

// StandsIn tells whether rules of ours are in a chain of that name.
func (f *Forward) StandsIn(table, chain string) bool { return f.guests.Stand(table, chain) }

// A match is one of the things that a packet must be to pass, in words that nftables and iptables
// have in common. Empty fields match everything.
type match struct {
	in, out     string // interfaces
	from, to    netip.Prefix
	established bool
	published   bool
}

// v6 tells of which family the addresses are; both is true if there are none.
func (m match) v6() (v6, both bool) {
	for _, p := range []netip.Prefix{m.from, m.to} {
		if p.IsValid() {
			return p.Addr().Is6(), false
		}
	}
	return false, true
}

// matches returns what passes, in the order of the rules.
func (a Accept) matches() (all []match) {
	if a.All {
		all = append(all, match{in: a.Interface}, match{out: a.Interface})
		for _, p := range a.Networks {
			all = append(all, match{from: p}, match{to: p})
		}
		return all
	}
	// Whatever comes out of the TUN is from the mesh to this node: the engine has checked both.
	all = append(all, match{in: a.Interface})
	for _, p := range a.Pods {
		all = append(all, match{from: p})
	}
	for _, lan := range a.LANs {
		all = append(all, match{out: a.Interface, from: lan})
		for _, p := range a.Networks {
			if p.Addr().Is4() == lan.Addr().Is4() {
				all = append(all, match{from: lan, to: p})
			}
		}
	}
	for _, p := range a.Networks {
		all = append(all, match{to: p, established: true}, match{to: p, published: true})
	}
	// A published port may lead to a network behind another node, which is outside Networks.
	return append(all, match{out: a.Interface, published: true})
}

// exprs returns our rules for a chain.
func (a Accept) exprs(place nft.Place) (rules []nft.Exprs) {
	for _, m := range a.matches() {
		v6, both := m.v6()
		if both {
			rules = append(rules, m.exprs(place.Families[0], place.IPTables))
			continue
		}
		if i := slices.IndexFunc(place.Families, func(f nft.Family) bool { return f.V6() == v6 }); i >= 0 {
			rules = append(rules, append(place.Families[i].Guard(), m.exprs(place.Families[i], place.IPTables)...))
		}
	}
	return rules
}

// exprs spells a match and what becomes of its packets, in the order in which iptables-nft does.
func (m match) exprs(f nft.Family, iptables bool) (e nft.Exprs) {
	if m.in != "" {
		e = append(e, nft.FromInterface(m.in)...)
	}
	if m.out != "" {
		e = append(e, nft.ToInterface(m.out)...)
	}
	if m.from.IsValid() {
		e = append(e, f.SourceInside(m.from)...)
	}
	if m.to.IsValid() {
		e = append(e, f.DestinationInside(m.to)...)
	}
	switch {
	case !m.established && !m.published:
	case iptables:
		e = append(e, nft.IPTables(m.published)...)
	case m.published:
		e = append(e, nft.Published()...)
	default:
		e = append(e, nft.Established()...)
	}
	return append(e, nft.Accept()...)
}

// words spells a match as iptables prints it.
func (m match) words() (w []string) {
	if m.from.IsValid() {
		w = append(w, "-s", m.from.String())
	}
	if m.to.IsValid() {
		w = append(w, "-d", m.to.String())
	}
	if m.in != "" {
		w = append(w, "-i", m.in)
	}
	if m.out != "" {
		w = append(w, "-o", m.out)
	}
	switch {
	case m.established:
		w = append(w, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED")
	case m.published:
		w = append(w, "-m", "conntrack", "--ctstate", "DNAT")
	}
	return append(w, "-m", "comment", "--comment", acceptComment, "-j", "ACCEPT")
}
