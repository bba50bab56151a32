package tui

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

// anything makes statuses of all kinds, also of those that no daemon tells.
type anything struct{ *rand.Rand }

func (r anything) text(n int) string {
	letters := []rune("ab-.:/ 0é世\x1b[31m\n\t\u202e�")
	b := make([]rune, r.IntN(n+1))
	for i := range b {
		b[i] = letters[r.IntN(len(letters))]
	}
	return string(b)
}

func (r anything) name(n int) string {
	if r.IntN(20) == 0 {
		return r.text(n)
	}
	b := make([]byte, 1+r.IntN(n))
	for i := range b {
		b[i] = "abcxyz019.-"[r.IntN(11)]
	}
	return string(b)
}

func (r anything) number() *float64 {
	switch r.IntN(5) {
	case 0:
		return nil
	case 1:
		return new(0.0)
	case 2:
		return new(r.Float64())
	}
	return new(r.Float64() * 1e12)
}

func (r anything) count() uint64 { return r.Uint64() >> r.IntN(64) }

// counter is one that may be unknown, as while packets are encrypted.
func (r anything) counter() *uint64 {
	if r.IntN(8) == 0 {
		return nil
	}
	return new(r.count())
}

func (r anything) time() *time.Time {
	if r.IntN(4) == 0 {
		return nil
	}
	return new(noon.Add(time.Duration(r.Int64N(1e15)) - 5e14))
}

func (r anything) drops() map[string]uint64 {
	drops := map[string]uint64{}
	for range r.IntN(8) {
		drops[r.name(17)] = r.count()
	}
	return drops
}

func (r anything) prefixes() (all []string) {
	for range r.IntN(4) {
		all = append(all, []string{"10.1.0.0/16", "fd00:1234:5678:9abc:def0::/80", "192.168.100.0/24"}[r.IntN(3)])
	}
	return all
}

// state is one of those that there are, or that are to come.
func (r anything) state() string {
	return []string{"up", "stale", "down", "unknown", "from the future"}[r.IntN(5)]
}

func (r anything) changes() (sentences []string, details []control.Change) {
	for range r.IntN(4) {
		sentences = append(sentences, r.text(60))
		details = append(details, control.Change{Op: []string{"+", "-", "~", "*", ""}[r.IntN(5)], Kind: r.name(9),
			Subject: r.text(30), Field: r.name(9), Old: r.text(20), New: r.text(20)})
	}
	return sentences, details[:r.IntN(len(details)+1)]
}

// health is what a daemon says of itself; one of an older version says nothing.
func (r anything) health() (h control.Health) {
	h.Level = []string{"", "ok", "degraded", "failed", "from the future"}[r.IntN(5)]
	for range r.IntN(5) {
		h.Problems = append(h.Problems, control.Problem{
			Level: []string{"info", "degraded", "failed", "from the future"}[r.IntN(4)],
			Kind:  []string{"file_rejected", "forwarding_off", "from_the_future"}[r.IntN(3)],
			Peer:  []string{"", r.name(63)}[r.IntN(2)], Text: r.text(300), Remedy: r.text(90),
		})
	}
	return h
}

func (r anything) peer() control.Peer {
	return control.Peer{
		Name:    r.name(63),
		Address: []string{"", "10.0.0.1:1", "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"}[r.IntN(3)],
		Subnets: r.prefixes(), Routes: r.prefixes(), State: r.state(), Since: r.time(), LastSeen: r.time(),
		RTTMS: r.number(), RTTLastMS: r.number(), RTTMinMS: r.number(), RTTP95MS: r.number(), JitterMS: r.number(),
		Loss: r.number(), ProbesTx: r.count(), ProbesRx: r.count(),
		ConfigMatch: []*bool{nil, new(true), new(false)}[r.IntN(3)], ConfigSHA256: r.name(64), Version: r.text(15),
		RxBytes: r.counter(), TxBytes: r.counter(), RxPackets: r.counter(), TxPackets: r.counter(),
		Drops: r.drops(), WireGuard: r.wireGuard(),
	}
}

func (r anything) wireGuard() *control.PeerWireGuard {
	if r.IntN(3) == 0 {
		return nil
	}
	return &control.PeerWireGuard{PublicKey: r.text(44), Endpoint: []string{"", r.text(20)}[r.IntN(2)],
		Roamed: r.IntN(2) == 0, LatestHandshake: r.time(), RxBytes: r.count(), TxBytes: r.count(),
		Path: []string{control.PathDirect, "via " + r.name(63), ""}[r.IntN(3)]}
}

func (r anything) status() *control.Status {
	changes, details := r.changes()
	s := &control.Status{
		Schema: 1, Node: r.name(63), Version: r.text(30), BootID: []string{"a", "b"}[r.IntN(2)],
		PID:           r.IntN(1 << 30),
		UptimeSeconds: float64(r.IntN(1e9)), Now: noon.Add(time.Duration(r.Int64N(1e15))), Health: r.health(),
		Config: control.Config{Path: r.text(60), Generation: r.IntN(1e6), SHA256: r.name(64), Applied: noon,
			Error: []string{"", r.text(300)}[r.IntN(2)],
			LastReload: control.Reload{OK: r.IntN(2) == 0, At: noon, Error: r.text(200), Changes: changes,
				Details: details}},
		Network: control.Network{Name: r.text(20), Interface: r.name(15), MTU: r.IntN(65536), Port: r.IntN(65536),
			Address: []string{"", "10.0.0.1", "2001:db8::1"}[r.IntN(3)]},
		Dataplane: control.Dataplane{Engine: []string{"user", "kernel"}[r.IntN(2)],
			Reason:   []string{"", r.text(90)}[r.IntN(2)],
			Offloads: []string{"tso4", "udp_gso"}[:r.IntN(3)], Refused: []string{"udp_gso"}[:r.IntN(2)],
			Queues: r.IntN(256)},
		Totals: control.Totals{RxBytes: r.counter(), TxBytes: r.counter(),
			RxPackets: r.counter(), TxPackets: r.counter(),
			Drops: r.drops()},
	}
	if r.IntN(8) == 0 {
		s.Node = ""
	}
	if r.IntN(2) == 0 {
		s.WireGuard = &control.WireGuard{Implementation: r.text(9), Interface: r.name(15), Port: r.IntN(65536),
			PublicKey: r.text(44), MTU: r.IntN(65536)}
	}
	for range r.IntN(4) {
		s.Warnings = append(s.Warnings, r.text(300))
	}
	for range r.IntN(30) {
		s.Peers = append(s.Peers, r.peer())
	}
	return s
}

var keyNames = strings.Fields("1 2 3 ? c enter esc / s S u o t a p [ ] j k g G pgdown pgup tab shift+tab " +
	"Z R n y w P r + - m x . * ( backspace ctrl+d ctrl+u home end")

// message is one of those that there are.
func (r anything) message(m *Model, c *clockwork) tea.Msg {
	switch r.IntN(12) {
	case 0:
		return tea.WindowSizeMsg{Width: r.IntN(200), Height: r.IntN(60)}
	case 1:
		return lostMsg{m.link.number, errors.New(r.text(300))}
	case 2:
		cursor := m.choices.cursor
		return historyMsg{historyKey{cursor, spans[r.IntN(3)]}, someHistory(cursor, spans[r.IntN(3)]), nil}
	case 3:
		changes, details := r.changes()
		return planMsg{control.Plan{Changes: changes, Details: details},
			[]error{nil, errors.New(r.text(300))}[r.IntN(2)]}
	case 4:
		changes, details := r.changes()
		return reloadMsg{control.ReloadResult{Generation: 3, Reload: control.Reload{OK: r.IntN(2) == 0,
			Error:   r.text(200),
			Changes: changes, Details: details}}, nil}
	case 5:
		c.forward(time.Duration(r.Int64N(2e10)) - time.Second)
		return tickMsg(c.now)
	case 6:
		return pingMsg{m.pinged.peer, len(m.pinged.words), control.Ping{RTTMS: r.number(), Error: r.text(10)}, nil}
	case 7:
		return tea.MouseMsg{X: r.IntN(100), Y: r.IntN(60), Button: tea.MouseButton(r.IntN(8)),
			Action: tea.MouseActionPress}
	}
	return linesMsg{m.link.number, r.lines()}
}

// lines are what a connection says.
func (r anything) lines() (lines []control.Watched) {
	for range r.IntN(5) {
		switch r.IntN(3) {
		case 0:
			lines = append(lines, hello([]string{"a", "b"}[r.IntN(2)]))
		case 1:
			lines = append(lines, snapshot(r.status()))
		default:
			lines = append(lines, happening(control.Event{At: noon, Level: []string{"info", "warn",
				"error"}[r.IntN(3)],
				Kind: []string{"peer_up", "log"}[r.IntN(2)], Peer: []string{"", r.name(63)}[r.IntN(2)],
				Message: r.text(100), Fields: map[string]string{"k": r.text(50)}}))
		}
	}
	return lines
}

// Whatever is told and whatever is pressed, each frame is as large as the screen and
// has nothing in it that a terminal would obey.
func TestRandomFrames(t *testing.T) {
	for seed := range uint64(200) {
		r := anything{rand.New(rand.NewPCG(seed, 1))}
		m, c := newTest(80, 24)
		var done []string
		for range 60 {
			if r.IntN(2) == 0 {
				key := keyNames[r.IntN(len(keyNames))]
				done = append(done, key)
				press(m, key)
			} else {
				msg := r.message(m, c)
				done = append(done, fmt.Sprintf("%T", msg))
				send(m, msg)
			}
			if m.width > 0 && m.height > 0 {
				checkFrame(t, m.View(), m.width, m.height)
			}
			if t.Failed() {
				t.Fatalf("seed %d: %dx%d, after %q", seed, m.width, m.height, done[max(0, len(done)-10):])
			}
		}
	}
}

// Each width is drawn whole, from one cell on.
func TestEveryWidth(t *testing.T) {
	for _, name := range []string{"overview", "peers", "detail", "events", "config", "help", "disconnected",
		"long"} {
		t.Run(name, func(t *testing.T) {
			m := scenes[name](80, 24)
			for w := 1; w <= 170; w++ {
				for _, h := range []int{1, 7, 8, 13, 24, 30, 45} {
					send(m, tea.WindowSizeMsg{Width: w, Height: h})
					checkFrame(t, m.View(), w, h)
				}
			}
		})
	}
}

func BenchmarkFrame100Peers(b *testing.B) {
	m, _ := newTest(80, 24)
	s := someMesh(0)
	for i := range 80 {
		s.Peers = append(s.Peers, somePeer(100+i, 0))
	}
	tell(m, hello("x"))
	for b.Loop() {
		s.UptimeSeconds++
		tell(m, snapshot(s))
		m.View()
	}
}
