package tui

import (
	"fmt"
	"time"

	"example.org/meshd/internal/control"
)

// More situations that look different.

// busyNode is a node of the kernel engine with something of everything that only the screen of the node
// shows.
func busyNode(s *control.Status) *control.Status {
	n := uint64(s.Now.Sub(noon) / time.Second)
	s.Network.Addresses = []string{"203.0.113.1:8285", "[2001:db8::1]:8285"}
	s.Network.Underlay = &control.Underlay{Device: "eth0", MTU: 1500, Headers: 28}
	s.Network.Subnets, s.Network.Repairs = []string{"10.1.0.0/16", "fd00:0:0:1::/64"}, 1
	s.Dataplane = control.Dataplane{Engine: "kernel", Receive: "tcx", Queues: 2, Captured: true,
		Reason: "eth0 is a bridge", Offloads: []string{"tso4", "tso6", "udp_gso"}, Refused: []string{"uso"},
		Handed: map[string]uint64{"from_socket": 5368 + 2*n, "plain_peer": 12, "capture": 0},
		Calls: map[string]control.Calls{"tun_read": {Calls: 10, Packets: 25},
			"wire_write": {Calls: 10, Packets: 80}, "wire_read": {Calls: 3, Packets: 9},
			"tun_write": {Calls: 9, Packets: 9}}}
	s.Masquerade = control.Masquerade{Enabled: true, Repairs: 2, Rules: []control.Rule{
		{Name: "pods-to-outside", Packets: 777 + 3*n}, {Name: "outside-to-remote-pod"}}}
	s.Allow = control.Allow{Dropped: 5 + n, Rules: []control.Rule{{Name: "web", Packets: 81250 + 10*n},
		{Name: "#2", Packets: 3}}}
	s.Strangers = []control.Stranger{{Address: "198.51.100.99", Reason: "unknown_sender", Packets: 3,
		InnerSource: "10.99.0.1", InnerDestination: "10.1.0.7", Last: noon.Add(-90 * time.Second)}}
	s.Totals.Drops["too_big"] = 40 + n
	return s
}

// cloudNames has the names of a cloud, which only differ in the middle.
func cloudNames(s *control.Status) *control.Status {
	for i := range s.Peers {
		s.Peers[i].Name = fmt.Sprintf("ip-172-31-0-%d.eu-central-1.compute.internal.prod.example.com", i+1)
	}
	s.Health = control.Health{Level: control.OK}
	return judged(s)
}

// allDown is a node that hears nobody: its daemon names the cause and not a hundred effects.
func allDown(s *control.Status) *control.Status {
	for i := range s.Peers {
		p := &s.Peers[i]
		p.State, p.Loss, p.RTTMS, p.LastSeen = control.Down, new(1.0), nil, new(noon.Add(-162*time.Second))
	}
	s.Health = control.Health{Level: control.Failed, Problems: []control.Problem{{Level: control.Failed,
		Kind: peerDown, Text: "all 19 peers do not answer, and nothing is heard of them",
		Remedy: "look at this host: `ip route get 198.51.100.2`, `nft list ruleset`, and whether " +
			"datagrams leave and come: " +
			"`tcpdump -ni any udp port 8285`", Since: noon.Add(-162 * time.Second)}}}
	return s
}

// manyDown has more problems than there are lines for them.
func manyDown(s *control.Status) *control.Status {
	for i := range 17 {
		s.Peers[i].State, s.Peers[i].Loss = control.Down, new(1.0)
		s.Peers[i].LastSeen = new(noon.Add(-162 * time.Second))
	}
	s.Health = control.Health{Level: control.OK}
	return judged(s)
}

// flappingScene is a peer that goes up and down all the time.
func flappingScene(w, h int) *Model {
	m, _ := someDashboard(w, h, asItIs)
	for i := range 14 {
		at := noon.Add(time.Duration(i*20-300) * time.Second)
		tell(m, happening(control.Event{At: at, Level: "warn", Kind: "peer_stale", Peer: "edge-09",
			Fields: map[string]string{"silent": "3.0123s", "loss": "5%"}}),
			happening(control.Event{At: at.Add(5 * time.Second), Level: "info", Kind: "peer_up", Peer: "edge-09",
				Fields: map[string]string{"rtt": "12.3456ms", "was": "stale"}}))
	}
	press(m, "3")
	return m
}

// cloudEventsScene has events of peers whose names are longer than half of a line, and one that repeats.
func cloudEventsScene(w, h int) *Model {
	m, _ := someDashboard(w, h, func(s *control.Status) *control.Status {
		s.Node = "ip-172-31-0-99.eu-central-1.compute.internal.prod.example.com"
		return cloudNames(s)
	})
	const peer = "ip-172-31-0-4.eu-central-1.compute.internal.prod.example.com"
	for i := range 3 {
		at := noon.Add(time.Duration(i*20-60) * time.Second)
		tell(m, happening(control.Event{At: at, Level: "info", Kind: "reloaded", Message: "reloaded",
			Fields: map[string]string{"changes": "~ this node " + peer + " -> worker2"}}),
			happening(control.Event{At: at, Level: "warn", Kind: "new", Peer: peer, Message: "glows"}),
			happening(control.Event{At: at, Level: "info", Kind: "peer_up", Peer: peer,
				Fields: map[string]string{"rtt": "12.3456ms", "was": "stale"}}))
	}
	press(m, "3")
	return m
}

// faultyScene asks about a reload of a file that cannot be applied.
func faultyScene(w, h int) *Model {
	m, _ := someDashboard(w, h, asItIs)
	press(m, "R")
	send(m, planMsg{err: &control.Rejection{
		Message: "/etc/mesh.toml:34:11: error: node.address: an address needs quotes: write \"198.51.100.7\"",
		Faults:  []control.Error{{File: "/etc/mesh.toml", Line: 34}}}})
	return m
}

// oldEventsScene has events of other days.
func oldEventsScene(w, h int) *Model {
	m, c := someDashboard(w, h, asItIs)
	c.forward(36 * time.Hour)
	tell(m, snapshot(someMesh(36*3600)))
	tell(m, happening(control.Event{At: c.now.Add(-time.Minute), Level: "error", Kind: "peer_down",
		Peer: "edge-03"}))
	press(m, "3")
	return m
}

// pastScene is a node whose daemon remembers what it lost before this program was started.
func pastScene(w, h int) *Model {
	m, _ := someDashboard(w, h, busyNode)
	press(m, "4", "t")
	past := control.History{Schema: control.Schema, Span: "1h", StepSeconds: 10, BootID: m.data.boot,
		End: noon, Reasons: map[string]control.DropHistory{}}
	for reason, at := range map[string]int{"no_route": 40, "malformed": 300} {
		one := control.DropHistory{Last: noon.Add(time.Duration(10*(at+20-360)) * time.Second)}
		for i := range 360 {
			switch {
			case i < 30: // before the daemon
				one.Drops = append(one.Drops, nil)
			case i >= at && i < at+20:
				one.Drops = append(one.Drops, new(float64(i-at)))
			default:
				one.Drops = append(one.Drops, new(0.0))
			}
		}
		past.Reasons[reason] = one
	}
	send(m, historyMsg{key: historyKey{"", "1h"}, history: past})
	return m
}

// silentPeers are hosts that forward, though their meshd is dead, and one that does not hear this node.
func silentPeers(s *control.Status) *control.Status {
	for i, state := range []string{control.Silent, control.Silent, control.OneWay} {
		s.Peers[i].State = state
	}
	s.Health = control.Health{Level: control.OK}
	return judged(s)
}
