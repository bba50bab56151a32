package health

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"example.org/meshd/internal/mesh"
)

// A Peer is what peers with one trouble may have in common.
type Peer struct {
	Name     string
	Underlay netip.AddrPort
	Version  string // of its meshd; empty: not known
	File     string // names the meaning of its file; empty: not known
	Met      bool   // it was up since this meshd started
	// Maintained tells that it has announced a maintenance: how it is says nothing of what others share.
	Maintained bool
}

// named is how many names a condition lists; a mesh may have thousands.
const named = 8

// A trouble is the conditions of one kind, each about another peer.
type trouble struct {
	kind  mesh.Kind
	about []mesh.Condition
}

// Causes puts the cause in the place of its effects. Where one kind of condition is about all peers,
// or about exactly those that share an address family, a network, a version or a file, the reason is
// more likely here or on the way than at each of them: it becomes one condition about this node, that
// names the group. Many others become one with a number. All other conditions stay as they are.
//
// Peers in maintenance are left out of that, but for conditions about the maintenance itself.
//
// A condition about a group has the greatest severity of those that it stands for; but a node that
// has met none of its peers yet may be the first of the mesh, and is degraded at most.
func Causes(conditions []mesh.Condition, peers []Peer) []mesh.Condition {
	var rest []mesh.Condition
	var troubles []*trouble
	byKind := map[mesh.Kind]*trouble{}
	known, serving := make(map[string]*Peer, len(peers)), make([]Peer, 0, len(peers))
	for i, p := range peers {
		known[p.Name] = &peers[i]
		if !p.Maintained {
			serving = append(serving, p)
		}
	}
	for _, c := range withoutExplained(conditions, known) {
		p, ok := known[c.Peer]
		if !ok || p.Maintained && !ofMaintenance(c.Kind) { // about this node, or a peer that has just left
			rest = append(rest, c)
			continue
		}
		t := byKind[c.Kind]
		if t == nil {
			t = &trouble{kind: c.Kind}
			byKind[c.Kind] = t
			troubles = append(troubles, t)
		}
		t.about = append(t.about, c)
	}
	for _, t := range troubles {
		evidence := serving
		if ofMaintenance(t.kind) {
			evidence = peers
		}
		rest = append(rest, t.told(evidence, known)...)
	}
	return rest
}

// withoutExplained leaves out that the meshd of a peer is silent where the peer's own host says why: nothing
// listens on the port. Both would be one cause told twice. A router that says so may be a firewall that
// rejects probes alone, so then both stay.
func withoutExplained(conditions []mesh.Condition, known map[string]*Peer) []mesh.Condition {
	ended := map[string]bool{}
	for _, c := range conditions {
		p, ok := known[c.Peer]
		if ok && c.Kind == mesh.PeerPortClosed && c.Subject == p.Underlay.Addr().String() {
			ended[c.Peer] = true
		}
	}
	if len(ended) == 0 {
		return conditions
	}
	rest := make([]mesh.Condition, 0, len(conditions))
	for _, c := range conditions {
		if c.Kind != mesh.PeerSilent || !ended[c.Peer] {
			rest = append(rest, c)
		}
	}
	return rest
}

// ofMaintenance tells whether a kind of condition is about a maintenance itself.
func ofMaintenance(k mesh.Kind) bool { return k == mesh.PeerDrains || k == mesh.PeerMaintained }

// told returns the conditions that stand for a trouble.
func (t *trouble) told(peers []Peer, known map[string]*Peer) []mesh.Condition {
	group, names := "", t.names()
	if n := len(names); n > 1 {
		group = shared(names, peers, known)
		if group == "" && n > named {
			group = fmt.Sprintf("%d of %d peers", n, len(peers))
		}
	}
	if group == "" {
		return t.about
	}
	return []mesh.Condition{t.one(group, names, peers, known)}
}

// names returns the peers in trouble, each once, in the order of the conditions. One peer may have several
// subjects of one kind, such as sizes.
func (t *trouble) names() []string {
	names := make([]string, 0, len(t.about))
	seen := make(map[string]bool, len(t.about))
	for _, c := range t.about {
		if !seen[c.Peer] {
			seen[c.Peer] = true
			names = append(names, c.Peer)
		}
	}
	return names
}

// one is the condition about a group, in which names are. What the conditions differ in is left out.
func (t *trouble) one(group string, names []string, peers []Peer, known map[string]*Peer) mesh.Condition {
	c := t.about[0]
	c.Peer, c.Group = "", group
	met := false
	for _, other := range t.about {
		c.Severity = max(c.Severity, other.Severity)
		met = met || known[other.Peer].Met
		if other.Subject != c.Subject {
			c.Subject = ""
		}
		if other.Cause != c.Cause {
			c.Cause = ""
		}
		if other.Remedy != c.Remedy {
			c.Remedy = ""
		}
	}
	if !met {
		c.Severity = min(c.Severity, mesh.Degraded)
	}
	if len(names) < len(peers) && c.Cause == "" {
		c.Cause = listed(names)
	}
	if r := groupRemedies[t.kind]; r != "" {
		at := known[names[0]].Underlay
		c.Remedy = strings.NewReplacer("ADDRESS", at.Addr().String(), "PORT", fmt.Sprint(at.Port())).Replace(r)
	}
	return c
}

// groupRemedies are what to look at on this host where a trouble is not of one peer alone. ADDRESS and PORT
// stand for where one of the peers listens.
var groupRemedies = map[mesh.Kind]string{
	mesh.PeerDown: "look at this host: `ip route get ADDRESS`, `nft list ruleset`, and whether datagrams " +
		"leave and come: `tcpdump -ni any udp port PORT`",
	mesh.PeerLoss: "look at this host: `ip -s link`, `tc -s qdisc`, `nstat -az UdpRcvbufErrors`",
	mesh.PeerOneWay: "look at this host: either its datagrams or the answers are dropped: " +
		"`nft list ruleset`, `ip route get ADDRESS`, `tcpdump -ni any udp port PORT`",
	mesh.PeerPortClosed: "start meshd on these hosts; if it runs, compare `port` in the files, and look for " +
		"a firewall that rejects UDP port PORT",
	mesh.FileDiffers: "compare `sha256sum` of this node's file and a peer's, and copy the one that is right",
}

// listed names some peers.
func listed(names []string) string {
	text := strings.Join(names[:min(len(names), named)], " ")
	if len(names) > named {
		text += fmt.Sprintf(" and %d more", len(names)-named)
	}
	return text
}

// shared tells what the peers in trouble, and no others, have in common; empty if there is nothing.
func shared(names []string, peers []Peer, known map[string]*Peer) string {
	switch {
	case len(names) == len(known):
		return fmt.Sprintf("all %d peers", len(peers))
	case len(names) == len(peers):
		return fmt.Sprintf("all %d peers that are not in maintenance", len(peers))
	}
	first := known[names[0]]
	for _, common := range commons {
		value := common.of(*first)
		if value == "" {
			continue
		}
		same := func(p Peer) bool { return common.of(p) == value }
		inTrouble := !slices.ContainsFunc(names, func(name string) bool { return !same(*known[name]) })
		if !inTrouble {
			continue
		}
		all := 0
		for _, p := range peers {
			if same(p) {
				all++
			}
		}
		if all == len(names) {
			return fmt.Sprintf("all %d peers %s", all, strings.ReplaceAll(common.words, "VALUE", value))
		}
	}
	return ""
}

// commons are what peers may share, in the order in which an operator would suspect it.
var commons = []struct {
	words string
	of    func(Peer) string
}{
	{"over VALUE", func(p Peer) string {
		if p.Underlay.Addr().Is4() {
			return "IPv4"
		}
		return "IPv6"
	}},
	{"in VALUE", network},
	{"with the file VALUE", func(p Peer) string { return p.File }},
	{"with meshd VALUE", func(p Peer) string { return p.Version }},
}

// network is the neighbourhood of a peer: what one router or one cloud subnet most often serves.
func network(p Peer) string {
	bits := 24
	if p.Underlay.Addr().Is6() {
		bits = 64
	}
	prefix, err := p.Underlay.Addr().Prefix(bits)
	if err != nil { // without an address
		return ""
	}
	return prefix.String()
}
