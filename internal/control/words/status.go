package words

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
)

// Engine says who moves packets, and how or why: "kernel, xdp", "user (no BTF)".
func Engine(d control.Dataplane) string {
	name, why := d.Engine, d.Reason
	if d.Engine == "kernel" { // which alone has several ways to receive
		name += ", " + d.Receive
		if d.Captured {
			why = "sends through user space while a program captures on the TUN"
		}
	}
	if why == "" {
		return name
	}
	return name + " (" + why + ")"
}

// Batches says how many packets each system call moved on average. The cost of a call is shared
// by the packets it moves, so the larger the cheaper.
func Batches(calls map[string]control.Calls) string {
	average := func(kind string) string {
		if calls[kind].Calls == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f", float64(calls[kind].Packets)/float64(calls[kind].Calls))
	}
	return fmt.Sprintf("packets per call: out %s from TUN, %s to wire; in %s from wire, %s to TUN",
		average("tun_read"), average("wire_write"), average("wire_read"), average("tun_write"))
}

// Masquerade says what the rules matched. Rules that matched nothing are left out.
func Masquerade(m control.Masquerade) string {
	if !m.Enabled {
		return "off"
	}
	words := []string{"on"}
	for _, r := range m.Rules {
		if r.Packets > 0 {
			words = append(words, fmt.Sprintf("%s %d", r.Name, r.Packets))
		}
	}
	if m.Repairs > 0 {
		words = append(words, fmt.Sprintf("repaired %d times", m.Repairs))
	}
	return strings.Join(words, "  ")
}

// Drops lists the reasons that have dropped packets, by name; "" if none has.
func Drops(drops map[string]uint64) string {
	var words []string
	for reason, n := range drops {
		if n > 0 {
			words = append(words, fmt.Sprintf("%s %d", reason, n))
		}
	}
	slices.Sort(words) // maps have no order, and lines that jump cannot be compared
	return strings.Join(words, ", ")
}

// File says whether a peer runs this node's file: "same", the beginning of the hash of another
// one, or "-" if the peer has not told.
func File(p control.Peer) string {
	switch {
	case p.ConfigMatch == nil:
		return "-"
	case *p.ConfigMatch:
		return "same"
	}
	return fmt.Sprintf("%.8s", p.ConfigSHA256)
}

// states lists the states of a peer, the worst first.
var states = []string{control.Down, control.Stale, control.Unknown, control.Up}

// ByState returns a copy of peers with the worst first. Peers of one state keep their order; a
// state that only newer daemons know comes before all others, since it may be a bad one.
func ByState(peers []control.Peer) []control.Peer {
	peers = slices.Clone(peers)
	slices.SortStableFunc(peers, func(a, b control.Peer) int {
		return cmp.Compare(slices.Index(states, a.State), slices.Index(states, b.State))
	})
	return peers
}

// Peers counts peers by state, and those that run another file.
func Peers(peers []control.Peer) string {
	count, others := map[string]int{}, 0
	for _, p := range peers {
		count[p.State]++
		if p.ConfigMatch != nil && !*p.ConfigMatch {
			others++
		}
	}
	words := []string{fmt.Sprintf("%d up", count[control.Up])}
	for _, state := range []string{control.Stale, control.Down, control.Unknown} {
		if count[state] > 0 {
			words = append(words, fmt.Sprintf("%d %s", count[state], state))
		}
	}
	if others > 0 {
		words = append(words, fmt.Sprintf("%d with another file", others))
	}
	return strings.Join(words, "  ")
}
