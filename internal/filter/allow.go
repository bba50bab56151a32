package filter

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// A node may take packets of some senders alone: the rules [[allow]] of the file. The host of the destination
// enforces them, where packets are forwarded to pods or taken by this host: there they look alike whatever
// moved them, and answers are known by their connection.
//
//	closed    the destinations behind this node that rules name. All others are open
//	pods      this node's own subnets, whose packets no rule is about
//	mesh      the prefixes behind all nodes; what is not in it is outside
//	from_...  sets of boxes: who may send what to whom, and mesh_... and outside_...; see allowbox.go
//
//	forward   an answer                                                to answer
//	          a probe of meshd's                                       pass
//	          everything else                                          to request
//	input     not from the mesh, or to an address of the TUN           pass
//	          an answer                                                to answer
//	          everything else                                          to request
//	request   to nothing in closed, or from pods                       pass
//	          an ICMP error about a connection                         pass
//	          in a box                                                 count, pass
//	          everything else                                          count, drop
//	answer    the same, with source and destination exchanged
//
// A packet is judged as the one that opened its connection: an answer is one the other way around. So answers
// pass, and a connection whose rule is gone ends with its next packet, since no rule accepts what is merely
// established. Between the hooks where addresses are translated a packet has the pod's address and the
// client's: where a published port leads counts, and not its own address. What connection tracking does not
// know is judged as if it opened a connection.
//
// A packet pays for each expression on its way, so the most frequent ones come early, few prefixes are
// compared one by one, and nothing is looked at twice.
//
// The chains come behind those of filters, so what another firewall drops is not counted.

// AllowName is the name of the tables, one for each family.
const AllowName = "meshd-allow"

// AllowStandbyName is the name of the standby tables.
const AllowStandbyName = "meshd-allow-2"

// NotAllowed is the drop reason of what no rule allows.
const NotAllowed = "not_allowed"

// notAllowed names the rules that drop. No rule of the file can have the name, which has a blank.
const notAllowed = "not allowed"

// mostCounted is how many boxes are counted. The kernel's time for a list of a set's elements grows with the
// square of their number, from 40 ms for 10,000 to minutes for a million, and counters of these take it half
// a minute to make (pcpu_alloc).
const mostCounted = 100_000

// AllowSettings is who may reach what is behind this node.
type AllowSettings struct {
	Rules  []AllowRule    // in the order of the file; the others of the file do not matter here
	Closed []netip.Prefix // behind this node, and named by a rule
	Pods   []netip.Prefix // subnets of this node
	Mesh   []netip.Prefix // behind all nodes
	Links  []string       // interfaces by which packets come from the mesh
	TUN    []netip.Addr   // addresses of the TUN, which take everything

	Probe     []byte // how the payload of a probe begins, at most 16 bytes
	ProbePort uint16 // UDP, see ProbeSettings.Port
}

// An AllowRule lets some packets pass.
type AllowRule struct {
	Name          string // by which packets are counted
	From          []netip.Prefix
	Mesh, Outside bool           // from any address of Mesh; from any other one
	To            []netip.Prefix // parts of Closed
	Services      []Service      // none: everything
}

// A Service is a protocol with its destination ports.
type Service struct {
	Protocol4, Protocol6 uint8  // its numbers over IPv4 and IPv6
	First, Last          uint16 // ports; 0 and 65535 for a protocol without
}

// An Allow keeps the rules. Set, Edit and Close belong to one goroutine; Counters may be called from any.
//
// Rules that close something must not go with `nft flush ruleset`, so the tables belong to this process while
// it lives, and stay when it ends. On kernels before 6.9 they do not; there the rules stand a second time, in
// standby tables (Linux 5.12), which judge what the ordinary ones let pass.
type Allow struct {
	rules   *nft.Keeper
	standby map[nft.ID]*nft.Standby // by the ordinary table

	built  *AllowSettings // what tables are made of; Set and Edit are called for the same, one after the other
	tables []nft.Table
}

// NewAllow returns an Allow. It does not touch the kernel.
func NewAllow() *Allow { return newAllow(nft.NewOwner(allowTables...)) }

func newAllow(rules *nft.Keeper) *Allow {
	a := &Allow{rules: rules, standby: map[nft.ID]*nft.Standby{}}
	for _, id := range allowTables {
		a.standby[id] = &nft.Standby{}
	}
	return a
}

// allowTables are the tables.
var allowTables = []nft.ID{nft.IPv4.Table(AllowName), nft.IPv6.Table(AllowName)}

// Set makes the rules match s, in one transaction; nil means that everything may pass. If they match already,
// Set changes nothing and changed is false. It needs CAP_NET_ADMIN. Neither the caller nor Set changes s any
// more.
func (a *Allow) Set(s *AllowSettings) (changed bool, err error) {
	tables := a.build(s)
	changed, err = a.rules.Set(tables)
	if err = errors.Join(err, a.standBy(tables)); err != nil {
		return false, fmt.Errorf("set who may reach whom: %w", err)
	}
	return changed, nil
}

// standBy makes the standby rules match the ordinary tables; none stand where nobody can remove these.
func (a *Allow) standBy(tables []nft.Table) error {
	var errs []error
	for _, id := range allowTables {
		i := slices.IndexFunc(tables, func(t nft.Table) bool { return t.ID == id })
		if i < 0 || a.rules.Owns() {
			errs = append(errs, a.standby[id].Close())
			continue
		}
		t := tables[i]
		t.ID = id.Named(AllowStandbyName)
		t.Chains = slices.Clone(t.Chains)
		for i := range t.Chains {
			if t.Chains[i].Hook != nil {
				t.Chains[i].Priority++
			}
		}
		errs = append(errs, a.standby[id].Set(t))
	}
	return errors.Join(errs...)
}

// Edit tells that s is what the last Set has set, without a look at the kernel. If ok is false, Set has to be
// called. Nobody changes s any more.
func (a *Allow) Edit(s *AllowSettings) (ok bool) {
	tables := a.build(s)
	return a.rules.Edit(tables) && a.standBy(tables) == nil
}

// Close ends the ownership of the rules, which would end with the process in any case. They stay in force.
func (a *Allow) Close() error {
	errs := []error{a.rules.Close()}
	for _, s := range a.standby {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Counters returns what the rules have let pass since NewAllow, by the name of the rule, and how many packets
// were dropped.
func (a *Allow) Counters() (passed map[string]nft.Counter, dropped uint64, err error) {
	passed, err = a.rules.Counters()
	if dropped, err = a.dropped(passed, err); err != nil {
		return nil, 0, err
	}
	delete(passed, notAllowed)
	return passed, dropped, nil
}

// Dropped returns how many packets were dropped, as Counters does. It may be called each second, however many
// rules there are.
func (a *Allow) Dropped() (uint64, error) { return a.dropped(a.rules.RuleCounters()) }

// dropped adds up what rules dropped. What passes a standby table has been counted before, or its rules were
// away.
func (a *Allow) dropped(counters map[string]nft.Counter, err error) (sum uint64, _ error) {
	sum = counters[notAllowed].Packets
	for _, s := range a.standby {
		more, standbyErr := s.Counters()
		sum, err = sum+more[notAllowed].Packets, errors.Join(err, standbyErr)
	}
	if err != nil {
		return 0, fmt.Errorf("read counters of who may reach whom: %w", err)
	}
	return sum, nil
}

// build returns the wanted tables. Those of 10,000 rules take 20 ms, so they are built once.
func (a *Allow) build(s *AllowSettings) []nft.Table {
	if a.built == nil || !a.built.Equal(s) {
		a.built, a.tables = s, s.tables()
	}
	return a.tables
}

// tables returns the wanted tables: none of a family in which everything may pass.
func (s *AllowSettings) tables() (all []nft.Table) {
	for _, f := range nft.Families {
		if s != nil && len(f.PrefixesOf(s.Closed)) > 0 {
			all = append(all, s.table(f))
		}
	}
	return all
}

// Names of the sets and chains.
const (
	setAllowed = "closed"
	setPods    = "pods"
	setLinks   = "links"
	setTUN     = "tun"
	requests   = "request"
	answers    = "answer"
)

// table returns the table of a family.
func (s *AllowSettings) table(f nft.Family) nft.Table {
	t := nft.Table{ID: f.Table(AllowName), Sets: []nft.Set{nft.Interfaces(setLinks, s.Links),
		f.Addresses(setTUN, s.TUN)}}
	j := judge{f: f, closed: placesOf(f, setAllowed, s.Closed), pods: placesOf(f, setPods, s.Pods),
		mesh: placesOf(f, setMesh, s.Mesh), groups: s.groups(f)}
	t.Sets = slices.Concat(t.Sets, j.closed.set(), j.pods.set(), j.mesh.set())
	boxes := 0
	for _, g := range j.groups {
		boxes += len(g.boxes)
	}
	for _, g := range j.groups {
		t.Boxes = append(t.Boxes, f.Boxes(g.name, g.shape, boxes <= mostCounted, g.boxes))
	}
	answer := nft.Rule{Name: "answer", Exprs: nft.Join(nft.Answer(), nft.Goto(answers))}
	request := nft.Rule{Name: "request", Exprs: nft.Goto(requests)}
	forward := nft.Chain{Name: "forward", Type: nft.Filter, Hook: nft.Forward, Priority: nft.BehindFilter,
		Rules: []nft.Rule{answer}}
	if s.ProbePort != 0 {
		forward.Rules = append(forward.Rules, pass("probe", nft.DatagramWith(s.ProbePort, s.Probe)))
	}
	forward.Rules = append(forward.Rules, pass("probe", f.EchoWith(s.Probe)), request)
	input := nft.Chain{Name: "input", Type: nft.Filter, Hook: nft.Input, Priority: nft.BehindFilter,
		Rules: []nft.Rule{pass("not from the mesh", nft.FromInterfaceNotIn(setLinks)),
			pass("TUN", f.DestinationIn(setTUN)), answer, request}}
	t.Chains = []nft.Chain{{Name: requests, Rules: j.rules(false)}, {Name: answers, Rules: j.rules(true)},
		forward, input}
	return t
}

// A judge says which packets of a family pass.
type judge struct {
	f                  nft.Family
	closed, pods, mesh places
	groups             []group
}

// rules returns those about answers, whose source is where their connection goes, or about all other packets.
func (j judge) rules(answer bool) []nft.Rule {
	all := []nft.Rule{pass("open", j.closed.hasNot(answer))}
	for _, pods := range j.pods.has(!answer) {
		all = append(all, pass("own pods", pods))
	}
	all = append(all, pass("errors", j.f.RelatedError()))
	for _, g := range j.groups {
		zones := []nft.Exprs{nil}
		switch g.zone {
		case fromMesh:
			zones = j.mesh.has(!answer)
		case outside:
			zones = []nft.Exprs{j.mesh.hasNot(!answer)}
		}
		for _, zone := range zones {
			all = append(all, pass("allowed", zone, g.portsOf(answer), j.f.InBox(g.name, g.shape, answer)))
		}
	}
	return append(all, nft.Rule{Name: notAllowed, Exprs: nft.Drop()})
}

// pass returns a rule that accepts what matches all parts, and does not count it.
func pass(name string, parts ...nft.Exprs) nft.Rule {
	return nft.Rule{Name: name, Exprs: nft.Join(nft.Join(parts...), nft.Pass())}
}

// Equal tells whether settings are the same. Reflection takes longer for one prefix than this for all.
func (s *AllowSettings) Equal(o *AllowSettings) bool {
	if s == nil || o == nil {
		return s == o
	}
	return slices.Equal(s.Mesh, o.Mesh) && slices.Equal(s.Closed, o.Closed) && slices.Equal(s.Pods, o.Pods) &&
		slices.Equal(s.Links, o.Links) && slices.Equal(s.TUN, o.TUN) && slices.Equal(s.Probe, o.Probe) &&
		s.ProbePort == o.ProbePort && slices.EqualFunc(s.Rules, o.Rules, AllowRule.equal)
}

func (r AllowRule) equal(o AllowRule) bool {
	return r.Name == o.Name && r.Mesh == o.Mesh && r.Outside == o.Outside && slices.Equal(r.From, o.From) &&
		slices.Equal(r.To, o.To) && slices.Equal(r.Services, o.Services)
}
