package tui

import (
	"fmt"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// Which counters grow, and when they last did. A counter alone tells nothing: 312 packets may have been lost
// just now or three months ago, and only the former is worth a colour.

// counters of which growth is watched, besides those that rates are made of.
type counted string

const (
	dropsOf  counted = "drops"  // by peer and reason; those of the node have the peer ""
	handedOf counted = "handed" // to user space, by reason
	rulesOf  counted = "rules"  // of masquerade, by name
	allowsOf counted = "allow"  // rules about who may reach whom, by name
)

// counterKey names one counter.
type counterKey struct {
	of         counted
	peer, name string
}

// growth is how fast a counter grows, and when it last did.
type growth struct {
	rate float64   // a second; NaN if not known
	seen time.Time // by the daemon's clock; zero: not as far as is known
}

// lately is how long a growth is news.
const lately = time.Minute

// watch notes which counters grow. Those that never did are left out: a mesh has a dozen reasons for drops of
// each of thousands of peers, nearly all of them zero.
func (d *data) watch(of counted, peer string, now, was map[string]uint64, seconds float64, at time.Time) {
	for name, n := range now {
		if n == 0 {
			continue
		}
		key := counterKey{of, peer, name}
		have, known := d.grew[key]
		have.rate = grown(n, was[name], seconds)
		// NaN is not greater than 0: after a gap nothing is noted.
		if have.rate > 0 {
			have.seen = at
		} else if !known {
			continue
		}
		if d.grew == nil {
			d.grew = map[counterKey]growth{}
		}
		d.grew[key] = have
	}
}

// watchNode notes which counters of the node grow.
func (d *data) watchNode(s, was *control.Status, seconds float64) {
	d.watch(dropsOf, "", s.Totals.Drops, was.Totals.Drops, seconds, s.Now)
	d.watch(handedOf, "", s.Dataplane.Handed, was.Dataplane.Handed, seconds, s.Now)
	d.watch(rulesOf, "", packetsOf(s.Masquerade.Rules), packetsOf(was.Masquerade.Rules), seconds, s.Now)
	d.watch(allowsOf, "", packetsOf(s.Allow.Rules), packetsOf(was.Allow.Rules), seconds, s.Now)
}

// packetsOf are the counters of rules by their names.
func packetsOf(rules []control.Rule) map[string]uint64 {
	all := make(map[string]uint64, len(rules))
	for _, r := range rules {
		all[r.Name] = r.Packets
	}
	return all
}

// growing tells how a counter grows, and whether it did lately. A rate of old data is not known.
func (v view) growing(of counted, peer, name string) (g growth, news bool) {
	g, ok := v.grew[counterKey{of, peer, name}]
	if of == dropsOf && peer == "" { // the daemon remembers what was before this program looked
		if last := v.lastLost(name); last.After(g.seen) {
			g.seen = last
			if !ok {
				g.rate = 0
			}
			ok = true
		}
	}
	if !ok || g.seen.IsZero() {
		return growth{rate: v.rateNow(0)}, false
	}
	g.rate = v.rateNow(g.rate)
	return g, v.daemonNow().Sub(g.seen) < lately
}

// rateNow is a rate while data is true.
func (v view) rateNow(rate float64) float64 {
	if !v.live {
		return noRate.drops
	}
	return rate
}

// grows tells whether drops of a peer grew lately.
func (v view) grows(p control.Peer) bool {
	for reason := range p.Drops {
		if _, news := v.growing(dropsOf, p.Name, reason); news {
			return true
		}
	}
	return false
}

// totalDrops are the drops of the node since the view was zeroed.
func (v view) totalDrops() map[string]uint64 {
	if v.base != nil {
		return lessDrops(v.status.Totals.Drops, v.base.Totals.Drops)
	}
	return v.status.Totals.Drops
}

// lastText is how long ago a counter grew, in a table: "-" if that was before this program looked.
func (v view) lastText(g growth) string {
	if g.seen.IsZero() {
		return words.Unknown
	}
	return words.Age(v.daemonNow().Sub(g.seen))
}

// dropFacts are the drops of the node by reason, the most first: "too_big 47 (+1.0/s)   no_route 312 (2h04
// ago)".
func dropFacts(v view) cell.Line {
	drops := v.totalDrops()
	line := cell.Line{}
	for _, reason := range words.Reasons(drops) {
		if drops[reason] == 0 {
			continue
		}
		if len(line) > 0 {
			line = line.Add(cell.Plain, "   ")
		}
		text := reason + " " + words.Short(drops[reason])
		g, news := v.growing(dropsOf, "", reason)
		switch {
		case g.rate > 0:
			text += " (+" + words.SI(g.rate) + "/s)"
		case !g.seen.IsZero():
			text += " (" + v.lastText(g) + " ago)"
		}
		role := cell.Plain
		if news {
			role = cell.Warn
		}
		line = line.Add(role, text)
	}
	if len(line) == 0 {
		return cell.Text("none")
	}
	return line
}

// dropsNow is how fast packets are lost now, and what was lost last: "3.0/s too_big", "0/s (last no_route
// 2h04)".
func dropsNow(v view) cell.Line {
	name, last := "", growth{}
	for _, reason := range words.Reasons(v.status.Totals.Drops) { // in one order, since several may grow at once
		if g, _ := v.growing(dropsOf, "", reason); g.seen.After(last.seen) {
			name, last = reason, g
		}
	}
	speed := v.rate("").drops
	text := words.SI(speed) + "/s"
	switch {
	case speed > 0:
		return cell.Styled(cell.Warn, text+" "+name)
	case name != "":
		text += fmt.Sprintf(" (last %s %s)", name, v.lastText(last))
	}
	return cell.Text(text)
}
