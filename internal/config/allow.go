package config

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The rules of who may reach whom: [[allow]]. Each of them opens something, so their order says nothing: a
// destination that a rule names takes what some rule allows, and every other destination takes everything.
//
//	party    an entry of from or to: a node, a prefix, "mesh" or "outside"
//	service  an entry of proto: a protocol, with ports where it has some

// allowKey is the list of rules.
const allowKey = "allow"

// Bounds of the rules. A pair is a prefix of from with one of to and an entry of proto.
const (
	MaxAllows = 10_000
	maxPairs  = 1_000_000
)

// Words of from and to that are no nodes.
const (
	WholeMesh = "mesh"    // the subnets and routes of all nodes
	Outside   = "outside" // every other address
)

// An Allow is one [[allow]] table.
type Allow struct {
	Name     string    // used once; "#2" if the file gives its second rule no name
	From, To []Party   // at least one each
	Services []Service // none: everything
}

// A Party is one entry of from or to.
type Party struct {
	Name   string       // of a node, WholeMesh or Outside; empty: the party is Prefix
	Prefix netip.Prefix // masked
}

// String returns the party as the file has it.
func (p Party) String() string {
	if p.Name != "" {
		return p.Name
	}
	return p.Prefix.String()
}

// A Service is a protocol with its destination ports.
type Service struct {
	Protocol    string // a key of Protocols
	First, Last uint16 // ports, both included; 0 and 65535 without ports
}

// Protocols are those that a rule can name: their numbers over IPv4 and over IPv6 (IANA).
var Protocols = map[string][2]uint8{"tcp": {6, 6}, "udp": {17, 17}, "sctp": {132, 132}, "icmp": {1, 58}}

// portless is the one protocol without ports.
const portless = "icmp"

// String returns the service as the file has it.
func (s Service) String() string {
	switch {
	case s.First == 0:
		return s.Protocol
	case s.First == s.Last:
		return s.Protocol + "/" + strconv.Itoa(int(s.First))
	}
	return fmt.Sprintf("%s/%d-%d", s.Protocol, s.First, s.Last)
}

// ParseService reads an entry of proto: "icmp", "tcp", "tcp/443" or "tcp/8000-8100". The error says what is
// wrong with it, for people.
func ParseService(text string) (s Service, err error) {
	protocol, ports, some := strings.Cut(text, "/")
	if _, known := Protocols[protocol]; !known {
		return s, fmt.Errorf("%q must be tcp, udp, sctp or icmp, with a port such as \"tcp/443\"%s", text,
			meantService(text))
	}
	switch {
	case !some:
		return Service{protocol, 0, 65535}, nil
	case protocol == portless:
		return s, fmt.Errorf("%q: icmp has no ports: write \"icmp\"", text)
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	var both [2]uint16
	for i, port := range []string{first, last} {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return s, fmt.Errorf("%q: %q is not a port: give a number from 1 to 65535, or a range such as "+
				"\"%s/8000-8100\"", text, port, protocol)
		}
		both[i] = uint16(n)
	}
	if both[0] > both[1] {
		return s, fmt.Errorf("%q is a reversed range: write \"%s/%d-%d\"", text, protocol, both[1], both[0])
	}
	return Service{protocol, both[0], both[1]}, nil
}

// meantService proposes a valid entry for one that is none; empty if there is no near one.
func meantService(text string) string {
	lower := strings.ToLower(strings.TrimSpace(text))
	for _, meant := range []string{lower, strings.Replace(lower, ":", "/", 1), "tcp/" + lower,
		map[string]string{"icmpv6": portless, "icmp6": portless, "ping": portless}[lower]} {
		if s, err := validService(meant); err == nil {
			return fmt.Sprintf(": did you mean %q?", s)
		}
	}
	return ""
}

// validService is ParseService without proposals.
func validService(text string) (s Service, err error) {
	if protocol, _, _ := strings.Cut(text, "/"); Protocols[protocol] == [2]uint8{} {
		return s, strconv.ErrSyntax
	}
	return ParseService(text)
}

// ruleName matches the name of a rule. "#2" is none, so no name is that of a rule without one.
var ruleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// allows reads the rules. c has the nodes.
func (r *report) allows(ctx context.Context, raw []rawTable, c *Config) (all []Allow) {
	if len(raw) > MaxAllows {
		r.add(allowPath(MaxAllows), "the file has %d rules, the limit is %d: name several parties in one rule",
			len(raw), MaxAllows)
		return nil
	}
	names := make(map[string]int, len(raw))
	for i, table := range raw {
		if ctx.Err() != nil {
			return nil
		}
		all = append(all, r.allow(i, table, names))
	}
	if len(all) > 0 && !r.fatal {
		r.judgeAllows(all, c.Nodes)
	}
	return all
}

// allowPath returns where a rule stands in the file.
func allowPath(rule int) string { return allowKey + "[" + strconv.Itoa(rule) + "]" }

// allow reads one rule. names has those of the rules before.
func (r *report) allow(i int, raw rawTable, names map[string]int) Allow {
	base := allowPath(i)
	a := Allow{Name: r.text(base+".name", raw["name"], "#"+strconv.Itoa(i+1))}
	_, isText := raw["name"].(string)
	switch first, taken := names[a.Name]; {
	case !isText: // none, or reported
	case !ruleName.MatchString(a.Name):
		r.add(base+".name", "%q must be 1 to 63 letters, digits, dots, dashes and underscores, and begin with a "+
			"letter or a digit", a.Name)
	case taken:
		r.add(base+".name", "%q is already the name of the rule at line %d", a.Name,
			r.lineAt(allowPath(first)+".name"))
	default:
		names[a.Name] = i
	}
	if a.From = r.parties(base+".from", raw["from"]); raw["from"] == nil {
		a.From = []Party{{Name: WholeMesh}}
	}
	if a.To = r.parties(base+".to", raw["to"]); raw["to"] == nil {
		r.missing(base+".to", "is missing: name the nodes or prefixes that take packets by this rule")
	}
	a.Services = r.services(base+".proto", raw["proto"])
	return a
}

// parties reads from or to.
func (r *report) parties(path string, leaf any) (all []Party) {
	if list, ok := leaf.([]any); ok && len(list) == 0 {
		r.add(path, "is empty, so the rule would allow nothing: name nodes or prefixes, or delete the rule")
		return nil
	}
	r.list(path, leaf, false, func(path string, leaf any) {
		text, ok := leaf.(string)
		switch {
		case !ok:
			r.add(path, "must be a node, a prefix, \"mesh\" or \"outside\", in quotes, not %s", show(leaf))
		case strings.ContainsAny(text, "/:"):
			if p, ok := r.prefix(path, leaf); ok {
				all = append(all, Party{Prefix: p})
			}
		case isAddress(text):
			r.add(path, "%s is an address: write it as the prefix \"%[1]s/32\"", text)
		case text == "":
			r.add(path, "is empty: name a node or a prefix")
		default:
			all = append(all, Party{Name: text})
		}
	})
	return all
}

func isAddress(text string) bool { _, err := netip.ParseAddr(text); return err == nil }

// services reads proto.
func (r *report) services(path string, leaf any) (all []Service) {
	if list, ok := leaf.([]any); ok && len(list) == 0 {
		r.add(path, "is empty, so the rule would allow nothing: delete the line to allow every protocol")
		return nil
	}
	if text, ok := leaf.(string); ok {
		r.add(path, "must be a list: write [%q]", text)
		return nil
	}
	r.list(path, leaf, false, func(path string, leaf any) {
		text, ok := leaf.(string)
		if !ok {
			r.add(path, "must be text in quotes such as \"tcp/443\", not %s", show(leaf))
			return
		}
		s, err := ParseService(text)
		if err != nil {
			r.add(path, "%s", err)
			return
		}
		all = append(all, s)
	})
	return all
}

// judgeAllows reports what is wrong with rules beside the nodes of the file.
func (r *report) judgeAllows(all []Allow, nodes []Node) {
	d, proposals := directoryOf(nodes), 5
	for _, word := range []string{WholeMesh, Outside} {
		if i, taken := d.index[word]; taken {
			r.add(nodePath(i)+".name", "%q means something else in [[allow]]: rename the node, or delete the rules",
				word)
		}
	}
	for i, a := range all {
		for _, w := range d.wrong(a) {
			if proposals > 0 && w.name != "" { // each costs a comparison with all nodes
				proposals--
				if meant := nearest(w.name, append(d.names(), WholeMesh, Outside)); meant != "" {
					w.says += fmt.Sprintf(": did you mean %q?", meant)
				}
			}
			r.add(allowPath(i)+w.key, "%s", w.says)
		}
	}
	if pairs := d.pairs(all); pairs > maxPairs {
		r.add(allowPath(0), "the rules have %d pairs of prefixes and protocols, the limit is %d: write \"mesh\" "+
			"in from, or shorter prefixes", pairs, maxPairs)
	}
}

// allowsFit tells whether rules that are right by themselves are right beside other nodes.
func allowsFit(all []Allow, nodes []Node) bool {
	if len(all) == 0 {
		return true
	}
	d := directoryOf(nodes)
	_, mesh := d.index[WholeMesh]
	_, outside := d.index[Outside]
	return !mesh && !outside && d.pairs(all) <= maxPairs &&
		!slices.ContainsFunc(all, func(a Allow) bool { return len(d.wrong(a)) > 0 })
}

// A directory answers what the names of rules stand for.
type directory struct {
	nodes    []Node
	index    map[string]int // of nodes; of two with one name the first counts
	families families       // of all nodes together
	prefixes int            // of all nodes
}

// families is a set of families: bit 0 is IPv4, bit 1 IPv6.
type families uint8

func directoryOf(nodes []Node) directory {
	d := directory{nodes: nodes, index: make(map[string]int, len(nodes))}
	for i := len(nodes) - 1; i >= 0; i-- {
		d.index[nodes[i].Name] = i
		d.families |= familiesOf(nodes[i].Reach())
		d.prefixes += len(nodes[i].Reach())
	}
	return d
}

// Reach returns all prefixes behind the node: its subnets and its routes.
func (n Node) Reach() []netip.Prefix { return append(slices.Clip(n.Subnets), n.Prefixes()...) }

func familiesOf(ps []netip.Prefix) (f families) {
	for _, p := range ps {
		if p.Addr().Is6() {
			f |= 2
		} else {
			f |= 1
		}
	}
	return f
}

// names returns those of all nodes.
func (d directory) names() (all []string) {
	for _, n := range d.nodes {
		all = append(all, n.Name)
	}
	return all
}

// Resembling returns the node, or Outside, whose name a word is most like; empty if it is like none.
func (c *Config) Resembling(word string) string {
	return nearest(word, append(directoryOf(c.Nodes).names(), Outside))
}

// familyOf returns the families of a party, and how many prefixes it stands for.
func (d directory) familyOf(p Party) (f families, prefixes int) {
	switch i, isNode := d.index[p.Name]; {
	case p.Name == "":
		return familiesOf([]netip.Prefix{p.Prefix}), 1
	case p.Name == WholeMesh:
		return d.families, d.prefixes
	case p.Name == Outside:
		return d.families, 1
	case isNode:
		reach := d.nodes[i].Reach()
		return familiesOf(reach), len(reach)
	}
	return 0, 0
}

// A wrongAllow is what is wrong with a rule.
type wrongAllow struct {
	key  string // below the rule: ".from[1]"
	name string // the unknown one; empty: something else is wrong
	says string
}

// wrong tells what is wrong with a rule that is right by itself.
func (d directory) wrong(a Allow) (all []wrongAllow) {
	var of [2]families
	for side, parties := range [][]Party{a.From, a.To} {
		key := []string{".from", ".to"}[side]
		for i, p := range parties {
			if _, isNode := d.index[p.Name]; p.Name != "" && !isNode && p.Name != WholeMesh && p.Name != Outside {
				all = append(all, wrongAllow{fmt.Sprintf("%s[%d]", key, i), p.Name,
					fmt.Sprintf("no node is named %q", p.Name)})
			}
			f, _ := d.familyOf(p)
			of[side] |= f
		}
	}
	if of[0] != 0 && of[1] != 0 && of[0]&of[1] == 0 {
		all = append(all, wrongAllow{key: ".to",
			says: fmt.Sprintf("has %s alone, and from has %s alone: no packet has both", of[1], of[0])})
	}
	return all
}

// String names the families.
func (f families) String() string {
	return [...]string{"no family", "IPv4", "IPv6", "both families"}[f&3]
}

// pairs counts pairs. "mesh" and "outside" are one each in from: no set lists their prefixes.
func (d directory) pairs(all []Allow) (n int) {
	for _, a := range all {
		from, to := 0, 0
		for _, p := range a.From {
			_, prefixes := d.familyOf(p)
			if p.Name == WholeMesh {
				prefixes = 1
			}
			from += prefixes
		}
		for _, p := range a.To {
			_, prefixes := d.familyOf(p)
			to += prefixes
		}
		if n += from * to * max(1, len(a.Services)); n < 0 {
			return maxPairs + 1
		}
	}
	return n
}
