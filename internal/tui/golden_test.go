package tui

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text/hostile"
	"example.org/meshd/internal/tui/cell"
)

// update tells whether to rewrite testdata: the flag -update, which teatest brings.
func update() bool { return flag.Lookup("update").Value.String() == "true" }

// notRunning is what a client says of a daemon that is not there.
var notRunning = &control.Advised{
	Err:    fmt.Errorf("%w: no process answers at /run/meshd/meshd.sock", control.ErrNotRunning),
	Remedy: "see `systemctl status meshd`",
}

// scenes are all screens, and all situations that look different.
var scenes = map[string]func(w, h int) *Model{
	"overview": scene(asItIs),
	"well": scene(func(s *control.Status) *control.Status {
		s.Peers, s.Health = s.Peers[:3], control.Health{Level: control.OK}
		s.Totals.Drops = map[string]uint64{}
		return s
	}),
	"rejected":     scene(rejected),
	"older":        scene(older),
	"peers":        scene(asItIs, "2"),
	"node":         scene(busyNode, "4"),
	"node-past":    pastScene,
	"quiet-meshd":  scene(silentPeers),
	"cloud":        scene(cloudNames, "2"),
	"group":        scene(allDown),
	"many":         scene(manyDown),
	"traffic":      scene(asItIs, "2", "T"),
	"copy":         scene(asItIs, "2", "y"),
	"jump":         scene(asItIs, ":", "1", "4"),
	"unknown-key":  scene(asItIs, "x"),
	"next-problem": scene(asItIs, "n", "n"),
	"flapping":     flappingScene,
	"old-events":   oldEventsScene,
	"filtered":     scene(asItIs, "2", "/", "1", "[", "2", "]", "enter", "s", "s", "S"),
	"typing":       scene(asItIs, "2", "/", "d", "o", "w"),
	"detail":       scene(asItIs, "2", "enter"),
	"drain":        scene(drained),
	"drain-peers":  scene(drained, "2"),
	"drain-detail": scene(drained, "2", "enter"),
	"drain-well": scene(func(s *control.Status) *control.Status {
		s = drained(s)
		s.Peers = []control.Peer{s.Peers[0], s.Peers[3], s.Peers[12]}
		s.Drain, s.Totals.Drops = nil, map[string]uint64{}
		s.Health = control.Health{Level: control.OK}
		return judged(s)
	}),
	"sealed":        scene(sealed),
	"sealed-peers":  scene(sealed, "2"),
	"sealed-detail": scene(sealed, "2", "enter"),
	"events":        scene(asItIs, "3", "k"),
	"help":          scene(asItIs, "?"),
	"long":          scene(longNames, "2"),
	"config":        configScene,
	"reload":        reloadScene,
	"reload-faulty": faultyScene,
	"cloud-events":  cloudEventsScene,
	"disconnected":  disconnectedScene,
	"silent": func(w, h int) *Model {
		m, c := someDashboard(w, h, asItIs)
		c.forward(14 * time.Second)
		send(m, tickMsg(c.now))
		return m
	},
	"absent": lostScene(notRunning),
	"denied": lostScene(fmt.Errorf("%w: /run/meshd/meshd.sock is for root and the group \"mesh\"",
		control.ErrPermission)),
	"mismatch": lostScene(fmt.Errorf("%w: 2, this program knows 1: use programs of one version",
		control.ErrMismatch)),
	"starting": startingScene,
}

// scene is a mesh that is changed, after some keys.
func scene(change func(*control.Status) *control.Status, keys ...string) func(w, h int) *Model {
	return func(w, h int) *Model {
		m, _ := someDashboard(w, h, change)
		press(m, keys...)
		return m
	}
}

// lostScene is a program that has never been connected.
func lostScene(err error) func(w, h int) *Model {
	return func(w, h int) *Model {
		m, _ := newTest(w, h)
		send(m, lostMsg{m.link.number, err})
		return m
	}
}

func configScene(w, h int) *Model {
	m, _ := someDashboard(w, h, rejected)
	press(m, "c")
	send(m, planMsg{err: errors.New(rejected(someMesh(0)).Config.Error)})
	return m
}

func reloadScene(w, h int) *Model {
	m, _ := someDashboard(w, h, asItIs)
	press(m, "R")
	send(m, planMsg{plan: control.Plan{Changes: []string{
		"+ peer edge-21 10.21.0.0/16", "~ network.mtu 1472 -> 1400", "- peer edge-14 10.14.0.0/16",
	}, Details: []control.Change{
		{Op: "+", Kind: "peer", Subject: "edge-21", New: "10.21.0.0/16"},
		{Op: "~", Kind: "setting", Subject: "network.mtu", Old: "1472", New: "1400"},
		{Op: "-", Kind: "peer", Subject: "edge-14", Old: "10.14.0.0/16"},
	}}})
	return m
}

func disconnectedScene(w, h int) *Model {
	m, c := someDashboard(w, h, asItIs)
	send(m, lostMsg{m.link.number, notRunning})
	c.forward(14 * time.Second)
	send(m, tickMsg(c.now))
	return m
}

// startingScene is a daemon that waits for an address of its host.
func startingScene(w, h int) *Model {
	m, _ := newTest(w, h)
	tell(m, hello("x"), snapshot(&control.Status{
		Schema: control.Schema, BootID: "x", Version: "0.1.0", PID: 7, Now: noon,
		Config: control.Config{Path: "/etc/mesh.toml", SHA256: "9f3c1a77"},
		Health: control.Health{Level: control.Failed, Problems: []control.Problem{{
			Level: control.Failed, Kind: "no_address",
			Text:   "no node of /etc/mesh.toml has an address of this host. Local addresses: 192.0.2.7",
			Remedy: "list one of them there, or choose with --node NAME",
		}}},
	}))
	return m
}

// longNames has names of 63 characters and IPv6 everywhere.
func longNames(s *control.Status) *control.Status {
	for i := range s.Peers {
		p := &s.Peers[i]
		p.Name = strings.Repeat("rack-", 11) + p.Name + strings.Repeat("x", 63-55-len(p.Name))
		p.Address = fmt.Sprintf("[2001:db8:1234:5678:9abc:def0:1234:%x]:18285", 0x1000+i)
		p.Subnets = []string{fmt.Sprintf("fd00:1234:5678:%x::/64", 0x1000+i), fmt.Sprintf("10.%d.0.0/16", i)}
	}
	s.Network.Address, s.Network.Subnets = "2001:db8:1234:5678:9abc:def0:1234:1",
		[]string{"fd00:1234:5678:1::/64"}
	s.Health = control.Health{Level: control.OK}
	return judged(s)
}

// modes are the ways to paint.
var modes = map[string]cell.Theme{
	"plain": cell.NewTheme(false, false), "colour": cell.NewTheme(true, false),
	"ascii": cell.NewTheme(false, true),
}

var sizes = [][2]int{{140, 40}, {120, 30}, {80, 24}, {64, 20}, {40, 8}, {30, 6}}

// Every screen in every size and mode is what somebody has looked at, and exactly as
// large as the terminal.
func TestGoldenFrames(t *testing.T) {
	for name, make := range scenes {
		for mode, theme := range modes {
			t.Run(name+"-"+mode, func(t *testing.T) {
				var all strings.Builder
				for _, size := range sizes {
					m := make(size[0], size[1])
					frame := theme.Paint(m.frame(size[0], size[1]))
					checkFrame(t, frame, size[0], size[1])
					fmt.Fprintf(&all, "== %dx%d\n%s\n", size[0], size[1], frame)
				}
				compare(t, filepath.Join("testdata", name+"-"+mode+".txt"), all.String())
			})
		}
	}
}

// checkFrame has exactly h lines of exactly w cells, and nothing that moves a cursor.
func checkFrame(t *testing.T, frame string, w, h int) {
	t.Helper()
	lines := strings.Split(frame, "\n")
	if len(lines) != h {
		t.Fatalf("%d lines, not %d:\n%s", len(lines), h, frame)
	}
	for i, l := range lines {
		text := ansi.Strip(l)
		if n := ansi.StringWidth(text); n != w {
			t.Errorf("line %d has %d cells, not %d: %q", i, n, w, text)
		}
		if fault := hostile.Fault(text); fault != "" || strings.Contains(text, "\t") {
			t.Errorf("line %d: %s", i, fault)
		}
	}
}

// compare finds the first line that is not as in a file.
func compare(t *testing.T, path, got string) {
	t.Helper()
	if update() {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	a, b := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Fatalf("%s:%d is\n%q, not\n%q", path, i+1, a[i], b[i])
		}
	}
	t.Fatalf("%s has %d lines, not %d", path, len(a), len(b))
}

// ASCII is ASCII.
func TestASCIIOnly(t *testing.T) {
	for name, make := range scenes {
		t.Run(name, func(t *testing.T) {
			frame := modes["ascii"].Paint(make(140, 40).frame(140, 40))
			for _, r := range frame {
				if r >= 0x80 {
					t.Errorf("%q is not ASCII", r)
				}
			}
		})
	}
}

// On terminals of all widths, in each locale, with colours and without, each line fits, and the last one says
// how to get help and how to leave.
func TestEveryScreenFits(t *testing.T) {
	themes := map[string]cell.Theme{"C": cell.NewTheme(false, true), "C, colour": cell.NewTheme(true, true),
		"UTF-8": cell.NewTheme(false, false), "UTF-8, colour": cell.NewTheme(true, false)}
	for name, make := range scenes {
		for _, w := range []int{40, 64, 80, 100, 120, 140, 200} {
			t.Run(fmt.Sprintf("%s %d", name, w), func(t *testing.T) {
				m := make(w, 30)
				b := m.bottom
				keys := b.prompt == nil && b.question == nil && b.notice.text == ""
				for how, theme := range themes {
					frame := theme.Paint(m.frame(w, 30))
					checkFrame(t, frame, w, 30)
					text := strings.TrimRight(ansi.Strip(frame), " ")
					if keys && !strings.HasSuffix(text, "? help  q quit") {
						t.Errorf("%s: the last line is %q", how, text[strings.LastIndex(text, "\n")+1:])
					}
				}
			})
		}
	}
}

// Who looks for two seconds sees how the mesh is, and who looks for five who is the reason: the verdict is
// the first line below the tabs, and the worst peer the next one.
func TestVerdictIsFirst(t *testing.T) {
	for _, size := range [][2]int{{40, 12}, {64, 20}, {80, 24}, {100, 30}, {120, 30}, {140, 40}, {200, 60}} {
		m, _ := someDashboard(size[0], size[1], asItIs)
		lines := strings.Split(picture(m), "\n")[above(size[1]):]
		if !strings.HasPrefix(lines[0], " ■ FAILED  1 DOWN") || !strings.HasPrefix(lines[1], " DOWN    edge-14") {
			t.Errorf("%v: %q, then %q", size, lines[0], lines[1])
		}
	}
}

// At 120x30 there is room for fourteen peers, whatever is wrong.
func TestPeersHaveRoom(t *testing.T) {
	for _, name := range []string{"overview", "well", "rejected", "many", "group", "sealed", "older"} {
		t.Run(name, func(t *testing.T) {
			m := scenes[name](120, 30)
			if want := min(leastPeers, len(m.data.status.Peers)); m.table.room < want {
				t.Errorf("%d peers have room", m.table.room)
			}
		})
	}
}
