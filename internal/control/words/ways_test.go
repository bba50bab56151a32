package words

import (
	"fmt"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

func TestState(t *testing.T) {
	in := &control.Drain{}
	check(t, "up", State(control.Peer{State: control.Up}), "up")
	check(t, "draining", State(control.Peer{State: control.Draining, Drain: in}), "draining")
	check(t, "down", State(control.Peer{State: control.Down}), "down")
	check(t, "down, as was announced", State(control.Peer{State: control.Down, Drain: in}), "down (maintenance)")
}

func TestEndpoint(t *testing.T) {
	two := []control.PeerAddress{{Address: "192.0.2.1:8285"}, {Address: "192.0.2.2:8285"}}
	check(t, "of an older daemon", Endpoint(control.Peer{Address: "192.0.2.1:8285"}), "192.0.2.1:8285")
	check(t, "none can be reached", Endpoint(control.Peer{Address: "192.0.2.1:8285", Addresses: two}),
		"192.0.2.1:8285")
	two[1].Active = true
	check(t, "the second", Endpoint(control.Peer{Address: "192.0.2.1:8285", Addresses: two}),
		"192.0.2.2:8285 (instead of 192.0.2.1:8285)")
}

func TestListens(t *testing.T) {
	n := control.Network{Address: "192.0.2.1", Port: 8285}
	check(t, "of an older daemon", Listens(n), "192.0.2.1:8285")
	n.Addresses = []string{"192.0.2.1:8285", "[2001:db8::1]:8285"}
	check(t, "at two", Listens(n), "192.0.2.1:8285 [2001:db8::1]:8285")
}

func TestMaintenance(t *testing.T) {
	now := time.Date(2026, 11, 24, 14, 7, 33, 0, time.UTC)
	for _, test := range []struct {
		want  string
		drain control.Drain
	}{
		{"in maintenance", control.Drain{}},
		{"in maintenance by root", control.Drain{By: "root"}},
		{"in maintenance since 14:01 UTC (6m 33s) until 15:00 UTC by root: new disk",
			control.Drain{Since: new(now.Add(-393 * time.Second)), Until: new(now.Add(3147 * time.Second)),
				By: "root", Reason: "new disk"}},
		{"in maintenance since 2026-11-22 14:07 UTC (2d 00:00): a move (and 1 more)",
			control.Drain{Since: new(now.Add(-48 * time.Hour)), Reason: "a move\nof the rack"}},
	} {
		t.Run(test.want, func(t *testing.T) { check(t, "sentence", Maintenance(test.drain, now), test.want) })
	}
}

func TestWaiting(t *testing.T) {
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprint("n", i))
	}
	check(t, "none", Waiting(control.Drain{}), "")
	check(t, "two", Waiting(control.Drain{Waiting: names[:2]}), "traffic may still come from n0 n1")
	check(t, "ten", Waiting(control.Drain{Waiting: names}),
		"traffic may still come from n0 n1 n2 n3 n4 n5 n6 n7 and 2 others")
}
