// Package words writes the types of the API for people: figures, times, and the sentences
// that problems, events and counts of changes stand for. `meshd status` and meshtui show the same
// facts, so both take their words from here; a sentence that is to become better is changed
// in one place. Nothing reads these words back: programs decide by kinds and fields.
//
// All functions are pure and may be called at any time from any goroutine. Text that they
// are given stays as it is: whoever shows it makes it clean (package text).
package words

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
)

// Problem is the whole sentence of a problem: what is wrong, and what to do about it.
func Problem(p control.Problem) string {
	if p.Remedy == "" {
		return p.Text
	}
	return p.Text + "; " + p.Remedy
}

// events has a sentence for each kind of event whose subject is a peer. Their messages in
// the log begin with the word "peer", since a line of the log has the name elsewhere.
var events = map[string]string{
	"peer_up":           "is up",
	"peer_stale":        "is stale: it does not answer",
	"peer_down":         "is down: it does not answer",
	"peer_file_differs": "runs another file",
	"peer_file_matches": "runs the same file",
	"peer_silent":       "is silent: its data arrives, but its meshd does not answer",
	"peer_one_way":      "is reached in one direction only",
	"peer_drained":      "is in maintenance",
	"peer_undrained":    "is no longer in maintenance",
	"address_left":      "is reached at another address: the one before does not answer",
	"address_preferred": "is reached at its preferred address again",
	"carrier_changed":   "carries a shared prefix now",
}

// Event splits what an event says into its subject and the rest, which a space joins:
// "edge-14", "is down: it does not answer silent=10.2s". The subject is empty for an event
// of the node itself. Fields are sorted, so that the same event always reads the same.
func Event(e control.Event) (subject, rest string) {
	subject, rest = e.Peer, e.Message
	if sentence, ok := events[e.Kind]; ok && e.Peer != "" {
		rest = sentence
	} else if e.Peer != "" { // the message is a sentence of its own
		subject += ":"
	}
	for _, k := range slices.Sorted(maps.Keys(e.Fields)) {
		rest += " " + k + "=" + e.Fields[k]
	}
	return subject, rest
}

// Told is Event for a line of text: the details stand in brackets, "edge-14", "is down: it does not answer
// (silent 10.2s)", and long ones have their first line only.
func Told(e control.Event) (subject, rest string) {
	fields := e.Fields
	e.Fields = nil
	subject, rest = Event(e)
	var details []string
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		value := OneLine(strings.ReplaceAll(fields[key], `\n`, "\n")) // a tidy event has no line breaks
		if value != "" && !(e.Kind == "health" && key == "now") {     // which the sentence itself says
			details = append(details, key+" "+value)
		}
	}
	rest = OneLine(strings.ReplaceAll(rest, `\n`, "\n"))
	if len(details) > 0 {
		rest += " (" + strings.Join(details, ", ") + ")"
	}
	return subject, rest
}

// HostPort is where a node listens: "203.0.113.1:8285", "[2001:db8::1]:8285". An address
// that is not known yet is empty.
func HostPort(n control.Network) string {
	address, err := netip.ParseAddr(n.Address)
	if err != nil {
		return n.Address
	}
	return netip.AddrPortFrom(address, uint16(n.Port)).String()
}

// MTU is how large packets of the mesh are, and what that follows from: "mtu 1472 (eth0 1500 - 28)". Where
// the file or encryption has another figure than the sum, there is no sum.
func MTU(n control.Network) string {
	mtu := fmt.Sprintf("mtu %d", n.MTU)
	if n.Underlay == nil {
		return mtu
	}
	from := strings.TrimSpace(fmt.Sprintf("%s %d", n.Underlay.Device, n.Underlay.MTU))
	if n.Underlay.MTU-n.Underlay.Headers == n.MTU {
		from += fmt.Sprintf(" - %d", n.Underlay.Headers)
	}
	return mtu + " (" + from + ")"
}

// File tells whether a peer runs the same file as this node.
func File(p control.Peer) string {
	switch {
	case p.ConfigMatch == nil:
		return "file unknown"
	case *p.ConfigMatch:
		return "same file"
	}
	return fmt.Sprintf("another file %.8s", p.ConfigSHA256)
}

// Reasons are the reasons of drops, the one with the most packets first.
func Reasons(drops map[string]uint64) []string {
	return slices.SortedFunc(maps.Keys(drops), func(a, b string) int {
		return cmp.Or(cmp.Compare(drops[b], drops[a]), strings.Compare(a, b))
	})
}

// Drops lists the counters above zero by reason, the largest first; empty if there is none.
func Drops(drops map[string]uint64) string {
	var all []string
	for _, reason := range Reasons(drops) {
		if n := drops[reason]; n > 0 {
			all = append(all, reason+" "+Short(n))
		}
	}
	return strings.Join(all, "  ")
}

// order has the states that need eyes first. A state that this program does not know is
// from a newer daemon: it stands before all others, so that it is seen.
var order = map[string]int{
	control.Down: 1, control.OneWay: 2, control.Stale: 3, control.Silent: 4, control.Unknown: 5,
	control.Draining: 6, control.Up: 7}

// ByState returns the peers as tables show them: those that need eyes first, then by name (Natural).
func ByState(peers []control.Peer) []control.Peer {
	refs := make([]*control.Peer, len(peers)) // a peer is 50 words: to move it costs more than to compare
	for i := range peers {
		refs[i] = &peers[i]
	}
	slices.SortStableFunc(refs, func(a, b *control.Peer) int {
		return cmp.Or(cmp.Compare(order[a.State], order[b.State]), Natural(a.Name, b.Name))
	})
	sorted := make([]control.Peer, len(peers))
	for i, p := range refs {
		sorted[i] = *p
	}
	return sorted
}
