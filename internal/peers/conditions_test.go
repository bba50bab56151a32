package peers_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// What is wrong with a peer follows from its facts alone.
func TestConditions(t *testing.T) {
	const degraded, failed = mesh.Degraded, mesh.Failed
	in := func(s peers.State, l peers.Loses) peers.Facts { return peers.Facts{Asked: true, State: s, Loses: l} }
	lossy := func(probes, lost, runs int) peers.Facts {
		return peers.Facts{Asked: true, State: peers.Up, Recent: peers.Loss{Probes: probes, Lost: lost, Runs: runs}}
	}
	narrow := func(mtu int, nothing bool) peers.Facts {
		return peers.Facts{Asked: true, State: peers.Up,
			Path: peers.PathMTU{InUse: mtu, Least: 576, Most: 1472, Interface: 1472, Proven: true, Nothing: nothing}}
	}
	all := peers.Loses{NoChecksum: true, DSCP: 46, Forwarded: true}
	for _, test := range []struct {
		name     string
		facts    peers.Facts
		severity mesh.Severity // of the worst
		want     []mesh.Kind
	}{
		{"nothing is known", peers.Facts{}, 0, nil},
		{"up", in(peers.Up, peers.Loses{}), 0, nil},
		{"not asked", peers.Facts{State: peers.Down, Loses: all}, 0, nil},
		{"stale", in(peers.Stale, all), 0, nil},
		{"down", in(peers.Down, all), failed, []mesh.Kind{mesh.PeerDown}},
		{"silent", in(peers.Silent, all), degraded, []mesh.Kind{mesh.PeerSilent}},
		{"one way", in(peers.OneWay, all), failed, []mesh.Kind{mesh.PeerOneWay}},
		{"a narrow path", narrow(1252, false), mesh.Info, []mesh.Kind{mesh.PathLarge}},
		{"a path of the full size", narrow(1472, false), 0, nil},
		{"no size passes", narrow(1472, true), degraded, []mesh.Kind{mesh.PathLarge}},
		{"no checksum", in(peers.Up, peers.Loses{NoChecksum: true}), degraded, []mesh.Kind{mesh.PathChecksum}},
		{"other ports", in(peers.Up, peers.Loses{Spread: true}), degraded, []mesh.Kind{mesh.PathPort}},
		{"no checksum, or other ports", in(peers.Up, peers.Loses{NoChecksum: true, Spread: true}), degraded,
			[]mesh.Kind{mesh.PathChecksum}},
		{"a DSCP value", in(peers.Up, peers.Loses{DSCP: 46}), degraded, []mesh.Kind{mesh.PathDSCP}},
		{"forwarded packets", in(peers.Up, peers.Loses{Forwarded: true}), failed, []mesh.Kind{mesh.PathForwarding}},
		{"the same file", peers.Facts{File: "meaning"}, 0, nil},
		{"the same text", peers.Facts{File: "text"}, 0, nil},
		{"another file", peers.Facts{File: "other"}, degraded, []mesh.Kind{mesh.FileDiffers}},
		{"all forms", in(peers.Up, all), failed,
			[]mesh.Kind{mesh.PathChecksum, mesh.PathDSCP, mesh.PathForwarding}},

		{"one lost probe of many", lossy(60, 1, 1), 0, nil},
		{"one lost probe of few", lossy(3, 1, 1), 0, nil},
		{"a restart", lossy(30, 8, 1), 0, nil},
		{"little loss", lossy(200, 3, 3), 0, nil},
		{"some loss", lossy(60, 3, 2), degraded, []mesh.Kind{mesh.PeerLoss}},
		{"much loss", lossy(30, 6, 3), failed, []mesh.Kind{mesh.PeerLoss}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.facts.Conditions("b", peers.OwnFile{Names: []string{"meaning", "text"}}, noon)
			var kinds []mesh.Kind
			for _, c := range got {
				kinds = append(kinds, c.Kind)
				if c.Peer != "b" || c.Remedy == "" {
					t.Errorf("%+v", c)
				}
			}
			if !slices.Equal(kinds, test.want) || mesh.Worst(got) != test.severity {
				t.Errorf("%q, %s, want %q, %s", kinds, mesh.Worst(got), test.want, test.severity)
			}
		})
	}
}

// A peer whose probes alone get lost may have another node's key in the file: then they reach that node.
func TestRemedyOfSilence(t *testing.T) {
	all := peers.Facts{Asked: true, State: peers.Silent}.Conditions("b", peers.OwnFile{}, noon)
	if len(all) != 1 || !strings.Contains(all[0].Remedy, "`meshd key --public`") {
		t.Errorf("%+v", all)
	}
}

// A peer that loses what programs send is served by user space, also while it does not answer.
func TestOutByUser(t *testing.T) {
	for _, test := range []struct {
		name  string
		loses peers.Loses
		want  bool
	}{
		{"nothing", peers.Loses{}, false},
		{"what programs send", peers.Loses{NoChecksum: true}, true},
		{"something else", peers.Loses{Spread: true, DSCP: 46, Forwarded: true}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, _ := peers.New().Report("b", func(f *peers.Facts) { f.Loses = test.loses })
			if d.OutByUser != test.want {
				t.Errorf("%+v", d)
			}
		})
	}
}

// A new file that reaches the hosts one after the other is no fault, until it stays with some of them.
func TestFilesDifferDuringRollout(t *testing.T) {
	r := peers.New()
	r.Use([]string{"old"}, noon)
	tells := func(file string, at time.Time) {
		r.Report("b", func(f *peers.Facts) { f.Names(file, at) })
	}
	differ := func(at time.Time) bool { return len(r.Of("b").Conditions("b", r.Own(), at)) > 0 }
	s := time.Second
	tells("old", noon)

	r.Use([]string{"new"}, noon.Add(100*s)) // here first
	if differ(noon.Add(104 * s)) {
		t.Error("told at once")
	}
	r.Use([]string{"new"}, noon.Add(104*s)) // read again: nothing new
	tells("old", noon.Add(104*s))
	if !differ(noon.Add(105 * s)) {
		t.Error("never told")
	}
	tells("new", noon.Add(106*s))
	if differ(noon.Add(200 * s)) {
		t.Error("the files are the same")
	}
	tells("newer", noon.Add(300*s)) // there first
	if differ(noon.Add(304*s)) || !differ(noon.Add(305*s)) {
		t.Error("a file that is newer at the peer")
	}
}
