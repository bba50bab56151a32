package health_test

import (
	"reflect"
	"strings"
	"testing"

	"example.org/meshd/internal/health"
	"example.org/meshd/internal/mesh"
)

// counted is a reading of one peer that sent packets and lost some for a reason.
func counted(packets uint64, reason mesh.Drop, lost uint64) health.Counted {
	t := mesh.Traffic{RxPackets: packets}
	t.Drops[reason] = lost
	return health.Counted{Totals: t, Peers: map[string]mesh.Traffic{"b": t}}
}

// Losses for reasons that this host or its nodes are to blame for count, from a number and a share on.
func TestGrowth(t *testing.T) {
	for _, test := range []struct {
		name          string
		before, after health.Counted
		subjects      []string
	}{
		{"no loss", counted(0, 0, 0), counted(1e6, 0, 0), nil},
		{"old losses", counted(0, mesh.SpoofedSource, 500), counted(1e6, mesh.SpoofedSource, 500), nil},
		{"a node lies", counted(0, mesh.SpoofedSource, 0), counted(1e6, mesh.SpoofedSource, 10),
			[]string{"spoofed_source"}},
		{"noise", counted(0, mesh.SpoofedSource, 0), counted(1e6, mesh.SpoofedSource, 9), nil},
		{"a node sends too much", counted(0, mesh.WrongDestination, 4), counted(0, mesh.WrongDestination, 14),
			[]string{"wrong_destination"}},
		{"refused", counted(0, mesh.SendError, 0), counted(100, mesh.SendError, 20), []string{"send_error"}},
		{"a small share", counted(0, mesh.SendError, 0), counted(1e6, mesh.SendError, 1000), nil},
		{"a larger share", counted(0, mesh.SendError, 0),
			counted(1e6, mesh.SendError, 1001), []string{"send_error"}},
		{"the TUN refuses", counted(0, mesh.WriteError, 0),
			counted(0, mesh.WriteError, 10), []string{"write_error"}},
		{"pods' packets are kept back", counted(0, mesh.NotEncrypted, 0), counted(0, mesh.NotEncrypted, 1e6), nil},
		{"strangers", counted(0, mesh.UnknownSender, 0), counted(0, mesh.UnknownSender, 1e6), nil},
		{"pods send to nowhere", counted(0, mesh.NoRoute, 0), counted(0, mesh.NoRoute, 1e6), nil},
		{"pods forge", counted(0, mesh.ForeignSource, 0), counted(0, mesh.ForeignSource, 1e6), nil},
		{"garbage", counted(0, mesh.Malformed, 0), counted(0, mesh.Malformed, 1e6), nil},
		{"traceroute", counted(0, mesh.TTLExpired, 0), counted(0, mesh.TTLExpired, 1e6), nil},
		{"large packets", counted(0, mesh.TooBig, 0), counted(0, mesh.TooBig, 1e6), nil},
		{"a counter that began anew", counted(500, mesh.SpoofedSource, 500),
			counted(5, mesh.SpoofedSource, 5), nil},
		{"a peer that is new", health.Counted{}, counted(0, mesh.SpoofedSource, 50), nil},
		{"overflows", health.Counted{Lost: map[string]uint64{"socket_overflow": 5, "tun_overflow": 7}},
			health.Counted{Lost: map[string]uint64{"socket_overflow": 15, "tun_overflow": 17}},
			[]string{"socket_overflow", "tun_overflow"}},
		{"another's packets", health.Counted{}, health.Counted{Lost: map[string]uint64{"not_from_meshd": 99}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var g health.Growth
			if got := g.Conditions(test.after, at(0)); got != nil {
				t.Errorf("without an earlier reading: %+v", got)
			}
			if !g.Take(test.before, at(0)) {
				t.Error("the first reading is not kept")
			}
			var subjects []string
			for _, c := range g.Conditions(test.after, at(5)) {
				subjects = append(subjects, c.Subject)
				if c.Kind != mesh.DropsGrowing || c.Severity != mesh.Degraded || !strings.Contains(c.Cause, "packets") {
					t.Errorf("%+v", c)
				}
				if ofPeer := !strings.HasSuffix(c.Subject, "_overflow"); ofPeer != (c.Peer == "b") {
					t.Errorf("of %q: %+v", c.Peer, c)
				}
			}
			if !reflect.DeepEqual(subjects, test.subjects) {
				t.Errorf("%v, want %v", subjects, test.subjects)
			}
		})
	}
}

// What has stopped growing is a problem for half a minute at most, and a counter that grows is one all the
// time, however long.
func TestGrowthEnds(t *testing.T) {
	var g health.Growth
	lost := uint64(0)
	for second := int64(0); second < 300; second++ {
		if second >= 60 && second < 200 {
			lost++
		}
		now := counted(0, mesh.SpoofedSource, lost)
		g.Take(now, at(second))
		is := len(g.Conditions(now, at(second))) > 0
		switch {
		case second < 60 && is, second >= 230 && is:
			t.Errorf("second %d: a problem", second)
		case second >= 80 && second < 200 && !is:
			t.Errorf("second %d: no problem", second)
		}
	}
}

func TestNeighbours(t *testing.T) {
	var n health.Neighbours
	take := func(second int64, fulls uint64) {
		n.Take(health.NeighbourTable{Name: "arp_cache", Limit: 1024, Fulls: fulls}, at(second))
		n.Take(health.NeighbourTable{Name: "ndisc_cache", Limit: 1024, Fulls: 7}, at(second))
	}
	for _, step := range []struct {
		name   string
		second int64
		fulls  uint64
		full   bool
	}{
		{"before this run", 0, 5, false},
		{"nothing new", 10, 5, false},
		{"no room", 20, 6, true},
		{"still told", 50, 6, true},
		{"over", 51, 6, false},
		{"again", 60, 900, true},
	} {
		t.Run(step.name, func(t *testing.T) {
			take(step.second, step.fulls)
			got := n.Conditions(at(step.second))
			if (len(got) == 1) != step.full {
				t.Fatalf("%+v", got)
			}
			if step.full && (got[0].Kind != mesh.NeighboursFull || got[0].Subject != "arp_cache" ||
				!strings.Contains(got[0].Remedy, "net.ipv4.neigh.default.gc_thresh3=4096")) {
				t.Errorf("%+v", got[0])
			}
		})
	}
}

// A node that sends bare packets to a mesh that encrypts has a kind of its own.
func TestSendsClear(t *testing.T) {
	for lost, want := range map[uint64]int{9: 0, 10: 1} {
		var g health.Growth
		g.Take(counted(0, mesh.Cleartext, 3), at(0))
		all := g.Conditions(counted(1e6, mesh.Cleartext, 3+lost), at(5))
		if len(all) != want {
			t.Fatalf("%d packets: %+v", lost, all)
		}
		for _, c := range all {
			if c.Kind != mesh.SendsClear || c.Severity != mesh.Degraded || c.Peer != "b" || c.Remedy == "" {
				t.Errorf("%+v", c)
			}
		}
	}
}
