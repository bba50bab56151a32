package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

var lunch = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// twoWays is a peer whose preferred address is dead, in maintenance, and one of two with a prefix.
func twoWays() control.Peer {
	return control.Peer{
		Name: "edge-2", Address: "172.18.0.4:8285", State: control.Draining,
		Routes: []string{"192.168.7.0/24", "192.168.8.0/24"}, Drops: map[string]uint64{},
		Addresses: []control.PeerAddress{
			{Address: "172.18.0.4:8285", Name: "edge-2.example.net", Resolved: new(lunch.Add(-2 * time.Minute)),
				State: control.Down, Loss: new(1.0)},
			{Address: "[2001:db8::4]:8285", State: control.Up, RTTMS: new(0.21), Loss: new(0.0), Active: true},
		},
		RouteStates: []control.RouteState{{Prefix: "192.168.7.0/24", Metric: 50},
			{Prefix: "192.168.8.0/24", Metric: 100, Active: true}},
		Drain: &control.Drain{Since: new(lunch.Add(-time.Hour)), By: "root", Reason: "new disk"},
		MTU:   1472, MTUSource: "underlay",
	}
}

func TestPeerForPeople(t *testing.T) {
	const want = `
edge-2 is in maintenance since 11:00 UTC (1h 00m) by root: new disk

  ADDRESS             STATE  RTT ms  LOSS  NAME                RESOLVED
  172.18.0.4:8285     down   -       100%  edge-2.example.net  2m00 ago
* [2001:db8::4]:8285  up     0.21    0%    -                   -

ROUTE           METRIC  STATE
192.168.7.0/24  50      standby
192.168.8.0/24  100     active

MTU 1472 by underlay
`
	var out bytes.Buffer
	if err := printPeer(&out, twoWays(), lunch); err != nil || out.String() != want {
		t.Errorf("%v, got:\n%s\nwant:\n%s", err, &out, want)
	}
	out.Reset()
	if err := printPeer(&out, control.Peer{Name: "of an older daemon"}, lunch); err != nil || out.Len() > 0 {
		t.Errorf("%v, %q", err, &out)
	}
}

// The table of peers names the address that packets go to, and tells a maintenance from a fault.
func TestPeersInMaintenance(t *testing.T) {
	gone := twoWays()
	gone.Name, gone.State = "edge-3", control.Down
	var out bytes.Buffer
	s := control.Status{Now: lunch, Peers: []control.Peer{twoWays(), gone}}
	if err := printPeers(&out, s, false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if !strings.HasPrefix(lines[1], "edge-3  down (maintenance)  ") ||
		!strings.HasPrefix(lines[2], "edge-2  draining  ") ||
		!strings.Contains(lines[2], "  [2001:db8::4]:8285 (instead of 172.18.0.4:8285)  ") {
		t.Errorf("got:\n%s", &out)
	}
}

func TestCarriersOfRoute(t *testing.T) {
	r := control.Route{To: "192.168.7.9", Peer: "edge-3", Prefix: "192.168.7.0/24", Address: "172.18.0.5:8285",
		Source: "10.244.2.0", Interface: "mesh0", MTU: 1472, State: control.Up, Masquerade: control.MasqueradeOff,
		Carriers: []control.Carrier{{Peer: "edge-2", Metric: 50, State: control.Draining},
			{Peer: "edge-3", Metric: 100, State: control.Up, Active: true}, {Peer: "edge-1", Metric: 200}}}
	const want = `192.168.7.9 via edge-3 at 172.18.0.5:8285 (192.168.7.0/24) dev mesh0 src 10.244.2.0 mtu 1472
peer edge-3 is up
metric 50: edge-2 stands by, draining
metric 100: edge-3 carries it, up
metric 200: edge-1 stands by
from a pod: keeps its address (masquerading is off)
`
	var out bytes.Buffer
	if err := printRoute(&out, r); err != nil || out.String() != want {
		t.Errorf("%v, got:\n%s\nwant:\n%s", err, &out, want)
	}
}

// Packets pass to a node that drains, so scripts that wait for it go on.
func TestDrainingServes(t *testing.T) {
	socket := fake(t, control.Source{Status: func() control.Status {
		return control.Status{
			Schema: control.Schema, Node: "edge-1", Peers: []control.Peer{twoWays()}}
	}})
	for _, args := range [][]string{{"peers", "edge-2"}, {"wait", "peer:edge-2", "--timeout", "5s"}} {
		t.Run(args[0], func(t *testing.T) {
			if code, _, errs := meshd(append(args, "--socket", socket)...); code != 0 || errs != "" {
				t.Errorf("%d, %q", code, errs)
			}
		})
	}
}
