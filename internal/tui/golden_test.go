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

// scenes are all screens, and all situations that look different.
var scenes = map[string]func(w, h int) *Model{
	"overview": func(w, h int) *Model { m, _ := someDashboard(w, h, nil); return m },
	"well": func(w, h int) *Model {
		m, _ := someDashboard(w, h, func(s *control.Status) *control.Status {
			s.Peers = s.Peers[:3]
			s.Totals.Drops = map[string]uint64{}
			return s
		})
		return m
	},
	"rejected": func(w, h int) *Model { m, _ := someDashboard(w, h, rejected); return m },
	"peers":    scene("2"),
	"filtered": scene("2", "/", "1", "[", "2", "]", "enter", "s", "s", "S"),
	"typing":   scene("2", "/", "d", "o", "w"),
	"detail":   scene("2", "enter"),
	"events":   scene("3", "k"),
	"help":     scene("?"),
	"config": func(w, h int) *Model {
		m, _ := someDashboard(w, h, rejected)
		press(m, "c")
		send(m, planMsg{fileOnDisk{loaded: true, err: errors.New(rejected(someMesh(0)).Config.Error)}})
		return m
	},
	"reload": func(w, h int) *Model {
		m, _ := someDashboard(w, h, nil)
		press(m, "R")
		send(m, planMsg{fileOnDisk{loaded: true, changes: []string{"+ peer edge-21 10.21.0.0/16", "~ mtu 1472 -> 1400", "- peer edge-14 10.14.0.0/16"}}})
		return m
	},
	"disconnected": func(w, h int) *Model {
		m, c := someDashboard(w, h, nil)
		send(m, lostMsg{m.connection, fmt.Errorf("%w: nobody answers at /run/meshd/meshd.sock: see `systemctl status meshd`", control.ErrNotRunning)})
		c.forward(14 * time.Second)
		send(m, tickMsg(c.now))
		return m
	},
	"silent": func(w, h int) *Model {
		m, c := someDashboard(w, h, nil)
		c.forward(14 * time.Second)
		send(m, tickMsg(c.now))
		return m
	},
	"absent": func(w, h int) *Model {
		m, _ := newTest(w, h)
		send(m, lostMsg{m.connection, fmt.Errorf("%w: nobody answers at /run/meshd/meshd.sock: see `systemctl status meshd`", control.ErrNotRunning)})
		return m
	},
	"denied": func(w, h int) *Model {
		m, _ := newTest(w, h)
		send(m, lostMsg{m.connection, fmt.Errorf("%w: /run/meshd/meshd.sock is for root and the group \"mesh\"", control.ErrPermission)})
		return m
	},
	"mismatch": func(w, h int) *Model {
		m, _ := newTest(w, h)
		send(m, lostMsg{m.connection, fmt.Errorf("%w: 2, this program knows 1: use programs of one version", control.ErrMismatch)})
		return m
	},
	"starting": func(w, h int) *Model {
		m, _ := newTest(w, h)
		tell(m, hello("x"), snapshot(&control.Status{Schema: control.Schema, BootID: "x", Version: "0.1.0", PID: 7, Now: noon,
			Config: control.Config{Path: "/etc/mesh.toml", SHA256: "9f3c1a77"}, Warnings: []string{"waiting for an address: no node of /etc/mesh.toml has an address of this host; list it there, or choose with --node NAME. Local addresses: 192.0.2.7"}}))
		return m
	},
	"long": func(w, h int) *Model {
		m, _ := someDashboard(w, h, longNames)
		press(m, "2")
		return m
	},
}

func scene(keys ...string) func(w, h int) *Model {
	return func(w, h int) *Model {
		m, _ := someDashboard(w, h, nil)
		press(m, keys...)
		return m
	}
}

// longNames has names of 63 characters and IPv6 everywhere.
func longNames(s *control.Status) *control.Status {
	for i := range s.Peers {
		p := &s.Peers[i]
		p.Name = strings.Repeat("rack-", 11) + p.Name + strings.Repeat("x", 63-55-len(p.Name))
		p.Address = fmt.Sprintf("[2001:db8:1234:5678:9abc:def0:1234:%x]:18285", 0x1000+i)
		p.Subnets = []string{fmt.Sprintf("fd00:1234:5678:%x::/64", 0x1000+i), fmt.Sprintf("10.%d.0.0/16", i)}
	}
	s.Network.Address, s.Network.Subnets = "2001:db8:1234:5678:9abc:def0:1234:1", []string{"fd00:1234:5678:1::/64"}
	return s
}

// modes are the ways to paint.
var modes = map[string]cell.Theme{
	"plain": cell.NewTheme(false, false), "colour": cell.NewTheme(true, false), "ascii": cell.NewTheme(false, true),
}

var sizes = [][2]int{{140, 40}, {80, 24}, {64, 20}, {40, 8}, {30, 6}}

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
		frame := modes["ascii"].Paint(make(140, 40).frame(140, 40))
		for _, r := range frame {
			if r >= 0x80 {
				t.Errorf("%s: %q", name, r)
			}
		}
	}
}

// Without a terminal there is text, too.
func TestPlain(t *testing.T) {
	for name, s := range map[string]*control.Status{"once": rejected(someMesh(7)), "once-long": longNames(someMesh(7)), "once-starting": {Schema: 1, Config: control.Config{Path: "x"}}} {
		var b strings.Builder
		if err := Plain(&b, *s, noon, false); err != nil {
			t.Fatal(err)
		}
		compare(t, filepath.Join("testdata", name+".txt"), b.String())
	}
}
