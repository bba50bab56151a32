package words

import (
	"fmt"
	"strings"
	"time"

	"example.org/meshd/internal/control"
)

// Engine says which engine moves packets, and how or why: "kernel/xdp", "user (no BTF)".
func Engine(d control.Dataplane) string {
	name, why := d.Engine, d.Reason
	if d.Engine == "kernel" { // which alone has several ways to receive
		name += "/" + d.Receive
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

// Masquerade says whether rules are in force, and how many connections each has matched: the kernel asks
// rules of NAT about the first packet of a connection only. Rules that matched nothing are left out.
func Masquerade(m control.Masquerade) string {
	if !m.Enabled {
		return "off"
	}
	words := []string{"on"}
	for _, r := range m.Rules {
		if r.Packets > 0 {
			words = append(words, fmt.Sprintf("%s %s", Count(int(r.Packets), "connection"), r.Name))
		}
	}
	if m.Repairs > 0 {
		words = append(words, Count(int(m.Repairs), "repair"))
	}
	return strings.Join(words, ", ")
}

// Allow says how many rules about who may reach whom there are, and what they dropped; empty if the file has
// none.
func Allow(a control.Allow) string {
	rules := Count(len(a.Rules), "rule")
	switch {
	case len(a.Rules) == 0 && a.Dropped == 0:
		return ""
	case a.Dropped == 0:
		return rules + ", dropped none"
	case a.DroppedLastMinute == 0:
		return fmt.Sprintf("%s, dropped %d, none in the last minute", rules, a.Dropped)
	}
	return fmt.Sprintf("%s, dropped %d, %d in the last minute (%.1f/s)", rules, a.Dropped, a.DroppedLastMinute,
		float64(a.DroppedLastMinute)/60)
}

// Handed lists what the kernel engine left to user space, by reason; empty for other engines.
func Handed(d control.Dataplane) string { return Drops(d.Handed) }

// SameFile says which file is in force, and how many peers have the same one.
func SameFile(s control.Status) string {
	text := fmt.Sprintf("%s generation %d", s.Config.Path, s.Config.Generation)
	if s.Config.SHA256 != "" {
		text += fmt.Sprintf(" (%.8s)", s.Config.SHA256)
	}
	same, told := 0, 0
	for _, p := range s.Peers {
		if p.ConfigMatch != nil {
			told++
			if *p.ConfigMatch {
				same++
			}
		}
	}
	switch {
	case len(s.Peers) == 0:
	case told < len(s.Peers):
		text += fmt.Sprintf(", the same on %d of %s, unknown on %d", same, Count(len(s.Peers), "peer"),
			len(s.Peers)-told)
	default:
		text += fmt.Sprintf(", the same on %d of %s", same, Count(len(s.Peers), "peer"))
	}
	return text
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
		lines = append(lines, fmt.Sprintf("%s  %s %d  %s  %s ago",
			who, s.Reason, s.Packets, inner, Age(now.Sub(s.Last))))
	}
	return lines
}
