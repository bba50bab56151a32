package tui

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// Sizes at which the picture becomes another one.
const (
	leastWidth, leastHeight = 40, 8   // below them there is one line
	dashWidth, dashHeight   = 120, 30 // from them on the overview shows everything
	rulesHeight             = 14      // below it there are no rules
)

// dashboard tells whether the overview shows everything.
func (m *Model) dashboard() bool {
	return m.width >= dashWidth && m.height >= dashHeight && m.lost == nil
}

// chrome is how many lines stand around a body.
func chrome(h int) int {
	if h < rulesHeight {
		return 3
	}
	return 5
}

// tableRoom is how many peers the table on the screen has room for.
func (m *Model) tableRoom() int {
	h := m.height - chrome(m.height)
	switch {
	case m.screen == overviewScreen && m.dashboard():
		return max(1, h-dashTop-dashBottom-3)
	case h >= 12:
		return h - 2 - aboutLines
	}
	return max(1, h-2)
}

// frame is the whole picture: exactly h lines of w cells.
func (m *Model) frame(w, h int) []cell.Line {
	if w <= 0 || h <= 0 {
		return nil
	}
	if w < leastWidth || h < leastHeight {
		return cell.Fill([]cell.Line{m.oneLine()}, w, h)
	}
	rules := chrome(h) == 5
	lines := []cell.Line{m.header(w), m.tabs(w)}
	if rules {
		lines = append(lines, cell.Rule(w))
	}
	room := h - chrome(h)
	body := cell.Fill(m.scroll(m.body(w, room), room), w, room)
	if !m.live() && m.data.status != nil && (m.screen != overviewScreen || m.dashboard()) && m.screen != helpScreen {
		for i := range body { // the header says how old it is
			body[i] = body[i].As(cell.Dim)
		}
	}
	if m.asking {
		body = cell.Over(body, m.reloadBox(w))
	}
	lines = append(lines, body...)
	if rules {
		lines = append(lines, cell.Rule(w))
	}
	return cell.Fill(append(lines, m.footer(w)), w, h)
}

// scroll leaves out what is above a screen that is too small for its body.
func (m *Model) scroll(body []cell.Line, room int) []cell.Line {
	if m.screen <= eventsScreen || len(body) <= room {
		return body
	}
	from := min(m.scrolled, len(body)-room)
	shown := append([]cell.Line(nil), body[from:from+room]...)
	if below := len(body) - from - room; below > 0 {
		shown[room-1] = cell.Styled(cell.Accent, fmt.Sprintf(" ↓ %d lines more: j", below+1))
	}
	return shown
}

// overlong is how many lines of the body do not fit the screen.
func (m *Model) overlong() int {
	room := m.height - chrome(m.height)
	return max(0, len(m.body(m.width, room))-room)
}

// body is what a screen has of its own.
func (m *Model) body(w, h int) []cell.Line {
	if m.screen == helpScreen {
		return m.helpBody(w, h)
	}
	if m.data.status == nil {
		if m.lost == nil {
			return []cell.Line{{}, cell.Text(" connecting to " + m.options.Where + " ...")}
		}
		return m.lostBox(w)
	}
	switch m.screen {
	case peersScreen:
		return m.peersBody(w, h)
	case eventsScreen:
		return m.eventsBody(w, h)
	case detailScreen:
		return m.detailBody(w, h)
	case configScreen:
		return m.configBody(w)
	}
	if m.dashboard() {
		return m.dashboardBody(w, h)
	}
	return m.overviewBody(w, h)
}

// oneLine is what a terminal shows that is too small for more.
func (m *Model) oneLine() cell.Line {
	s := m.data.status
	switch {
	case m.asking:
		return cell.Styled(cell.Warn, "reload? y/n")
	case s == nil && m.lost == nil:
		return cell.Text("connecting")
	case s == nil:
		return cell.Styled(cell.Bad, "meshd is not answering")
	}
	n := countStates(s.Peers)
	line := cell.Styled(cell.Good, fmt.Sprintf("%d up", n.up))
	if n.stale > 0 {
		line = line.Add(cell.Warn, fmt.Sprintf(" %d STALE", n.stale))
	}
	if n.down > 0 {
		line = line.Add(cell.Bad, fmt.Sprintf(" %d DOWN", n.down))
	}
	if !m.live() {
		return cell.Styled(cell.Bad, "OLD "+age(m.sinceHeard())+" ").Join(line.As(cell.Dim))
	}
	if m.paused {
		return cell.Styled(cell.Warn, "PAUSED ").Join(line)
	}
	return line.Join(m.generation(" "))
}

// generation tells which file is in force, and whether it is the one on disk.
func (m *Model) generation(before string) cell.Line {
	s := m.data.status
	line := cell.Styled(cell.Plain, fmt.Sprintf("%sgen %d ", before, s.Config.Generation))
	switch {
	case s.Node == "":
		return cell.Styled(cell.Warn, before+"starting")
	case s.Config.Error != "":
		return line.Add(cell.Bad, "FILE REJECTED")
	}
	return line.Add(cell.Plain, "ok")
}

// header is the first line: where we are, and how true it is.
func (m *Model) header(w int) cell.Line {
	left := cell.Styled(cell.Strong, " meshtui")
	if s := m.data.status; s != nil {
		name := s.Node
		if name == "" {
			name = "(no node yet)"
		}
		left = left.Add(cell.Plain, " · "+strings.TrimRight(cell.FitMiddle(name, min(cell.Width(name), max(12, w-56))), " "))
		switch {
		case m.live() && s.Node == "":
			left = left.Join(m.generation(" · "))
		case m.live():
			left = left.Join(m.generation(" · ")).Add(cell.Dim, " · "+engineWord(s.Dataplane))
		default:
			left = left.Add(cell.Plain, fmt.Sprintf(" · gen %d", s.Config.Generation)).Add(cell.Bad, " · DATA "+span(m.sinceHeard())+" OLD")
		}
	}
	right := cell.Line{}
	switch {
	case m.paused && m.live():
		right = right.Add(cell.Warn, "◐ paused "+span(m.sinceHeard()))
	case m.live():
		right = right.Add(cell.Good, "● live "+interval(m.options.Interval))
	case m.lost == nil && m.data.status == nil:
		right = right.Add(cell.Dim, "◐ connecting")
	case m.lost == nil:
		right = right.Add(cell.Bad, "○ silent")
	default:
		right = right.Add(cell.Bad, "○ disconnected")
	}
	if w >= 60 {
		right = right.Add(cell.Plain, " · "+clock(m.now)+" UTC")
	}
	return left.Spread(right.Add(cell.Plain, " "), w)
}

// interval writes the time between snapshots without zeros.
func interval(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} { // "1m0s" is "1m"
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-len(zero)+1]
		}
	}
	return text
}

// sinceHeard is the time since the last snapshot.
func (m *Model) sinceHeard() time.Duration { return max(0, m.now.Sub(m.data.heard)) }

// daemonNow is the daemon's clock: that of the last snapshot and, as long as what
// that says is true, what went by since. Old data does not age; it is old.
func (m *Model) daemonNow() time.Time {
	if !m.live() || m.paused {
		return m.data.status.Now
	}
	return m.data.status.Now.Add(m.sinceHeard())
}

func engineWord(d control.Dataplane) string {
	if d.Engine == "user" && slices.Contains(d.Offloads, "udp_gso") {
		return d.Engine + "+gso"
	}
	return d.Engine
}

// tabs is the second line.
func (m *Model) tabs(w int) cell.Line {
	peers, events, help := "2 Peers", "3 Events", " ? help "
	wide := w >= 56
	if !wide {
		help = " ? "
	}
	if s := m.data.status; s != nil && wide {
		peers += fmt.Sprintf(" %d/%d", countStates(s.Peers).up, len(s.Peers))
	}
	if m.data.alarms > m.unseen && wide {
		events += fmt.Sprintf(" %d!", m.data.alarms-m.unseen)
	}
	line := cell.Line{}
	current := m.screen
	if current > eventsScreen {
		current = m.before
	}
	for i, title := range []string{"1 Overview", peers, events} {
		if screen(i) == current {
			line = line.Add(cell.Strong, "["+title+"]")
		} else {
			line = line.Add(cell.Dim, " "+title+" ")
		}
		line = line.Add(cell.Plain, " ")
	}
	return line.Spread(cell.Styled(cell.Dim, help), w)
}

// keysOf are the hints in the last line of each screen, the most useful first.
var keysOf = map[screen]string{
	overviewScreen: "tab next  enter worst peer  / filter  c config  R reload  u units  p pause  q quit",
	peersScreen:    "j/k move  enter detail  / filter  s/S sort  P ping  u units  o columns  y copy  q quit",
	eventsScreen:   "j/k move  G newest  / filter  y copy  w write  q quit",
	detailScreen:   "esc back  [ ] prev/next  t 5m/1h/24h  P ping  y copy  Z zero  j/k scroll  q quit",
	configScreen:   "esc back  R reload  c look again  j/k scroll  q quit",
	helpScreen:     "esc back  q quit",
}

// footer is the last line: what is being typed, what just happened, or keys.
func (m *Model) footer(w int) cell.Line {
	switch {
	case m.prompt != nil:
		return cell.Styled(cell.Strong, " /"+m.prompt.text).Add(cell.Selected, " ").Spread(cell.Styled(cell.Dim, "enter keeps  esc clears "), w)
	case m.asking:
		return cell.Styled(cell.Warn, " reload?  y yes  n no   "+m.data.status.Config.Path+" on "+m.data.status.Node).Fit(w)
	case m.now.Before(m.notice.until):
		role := cell.Good
		if m.notice.bad {
			role = cell.Bad
		}
		return cell.Styled(role, " "+m.notice.text).Fit(w)
	case m.lost != nil:
		return cell.Styled(cell.Dim, " r retry now  1 2 3 old data  esc back  w write file  q quit").Fit(w)
	case m.screen == overviewScreen && m.dashboard():
		return cell.Styled(cell.Dim, " tab next  j/k move  enter open  / filter  s/S sort  P ping  c config  R reload  t span  u units  p pause  ? help  q quit").Fit(w)
	}
	return cell.Styled(cell.Dim, " "+keysOf[m.screen]).Fit(w)
}

// lostBox says that nobody answers, why, and what to do.
func (m *Model) lostBox(w int) []cell.Line {
	var advice []string
	title := "meshd is not answering"
	switch err := m.lost.err; {
	case errors.Is(err, control.ErrPermission):
		title = "not permitted"
		advice = []string{"The socket is for root and the group mesh:", "  sudo usermod -aG mesh $USER    and log in again"}
	case errors.Is(err, control.ErrMismatch):
		title = "another version"
		advice = []string{"meshtui and meshd are of different versions:", "  meshtui --version    meshd version"}
	case !errors.Is(err, control.ErrNotRunning):
		title = "meshd does not tell"
		advice = []string{"Look at:  systemctl status meshd    journalctl -u meshd -n 30"}
	default:
		advice = []string{"Look at:  systemctl status meshd    journalctl -u meshd -n 30", "Start:    sudo systemctl start meshd"}
	}
	retry := "now"
	if !m.lost.retry.IsZero() {
		retry = fmt.Sprintf("attempt %d, next in %.0f s", m.attempts, max(0, m.lost.retry.Sub(m.now).Seconds()))
	}
	label := func(word, text string) cell.Line {
		return cell.Styled(cell.Dim, fmt.Sprintf("%-9s", word)).Add(cell.Plain, text)
	}
	body := []cell.Line{label("socket", m.options.Where)}
	what, _, _ := strings.Cut(text.Clean(m.lost.err.Error()), ": see `") // that stands below
	for i, l := range cell.Wrap(what, w-15) {
		body = append(body, label(map[bool]string{true: "error"}[i == 0], l))
	}
	body = append(body, label("retry", retry+"   (r: now)"), cell.Line{})
	for _, a := range advice {
		body = append(body, cell.Text(a))
	}
	if m.data.status != nil {
		body = append(body, cell.Styled(cell.Dim, "The last data stays; rates are blank, not zero."))
	}
	return cell.Box(cell.Styled(cell.Bad, title), "", body, w, len(body)+2)
}
