package page

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text/hostile"
)

// busy are flows of three pods, summed by a key.
func busy(by string) control.Flows {
	f := control.Flows{Schema: control.Schema, State: control.FlowsCounted, By: by, IntervalSeconds: 1,
		Total: control.FlowRates{RxPackets: 9000, RxBytes: 12.5e6, TxPackets: 700, TxBytes: 84_000}}
	row := func(r control.FlowRow, rx, tx float64) {
		r.FlowRates = control.FlowRates{RxBytes: rx, TxBytes: tx, RxPackets: rx / 1400, TxPackets: tx / 60}
		r.Share = (rx + tx) / f.Total.Bytes()
		f.Rows = append(f.Rows, r)
	}
	switch by {
	case control.ByFlow:
		f.Known = 40
		row(control.FlowRow{Peer: "control-plane", Pod: "10.244.1.7", Remote: "10.244.0.12", Protocol: "tcp",
			PodPort: 41234, RemotePort: 5432, Port: 5432, Flows: 1}, 11.2e6, 70_000)
		row(control.FlowRow{Peer: "worker2", Pod: "fd00:10:244:1::1234", Remote: "fd00:10:244:2::9",
			Protocol: "udp", PodPort: 53, RemotePort: 35353, Port: 53, Flows: 1}, 9_000, 14_000)
		row(control.FlowRow{Peer: "worker2", Pod: "10.244.1.8", Remote: "10.244.2.3", Protocol: "icmp",
			Flows: 1}, 84, 84)
	case control.ByPod:
		f.Known = 2
		row(control.FlowRow{Pod: "10.244.1.7", Flows: 37}, 11.2e6, 70_000)
		row(control.FlowRow{Pod: "fd00:10:244:1::1234", Flows: 3}, 9_000, 14_000)
	case control.ByPeer:
		f.Known = 1
		row(control.FlowRow{Peer: "control-plane", Flows: 40}, 12.5e6, 84_000)
	case control.ByPort:
		f.Known = 2
		row(control.FlowRow{Protocol: "tcp", Port: 5432, Flows: 30}, 11.2e6, 70_000)
		row(control.FlowRow{Protocol: "icmp", Flows: 1}, 84, 84)
	}
	return f
}

// What is shown of flows, for each key and state.
func TestFlows(t *testing.T) {
	sampled := busy(control.ByPeer)
	sampled.Sampled = true
	for name, c := range map[string]struct {
		flows   control.Flows
		options Options
	}{
		"flows-pipe":    {busy(control.ByFlow), Options{}},
		"flows-120":     {busy(control.ByFlow), Options{Width: 120, Colour: true}},
		"flows-80":      {busy(control.ByFlow), Options{Width: 80}},
		"flows-pod":     {busy(control.ByPod), Options{Width: 80}},
		"flows-peer":    {busy(control.ByPeer), Options{Width: 80}},
		"flows-port":    {busy(control.ByPort), Options{Width: 80}},
		"flows-40":      {busy(control.ByPort), Options{Width: 40}},
		"flows-sampled": {sampled, Options{Width: 80}},
		"flows-none":    {control.Flows{State: control.FlowsCounted, By: control.ByFlow}, Options{Width: 80}},
		"flows-off":     {control.Flows{State: control.FlowsOff}, Options{Width: 80}},
		"flows-sealed":  {control.Flows{State: control.FlowsSealed}, Options{Width: 80}},
		"flows-failed":  {control.Flows{State: control.FlowsFailed, Cause: "no memory"}, Options{Width: 80}},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := Flows(&b, c.flows, c.options); err != nil {
				t.Fatal(err)
			}
			compare(t, filepath.Join("testdata", name+".txt"), b.String())
		})
	}
}

// A table of flows is as wide as its screen, and says nothing to the terminal that others want it to.
func TestFlowsWidths(t *testing.T) {
	for _, by := range control.FlowKeys() {
		for _, w := range []int{40, 64, 80, 100, 120, 140, 200} {
			t.Run(fmt.Sprint(by, w), func(t *testing.T) {
				flows := busy(by)
				flows.Sampled = true
				if w == 40 && by == control.ByFlow { // two IPv6 addresses are wider
					flows.Rows = flows.Rows[:1]
				}
				var b strings.Builder
				if err := Flows(&b, flows, Options{Width: w}); err != nil {
					t.Fatal(err)
				}
				for l := range strings.Lines(b.String()) {
					if n := width(strings.TrimSuffix(l, "\n")); n > w {
						t.Errorf("%d columns: %s", n, l)
					}
				}
			})
		}
	}
	var f control.Flows
	hostile.Fill(&f)
	for _, state := range []string{control.FlowsCounted, control.FlowsFailed, f.State} {
		f.State, f.By = state, control.ByFlow
		var b strings.Builder
		if err := Flows(&b, f, Options{}); err != nil || hostile.Fault(b.String()) != "" {
			t.Errorf("%s: %v, %s", state, err, hostile.Fault(b.String()))
		}
	}
}
