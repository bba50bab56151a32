package tui

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// seconds turns a number of seconds into a duration.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func hostPort(n control.Network) string {
	address, err := netip.ParseAddr(n.Address)
	if err != nil {
		return n.Address
	}
	return netip.AddrPortFrom(address, uint16(n.Port)).String()
}

// detailBody is the screen of one peer.
func (m *Model) detailBody(w, h int) []cell.Line {
	p, ok := m.selected()
	if !ok {
		return []cell.Line{cell.Text(" PEERS > " + m.cursor), {}, cell.Styled(cell.Warn, " the file in force has no such node any more: esc goes back")}
	}
	glyph, word, role := stateWord(p.State)
	seen := "never heard"
	if p.LastSeen != nil {
		seen = "last heard " + span(m.daemonNow().Sub(*p.LastSeen)) + " ago"
	}
	lines := []cell.Line{
		cell.Styled(cell.Dim, " PEERS > ").Add(cell.Strong, p.Name).Spread(cell.Styled(role, glyph+" "+word).Add(cell.Plain, " · "+seen+" "), w),
	}
	lines = append(lines, m.peerFacts(p, w)...)
	lines = append(lines, cell.Line{})
	for _, l := range append(m.peerCharts(p, w-2), m.timeAxis(w-2)) {
		lines = append(lines, cell.Text(" ").Join(l))
	}
	tables := m.peerCounters(p, w)
	if len(lines)+1+len(tables) <= h {
		lines = append(lines, cell.Line{})
	}
	lines = append(lines, tables...)
	if room := h - len(lines) - 1; room > 0 {
		lines = append(append(lines, cell.Rule(w)), m.eventsAbout(p.Name, w, room)...)
	}
	return lines
}

// peerFacts are where a peer is, what lies behind it, and how far it is.
func (m *Model) peerFacts(p control.Peer, w int) []cell.Line {
	label := func(word string) cell.Line { return cell.Styled(cell.Dim, fmt.Sprintf(" %-10s ", word)) }
	first := label("endpoint").Add(cell.Plain, p.Address)
	if p.Version != "" {
		first = first.Add(cell.Dim, "   meshd "+p.Version)
	}
	lines := []cell.Line{first.Join(fileLine(p, "   "))}
	behind := strings.Join(p.Subnets, "  ")
	if len(p.Routes) > 0 {
		behind += "  routes " + strings.Join(p.Routes, "  ")
	}
	for i, l := range cell.Wrap(behind, w-13) {
		if i == 2 {
			lines = append(lines, label("").Add(cell.Dim, fmt.Sprintf("… %d in all", len(p.Subnets)+len(p.Routes))))
			break
		}
		word := "subnets"
		if i > 0 {
			word = ""
		}
		lines = append(lines, label(word).Add(cell.Plain, l))
	}
	rtt := fmt.Sprintf("%s now   %s min   %s p50   %s p95   jitter %s", millis(lastRTT(p)), millis(p.RTTMinMS), millis(p.RTTMS), millis(p.RTTP95MS), millis(p.JitterMS))
	lines = append(lines, label("rtt ms").Add(cell.Plain, rtt).Add(lossRole(p.Loss), "   loss "+percent(p.Loss)))
	if p.Since != nil {
		_, word, _ := stateWord(p.State)
		lines = append(lines, label("state").Add(cell.Plain, fmt.Sprintf("%s since %s (%s)   probes %s sent, %s answered", word, clock(*p.Since),
			span(m.daemonNow().Sub(*p.Since)), grouped(p.ProbesTx), grouped(p.ProbesRx))))
	}
	return lines
}

// peerCharts are rates, RTT and loss of a peer over the span that is chosen, or,
// without a history, rates of the last minute.
func (m *Model) peerCharts(p control.Peer, w int) []cell.Line {
	now := m.rateOf(p.Name)
	unit := m.units.String()
	flows := []flow{
		{name: "rx " + unit, now: m.units.rx(now)}, {name: "tx " + unit, now: m.units.tx(now)},
		{name: "rtt ms", now: math.NaN()}, {name: "loss %", now: math.NaN(), top: 100},
	}
	if last := lastRTT(p); last != nil && m.live() {
		flows[2].now = *last
	}
	if p.Loss != nil && m.live() {
		flows[3].now = 100 * *p.Loss
	}
	if h, ok := m.data.history[historyKey{p.Name, spans[m.span]}]; ok {
		rx, tx, by := h.RxBytes, h.TxBytes, 8.0
		switch m.units {
		case inBytes:
			by = 1
		case inPackets:
			rx, tx, by = h.RxPackets, h.TxPackets, 1
		}
		by /= float64(max(1, h.StepSeconds))
		flows[0].values, flows[1].values = scaled(numbers(rx), by), scaled(numbers(tx), by)
		flows[2].values, flows[3].values = numbers(h.RTTMS), scaled(numbers(h.Loss), 100)
		for i := range flows {
			flows[i].last = lastStep(h)
		}
	} else if t := m.data.tracks[p.Name]; t != nil && m.options.Asker == nil && m.units != inPackets {
		by := map[units]float64{inBits: 8, inBytes: 1}[m.units]
		flows[0].values, flows[1].values = scaled(t.values(&t.rx), by), scaled(t.values(&t.tx), by)
		flows[0].last, flows[1].last = t.last, t.last
	}
	var lines []cell.Line
	for i, f := range flows {
		role := cell.Accent
		if i == 3 {
			role = cell.Warn
		}
		figure := si(f.now)
		if i >= 2 && !math.IsNaN(f.now) {
			figure = millis(&f.now)
		}
		lines = append(lines, cell.Styled(cell.Dim, fmt.Sprintf("%-7s", f.name)).Add(cell.Strong, cell.FitRight(figure, 6)+" ").
			Add(role, cell.Spark(f.values, f.last, w-14, f.top)))
	}
	return lines
}

// lastRTT is that of the last answer, of a peer that answers.
func lastRTT(p control.Peer) *float64 {
	if p.State == control.Down || p.State == control.Stale {
		return nil
	}
	return p.RTTLastMS
}

// timeAxis stands below the charts.
func (m *Model) timeAxis(w int) cell.Line {
	end, values := "now", trackSeconds
	if !m.live() {
		end = "then"
	}
	if h, ok := m.data.history[historyKey{m.cursor, spans[m.span]}]; ok {
		values = len(h.RxBytes)
	}
	chosen := spans[m.span]
	if m.options.Asker == nil {
		chosen = "1m"
	}
	return cell.Styled(cell.Dim, cell.Fit("", 14+cell.Unused(values, w-14))+"-"+chosen).Spread(cell.Styled(cell.Dim, end), w)
}

// peerCounters are two tables beside each other: traffic, and drops by reason.
func (m *Model) peerCounters(p control.Peer, w int) []cell.Line {
	c := m.zeroed(p)
	since := "since meshd's start"
	if m.base != nil {
		since = "since " + clock(m.base.Now)
	}
	left := []cell.Line{
		cell.Styled(cell.Dim, fmt.Sprintf(" %-10s%14s%14s", "COUNTERS", "rx", "tx")),
		cell.Styled(cell.Dim, " packets   ").Add(cell.Plain, fmt.Sprintf("%14s%14s", grouped(c.rxPackets), grouped(c.txPackets))),
		cell.Styled(cell.Dim, " bytes     ").Add(cell.Plain, fmt.Sprintf("%14s%14s", si(float64(c.rxBytes))+"B", si(float64(c.txBytes))+"B")),
		cell.Styled(cell.Dim, " "+since),
	}
	right := []cell.Line{cell.Styled(cell.Dim, fmt.Sprintf("%-18s%8s%6s%6s", "DROPS", "total", "/s", "last"))}
	for _, reason := range reasons(p.Drops) {
		d := m.data.dropped[dropKey{p.Name, reason}]
		last := unknown
		if !d.seen.IsZero() {
			last = age(m.daemonNow().Sub(d.seen))
		}
		n := p.Drops[reason]
		if m.base != nil {
			n -= min(n, dropsOf(m.base, p.Name)[reason])
		}
		speed := d.rate
		if !m.live() {
			speed = math.NaN()
		}
		right = append(right, cell.Styled(cell.Warn, fmt.Sprintf("%-18s", reason)).Add(cell.Plain, fmt.Sprintf("%8s%6s%6s", short(n), si(speed), last)))
	}
	if len(right) == 1 {
		right = append(right, cell.Styled(cell.Dim, "none"))
	}
	const rightWidth = 38
	if w < 40+rightWidth {
		return slices.Concat(left, right)
	}
	h := max(len(left), len(right))
	return cell.Beside(cell.Fill(left, w-rightWidth, h), cell.Fill(right, rightWidth, h))
}

func dropsOf(s *control.Status, peer string) map[string]uint64 {
	for _, p := range s.Peers {
		if p.Name == peer {
			return p.Drops
		}
	}
	return nil
}
