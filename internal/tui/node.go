package tui

import (
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// node is the screen of this node: what it is in the mesh, how it moves packets and which of them take the
// slow way, what its rules did, and what was lost. Nothing of it is about one peer.
type node struct{ page }

// hints implements screen.
func (node) hints() []hint {
	return []hint{{"j k", "scroll"}, {"tab", "next"}, {"t", "span"}, {"c", "config"}, {"R", "reload"},
		{"Z", "zero"}, {"w", "write file"}}
}

// charts implements charter.
func (node) charts(v view) []historyKey { return []historyKey{nodeKey(v)} }

// press implements screen: only scrolling is its own.
func (n node) press(v view, key string) (request, bool) {
	return n.page.press(v, key, len(n.lines(v)), func(p page) screen { return node{p} })
}

// body implements screen.
func (n node) body(v view) []cell.Line { return v.faded(n.shown(n.lines(v), v.h)) }

// lines are the whole screen, which a low terminal scrolls.
func (node) lines(v view) []cell.Line {
	s := v.status
	if s.Node == "" {
		return facts(v, v.w)
	}
	device := fmt.Sprintf("%s %s  queues %d", s.Network.Interface, words.MTU(s.Network), s.Dataplane.Queues)
	lines := slices.Concat(
		section(v, "NODE", fmt.Sprintf("%s  meshd %s  pid %d  up %s  boot %.8s", s.Node, s.Version, s.PID,
			words.Span(v.uptime()), s.BootID)),
		section(v, "NETWORK", fmt.Sprintf("%s  %s   here %s", s.Network.Name, strings.Join(s.Network.CIDR, " "),
			words.OrNone(strings.Join(s.Network.Subnets, " ")))),
		section(v, "LISTENS", words.Listens(s.Network)),
		section(v, "DEVICE", device+repairsText(s.Network.Repairs)),
		section(v, "ENGINE", words.Engine(s.Dataplane)),
		section(v, "OFFLOAD", offloads(s)+"   refused: "+words.OrNone(strings.Join(s.Dataplane.Refused, " "))),
		handedLines(v),
		section(v, "BATCHES", words.Batches(s.Dataplane.Calls)),
	)
	if s.WireGuard != nil {
		lines = append(lines, label("LOCK").Join(lockFacts(s)))
	}
	return slices.Concat(lines, natLines(v), allowLines(v), strangerLines(v), []cell.Line{{}}, nodeDrops(v))
}

// section is a text below a label, in as many lines as it needs.
func section(v view, word, text string) (lines []cell.Line) {
	for _, l := range cell.Wrap(text, v.w-11) {
		lines = append(lines, label(word).Add(cell.Plain, l))
		word = ""
	}
	return lines
}

// repairsText counts repairs, if there were any.
func repairsText(n uint64) string {
	if n == 0 {
		return ""
	}
	return "   repaired " + words.Count(int(min(n, 1<<30)), "time")
}

// counterText is a counter with what it grows by: "pods-to-outside 777 (3.0/s)".
func counterText(v view, of counted, name string, n uint64) string {
	text := name + " " + words.Short(n)
	if g, _ := v.growing(of, "", name); g.rate > 0 {
		text += " (" + words.SI(g.rate) + "/s)"
	}
	return text
}

// handedLines are packets that the kernel engine left to user space, where each costs more, by reason.
func handedLines(v view) []cell.Line {
	handed := v.status.Dataplane.Handed
	var all []string
	for _, reason := range words.Reasons(handed) {
		if handed[reason] > 0 {
			all = append(all, counterText(v, handedOf, reason, handed[reason]))
		}
	}
	switch {
	case len(all) > 0:
		return section(v, "HANDED", "to user space, packets: "+strings.Join(all, "   "))
	case v.status.Dataplane.Engine == "kernel":
		return section(v, "HANDED", "no packet was left to user space")
	}
	return nil
}

// natLines are what the rules for source addresses did. They see the first packet of a connection alone.
func natLines(v view) []cell.Line {
	m := v.status.Masquerade
	if !m.Enabled {
		return section(v, "NAT", "off")
	}
	var used []string
	for _, r := range m.Rules {
		if r.Packets > 0 {
			used = append(used, counterText(v, rulesOf, r.Name, r.Packets))
		}
	}
	text := "on, connections: " + words.OrNone(strings.Join(used, "   "))
	return section(v, "NAT", text+repairsText(m.Repairs))
}

// allowLines are the rules about who may reach whom, with what each let pass on this node, and what none of
// them allowed. A rule about other nodes let nothing pass here.
func allowLines(v view) []cell.Line {
	a := v.status.Allow
	if len(a.Rules) == 0 {
		return section(v, "ALLOW", "no rules: every node and pod may reach every other")
	}
	lines := []cell.Line{label("ALLOW").Join(allowFacts(v.status))}
	for _, r := range a.Rules {
		lines = append(lines, section(v, "", counterText(v, allowsOf, r.Name, r.Packets)+" packets")...)
	}
	return lines
}

// strangerLines name who sent what the node did not accept.
func strangerLines(v view) (lines []cell.Line) {
	for _, s := range v.status.Strangers {
		who := s.Address
		if s.Peer != "" {
			who += " (" + s.Peer + ")"
		}
		inner := "no IP packet"
		if s.InnerSource != "" {
			inner = s.InnerSource + " to " + s.InnerDestination
		}
		lines = append(lines, section(v, "REFUSED", fmt.Sprintf("%s  %s %s  %s  %s ago", who, s.Reason,
			words.Short(s.Packets), inner, words.Age(v.daemonNow().Sub(s.Last))))...)
	}
	return lines
}

// nodeDrops is the table of all drops by reason, those that were seen last first: what is lost now is what
// one looks for.
func nodeDrops(v view) []cell.Line {
	const names, table, meaning = 18, 61, 37
	chart, narrow := min(v.w-table-meaning-4, 60), v.w < table+meaning+14
	titles := fmt.Sprintf("%-*s%9s%7s%7s%9s  ", names, "reason", "total", "/s", "last", "no peer")
	if narrow { // a chart takes the place of the meaning where packets were lost lately
		chart = max(0, v.w-table-3)
		titles += "last " + v.lossSpan()
	} else {
		titles += cell.Fit("last "+v.lossSpan(), chart+2) + "meaning"
	}
	lines := []cell.Line{label("DROPS").Add(cell.Dim, titles)}
	drops := v.totalDrops()
	reasons := slices.DeleteFunc(words.Reasons(drops), func(r string) bool { return drops[r] == 0 })
	slices.SortStableFunc(reasons, func(a, b string) int {
		one, _ := v.growing(dropsOf, "", a)
		other, _ := v.growing(dropsOf, "", b)
		return other.seen.Compare(one.seen)
	})
	for _, reason := range reasons {
		g, news := v.growing(dropsOf, "", reason)
		role := cell.Plain
		if news {
			role = cell.Warn
		}
		name := cell.Fit(reason, min(names, cell.Width(reason)))
		lines = append(lines, label("").Add(role, name).Add(cell.Plain, fmt.Sprintf("%*s%9s%7s%7s%9s",
			names-cell.Width(name), "", words.Short(drops[reason]), words.SI(g.rate), v.lastText(g),
			words.Short(v.status.Totals.Unattributed[reason]))).Add(cell.Plain, "  ").
			Join(v.lossText(reason, chart, narrow)))
	}
	if len(reasons) == 0 {
		lines[0] = label("DROPS").Add(cell.Plain, "none")
	}
	return lines
}

// lossText is what stands behind the figures of a reason: its chart and meaning, or on a narrow screen one
// of both.
func (v view) lossText(reason string, w int, narrow bool) cell.Line {
	meaning := cell.Styled(cell.Dim, meanings[reason])
	chart := v.lossChart(reason, w)
	switch {
	case narrow && chart == nil:
		return meaning
	case narrow:
		return chart
	}
	return chart.Fit(w).Add(cell.Plain, "  ").Join(meaning)
}

// meanings are the reasons of drops in a few words; docs/api.md and meshd(8) have more.
var meanings = map[string]string{
	"no_route":          "no node has the address",
	"too_big":           "larger than the path to the peer",
	"send_error":        "the kernel refused the datagram",
	"foreign_source":    "a pod sent with an address of another host",
	"not_from_meshd":    "another program sent to a mesh port",
	"not_allowed":       "no [[allow]] rule allows it",
	"not_encrypted":     "the way by WireGuard is missing",
	"ttl_expired":       "a routing loop, or a traceroute",
	"unknown_sender":    "the sender is not a node of the file",
	"spoofed_source":    "a node sent for pods it does not have",
	"wrong_destination": "a node sent what is not for this host",
	"cleartext":         "a node sent in the clear",
	"malformed":         "not an IP packet",
	"write_error":       "the TUN is down",
	"socket_overflow":   "the receive buffer was full",
	"socket_refused":    "IPsec, or a wrong UDP checksum",
	"tun_overflow":      "the queue of the TUN was full",
}
