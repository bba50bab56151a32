package nft

import (
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
)

// This file finds rules of other programs that are about the mesh's datagrams on their way out. BPF
// programs send past all of them: no mark is set, no DSCP value, no packet is logged or queued.

// An Outgoing is a chain with rules about datagrams of the mesh port.
type Outgoing struct {
	Chain string           // family, table and name of the chain
	Rule  string           // the first of the rules in the words of nft, not cleaned; see Found
	Rules int              // how many there are, at least 1
	Peers []netip.AddrPort // to which datagrams go, in the order of the question
}

// Bounds of one FindOutgoing. What is beyond them is not found.
const (
	maxWalked  = 50_000 // rules looked at
	maxLooking = 2 * time.Second
	maxSets    = 256     // sets and maps read
	maxNaming  = 1000    // rules that are about the datagrams
	maxInSet   = 100_000 // elements of one set
	// maxJudged is how many pairs of a rule and a peer are looked at. Rules beyond count for all peers.
	maxJudged = 200_000
)

// FindOutgoing returns which chains at the hooks output, postrouting and egress have rules, or lead to
// rules, that name the source port or the destination port of datagrams from this host's mesh port to
// some peers, and do something to them. A rule that only accepts does nothing that a datagram past it
// would miss. Rules of iptables-legacy are not seen. It needs CAP_NET_ADMIN.
func FindOutgoing(from uint16, peers []netip.AddrPort) ([]Outgoing, error) {
	conn, err := open(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	w := walk{conn: conn, until: time.Now().Add(maxLooking), from: from, peers: peers,
		rules: map[chainKey][]*nftables.Rule{}, sets: map[chainKey]*elements{}, at: map[chainKey]int{}}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6,
		nftables.TableFamilyINet, nftables.TableFamilyNetdev,
	} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, err
		}
		for _, c := range chains {
			if Ours(c.Table.Name) || !leaves(c) {
				continue
			}
			for _, f := range Families {
				if family != IPv4.table && family != IPv6.table || family == f.table {
					w.begin(c, f.v6)
				}
			}
		}
	}
	return w.found, nil
}

// leaves tells whether packets that leave this host meet a base chain. Those that a program redirects skip
// the hook egress as well (nf_skip_egress in include/linux/netfilter_netdev.h).
func leaves(c *nftables.Chain) bool {
	switch {
	case c.Hooknum == nil:
		return false
	case c.Table.Family == nftables.TableFamilyNetdev:
		return *c.Hooknum == *nftables.ChainHookEgress
	}
	return *c.Hooknum == *nftables.ChainHookOutput || *c.Hooknum == *nftables.ChainHookPostrouting
}

// A walk goes from base chains to all rules that datagrams may meet.
type walk struct {
	conn   *nftables.Conn
	until  time.Time
	from   uint16
	peers  []netip.AddrPort
	walked int // rules so far
	naming int // of them, those that are about the datagrams
	judged int // pairs of a rule and a peer

	rules map[chainKey][]*nftables.Rule // of chains that were read
	sets  map[chainKey]*elements        // that were read; nil: they could not be

	found []Outgoing
	at    map[chainKey]int // of a chain in found
}

// begin walks through a base chain with datagrams of one family. As long as no rule names a port it does
// not matter to which peer they go.
func (w *walk) begin(c *nftables.Chain, v6 bool) {
	var to []netip.AddrPort
	for _, p := range w.peers {
		if p.Addr().Unmap().Is6() == v6 {
			to = append(to, netip.AddrPortFrom(p.Addr().Unmap(), p.Port()))
		}
	}
	if len(to) == 0 {
		return
	}
	port := to[0].Port()
	if slices.ContainsFunc(to, func(p netip.AddrPort) bool { return p.Port() != port }) {
		port = 0
	}
	w.chain(c, steps{any: newDatagram(v6, w.from, netip.AddrPortFrom(netip.Addr{}, port)), to: to})
}

// steps lead from a base chain to a rule.
type steps struct {
	any   datagram // to any of the peers
	to    []netip.AddrPort
	path  []*nftables.Rule // that have sent the datagram on
	named bool             // one of them is about a port
}

// chain walks through a chain, and the chains that its rules lead to.
func (w *walk) chain(c *nftables.Chain, s steps) {
	for _, r := range w.rulesOf(c) {
		if w.walked++; w.walked > maxWalked || w.naming >= maxNaming || time.Now().After(w.until) {
			return
		}
		// Sets may have many elements: those of rules that neither name a port nor lead on are not read.
		j := s.any.judge(r, w.reader(c.Table, s.named))
		if j.ports && !s.named {
			j = s.any.judge(r, w.reader(c.Table, true))
		}
		if j.holds == never {
			continue
		}
		next := steps{s.any, s.to, append(slices.Clip(s.path), r), s.named || j.ports}
		if next.named && j.acts {
			w.note(c, r, next)
		}
		for _, to := range j.to {
			if len(next.path) <= maxJumps {
				w.chain(&nftables.Chain{Table: c.Table, Name: to}, next)
			}
		}
	}
}

// note finds out which peers' datagrams get to a rule, and notes it if there are some.
func (w *walk) note(c *nftables.Chain, r *nftables.Rule, s steps) {
	about := s.to
	if w.judged += len(s.to); w.judged <= maxJudged {
		about = nil
		for _, p := range s.to {
			if w.reaches(p, c, s) {
				about = append(about, p)
			}
		}
	}
	if len(about) == 0 {
		return
	}
	w.naming++
	key := keyOf(c)
	at, known := w.at[key]
	if !known {
		at = len(w.found)
		w.at[key] = at
		w.found = append(w.found, Outgoing{Rule: describe(r),
			Chain: familyName(byte(key.family)) + " " + key.table + " " + key.chain})
	}
	one := &w.found[at]
	one.Rules++
	one.Peers = union(w.peers, one.Peers, about)
}

// reaches tells whether datagrams to a peer get to the last rule of a path in a table.
func (w *walk) reaches(p netip.AddrPort, c *nftables.Chain, s steps) bool {
	d := newDatagram(s.any.v6, w.from, p)
	return !slices.ContainsFunc(s.path, func(r *nftables.Rule) bool {
		return d.judge(r, w.reader(c.Table, true)).holds == never
	})
}

// union returns the peers of two lists in the order of all.
func union(all, a, b []netip.AddrPort) (both []netip.AddrPort) {
	in := make(map[netip.AddrPort]bool, len(a)+len(b))
	for _, p := range slices.Concat(a, b) {
		in[p] = true
	}
	for _, p := range all {
		if in[netip.AddrPortFrom(p.Addr().Unmap(), p.Port())] {
			both = append(both, p)
		}
	}
	return both
}

// rulesOf returns the rules of a chain; none if it is gone meanwhile.
func (w *walk) rulesOf(c *nftables.Chain) []*nftables.Rule {
	key := keyOf(c)
	rules, read := w.rules[key]
	if !read {
		_ = again(func() (err error) {
			rules, err = listRules(w.conn, c)
			return err
		})
		w.rules[key] = rules
	}
	return rules
}

// reader returns the reader of a table's sets: of all of them, or only of those with verdicts.
func (w *walk) reader(t *nftables.Table, all bool) reader {
	return func(set string, verdicts bool) *elements {
		if !all && !verdicts {
			return nil
		}
		return w.elements(t, set)
	}
}

// elements returns the elements of a set; nil if they cannot be read.
func (w *walk) elements(t *nftables.Table, name string) *elements {
	key := chainKey{t.Family, t.Name, name}
	all, read := w.sets[key]
	if read || len(w.sets) >= maxSets {
		return all
	}
	if set, err := w.conn.GetSetByName(t, name); err == nil {
		if list, err := w.conn.GetSetElements(set); err == nil && len(list) <= maxInSet {
			all = newElements(set, list)
		}
	}
	w.sets[key] = all
	return all
}
