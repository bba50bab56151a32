package tui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

var noon = time.Date(2026, 11, 24, 14, 7, 33, 0, time.UTC)

// nodeHistory is what the first screens ask for at first.
var nodeHistory = historyKey{"", "5m"}

var errGone = fmt.Errorf("%w: nobody answers", control.ErrNotRunning)

// clockwork is a clock that tests set.
type clockwork struct{ now time.Time }

func (c *clockwork) forward(d time.Duration) { c.now = c.now.Add(d) }

// someMesh is a status in which something of everything is wrong with peers, and nothing
// with the node. second is how long ago the daemon told its first one; counters grow with it.
func someMesh(second int) *control.Status {
	const before = 76*time.Hour + 12*time.Minute
	now := noon.Add(time.Duration(second) * time.Second)
	s := &control.Status{
		Schema: control.Schema, Node: "edge-01", Version: "0.1.0", BootID: "5d2e6f70", PID: 812,
		Started: noon.Add(-before), UptimeSeconds: before.Seconds() + float64(second), Now: now,
		Config: control.Config{
			Path: "/etc/mesh.toml", Generation: 12, SHA256: "9f3c1a77", Applied: noon.Add(-5 * time.Minute),
			LastReload: control.Reload{OK: true, At: noon.Add(-5 * time.Minute), DurationMS: 41,
				Changes: []string{"+ peer edge-20 10.20.0.0/16"},
				Details: []control.Change{{Op: "+", Kind: "peer", Subject: "edge-20", New: "10.20.0.0/16"}}},
		},
		Network: control.Network{Name: "edge", CIDR: []string{"10.0.0.0/8"}, Interface: "mesh0", MTU: 1472,
			Port: 8285, Address: "203.0.113.1", Subnets: []string{"10.1.0.0/16"}},
		Dataplane: control.Dataplane{Engine: "user", Receive: "socket",
			Offloads: []string{"tso4", "tso6", "uso", "udp_gso", "udp_gro"}, Queues: 4},
		Totals: control.Totals{Drops: map[string]uint64{"no_route": 312, "unknown_sender": 3, "ttl_expired": 0},
			Unattributed: map[string]uint64{"no_route": 312}},
		Health:   control.Health{Level: control.OK, Problems: []control.Problem{}},
		Warnings: []string{},
	}
	for i := 2; i <= 20; i++ {
		p := somePeer(i, second)
		s.Peers = append(s.Peers, p)
		t := &s.Totals
		t.RxBytes, t.TxBytes = new(orNone(t.RxBytes)+*p.RxBytes), new(orNone(t.TxBytes)+*p.TxBytes)
		t.RxPackets, t.TxPackets = new(orNone(t.RxPackets)+*p.RxPackets), new(orNone(t.TxPackets)+*p.TxPackets)
	}
	down, stale, drift := &s.Peers[12], &s.Peers[3], &s.Peers[5]
	down.State, down.LastSeen, down.Since = control.Down, new(noon.Add(-130*time.Second)),
		new(noon.Add(-120*time.Second))
	down.RTTMS, down.Loss = nil, new(1.0)
	down.Drops["send_error"] = 812
	stale.State, stale.LastSeen, stale.Loss = control.Stale, new(noon.Add(-9*time.Second)), new(0.12)
	stale.Routes = []string{"192.168.5.0/24"}
	stale.Drops["too_big"], stale.Drops["spoofed_source"] = uint64(28+second), 12
	drift.ConfigMatch, drift.ConfigSHA256 = new(false), "00c0ffee"
	return judged(s)
}

// judged adds what a daemon says of the peers of a status, the worst first.
func judged(s *control.Status) *control.Status {
	worse := map[string]int{control.OK: 0, control.Degraded: 1, control.Failed: 2}
	add := func(level, kind, peer string) {
		p := control.Problem{Level: level, Kind: kind, Peer: peer, Text: kind, Remedy: "a remedy", Since: noon}
		s.Health.Problems = append(s.Health.Problems, p)
		if worse[level] > worse[s.Health.Level] {
			s.Health.Level = level
		}
	}
	for _, p := range s.Peers {
		switch {
		case p.Drain != nil && p.State == control.Down:
			add(control.Info, peerMaintained, p.Name)
		case p.Drain != nil:
			add(control.Info, peerDrains, p.Name)
		case p.State == control.Down:
			add(control.Failed, peerDown, p.Name)
		case p.Loss != nil && *p.Loss >= 0.02:
			add(control.Degraded, peerLoss, p.Name)
		}
		if drifts(&p) {
			add(control.Degraded, fileDiffers, p.Name)
		}
	}
	return s
}

// somePeer is a peer that is up and runs the same file.
func somePeer(i, second int) control.Peer {
	now := noon.Add(time.Duration(second) * time.Second)
	rate, passed := uint64(1e6*(1+i*i%7)), uint64(second)
	return control.Peer{
		Name: fmt.Sprintf("edge-%02d", i), Address: fmt.Sprintf("198.51.100.%d:8285", i),
		Subnets: []string{fmt.Sprintf("10.%d.0.0/16", i)}, Routes: []string{}, State: control.Up,
		Since: new(now.Add(-time.Hour)), LastSeen: new(now.Add(-time.Duration(i%2) * time.Second)),
		RTTMS: new(float64(i) * 1.37), RTTMinMS: new(float64(i)), RTTP95MS: new(float64(i) * 2),
		RTTLastMS: new(float64(i) * 1.4), JitterMS: new(0.2), Loss: new(0.0), MTU: 1472, MTUSource: "underlay",
		ProbesTx: 10452, ProbesRx: 10440,
		ConfigSHA256: "9f3c1a77", ConfigMatch: new(true), Version: "0.1.0",
		RxPackets: new(passed * rate / 1000), RxBytes: new(passed * rate),
		TxPackets: new(passed * rate / 900), TxBytes: new(passed * rate * 9 / 10), Drops: map[string]uint64{},
	}
}

// rejected adds a file that cannot be applied, and a host that does not forward.
func rejected(s *control.Status) *control.Status {
	s.Config.Error = "/etc/mesh.toml:31:12: error: node.subnets: 10.7.0.0/16 overlaps 10.7.0.0/16 of node" +
		" \"edge-06\", line 26\n/etc/mesh.toml:40:1: error: node.x: unknown key"
	s.Dataplane.Reason = "the capabilities CAP_BPF and CAP_NET_ADMIN are needed: operation not permitted"
	s.Config.LastReload = control.Reload{At: noon.Add(-35 * time.Second), DurationMS: 3, Error: s.Config.Error}
	s.Health = control.Health{Level: control.OK}
	judged(s)
	s.Health.Problems = append([]control.Problem{
		{Level: control.Failed, Kind: "file_rejected", Text: "the file cannot be applied: " + s.Config.Error,
			Since: noon},
		{Level: control.Degraded, Kind: "forwarding_off",
			Text:   "net.ipv4.ip_forward is 0: pods cannot reach other hosts",
			Remedy: "run `sysctl -w net.ipv4.ip_forward=1`", Since: noon},
	}, s.Health.Problems...)
	s.Warnings = []string{"a sentence about the file", "a sentence about forwarding"} // which are not read
	return s
}

// drained puts this node and two peers in maintenance, of which one is down. One of those has left its
// preferred address, and stands by for a prefix of another.
func drained(s *control.Status) *control.Status {
	s.Network.Addresses = []string{"203.0.113.1:8285", "[2001:db8::1]:8285"}
	s.Drain = &control.Drain{Since: new(noon.Add(-380 * time.Second)), Until: new(noon.Add(time.Hour)),
		By: "anna", Reason: "new kernel", Waiting: []string{"edge-03", "edge-07"}}
	drains, gone := &s.Peers[3], &s.Peers[12]
	drains.State, drains.LastSeen, drains.Loss = control.Draining, new(noon), new(0.12)
	drains.Drain = &control.Drain{Since: new(noon.Add(-time.Hour)), By: "root",
		Reason: "new disk in the second bay"}
	drains.Addresses = []control.PeerAddress{
		{Address: "198.51.100.5:8285", State: control.Down, Loss: new(1.0)},
		{Address: "[2001:db8:0:5::1]:8285", Name: "edge-05.example.net", Resolved: new(noon.Add(-70 * time.Second)),
			State: control.Up, RTTMS: new(6.85), Loss: new(0.12), Active: true},
	}
	drains.Routes = []string{"192.168.5.0/24", "192.168.6.0/24", "192.168.7.0/24"}
	drains.RouteStates = []control.RouteState{{Prefix: "192.168.5.0/24", Metric: 50},
		{Prefix: "192.168.6.0/24", Metric: 100, Active: true}, {Prefix: "192.168.7.0/24", Metric: 10, Active: true}}
	gone.Drain = &control.Drain{}
	s.Health = control.Health{Level: control.OK, Problems: []control.Problem{{Level: control.Info,
		Kind: ourMaintenance, Text: "this node is in maintenance", Remedy: "`meshd undrain` ends it", Since: noon}}}
	return judged(s)
}

// sealed makes a status that of a mesh whose packets are encrypted: one peer sends in the clear, one has
// never answered, one has roamed, one is behind another, and one was not spoken to for long.
func sealed(s *control.Status) *control.Status {
	s.Dataplane = control.Dataplane{Engine: control.EngineWireGuard, Queues: 1}
	s.WireGuard = &control.WireGuard{Implementation: control.WireGuardKernel, Interface: "meshd-wg", Port: 51820,
		PublicKey: "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=", MTU: 1440}
	s.Totals.RxPackets, s.Totals.RxBytes, s.Totals.TxPackets, s.Totals.TxBytes = nil, nil, nil, nil
	for i := range s.Peers {
		p := &s.Peers[i]
		p.WireGuard = &control.PeerWireGuard{PublicKey: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
			Endpoint:        fmt.Sprintf("198.51.100.%d:51820", i+2),
			LatestHandshake: new(s.Now.Add(-time.Duration(7*i+3) * time.Second)),
			RxBytes:         *p.RxBytes, TxBytes: *p.TxBytes, Path: control.PathDirect}
		p.RxPackets, p.RxBytes, p.TxPackets, p.TxBytes = nil, nil, nil, nil
	}
	s.Peers[0].WireGuard.Endpoint, s.Peers[0].WireGuard.Roamed = "203.0.113.77:40001", true
	s.Peers[1].WireGuard.Path, s.Peers[1].WireGuard.Endpoint = "via edge-02", ""
	s.Peers[1].WireGuard.LatestHandshake = nil
	s.Peers[2].WireGuard.LatestHandshake = nil
	s.Peers[5].WireGuard.LatestHandshake = new(s.Now.Add(-time.Hour))
	for _, p := range []control.Problem{{Kind: noHandshake, Peer: s.Peers[2].Name,
		Text: "peer edge-04 does not answer WireGuard"}, {Kind: sendsClear, Peer: s.Peers[4].Name,
		Text: "peer edge-06 still sends in the clear, and its packets are dropped"}} {
		p.Level, p.Remedy, p.Since = control.Degraded, "compare the files", noon
		s.Health.Problems = append(s.Health.Problems, p)
	}
	return s
}

// older makes a status one of a daemon that has no health yet.
func older(s *control.Status) *control.Status {
	s.Health = control.Health{}
	s.Config.LastReload.Details = nil
	s.Warnings = []string{"net.ipv4.ip_forward is 0: pods cannot reach other hosts; " +
		"run `sysctl -w net.ipv4.ip_forward=1`"}
	return s
}

// someHistory is what a daemon remembers: waves, with a gap.
func someHistory(peer, span string) control.History {
	h := control.History{Schema: control.Schema, Peer: peer, Span: span, End: noon,
		StepSeconds: map[string]int{"5m": 1, "1h": 10, "24h": 120}[span]}
	wave := func(i int, period, top float64) *float64 {
		if i > 100 && i < 130 {
			return nil
		}
		return new(top * (1 + math.Sin(float64(i)/period)) / 2)
	}
	for i := range 300 {
		h.RxBytes, h.TxBytes = append(h.RxBytes, wave(i, 20, 1.2e8)), append(h.TxBytes, wave(i, 30, 1e8))
		h.RxPackets, h.TxPackets = append(h.RxPackets, wave(i, 20, 1.5e5)), append(h.TxPackets, wave(i, 30, 1.4e5))
		h.Drops, h.RTTMS, h.Loss = append(h.Drops, wave(i, 3, 41)), append(h.RTTMS, wave(i, 50, 20)),
			append(h.Loss, wave(i, 9, 0.12))
	}
	return h
}

// someEvents are of the last four hours. Messages of peers' events are of no interest: their
// kinds tell.
var someEvents = []control.Event{
	{Seq: 1, At: noon.Add(-4 * time.Hour), Level: "info", Kind: "forwarding", Message: "forwarding",
		Fields: map[string]string{"node": "edge-01", "peers": "19"}},
	{Seq: 2, At: noon.Add(-12 * time.Minute), Level: "info", Kind: "peer_up", Peer: "edge-05",
		Message: "peer is up",
		Fields:  map[string]string{"rtt": "14.2ms", "was": "unknown"}},
	{Seq: 3, At: noon.Add(-5 * time.Minute), Level: "info", Kind: "reloaded", Message: "reloaded",
		Fields: map[string]string{"generation": "12", "changes": "+ peer edge-20 10.20.0.0/16"}},
	{Seq: 4, At: noon.Add(-2 * time.Minute), Level: "error", Kind: "peer_down", Peer: "edge-14",
		Message: "any words",
		Fields:  map[string]string{"silent": "10.2s"}},
	{Seq: 5, At: noon.Add(-9 * time.Second), Level: "warn", Kind: "peer_stale", Peer: "edge-05",
		Message: "any words",
		Fields:  map[string]string{"loss": "12%"}},
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
func (mute) Route(context.Context, netip.Addr) (r control.Route, err error) {
	return r, errors.ErrUnsupported
}

func (mute) Reload(context.Context) (r control.ReloadResult, err error) {
	return r, errors.New("no reload")
}
func (mute) Plan(context.Context, string, []byte) (p control.Plan, err error) {
	return p, errors.New("no plan")
}
func (mute) Flows(context.Context, control.FlowQuery) (f control.Flows, err error) {
	return f, errors.New("no flows")
}
func (mute) CountFlows(context.Context, time.Duration, control.FlowQuery) (f control.Flows, err error) {
	return f, errors.New("no flows")
}

// newTest returns a dashboard of a size, connected to nobody yet.
func newTest(w, h int) (*Model, *clockwork) {
	c := &clockwork{noon}
	m := New(Options{Watcher: mute{}, Asker: mute{}, Where: "/run/meshd/meshd.sock", Interval: time.Second,
		Version: "0.1.0", Clock: func() time.Time { return c.now }})
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
func tell(m *Model, lines ...control.Watched) { send(m, linesMsg{m.link.number, lines}) }

func hello(boot string) control.Watched {
	return control.Watched{Type: "hello", Hello: &control.Hello{Schema: control.Schema, Node: "edge-01",
		BootID: boot}}
}

func snapshot(s *control.Status) control.Watched { return control.Watched{Type: "snapshot", Status: s} }

func happening(e control.Event) control.Watched { return control.Watched{Type: "event", Event: &e} }

// asItIs leaves a status as it is.
func asItIs(s *control.Status) *control.Status { return s }

// someDashboard is connected, and has seen some seconds of someMesh, each changed.
func someDashboard(w, h int, change func(*control.Status) *control.Status) (*Model, *clockwork) {
	m, c := newTest(w, h)
	tell(m, hello("5d2e6f70"))
	for _, e := range someEvents {
		tell(m, happening(e))
	}
	for second := range 20 {
		c.now = noon.Add(time.Duration(second) * time.Second)
		tell(m, snapshot(change(someMesh(second))))
	}
	send(m, historyMsg{nodeHistory, someHistory("", "5m"), nil})
	for _, peer := range []string{"edge-14", "edge-05"} {
		send(m, historyMsg{historyKey{peer, "5m"}, someHistory(peer, "5m"), nil})
	}
	choose(m, "edge-05")
	return m, c
}

// choose puts the cursor on a peer.
func choose(m *Model, peer string) {
	m.choices.cursor = peer
	m.settle()
}

// special are keys that are no runes.
var special = map[string]tea.KeyType{
	"enter": tea.KeyEnter, "esc": tea.KeyEsc, "tab": tea.KeyTab, "shift+tab": tea.KeyShiftTab,
	"backspace": tea.KeyBackspace, "up": tea.KeyUp, "down": tea.KeyDown, "pgdown": tea.KeyPgDown,
	"pgup": tea.KeyPgUp,
	"home": tea.KeyHome, "end": tea.KeyEnd, "ctrl+d": tea.KeyCtrlD, "ctrl+u": tea.KeyCtrlU,
	"ctrl+c": tea.KeyCtrlC, "ctrl+f": tea.KeyCtrlF, "ctrl+b": tea.KeyCtrlB, "left": tea.KeyLeft,
	"right": tea.KeyRight, "f1": tea.KeyF1,
}

// press sends keys by their names, as tea.KeyMsg.String gives them.
func press(m *Model, keys ...string) {
	for _, k := range keys {
		if t, ok := special[k]; ok {
			send(m, tea.KeyMsg{Type: t})
		} else {
			send(m, tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(k)})
		}
	}
}

// perform runs a command and what follows from it, as long as something does.
func perform(t *testing.T, m *Model, cmd tea.Cmd) {
	t.Helper()
	for n := 0; cmd != nil && n < 50; n++ {
		msg := cmd()
		if batch, ok := msg.(tea.BatchMsg); ok {
			for _, c := range batch {
				perform(t, m, c)
			}
			return
		}
		if msg == nil {
			return
		}
		cmd = m.take(msg)
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

// keyOf is the message of a key that is a rune.
func keyOf(r rune) tea.KeyMsg { return tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune{r}} }

// spelled writes a value with all that it leads to.
func spelled(v any) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err.Error()
	}
	var all any
	if err := json.Unmarshal([]byte(b.String()), &all); err != nil { // JSON itself escapes what hurts
		return err.Error()
	}
	return fmt.Sprint(all)
}
