package words

import (
	"fmt"
	"strings"
	"time"

	"example.org/meshd/internal/control"
)

// Engine says which engine moves packets, and how or why: "kernel, xdp", "user (no BTF)".
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

// Peers counts peers by state, and those that run another file.
func Peers(peers []control.Peer) string {
	count, others := map[string]int{}, 0
	for _, p := range peers {
		count[State(p)]++
		if p.ConfigMatch != nil && !*p.ConfigMatch {
			others++
		}
	}
	words := []string{fmt.Sprintf("%d up", count[control.Up])}
	for _, state := range []string{control.Draining, control.Silent, control.Stale, control.OneWay, control.Down,
		control.Unknown} {
		for _, as := range []string{state, state + announced} {
			if count[as] > 0 {
				words = append(words, fmt.Sprintf("%d %s", count[as], as))
			}
		}
	}
	if others > 0 {
		words = append(words, fmt.Sprintf("%d with another file", others))
	}
	return strings.Join(words, "  ")
}

// Strangers lists who sent what the node did not accept, a line for each.
func Strangers(strangers []control.Stranger, now time.Time) (lines []string) {
	for _, s := range strangers {
		who := s.Address
		if s.Peer != "" {
			who += " (" + s.Peer + ")"
		}
		inner := "no IP packet"
		if s.InnerSource != "" {
			inner = s.InnerSource + " to " + s.InnerDestination
		}
		lines = append(lines, fmt.Sprintf("stranger %s  %s %d  %s  %s ago",
			who, s.Reason, s.Packets, inner, Age(now.Sub(s.Last))))
	}
	return lines
}
