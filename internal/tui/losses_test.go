package tui

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

// Each reason has its own seconds: when it began, when it ended, and where no snapshot told of it.
func TestLosses(t *testing.T) {
	l := losses{}
	was := map[string]uint64{"no_route": 0, "too_big": 5, "never": 0}
	for second := 1; second <= 400; second++ {
		if second == 390 { // its snapshots were late by two seconds
			continue
		}
		seconds := 1.0
		if second == 391 {
			seconds = 2
		}
		now := map[string]uint64{"no_route": was["no_route"], "too_big": 5, "never": 0}
		if second >= 385 && second < 395 {
			now["no_route"] += uint64(3 * seconds)
		}
		l.add(now, was, float64(second), seconds)
		was = now
	}
	if l["never"] != nil {
		t.Error("a reason that lost nothing has a track")
	}
	if chart := l.chart("too_big", 10).String(); strings.TrimSpace(chart) != "" {
		t.Errorf("what was lost before is charted: %q", chart)
	}
	for second, want := range map[int]float32{384: 0, 385: 3, 390: 3, 391: 3, 394: 3, 395: 0, 400: 0} {
		if got := l["no_route"].values[second%lossSeconds]; got != want {
			t.Errorf("second %d: %v, want %v", second, got, want)
		}
	}
	chart := l.chart("no_route", 30).String()
	if !strings.Contains(chart, "▇▇") || !strings.HasSuffix(chart, "▁") {
		t.Errorf("%q", chart)
	}
	l.add(map[string]uint64{"no_route": 1}, was, 450, 2) // a counter that fell, after a gap of 48 s
	for second := 401; second <= 450; second++ {
		if v := l["no_route"].values[second%lossSeconds]; !math.IsNaN(float64(v)) {
			t.Errorf("second %d: %v is known", second, v)
		}
	}
}

// The page of a peer asks how this host reaches it, and says what the daemon answers.
func TestWayToAPeer(t *testing.T) {
	for _, test := range []struct {
		name     string
		answer   control.Route
		err      error
		has, not string
	}{
		{name: "by a device", answer: control.Route{Peer: "edge-02",
			Underlay: &control.KernelRoute{Device: "eth\x1b7", Source: "192.0.2.9", MTU: 1400}},
			has: `eth\u001b7 from 192.0.2.9  mtu 1400`},
		{name: "the kernel drops", answer: control.Route{Peer: "edge-02",
			Underlay: &control.KernelRoute{Error: "network is unreachable"}}, has: "the kernel drops: network is un"},
		{name: "an older daemon", answer: control.Route{Peer: "edge-02"}, not: "merged"},
		{name: "another one carries it", answer: control.Route{Peer: "x",
			Underlay: &control.KernelRoute{Device: "e", Source: "192.0.2.9"}}, not: "192.0.2.9"},
		{name: "no answer", err: errors.New("x"), not: "merged"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, c := newTest(100, 30)
			a := &answers{route: test.answer, err: test.err}
			m.options.Asker = a
			tell(m, hello("x"), snapshot(someMesh(1)))
			m.choices.cursor = "edge-02"
			m.Update(tea.KeyMsg{Type: tea.KeyEnter})
			m.choices.cursor = "edge-02"
			m.pages = []screen{detail{}}
			c.forward(time.Minute)
			tell(m, snapshot(someMesh(61)))
			m.data.ways = ways{}
			cmd := m.askWay()
			if cmd == nil || m.askWay() != nil {
				t.Fatal("it is not asked once")
			}
			m.Update(cmd())
			view := m.View()
			if !strings.Contains(view, test.has) || test.not != "" && strings.Contains(pageOf(view), test.not) {
				t.Errorf("%s", view)
			}
		})
	}
}

// pageOf is the line about the underlay.
func pageOf(view string) string {
	for line := range strings.Lines(view) {
		if strings.Contains(line, " underlay ") {
			return line
		}
	}
	return ""
}

// A peer without meshd gets packets one by one.
func TestPlainPeer(t *testing.T) {
	p := somePeer(1, 1)
	p.Version = ""
	v := view{data: &data{}}
	if lines := aboutWay(v, p); len(lines) != 1 || !strings.Contains(lines[0].String(), "plain packets") {
		t.Errorf("%v", lines)
	}
	if p.State = control.Down; len(aboutWay(v, p)) != 0 {
		t.Error("of one that does not answer nothing is known")
	}
}
