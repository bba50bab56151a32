package words

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
)

// This file says how the mesh is: in one line, and in a few lines for each problem. The daemon judges; only
// for one that is older than its own judgement it is done here.

// Starting is the level of a node that has not found itself yet, besides those of the API.
const Starting = "starting"

// Verdict returns the level of a node's health, and why in a few words: "worker2 is down, 1 more problem".
// What is only worth knowing is no reason.
func Verdict(s control.Status) (level, reason string) {
	switch level = s.Health.Level; {
	case s.Node == "":
		return Starting, "nothing is forwarded yet"
	case level == "": // an older daemon has no judgement
		level = judged(s)
	}
	if reason = reasons(Problems(s)); level == control.OK || reason == "" {
		reason = present(s.Peers)
	}
	return level, reason
}

// judged is the level of a node in the place of a daemon that does not tell one.
func judged(s control.Status) string {
	level := control.OK
	for _, p := range Problems(s) {
		if p.Level == control.Failed {
			return control.Failed
		}
		level = control.Degraded
	}
	return level
}

// Problems are those of a status. A daemon without health has sentences instead, and peers that are down.
func Problems(s control.Status) []control.Problem {
	if s.Health.Level != "" {
		return s.Health.Problems
	}
	var all []control.Problem
	for _, p := range ByState(s.Peers) {
		if p.State == control.Down {
			all = append(all, control.Problem{Level: control.Failed, Kind: peerDown, Peer: p.Name,
				Text: "no answer from peer " + p.Name})
		}
	}
	for _, warning := range s.Warnings {
		all = append(all, control.Problem{Level: control.Degraded, Text: warning})
	}
	return all
}

// Kinds of problems about which a status has more to tell than their sentences.
const (
	peerDown    = "peer_down"
	sendsClear  = "sends_clear"
	noHandshake = "no_handshake"
)

// A kind of problem that has words of its own: one in place of its level, and phrases for a peer and several.
type kind struct{ tag, one, many string }

// fileTag is the word of problems that say why the file on disk is not in force.
const fileTag = "file"

// kinds are all of those. A phrase may be empty: then the problem is only counted.
var kinds = map[string]kind{
	peerDown:           {"down", "%s is down", "%d peers are down"},
	"peer_loss":        {"loss", "%s loses probes", "%d peers lose probes"},
	"peer_silent":      {"silent", "meshd of %s is silent", "%d peers are silent"},
	"peer_one_way":     {"one-way", "%s is reached one way only", "%d peers are reached one way only"},
	"file_differs":     {"drift", "%s has another file", "%d peers have another file"},
	"file_rejected":    {fileTag, "", ""},
	"last_good_file":   {fileTag, "", ""},
	"reload_pending":   {fileTag, "", ""},
	"file_unread":      {fileTag, "", ""},
	"peer_drains":      {"drain", "", ""},
	"peer_maintained":  {"maint", "", ""},
	"maintenance":      {"maint", "", ""},
	"drops_growing":    {"drops", "", ""},
	sendsClear:         {"clear", "%s sends in the clear", "%d peers send in the clear"},
	noHandshake:        {"lock", "%s does not answer WireGuard", "%d peers do not answer WireGuard"},
	"address_silent":   {"path", "an address of %s is silent", "addresses of %d peers are silent"},
	"port_unreachable": {"port", "meshd of %s seems not to run", "%d peers seem to run no meshd"},
}

// Tag is a word of seven letters at most for a problem, by its kind or else its level: "DOWN", "loss".
// Capitals are for what has failed, and for nothing else.
func Tag(p control.Problem) string {
	word := kinds[p.Kind].tag
	switch {
	case word != "":
	case p.Level == control.Failed:
		word = "failed"
	case p.Level == control.Info:
		word = "info"
	default:
		word = "warn" // also for a level of a newer daemon
	}
	if p.Level == control.Failed {
		return strings.ToUpper(word)
	}
	return word
}

// shortReason is how long the sentence of a problem may be to stand in a verdict, in bytes.
const shortReason = 56

// A reason is what problems of one kind have in common in a verdict.
type reason struct {
	kind
	peers []string
	text  string // of a problem that has no phrase
}

// String is the reason in a few words.
func (r reason) String() string {
	switch {
	case r.text != "":
		return r.text
	case len(r.peers) == 1:
		return fmt.Sprintf(r.one, r.peers[0])
	}
	return fmt.Sprintf(r.many, len(r.peers))
}

// reasons puts problems into a few words, in their order. A problem that is no peer's is only counted, unless
// it is the first one, and there are few words for it.
func reasons(all []control.Problem) string {
	var found []*reason
	byKind := map[string]*reason{}
	others := 0
	for _, p := range all {
		switch k := kinds[p.Kind]; {
		case p.Level == control.Info:
		case p.Peer != "" && k.one != "":
			if byKind[p.Kind] == nil {
				byKind[p.Kind] = &reason{kind: k}
				found = append(found, byKind[p.Kind])
			}
			byKind[p.Kind].peers = append(byKind[p.Kind].peers, p.Peer)
		case len(found)+others == 0 && short(p) != "":
			found = append(found, &reason{text: short(p)})
		default:
			others++
		}
	}
	parts := make([]string, 0, len(found)+1)
	for _, r := range found {
		parts = append(parts, r.String())
	}
	switch {
	case others > 0 && len(parts) > 0:
		parts = append(parts, Count(others, "more problem"))
	case others > 0:
		parts = append(parts, Count(others, "problem"))
	}
	return strings.Join(parts, ", ")
}

// short is a problem that is no peer's in a few words; empty if there are none. Its sentence is the best, but
// one about a group of peers may be long.
func short(p control.Problem) string {
	return cmp.Or(beginning(p.Text), strings.Replace(kinds[p.Kind].many, "%d", "several", 1))
}

// beginning is as much of a problem's sentence as a verdict has room for, up to where a part of it ends. It
// is empty if that is too long.
func beginning(sentence string) string {
	if sentence = OneLine(sentence); len(sentence) <= shortReason {
		return sentence
	}
	for _, end := range []string{": ", ", ", "; "} {
		if first, _, cut := strings.Cut(sentence, end); cut && len(first) <= shortReason {
			return first
		}
	}
	return ""
}

// present counts the peers that are up, and names the states of all others: "17 of 19 peers up, 2 unknown".
func present(peers []control.Peer) string {
	if len(peers) == 0 {
		return "the file lists no other node"
	}
	up, others := 0, map[string]int{}
	for _, p := range peers {
		if p.State == control.Up {
			up++
		} else {
			others[State(p)]++
		}
	}
	text := fmt.Sprintf("%d of %s up", up, Count(len(peers), "peer"))
	for _, state := range sortedStates(others) {
		text += fmt.Sprintf(", %d %s", others[state], state)
	}
	return text
}

// sortedStates are states by how much they need eyes.
func sortedStates(counts map[string]int) []string {
	states := make([]string, 0, len(counts))
	for state := range counts {
		states = append(states, state)
	}
	slices.SortFunc(states, func(a, b string) int {
		return cmp.Or(cmp.Compare(order[strings.TrimSuffix(a, announced)], order[strings.TrimSuffix(b, announced)]),
			strings.Compare(a, b))
	})
	return states
}

// About is the text of a problem with what the status knows besides: for how long a peer is silent, and what
// cannot be reached. A text of several lines, such as the faults of a file, is its first one. now is the
// daemon's clock.
func About(s control.Status, p control.Problem, now time.Time) string {
	peer, known := find(s.Peers, p.Peer)
	if known && p.Kind == peerDown {
		return silence(peer, now) + " at " + peer.Active() + lost(peer)
	}
	text := OneLine(p.Text)
	if p.Level != control.Info && !p.Since.IsZero() && now.Sub(p.Since) >= time.Second {
		text += " (for " + Span(now.Sub(p.Since)) + ")"
	}
	return text
}

// Remedy is what to do about a problem. For a peer that is down these are commands to copy, and for a file
// with several faults the one that shows them all, since About has only the first.
func Remedy(s control.Status, p control.Problem) string {
	peer, known := find(s.Peers, p.Peer)
	switch {
	case kinds[p.Kind].tag == fileTag && strings.Contains(strings.TrimSpace(p.Text), "\n"):
		return strings.TrimSuffix("`meshd check` shows all faults; "+p.Remedy, "; ")
	case !known || p.Kind != peerDown || p.Level == control.Info:
		return p.Remedy
	}
	host, port := peer.Active(), ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host, port = strings.Trim(host[:i], "[]"), host[i+1:]
	}
	try := fmt.Sprintf("`ping %s`, and on that host `systemctl status meshd`", host)
	if port != "" {
		try += "; both firewalls must pass UDP port " + port
	}
	return try
}

// find returns a peer by its name.
func find(peers []control.Peer, name string) (p control.Peer, known bool) {
	if name == "" {
		return p, false
	}
	i := slices.IndexFunc(peers, func(p control.Peer) bool { return p.Name == name })
	if i < 0 {
		return p, false
	}
	return peers[i], true
}

// silence tells for how long nothing was heard of a peer.
func silence(p control.Peer, now time.Time) string {
	switch {
	case p.LastSeen != nil:
		return "no packet for " + Span(now.Sub(*p.LastSeen))
	case p.Since != nil:
		return "no answer for " + Span(now.Sub(*p.Since))
	}
	return "never heard"
}

// lost lists what cannot be reached without a peer.
func lost(p control.Peer) string {
	all := slices.Concat(p.Subnets, p.Routes)
	const named = 3
	switch {
	case len(all) == 0:
		return ""
	case len(all) > named:
		return fmt.Sprintf("; %s and %d more cannot be reached", strings.Join(all[:named], " "),
			len(all)-named)
	}
	return "; " + strings.Join(all, " ") + " cannot be reached"
}

// Lock is a word for how packets to and from a peer are kept secret; empty while packets are not encrypted.
// That a peer sends in the clear counts more than a session, since it is what to act on.
func Lock(s control.Status, p control.Peer) string {
	w, refused := p.WireGuard, false
	if w == nil {
		return ""
	}
	for _, problem := range s.Health.Problems {
		switch mine := problem.Peer == p.Name; {
		case problem.Kind == sendsClear && mine:
			return "CLEAR"
		case problem.Kind == noHandshake && (mine || problem.Peer == ""): // of a group, or of all
			refused = true
		}
	}
	switch {
	case w.Path != control.PathDirect:
		return "relayed"
	case w.State == control.WireGuardReady, w.State == control.WireGuardWaiting,
		w.State == control.WireGuardLagging:
		return w.State
	case w.InSession(s.Now):
		return "sealed"
	case refused:
		return "refused"
	}
	return "idle" // nothing was sent for three minutes
}
