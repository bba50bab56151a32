package tui

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

var noon = time.Date(2026, 11, 24, 14, 7, 33, 0, time.UTC)

// clockwork is a clock that tests set.
type clockwork struct{ now time.Time }

func (c *clockwork) forward(d time.Duration) { c.now = c.now.Add(d) }

// someMesh is a status in which something of everything is wrong. second is how long
// ago the daemon told its first one; counters grow with it.
func someMesh(second int) *control.Status {
	now := noon.Add(time.Duration(second) * time.Second)
	s := &control.Status{
		Schema: control.Schema, Node: "edge-01", Version: "0.1.0", BootID: "5d2e6f70", PID: 812, Started: noon.Add(-76*time.Hour - 12*time.Minute),
		UptimeSeconds: (76*time.Hour + 12*time.Minute).Seconds() + float64(second), Now: now,
		Config: control.Config{Path: "/etc/mesh.toml", Generation: 12, SHA256: "9f3c1a77", Applied: noon.Add(-5 * time.Minute),
			LastReload: control.Reload{OK: true, At: noon.Add(-5 * time.Minute), DurationMS: 41, Changes: []string{"+ peer edge-20 10.20.0.0/16"}}},
		Network: control.Network{Name: "edge", CIDR: []string{"10.0.0.0/8"}, Interface: "mesh0", MTU: 1472, Port: 8285, Address: "203.0.113.1",
			Subnets: []string{"10.1.0.0/16"}},
		Dataplane: control.Dataplane{Engine: "user", Receive: "socket", Offloads: []string{"tso4", "tso6", "uso", "udp_gso", "udp_gro"}, Queues: 4},
		Totals:    control.Totals{Drops: map[string]uint64{"no_route": 312, "unknown_sender": 3, "ttl_expired": 0}, Unattributed: map[string]uint64{"no_route": 312}},
		Warnings:  []string{},
	}
	for i := 2; i <= 20; i++ {
		rate := uint64(1e6 * (1 + i*i%7))
		p := control.Peer{
			Name: fmt.Sprintf("edge-%02d", i), Address: fmt.Sprintf("198.51.100.%d:8285", i), Subnets: []string{fmt.Sprintf("10.%d.0.0/16", i)}, Routes: []string{},
			State: control.Up, Since: new(now.Add(-time.Hour)), LastSeen: new(now.Add(-time.Duration(i%2) * time.Second)), RTTMS: new(float64(i) * 1.37), RTTMinMS: new(float64(i)),
			RTTP95MS: new(float64(i) * 2), RTTLastMS: new(float64(i) * 1.4), JitterMS: new(0.2), Loss: new(0.0), ProbesTx: 10452, ProbesRx: 10440,
			ConfigSHA256: "9f3c1a77", ConfigMatch: new(true), Version: "0.1.0",
			RxPackets: uint64(second) * rate / 1000, RxBytes: uint64(second) * rate, TxPackets: uint64(second) * rate / 900, TxBytes: uint64(second) * rate * 9 / 10,
			Drops: map[string]uint64{},
		}
		s.Peers = append(s.Peers, p)
		s.Totals.RxBytes, s.Totals.TxBytes = s.Totals.RxBytes+p.RxBytes, s.Totals.TxBytes+p.TxBytes
		s.Totals.RxPackets, s.Totals.TxPackets = s.Totals.RxPackets+p.RxPackets, s.Totals.TxPackets+p.TxPackets
	}
	down, stale, drift := &s.Peers[12], &s.Peers[3], &s.Peers[5]
	down.State, down.LastSeen, down.Since, down.RTTMS, down.Loss = control.Down, new(noon.Add(-130*time.Second)), new(noon.Add(-120*time.Second)), nil, new(1.0)
	down.Drops["send_error"] = 812
	stale.State, stale.LastSeen, stale.Loss, stale.Routes = control.Stale, new(noon.Add(-9*time.Second)), new(0.12), []string{"192.168.5.0/24"}
	stale.Drops["too_big"], stale.Drops["spoofed_source"] = uint64(28+second), 12
	drift.ConfigMatch, drift.ConfigSHA256 = new(false), "00c0ffee"
	return s
}

// rejected adds a file that cannot be applied.
func rejected(s *control.Status) *control.Status {
	s.Config.Error = "/etc/mesh.toml:31:12: error: node.subnets: 10.7.0.0/16 overlaps 10.7.0.0/16 of node \"edge-06\", line 26\n/etc/mesh.toml:40:1: error: node.x: unknown key"
	s.Dataplane.Reason = "the capabilities CAP_BPF and CAP_NET_ADMIN are needed: operation not permitted"
	s.Config.LastReload = control.Reload{At: noon.Add(-35 * time.Second), DurationMS: 3, Error: s.Config.Error}
	s.Warnings = append(s.Warnings, "/etc/mesh.toml cannot be applied, generation 12 stays in force: "+s.Config.Error,
		"net.ipv4.ip_forward is 0: pods cannot reach other hosts; run `sysctl -w net.ipv4.ip_forward=1`")
	return s
}

// someHistory is what a daemon remembers: waves, with a gap.
func someHistory(peer, span string) control.History {
	h := control.History{Schema: control.Schema, Peer: peer, Span: span, StepSeconds: map[string]int{"5m": 1, "1h": 10, "24h": 120}[span], End: noon}
	wave := func(i int, period, top float64) *float64 {
		if i > 100 && i < 130 {
			return nil
		}
		return new(top * (1 + math.Sin(float64(i)/period)) / 2)
	}
	for i := range 300 {
		h.RxBytes, h.TxBytes = append(h.RxBytes, wave(i, 20, 1.2e8)), append(h.TxBytes, wave(i, 30, 1e8))
		h.RxPackets, h.TxPackets = append(h.RxPackets, wave(i, 20, 1.5e5)), append(h.TxPackets, wave(i, 30, 1.4e5))
		h.Drops, h.RTTMS, h.Loss = append(h.Drops, wave(i, 3, 41)), append(h.RTTMS, wave(i, 50, 20)), append(h.Loss, wave(i, 9, 0.12))
	}
	return h
}

var someEvents = []control.Event{
	{Seq: 1, At: noon.Add(-4 * time.Hour), Level: "info", Kind: "forwarding", Message: "forwarding", Fields: map[string]string{"node": "edge-01", "peers": "19"}},
	{Seq: 2, At: noon.Add(-12 * time.Minute), Level: "info", Kind: "peer_up", Peer: "edge-05", Message: "peer is up", Fields: map[string]string{"rtt": "14.2ms", "was": "unknown"}},
	{Seq: 3, At: noon.Add(-5 * time.Minute), Level: "info", Kind: "reloaded", Message: "reloaded", Fields: map[string]string{"generation": "12", "changes": "+ peer edge-20 10.20.0.0/16"}},
	{Seq: 4, At: noon.Add(-2 * time.Minute), Level: "error", Kind: "peer_down", Peer: "edge-14", Message: "peer is down: nothing heard", Fields: map[string]string{"silent": "10.2s"}},
	{Seq: 5, At: noon.Add(-9 * time.Second), Level: "warn", Kind: "peer_stale", Peer: "edge-05", Message: "peer is stale: nothing heard", Fields: map[string]string{"loss": "12%"}},
}

// mute is a source that says and answers nothing.
type mute struct{}

func (mute) Watch(ctx context.Context, _ time.Duration, _ bool, _ func(control.Watched) error) error {
	<-ctx.Done()
	return ctx.Err()
}
func (mute) History(context.Context, string, string) (h control.History, err error) {
	return h, errors.New("no history")
}
func (mute) Ping(context.Context, control.PingRequest) (p control.Ping, err error) {
	return p, errors.New("no ping")
}
func (mute) Reload(context.Context) (r control.ReloadResult, err error) {
	return r, errors.New("no reload")
}
func (mute) Plan(context.Context, string, []byte) (p control.Plan, err error) {
	return p, errors.New("no plan")
}

// newTest returns a dashboard of a size, connected to nobody yet.
func newTest(w, h int) (*Model, *clockwork) {
	c := &clockwork{noon}
	m := New(Options{Watcher: mute{}, Asker: mute{}, Where: "/run/meshd/meshd.sock", Interval: time.Second, Version: "0.1.0", Clock: func() time.Time { return c.now }})
	m.connect()
	send(m, tea.WindowSizeMsg{Width: w, Height: h})
	return m, c
}

func send(m *Model, msgs ...tea.Msg) {
	for _, msg := range msgs {
		m.Update(msg)
	}
}

// tell has the connection say lines.
func tell(m *Model, lines ...control.Watched) { send(m, linesMsg{m.connection, lines}) }

func hello(boot string) control.Watched {
	return control.Watched{Type: "hello", Hello: &control.Hello{Schema: control.Schema, Node: "edge-01", BootID: boot}}
}

func snapshot(s *control.Status) control.Watched { return control.Watched{Type: "snapshot", Status: s} }

func happening(e control.Event) control.Watched { return control.Watched{Type: "event", Event: &e} }

// someDashboard is connected, and has seen some seconds of someMesh.
func someDashboard(w, h int, change func(*control.Status) *control.Status) (*Model, *clockwork) {
	m, c := newTest(w, h)
	if change == nil {
		change = func(s *control.Status) *control.Status { return s }
	}
	tell(m, hello("5d2e6f70"))
	for _, e := range someEvents {
		tell(m, happening(e))
	}
	for second := range 20 {
		c.now = noon.Add(time.Duration(second) * time.Second)
		tell(m, snapshot(change(someMesh(second))))
	}
	send(m, historyMsg{historyKey{"", "5m"}, someHistory("", "5m"), nil})
	for _, peer := range []string{"edge-14", "edge-05"} {
		send(m, historyMsg{historyKey{peer, "5m"}, someHistory(peer, "5m"), nil})
	}
	m.cursor = "edge-05"
	m.settle()
	return m, c
}

// press sends keys by their names, as tea.KeyMsg.String gives them.
func press(m *Model, keys ...string) {
	special := map[string]tea.KeyType{
		"enter": tea.KeyEnter, "esc": tea.KeyEsc, "tab": tea.KeyTab, "shift+tab": tea.KeyShiftTab, "backspace": tea.KeyBackspace, "up": tea.KeyUp, "down": tea.KeyDown,
		"pgdown": tea.KeyPgDown, "pgup": tea.KeyPgUp, "home": tea.KeyHome, "end": tea.KeyEnd, "ctrl+d": tea.KeyCtrlD, "ctrl+u": tea.KeyCtrlU, "ctrl+c": tea.KeyCtrlC,
	}
	for _, k := range keys {
		if t, ok := special[k]; ok {
			send(m, tea.KeyMsg{Type: t})
		} else {
			send(m, tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(k)})
		}
	}
}

// picture is the frame as text.
func picture(m *Model) string {
	var b strings.Builder
	for _, l := range m.frame(m.width, m.height) {
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

func shows(t *testing.T, m *Model, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(picture(m), w) {
			t.Errorf("%q is not in\n%s", w, picture(m))
		}
	}
}

func hides(t *testing.T, m *Model, words ...string) {
	t.Helper()
	for _, w := range words {
		if strings.Contains(picture(m), w) {
			t.Errorf("%q is in\n%s", w, picture(m))
		}
	}
}
