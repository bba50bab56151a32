package e2e

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// measure runs `meshd speed`, and checks that packets passed in both directions.
func measure(t *testing.T, d *nstest.Daemon, peer, seconds string) (s control.Speed) {
	t.Helper()
	out, err := d.Ask("speed", peer, "--time", seconds, "--rate", "200M", "--json")
	if err = errors.Join(err, json.Unmarshal([]byte(out), &s)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for way, w := range map[string]control.SpeedWay{"out": s.Out, "in": s.In} {
		if w.BPS <= 0 || w.Bytes == 0 || w.Segments == 0 || w.RTTMS == nil || w.Sent == 0 || w.Received == 0 {
			t.Errorf("%s: %+v", way, w)
		}
	}
	return s
}

// The speed of a peer is measured both ways, by the way of pods' packets and without a false alarm, if the
// peer's file allows it, and for one node at a time.
func TestSpeed(t *testing.T) { eachEngine(t, nstest.Loaded, testSpeed) }

func testSpeed(t *testing.T) {
	w := newWorld(t)
	open, shut := w.write(demoFile(t)+"[probe]\nspeed = true\n"), w.write(demoFile(t))
	cp, worker, worker2 := w.start(w.ControlPlane, shut), w.start(w.Worker, open), w.start(w.Worker2, shut)
	for _, d := range []*nstest.Daemon{cp, worker, worker2} {
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []*nstest.Daemon{cp, worker2} {
		waitPeer(t, d, "worker", "up", isIn(control.Up))
	}
	refused := func(d *nstest.Daemon, peer, code string) {
		t.Helper()
		_, err := client(t, d).Speed(t.Context(), control.SpeedRequest{Peer: peer, Seconds: 1},
			func(control.SpeedProgress) {})
		if r, ok := errors.AsType[*control.Refusal](err); !ok || r.Code != code {
			t.Errorf("%s of %s: %v, not %s", peer, d.Host.Name, err, code)
		}
	}
	// The listener is there within a second of the start.
	eventually(t, "worker listens", func() bool {
		out, err := w.Worker.Run("ss", "-Hltn", "sport = :8287")
		return err == nil && strings.Contains(out, "10.244.1.0")
	}, worker.Log)

	before := status(t, cp)
	measure(t, cp, "worker", "2")
	after := status(t, cp)
	if engineOf(t) != "user" {
		const few = 500 // probes
		if n := after.Dataplane.Handed["to_this_node"] - before.Dataplane.Handed["to_this_node"]; n > few {
			t.Errorf("%d packets of the measurement went by user space", n)
		}
	}
	for _, d := range []*nstest.Daemon{cp, worker} {
		for _, p := range status(t, d).Health.Problems {
			if p.Kind != "file_differs" { // which it does here
				t.Errorf("%s: %+v", d.Host.Name, p)
			}
		}
	}
	refused(cp, "worker2", "refused")
	refused(worker2, "control-plane", "refused")

	// While worker2 measures, it has no time for another one, and neither has worker.
	request := control.SpeedRequest{Peer: "worker", Seconds: 3, LimitBPS: 10_000_000}
	checked := false
	if _, err := client(t, worker2).Speed(t.Context(), request, func(control.SpeedProgress) {
		if !checked {
			refused(cp, "worker", "busy")
			refused(worker2, "worker", "busy")
		}
		checked = true
	}); err != nil || !checked {
		t.Errorf("%v, checked: %v", err, checked)
	}
	if err := worker.WaitEvent("measured", "peer", "worker2"); err != nil {
		t.Error(err)
	}
}
