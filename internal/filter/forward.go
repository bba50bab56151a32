package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// This file accepts the mesh's packets where the host drops what it forwards. Every base chain at
// a hook must let a packet pass, so an accept in a chain of meshd's has no effect on a chain of
// another program that drops the rest, by its policy or by its last rule: the accept has to be in
// that chain. These are meshd's only rules in tables of other programs. A comment marks them, so that
// a later run finds them without any state:
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
// A connection from outside of the mesh passes only to a published port. The host's own policy
// and rules decide about all others.

// acceptComment marks meshd's rules in chains of other programs.
const acceptComment = "meshd"

// Accept is which forwarded packets must pass chains that drop.
type Accept struct {
	Interfaces []string       // of meshd: packets come from the mesh by them, and leave to it
	Networks   []netip.Prefix // the pod network
	Pods       []netip.Prefix // of this node: they may send to the mesh and to the outside
	LANs       []netip.Prefix // networks behind this node (`routes`): they may send to the mesh
	All        bool           // accept everything through Interfaces, from Networks and to them
}

// Forward keeps accept rules in chains that drop. Its methods may be called from any goroutine.
type Forward struct{ guests *nft.Guests }

// NewForward returns a Forward. It does not touch the kernel.
func NewForward() *Forward {
	return &Forward{nft.NewGuests(acceptComment, nft.Forward)}
}

// Set adds rules to every chain that drops the forwarded packets which none of its rules accepts, and
// removes them from chains that do so no more. A chain that is right is not touched. repaired is true
// if rules that Set had made earlier were missing or changed. It needs CAP_NET_ADMIN.
func (f *Forward) Set(a Accept) (repaired bool, err error) {
	repaired, err = f.guests.Set(func(p nft.Place) []nft.Exprs {
		if !p.Drops {
			return nil
		}
		return a.exprs(p)
	})
	if err != nil {
		return repaired, fmt.Errorf("accept forwarded packets of the mesh: %w", err)
	}
	return repaired, nil
}

// Remove removes meshd's rules from all chains, also those of earlier runs, and reports whether it
// found any.
func (f *Forward) Remove() (removed bool, err error) {
	removed, err = f.guests.Remove()
	if err != nil {
		return removed, fmt.Errorf("remove accept rules: %w", err)
	}
	return removed, nil
}

// StandsIn reports whether the last Set left rules of meshd's in a chain of that name.
func (f *Forward) StandsIn(table, chain string) bool { return f.guests.Stand(table, chain) }

// A match is one condition under which a packet passes, in terms that nftables and iptables both
// have. A packet must meet all fields; empty fields match everything.
type match struct {
	in, out     string // interfaces
	from, to    netip.Prefix
	established bool // of an established connection, or related to one
	published   bool // of a connection to a published port
}

// v6 returns the family of the addresses; both is true if the match has no address.
func (m match) v6() (v6, both bool) {
	for _, p := range []netip.Prefix{m.from, m.to} {
		if p.IsValid() {
			return p.Addr().Is6(), false
		}
	}
	return false, true
}

// matches returns the conditions in the order of the rules.
func (a Accept) matches() (all []match) {
	if a.All {
		for _, own := range a.Interfaces {
			all = append(all, match{in: own}, match{out: own})
		}
		for _, p := range a.Networks {
			all = append(all, match{from: p}, match{to: p})
		}
		return all
	}
	// Packets that come out of these interfaces are from the mesh to this node: the engine has checked that,
	// or WireGuard and the guard (inner.go).
	for _, own := range a.Interfaces {
		all = append(all, match{in: own})
	}
	for _, p := range a.Pods {
		all = append(all, match{from: p})
	}
	for _, lan := range a.LANs {
		for _, own := range a.Interfaces {
			all = append(all, match{out: own, from: lan})
		}
		for _, p := range a.Networks {
			if p.Addr().Is4() == lan.Addr().Is4() {
				all = append(all, match{from: lan, to: p})
			}
		}
	}
	for _, p := range a.Networks {
		all = append(all, match{to: p, established: true}, match{to: p, published: true})
	}
	// A published port can lead to a network behind another node, which is outside of Networks.
	for _, own := range a.Interfaces {
		all = append(all, match{out: own, published: true})
	}
	return all
}

// exprs returns the rules for a chain, each with the check of the family that the chain needs.
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

// exprs returns a rule that accepts what matches. The order of its parts is that of iptables-nft,
// which refuses to read any other.
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

// words returns the same rule as `iptables -S` prints it.
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
