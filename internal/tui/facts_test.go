package tui

import (
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// viewOf is a view of one snapshot, which is true now.
func viewOf(s *control.Status) view {
	d := &data{}
	d.apply(s, noon)
	return view{data: d, now: noon, live: true, w: 80, h: 19, canAsk: true}
}

// written joins lines, without the blanks at their ends.
func written(lines ...cell.Line) string {
	var all []string
	for _, l := range lines {
		all = append(all, strings.TrimRight(l.String(), " "))
	}
	return strings.Join(all, "\n")
}

// is compares what is written with what has to be, in a case of its own.
func is(t *testing.T, name, got, want string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		if got != want {
			t.Errorf("\n%q, not\n%q", got, want)
		}
	})
}

func TestPlaneFacts(t *testing.T) {
	for name, test := range map[string]struct {
		plane           control.Dataplane
		facts, offloads string
		refused, word   string
	}{
		"user with all offloads": {
			control.Dataplane{Engine: "user", Offloads: []string{"tso4", "tso6", "uso", "udp_gso", "udp_gro"},
				Queues: 4},
			"user  tun mesh0 mtu 1472  queues 4", "tso uso gso gro", "", "user+gso"},
		"user without": {control.Dataplane{Engine: "user", Queues: 1}, "user  tun mesh0 mtu 1472  queues 1", "off",
			"", "user"},
		"one family": {control.Dataplane{Engine: "user", Offloads: []string{"tso4", "udp_gro"}},
			"user  tun mesh0 mtu 1472  queues 0", "tso4 gro", "", "user"},
		"refused": {control.Dataplane{Engine: "user", Refused: []string{"udp_gso", "uso"}},
			"user  tun mesh0 mtu 1472  queues 0", "off", "  refused udp_gso uso", "user"},
		"kernel": {control.Dataplane{Engine: "kernel", Receive: "tcx", Offloads: []string{"udp_gso"}},
			"kernel/tcx  tun mesh0 mtu 1472  queues 0", "gso", "", "kernel"},
	} {
		s := someMesh(0)
		s.Dataplane = test.plane
		is(t, name, planeFacts(s), test.facts)
		is(t, name+", offloads", offloads(s), test.offloads)
		is(t, name+", refused", written(refused(s)), test.refused)
		is(t, name+", in the header", engineWord(s.Dataplane), test.word)
	}
}

// The path gives way to when it was applied; how long that took gives way first.
func TestConfigFacts(t *testing.T) {
	s := someMesh(0)
	for name, test := range map[string]struct {
		path string
		w    int
		want string
	}{
		"wide": {"/etc/mesh.toml", 100,
			"/etc/mesh.toml  gen 12  applied 14:02:33 (5m 00s ago, 41 ms)  sha 9f3c1a"},
		"without the time it took": {"/etc/mesh.toml", 70,
			"/etc/mesh.toml  gen 12  applied 14:02:33 (5m 00s ago)  sha 9f3c1a"},
		"a long path": {"/srv/configuration/of/this/host/mesh.toml", 70,
			"/srv/conf…mesh.toml  gen 12  applied 14:02:33 (5m 00s ago)  sha 9f3c1a"},
	} {
		s.Config.Path = test.path
		is(t, name, written(configFacts(viewOf(s), test.w)), test.want)
	}
	s.Config.Applied, s.Config.Path = time.Time{}, "/etc/mesh.toml"
	is(t, "not in force", written(configFacts(viewOf(s), 70)), "/etc/mesh.toml  not in force yet")
}

func TestDropFacts(t *testing.T) {
	v := viewOf(someMesh(0))
	is(t, "since the start", written(dropFacts(v)), "no_route 312   unknown_sender 3")
	v.base = someMesh(0)
	is(t, "since now", written(dropFacts(v)), "none")
	v.base.Totals.Drops["no_route"] = 300
	is(t, "since some time", written(dropFacts(v)), "no_route 12")
}

func TestPeerFacts(t *testing.T) {
	s := someMesh(0)
	is(t, "of all states", written(peerFacts(s)), "17 up   1 stale   1 DOWN   subnets 20 (1 unreachable)")
	s.Peers[0].State = control.Unknown
	is(t, "unknown", written(peerFacts(s)), "16 up   1 stale   1 DOWN   1 unknown   subnets 20 (1 unreachable)")
	s.Peers = s.Peers[1:2]
	is(t, "all up", written(peerFacts(s)), "1 up   subnets 1")
	s.Peers = nil
	is(t, "no peers", written(peerFacts(s)), "0 up   subnets 0")
}

// A node with rules has a line of them, in colour while they drop packets.
func TestAllowFacts(t *testing.T) {
	s := someMesh(0)
	if all := written(facts(viewOf(s), 80)...); strings.Contains(all, "ALLOW") {
		t.Errorf("without rules:\n%s", all)
	}
	s.Allow = control.Allow{Rules: []control.Rule{{Name: "web", Packets: 5, Bytes: 500}, {Name: "#2"}},
		Dropped: 3}
	for name, test := range map[string]struct {
		lately uint64
		role   cell.Role
	}{"quiet": {0, cell.Plain}, "dropping": {3, cell.Warn}} {
		s.Allow.DroppedLastMinute = test.lately
		want := cell.Styled(test.role, words.Allow(s.Allow))
		if got := allowFacts(s); !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		is(t, name, written(facts(viewOf(s), 80)[3]), " ALLOW    "+words.Allow(s.Allow))
	}
}

// A node that has not found itself tells only what is known.
func TestFactsOfAStart(t *testing.T) {
	s := &control.Status{Version: "0.1.0", PID: 7, UptimeSeconds: 9, Now: noon,
		Config: control.Config{Path: "/etc/mesh.toml"}}
	is(t, "starting", written(facts(viewOf(s), 80)...),
		" NODE     unknown yet   meshd 0.1.0  pid 7  up 9 s\n CONFIG   /etc/mesh.toml  not in force yet")
	all := written(facts(viewOf(someMesh(0)), 80)...)
	for _, word := range []string{"NODE     edge-01  203.0.113.1:8285   up 3d 04:12", "CONFIG ", "PLANE ",
		"DROPS ", "PEERS "} {
		if !strings.Contains(all, word) {
			t.Errorf("%q is not in\n%s", word, all)
		}
	}
}

// Prefixes behind a peer take three lines at most, and are counted beyond that.
func TestBehind(t *testing.T) {
	is(t, "subnets and routes", written(behind(control.Peer{Subnets: []string{"10.5.0.0/16"},
		Routes: []string{"192.168.5.0/24"}}, 80)...),
		" subnets    10.5.0.0/16  routes 192.168.5.0/24")
	many := control.Peer{}
	for range 50 {
		many.Subnets = append(many.Subnets, "10.244.100.0/24")
	}
	lines := behind(many, 80)
	if len(lines) != 3 || written(lines[2]) != "            … 50 in all" {
		t.Errorf("\n%s", written(lines...))
	}
}

// The columns of a row show the first prefix, and how many there are.
func TestPrefixes(t *testing.T) {
	for name, test := range map[string]struct {
		all  []string
		w    int
		want string
	}{
		"none": {nil, 16, ""}, "one": {[]string{"10.5.0.0/16"}, 16, "10.5.0.0/16     "},
		"three":   {[]string{"10.5.0.0/16", "b", "c"}, 16, "10.5.0.0/16 +2"},
		"no room": {[]string{"10.244.100.0/24", "b"}, 12, "10.2…0/24 +1"},
	} {
		is(t, name, prefixes(test.all, test.w), test.want)
	}
}
