package tui

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text/hostile"
)

func init() {
	for name, s := range map[string]func(w, h int) *Model{
		"flows":      flowsScene(busyFlows, nil),
		"flows-pod":  flowsScene(busyFlows, nil, "b"),
		"flows-port": flowsScene(busyFlows, nil, "B", "u"),
		"flows-sampled": flowsScene(func(by string) control.Flows {
			f := busyFlows(by)
			f.Sampled = true
			return f
		}, nil, "b", "b"),
		"flows-sealed": flowsScene(func(by string) control.Flows {
			return control.Flows{State: control.FlowsSealed, By: by}
		}, nil),
		"flows-denied": flowsScene(busyFlows, fmt.Errorf("%w: only root", control.ErrPermission)),
	} {
		scenes[name] = s
	}
}

// flowsScene is the page of flows once a meshd has answered, after some keys.
func flowsScene(answer func(by string) control.Flows, err error, keys ...string) func(w, h int) *Model {
	return func(w, h int) *Model {
		m, _ := someDashboard(w, h, asItIs)
		press(m, append([]string{"F"}, keys...)...)
		send(m, flowsMsg{answer(m.summed), err})
		return m
	}
}

// busyFlows are flows of two families, or their sums.
func busyFlows(by string) control.Flows {
	f := control.Flows{Schema: control.Schema, State: control.FlowsCounted, By: by, IntervalSeconds: 1,
		Known: 140, Total: control.FlowRates{RxPackets: 9000, RxBytes: 12.5e6, TxPackets: 700, TxBytes: 84_000}}
	row := func(r control.FlowRow, share float64) {
		r.RxBytes, r.TxBytes = share*f.Total.RxBytes, share*f.Total.TxBytes
		r.RxPackets, r.TxPackets, r.Share = share*f.Total.RxPackets, share*f.Total.TxPackets, share
		f.Rows = append(f.Rows, r)
	}
	for i, share := range []float64{0.61, 0.2, 0.1, 0.004} {
		switch pod := fmt.Sprintf("10.1.0.%d", 7+i); by {
		case control.ByFlow:
			row(control.FlowRow{Peer: fmt.Sprintf("edge-%02d", 4+i), Pod: pod, Remote: fmt.Sprintf("10.%d.0.12", 4+i),
				Protocol: "tcp", PodPort: uint16(41234 + i), RemotePort: 5432, Port: 5432, Flows: 1}, share)
		case control.ByPod:
			row(control.FlowRow{Pod: pod, Flows: 100 / (i + 1)}, share)
		case control.ByPeer:
			row(control.FlowRow{Peer: fmt.Sprintf("edge-%02d", 4+i), Flows: 9 - i}, share)
		case control.ByPort:
			row(control.FlowRow{Protocol: "udp", Port: uint16(53 + i), Flows: 9 - i}, share)
		}
	}
	if by == control.ByFlow {
		row(control.FlowRow{Peer: "edge-04", Pod: "fd00:10:1::1234", Remote: "2001:db8:10:4:aaaa:bbbb:cccc:dddd",
			Protocol: "icmp6", Flows: 1}, 0.001)
	}
	return f
}

// counter counts what flows it is asked for.
type counter struct {
	mute
	asked  []string // by what
	read   int      // without having them counted
	denies bool
}

func (c *counter) CountFlows(
	_ context.Context, lease time.Duration, q control.FlowQuery,
) (control.Flows, error) {
	c.asked = append(c.asked, q.By)
	if c.denies {
		return control.Flows{}, fmt.Errorf("%w: only root", control.ErrPermission)
	}
	if lease <= 2*flowsEvery {
		return control.Flows{}, errors.New("the lease ends before the next question")
	}
	return busyFlows(q.By), nil
}

func (c *counter) Flows(_ context.Context, q control.FlowQuery) (control.Flows, error) {
	c.read++
	return busyFlows(q.By), nil
}

// Flows are asked for while their page is shown, again and again, and at once if another sum is wanted: so
// they are counted no longer than somebody looks.
func TestFlowsAreAskedFor(t *testing.T) {
	m, clock := someDashboard(100, 30, asItIs)
	c := &counter{}
	m.options.Asker = c
	ask := func() {
		if cmd := m.refreshFlows(); cmd != nil {
			send(m, cmd())
		}
	}
	passes := func(d time.Duration) {
		clock.forward(d)
		m.now, m.data.heard = clock.now, clock.now // as after a snapshot
		ask()
	}
	expect := func(when string, want ...string) {
		t.Helper()
		if strings.Join(c.asked, " ") != strings.Join(want, " ") {
			t.Errorf("%s: asked for %q, want %q", when, c.asked, want)
		}
		c.asked = nil
	}
	passes(3 * time.Second)
	expect("on another screen")
	press(m, "F")
	m.summed, m.data.flows.asked = "", time.Time{} // press has thrown the question away
	ask()
	expect("on the page", "flow")
	passes(time.Second)
	expect("a second later")
	passes(2 * time.Second)
	expect("later", "flow")
	shows(t, m, "10.4.0.12")
	m.pages[0] = flows{by: 3}
	ask()
	expect("by port", "port")
	shows(t, m, "udp/53")
	press(m, "p")
	passes(10 * time.Second)
	expect("in a pause")
	press(m, "p", "esc")
	passes(10 * time.Second)
	expect("after the page")
	c.denies = true
	press(m, "F")
	m.summed = ""
	ask()
	if c.read != 1 || m.data.flows.err != nil {
		t.Errorf("a reader has read %d times, %v", c.read, m.data.flows.err)
	}
}

// Whatever a daemon says of flows does nothing to the terminal.
func TestHostileFlows(t *testing.T) {
	for _, state := range []string{control.FlowsCounted, control.FlowsFailed, "\x1b[2J"} {
		var f control.Flows
		hostile.Fill(&f)
		f.State, f.By = state, control.ByFlow
		m := flowsScene(func(string) control.Flows { return f }, nil)(100, 30)
		if fault := hostile.Fault(m.theme.Paint(m.frame(100, 30))); fault != "" {
			t.Errorf("%q: %s", state, fault)
		}
	}
}
