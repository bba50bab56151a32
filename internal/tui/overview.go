package tui

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

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
		lines = append(lines, cell.Styled(cell.Bad, " no news for "+span(m.sinceHeard())+fmt.Sprintf(": meshd (pid %d) hangs or was stopped; see `systemctl status meshd`", s.PID)))
	}
	facts, traffic := m.facts(w), m.traffic(w)
	room := h - len(lines) - 1
	trouble := m.attention(w, max(min(3, room), room-len(facts)-len(traffic)-2))
	head := cell.Text(" ").Join(verdict(s))
	if !m.live() {
		head = head.Add(cell.Plain, "   as of "+clock(s.Now))
	}
	rest := slices.Concat([]cell.Line{head}, trouble)
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

// attention lists problems in at most h lines, the worst first. Long ones take
// several lines where there is room for all.
func (m *Model) attention(w, h int) (lines []cell.Line) {
	all := problems(m.data.status)
	subject, needed := 0, 0
	texts := make([][]string, len(all))
	for i, p := range all {
		subject = min(max(subject, cell.Width(p.subject)), 20)
		texts[i] = []string{p.text}
		if p.subject == "" {
			texts[i] = cell.Wrap(p.text, w-9)
		}
		needed += len(texts[i])
	}
	for i, p := range all {
		if len(lines) == h-1 && i < len(all)-1 {
			return append(lines, cell.Styled(cell.Dim, fmt.Sprintf(" … and %d more: 2 shows peers, c the file", len(all)-i)))
		}
		if needed > h {
			texts[i] = []string{oneLine(p.text)}
		}
		head := cell.Styled(p.role, fmt.Sprintf(" %-6s ", p.word))
		if p.subject != "" {
			head = head.Add(cell.Strong, cell.FitMiddle(p.subject, subject)+"  ")
		}
		for _, l := range texts[i] {
			lines = append(lines, head.Add(cell.Plain, l))
			head = cell.Text("        ")
		}
	}
	return lines
}

// label begins a line of facts.
func label(word string) cell.Line { return cell.Styled(cell.Dim, fmt.Sprintf(" %-8s ", word)) }

// facts tell of the node, its file, its data plane and its peers.
func (m *Model) facts(w int) []cell.Line {
	s := m.data.status
	if s.Node == "" {
		return []cell.Line{
			label("NODE").Add(cell.Plain, fmt.Sprintf("unknown yet   meshd %s  pid %d  up %s", s.Version, s.PID, span(m.uptime()))),
			label("CONFIG").Join(m.configFacts(w - 10)),
		}
	}
	return []cell.Line{
		label("NODE").Join(m.nodeFacts()),
		label("CONFIG").Join(m.configFacts(w - 10)),
		label("PLANE").Join(m.planeFacts()),
		label("DROPS").Join(m.dropFacts()),
		label("PEERS").Join(peerFacts(s)),
	}
}

func (m *Model) nodeFacts() cell.Line {
	s := m.data.status
	return cell.Styled(cell.Strong, s.Node).Add(cell.Plain, fmt.Sprintf("  %s   up %s   meshd %s  pid %d", hostPort(s.Network), span(m.uptime()), s.Version, s.PID))
}

// uptime is that of the daemon, as far as we know.
func (m *Model) uptime() time.Duration {
	return seconds(m.data.status.UptimeSeconds) + m.daemonNow().Sub(m.data.status.Now)
}

// configFacts tell of the file in w cells; the path gives way.
func (m *Model) configFacts(w int) cell.Line {
	c := m.data.status.Config
	if c.Applied.IsZero() {
		return cell.Text(cell.FitMiddle(c.Path, min(w, cell.Width(c.Path))) + "  not in force yet")
	}
	ago, took := span(m.daemonNow().Sub(c.Applied)), fmt.Sprintf(", %.0f ms", c.LastReload.DurationMS)
	form := "  gen %d  applied %s (%s ago%s)  sha %.6s"
	rest := fmt.Sprintf(form, c.Generation, clock(c.Applied), ago, took, c.SHA256)
	if cell.Width(c.Path)+len(rest) > w {
		rest = fmt.Sprintf(form, c.Generation, clock(c.Applied), ago, "", c.SHA256)
	}
	return cell.Text(cell.FitMiddle(c.Path, max(12, min(cell.Width(c.Path), w-len(rest)))) + rest)
}

func (m *Model) planeFacts() cell.Line {
	s := m.data.status
	offload := "off"
	if len(s.Dataplane.Offloads) > 0 {
		offload = offloadWords.Replace(strings.Join(s.Dataplane.Offloads, " "))
	}
	engine := s.Dataplane.Engine
	if engine == "kernel" {
		engine += " " + s.Dataplane.Receive
	}
	line := cell.Text(fmt.Sprintf("%s  tun %s mtu %d  queues %d  offload %s", engine, s.Network.Interface, s.Network.MTU, s.Dataplane.Queues, offload))
	if len(s.Dataplane.Refused) > 0 {
		line = line.Add(cell.Warn, "  refused "+strings.Join(s.Dataplane.Refused, " "))
	}
	return line
}

// offloadWords shortens the names of offloads that mostly come together.
var offloadWords = strings.NewReplacer("tso4 tso6", "tso", "udp_gso", "gso", "udp_gro", "gro")

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
	if m.units == inBytes {
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

// traffic is a table of the flows, with a chart. A narrow one has no means.
func (m *Model) traffic(w int) []cell.Line {
	flows, of := m.flows()
	wide := w >= 60
	head := fmt.Sprintf(" %-9s%8s%8s", "TRAFFIC", "now", "peak")
	if wide {
		head = fmt.Sprintf(" %-10s %9s %10s %10s ", "TRAFFIC", "now", "avg "+of, "peak "+of)
	}
	lines := []cell.Line{cell.Styled(cell.Dim, head+"  last "+of)}
	for _, f := range flows {
		mean, peak := meanAndPeak(f.values)
		line := cell.Styled(cell.Dim, fmt.Sprintf(" %-9s", f.name)).Add(cell.Strong, fmt.Sprintf("%8s", si(f.now))).Add(cell.Plain, fmt.Sprintf("%8s", si(peak)))
		if wide {
			line = cell.Styled(cell.Dim, fmt.Sprintf(" %-10s", f.name)).Add(cell.Strong, fmt.Sprintf(" %9s", si(f.now))).
				Add(cell.Plain, fmt.Sprintf(" %10s %10s ", si(mean), si(peak)))
		}
		role := cell.Accent
		if f.name == "drops/s" {
			role = cell.Warn
		}
		lines = append(lines, line.Add(cell.Plain, "  ").Add(role, cell.Spark(f.values, f.last, w-line.Width()-3, f.top)))
	}
	return lines
}
