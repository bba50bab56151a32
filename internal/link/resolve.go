package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file decides of what the kernel is asked, and which rule is behind its answer.
//
// With the kernel's standard rules nothing is asked: the snapshot of table main holds the
// answer, whatever the number of peers. With further rules each distinct question is asked
// once. Two addresses that no route of any table and no rule tells apart take the same way,
// so one of them is asked for both: 10,000 peers behind one gateway cost one question.
//
// A host whose tables tell thousands of peers apart gets mostQuestions answers in one look; the
// rest is judged by table main.
//
//	block   the longest prefix, of a route of any table or of a rule, that an address is in

// A resolver answers questions from one snapshot of rules and routes, and from the kernel. It
// belongs to one goroutine.
type resolver struct {
	ask     func(question) (netlink.Route, error)
	rules   []rule          // of both families
	routes  []netlink.Route // of all tables
	blocks  map[netip.Prefix]bool
	lengths map[bool][]int // of blocks, by family (true: IPv6), the longest first
	answers map[distinct]answer
}

// distinct is what tells two questions apart: all but the address within its block.
type distinct struct {
	block netip.Prefix
	rest  question // without to
}

// An answer is what the kernel does with a packet.
type answer struct {
	route netlink.Route
	err   error // see refused
}

// readAllRules lists the rules of both families. needless is true if table main decides alone.
func readAllRules() (rules []rule, needless bool, err error) {
	needless = true
	for _, v6 := range []bool{false, true} {
		some, err := readRules(v6)
		if v6 && errors.Is(err, unix.EOPNOTSUPP) { // the kernel has no IPv6
			continue
		}
		if err != nil {
			return nil, false, err
		}
		rules, needless = append(rules, some...), needless && standard(some)
	}
	return rules, needless, nil
}

// newResolver returns a resolver that calls ask for each distinct question.
func newResolver(rules []rule, routes []netlink.Route, ask func(question) (netlink.Route, error)) *resolver {
	r := &resolver{ask: ask, rules: rules, routes: routes, blocks: map[netip.Prefix]bool{},
		lengths: map[bool][]int{}, answers: map[distinct]answer{}}
	for _, route := range routes {
		r.know(destination(route))
	}
	for _, rule := range rules {
		if rule.to.IsValid() {
			r.know(rule.to)
		}
	}
	for _, lengths := range r.lengths {
		slices.SortFunc(lengths, func(a, b int) int { return b - a })
	}
	return r
}

// know adds a block.
func (r *resolver) know(p netip.Prefix) {
	r.blocks[p] = true
	if v6 := p.Addr().Is6(); !slices.Contains(r.lengths[v6], p.Bits()) {
		r.lengths[v6] = append(r.lengths[v6], p.Bits())
	}
}

// block returns the longest block that has an address in it; without any, all of the family.
func (r *resolver) block(ip netip.Addr) netip.Prefix {
	for _, bits := range r.lengths[ip.Is6()] {
		if p, err := ip.Prefix(bits); err == nil && r.blocks[p] {
			return p
		}
	}
	all, _ := ip.Prefix(0)
	return all
}

// mostQuestions bounds the time of a look: one question takes 10 to 70 µs.
const mostQuestions = 2048

// errUnasked is the answer to questions beyond mostQuestions.
var errUnasked = errors.New("too many different questions")

// resolve answers a question.
func (r *resolver) resolve(q question) answer {
	key := distinct{r.block(q.to), q}
	key.rest.to = netip.Addr{}
	a, asked := r.answers[key]
	switch {
	case asked:
	case len(r.answers) >= mostQuestions:
		a.err = errUnasked
	default:
		a.route, a.err = r.ask(q)
		r.answers[key] = a
	}
	return a
}

// ruleOf returns the rule by which the kernel came to an answer: the first one that can match
// the packet and looks in the table of the route. For a packet that is refused, it is the first
// one that refuses it itself or whose table has a route for it. known is false if none fits.
func (r *resolver) ruleOf(q question, a answer) (by rule, known bool) {
	for _, rule := range r.rules {
		if !rule.selects(q) {
			continue
		}
		found := rule.action == actLookup && rule.table == a.route.Table
		if a.err != nil {
			found = actionNames[rule.action] != "" || r.decides(rule, q.to)
		}
		if found {
			return rule, true
		}
	}
	return rule{}, false
}

// decides reports whether the table of a rule has a route for an address that ends the search:
// a throw route, or one that the rule suppresses, does not.
func (r *resolver) decides(by rule, to netip.Addr) bool {
	if by.action != actLookup {
		return false
	}
	best, ends := -1, false
	for _, route := range r.routes {
		if p := destination(route); route.Table == by.table && p.Contains(to) && p.Bits() > best {
			best, ends = p.Bits(), route.Type != unix.RTN_THROW && p.Bits() > by.suppress
		}
	}
	return ends
}

// allTables lists the routes of all tables, both families and all types.
func allTables() ([]netlink.Route, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	routes, err := retry(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

// inTable returns the routes of one table.
func inTable(routes []netlink.Route, table int) (some []netlink.Route) {
	for _, r := range routes {
		if r.Table == table {
			some = append(some, r)
		}
	}
	return some
}
