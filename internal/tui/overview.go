package tui

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// overviewBody is the first screen: whether the mesh is well, and if not, who and why;
// then the facts, then the traffic.
func (m *Model) overviewBody(w, h int) []cell.Line {
	s := m.data.status
	var lines []cell.Line
	if m.lost != nil {
		lines = m.lostBox(w)
	} else if !m.live() {
		lines = append(lines, cell.Styled(cell.Bad, " no news for "+span(m.now.Sub(m.data.heard))+fmt.Sprintf(": meshd (pid %d) hangs or was stopped; see `systemctl status meshd`", s.PID)))
	}
	facts, traffic := m.facts(w), m.traffic(w)
	room := h - len(lines) - 1
	trouble := m.attention(w, max(min(3, room), room-len(facts)-len(traffic)-2))
	rest := slices.Concat([]cell.Line{cell.Text(" ").Join(verdict(s))}, trouble)
	if room-len(trouble)-len(facts)-len(traffic) >= 2 {
		rest = append(rest, cell.Line{})
		facts = append(facts, cell.Line{})
	}
	rest = slices.Concat(rest, facts, traffic)
	if !m.live() {
		for i := range rest {
			rest[i] = rest[i].As(cell.Dim)
		}
	}
	return append(lines, rest...)
}

// attention lists problems in at most h lines, the worst first.
func (m *Model) attention(w, h int) (lines []cell.Line) {
	all := problems(m.data.status)
	subject := 0
	for _, p := range all {
		subject = max(subject, cell.Width(p.subject))
	}
	subject = min(subject, 20)
	for i, p := range all {
		text := cell.Line{}
		if p.subject != "" {
			text = cell.Styled(cell.Strong, cell.FitMiddle(p.subject, subject)+"  ")
		}
		wrapped := cell.Wrap(p.text, w-9)
		if p.subject != "" {
			wrapped = []string{p.text}
		}
		if len(wrapped) > 3 { // a list of all faults stands on the screen of the file
			wrapped = append(wrapped[:2:2], wrapped[2]+"…")
		}
		if left := h - len(lines); left < len(wrapped)+min(1, len(all)-i-1) {
			return append(lines, cell.Styled(cell.Dim, fmt.Sprintf(" … and %d more: 2 shows peers, c the file", len(all)-i)))
		}
		for j, l := range wrapped {
			word := p.word
			if j > 0 {
				word = ""
			}
			lines = append(lines, cell.Styled(p.role, fmt.Sprintf(" %-6s ", word)).Join(text).Add(cell.Plain, l))
		}
	}
	return lines
}

// label begins a line of facts.
func label(word string) cell.Line { return cell.Styled(cell.Dim, fmt.Sprintf(" %-8s ", word)) }

// facts tell of the node, its file, its data plane and its peers.
func (m *Model) facts(w int) []cell.Line {
	s := m.data.status
	return []cell.Line{
		label("NODE").Join(m.nodeFacts()),
		label("CONFIG").Join(m.configFacts()),
		label("PLANE").Join(m.planeFacts()),
		label("DROPS").Join(m.dropFacts()),
		label("PEERS").Join(peerFacts(s)),
	}
}

func (m *Model) nodeFacts() cell.Line {
	s := m.data.status
	return cell.Styled(cell.Strong, s.Node).Add(cell.Plain, fmt.Sprintf("  %s   up %s   meshd %s  pid %d", hostPort(s.Network), span(m.now.Sub(m.data.heard)+seconds(s.UptimeSeconds)), s.Version, s.PID))
}

func (m *Model) configFacts() cell.Line {
	c := m.data.status.Config
	ago := m.daemonNow().Sub(c.Applied)
	return cell.Text(fmt.Sprintf("%s  gen %d  applied %s (%s ago, %.0f ms)  sha %.6s", c.Path, c.Generation, clock(c.Applied), span(ago), c.LastReload.DurationMS, c.SHA256))
}

func (m *Model) planeFacts() cell.Line {
	s := m.data.status
	offload := "off"
	if len(s.Dataplane.Offloads) > 0 {
		offload = strings.Join(s.Dataplane.Offloads, " ")
	}
	line := cell.Text(fmt.Sprintf("%s  tun %s mtu %d  queues %d  offload %s", s.Dataplane.Engine, s.Network.Interface, s.Network.MTU, s.Dataplane.Queues, offload))
	if len(s.Dataplane.Refused) > 0 {
		line = line.Add(cell.Warn, "  refused "+strings.Join(s.Dataplane.Refused, " "))
	}
	return line
}

func (m *Model) dropFacts() cell.Line {
	drops := m.data.status.Totals.Drops
	if m.base != nil {
		drops = lessDrops(drops, m.base.Totals.Drops)
	}
	if words := dropWords(drops); words != "" {
		return cell.Styled(cell.Warn, words)
	}
	return cell.Text("none")
}

func lessDrops(now, was map[string]uint64) map[string]uint64 {
	rest := map[string]uint64{}
	for reason, n := range now {
		rest[reason] = n - min(n, was[reason])
	}
	return rest
}

func peerFacts(s *control.Status) cell.Line {
	n := countStates(s.Peers)
	line := cell.Styled(cell.Good, fmt.Sprintf("%d up", n.up))
	for _, more := range []struct {
		n    int
		word string
		role cell.Role
	}{{n.stale, "stale", cell.Warn}, {n.down, "DOWN", cell.Bad}, {n.unknown, "unknown", cell.Dim}} {
		if more.n > 0 {
			line = line.Add(more.role, fmt.Sprintf("   %d %s", more.n, more.word))
		}
	}
	subnets, unreachable := 0, 0
	for _, p := range s.Peers {
		subnets += len(p.Subnets) + len(p.Routes)
		if p.State == control.Down {
			unreachable += len(p.Subnets) + len(p.Routes)
		}
	}
	line = line.Add(cell.Plain, fmt.Sprintf("   subnets %d", subnets))
	if unreachable > 0 {
		line = line.Add(cell.Bad, fmt.Sprintf(" (%d unreachable)", unreachable))
	}
	return line
}

// A flow is one line of a table of traffic: what there is now, what there was.
type flow struct {
	name   string
	now    float64
	values []float64 // per second, oldest first; NaN: not known
	last   int64     // number of the newest, see cell.Spark
	top    float64   // see cell.Spark
}

// flows are what all peers together do, as the history tells or, without one, the
// last minute that we saw ourselves.
func (m *Model) flows() (flows []flow, of string) {
	now := m.rateOf("")
	unit, factor := "bit/s", 8.0
	if m.units == bytes {
		unit, factor = "byte/s", 1
	}
	flows = []flow{
		{name: "rx " + unit, now: factor * now.rxBytes}, {name: "tx " + unit, now: factor * now.txBytes},
		{name: "rx pkt/s", now: now.rxPackets}, {name: "tx pkt/s", now: now.txPackets}, {name: "drops/s", now: now.drops},
	}
	h, ok := m.data.history[historyKey{"", "5m"}]
	if !ok {
		if t := m.data.tracks[""]; t != nil {
			flows[0].values, flows[1].values = scaled(t.values(&t.rx), factor), scaled(t.values(&t.tx), factor)
			flows[0].last, flows[1].last = t.last, t.last
		}
		return flows, "1m"
	}
	for i, values := range [][]*float64{h.RxBytes, h.TxBytes, h.RxPackets, h.TxPackets, h.Drops} {
		by := factor
		if i >= 2 {
			by = 1
		}
		flows[i].values, flows[i].last = scaled(numbers(values), by/float64(max(1, h.StepSeconds))), lastStep(h)
	}
	return flows, "5m"
}

// numbers writes NaN for what is not known.
func numbers(values []*float64) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = math.NaN()
		if v != nil {
			out[i] = *v
		}
	}
	return out
}

func scaled(values []float64, by float64) []float64 {
	for i := range values {
		values[i] *= by
	}
	return values
}

// lastStep numbers the newest step of a history.
func lastStep(h control.History) int64 { return h.End.Unix() / int64(max(1, h.StepSeconds)) }

// meanAndPeak sum up values; NaN if none is known.
func meanAndPeak(values []float64) (mean, peak float64) {
	sum, n := 0.0, 0
	peak = math.NaN()
	for _, v := range values {
		if math.IsNaN(v) {
			continue
		}
		sum, n = sum+v, n+1
		if !(peak >= v) {
			peak = v
		}
	}
	return sum / float64(n), peak
}

// traffic is a table of the flows, with a chart where there is room.
func (m *Model) traffic(w int) []cell.Line {
	flows, of := m.flows()
	wide := w >= leastWidth+24
	head := fmt.Sprintf(" %-10s %9s", "TRAFFIC", "now")
	if wide {
		head += fmt.Sprintf(" %10s %10s", "avg "+of, "peak "+of)
	}
	lines := []cell.Line{cell.Styled(cell.Dim, head+"   last "+of)}
	for _, f := range flows {
		line := cell.Styled(cell.Dim, fmt.Sprintf(" %-10s", f.name)).Add(cell.Strong, fmt.Sprintf(" %9s", si(f.now)))
		if wide {
			mean, peak := meanAndPeak(f.values)
			line = line.Add(cell.Plain, fmt.Sprintf(" %10s %10s", si(mean), si(peak)))
		}
		room := w - line.Width() - 4
		role := cell.Accent
		if f.name == "drops/s" {
			role = cell.Warn
		}
		lines = append(lines, line.Add(cell.Plain, "   ").Add(role, cell.Spark(f.values, f.last, room, f.top)))
	}
	return lines
}
