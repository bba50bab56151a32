package words

import (
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

func TestEngine(t *testing.T) {
	for want, d := range map[string]control.Dataplane{
		"":                        {},
		"user":                    {Engine: "user", Receive: "socket"},
		"user (no BTF)":           {Engine: "user", Receive: "socket", Reason: "no BTF"},
		"kernel/xdp":              {Engine: "kernel", Receive: "xdp"},
		"kernel/tcx (a bridge)":   {Engine: "kernel", Receive: "tcx", Reason: "a bridge"},
		"user (captures matter)":  {Engine: "user", Reason: "captures matter", Captured: true},
		"kernel/tcx (" + captured: {Engine: "kernel", Receive: "tcx", Reason: "a bridge", Captured: true},
	} {
		t.Run(want, func(t *testing.T) {
			if got := Engine(d); got != want {
				t.Errorf("%q", got)
			}
		})
	}
}

const captured = "sends through user space while a program captures on the TUN)"

func TestStatusLines(t *testing.T) {
	for name, test := range map[string]struct{ got, want string }{
		"rules off":    {Masquerade(control.Masquerade{Repairs: 3}), "off"},
		"rules unused": {Masquerade(control.Masquerade{Enabled: true, Rules: []control.Rule{{Name: "x"}}}), "on"},
		"rules repaired": {Masquerade(control.Masquerade{Enabled: true, Repairs: 2,
			Rules: []control.Rule{{Name: "x", Packets: 5}}}), "on, 5 connections x, 2 repairs"},
		"rules repaired once":   {Masquerade(control.Masquerade{Enabled: true, Repairs: 1}), "on, 1 repair"},
		"no rules of [[allow]]": {Allow(control.Allow{}), ""},
		"one rule":              {Allow(control.Allow{Rules: make([]control.Rule, 1)}), "1 rule, dropped none"},
		"quiet rules": {Allow(control.Allow{Rules: make([]control.Rule, 2), Dropped: 7}),
			"2 rules, dropped 7, none in the last minute"},
		"busy rules": {Allow(control.Allow{Rules: make([]control.Rule, 2), Dropped: 77, DroppedLastMinute: 15}),
			"2 rules, dropped 77, 15 in the last minute (0.2/s)"},
		"left to user space": {Handed(control.Dataplane{Handed: map[string]uint64{"a": 1, "b": 2, "c": 0}}),
			"b 2  a 1"},
		"batches": {Batches(map[string]control.Calls{"tun_read": {Calls: 2, Packets: 5}, "wire_read": {Calls: 1,
			Packets: 95}}),
			"packets per call: out 2.5 from TUN, - to wire; in 95.0 from wire, - to TUN"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.got != test.want {
				t.Errorf("%q, want %q", test.got, test.want)
			}
		})
	}
}

func TestSize(t *testing.T) {
	for want, n := range map[string]uint64{"0 B": 0, "999 B": 999, "1.0 kB": 1000, "1.2 MB": 1234567,
		"9223.4 PB": 1 << 63} {
		check(t, want, Size(n), want)
	}
	check(t, "nothing", OrNone(""), "none")
	check(t, "something", OrNone("x"), "x")
}

func TestStrangers(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, test := range []struct {
		name, want string
		stranger   control.Stranger
	}{
		{"of no node", "172.18.0.9  unknown_sender 12  10.244.9.3 to 10.244.2.7  3s ago",
			control.Stranger{Address: "172.18.0.9", Reason: "unknown_sender", Packets: 12,
				InnerSource: "10.244.9.3", InnerDestination: "10.244.2.7", Last: now.Add(-3 * time.Second)}},
		{"of a node", "172.18.0.4 (edge-2)  spoofed_source 1  10.244.9.3 to 10.244.2.7  0s ago",
			control.Stranger{Address: "172.18.0.4", Reason: "spoofed_source", Peer: "edge-2", Packets: 1,
				InnerSource: "10.244.9.3", InnerDestination: "10.244.2.7", Last: now}},
		{"garbage", "172.18.0.9  unknown_sender 1  no IP packet  0s ago",
			control.Stranger{Address: "172.18.0.9", Reason: "unknown_sender", Packets: 1, Last: now}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Strangers([]control.Stranger{test.stranger}, now); len(got) != 1 || got[0] != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
