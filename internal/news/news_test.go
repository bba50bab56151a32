package news_test

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/news"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/probe"
)

var noon = time.Unix(1e9, 0)

// nobody is asked what peers say: there are none.
func nobody(string) (probe.Self, bool) { return probe.Self{}, false }

// Peers that change state together are one event with a number; a lone one has its name.
func TestPeersTogether(t *testing.T) {
	change := func(state probe.State, names ...string) (all []probe.Change) {
		for _, name := range names {
			all = append(all, probe.Change{Peer: name, New: state})
		}
		return all
	}
	var thousands []string
	for i := range 10000 {
		thousands = append(thousands, fmt.Sprint("n", i))
	}
	for _, test := range []struct {
		name    string
		changes []probe.Change
		want    []control.Event // kind, peer, and fields count and peers
	}{
		{"one", change(probe.Down, "b"), []control.Event{{Kind: "peer_down", Peer: "b"}}},
		{"two", change(probe.Up, "b", "c"), []control.Event{
			{Kind: "peer_up", Fields: map[string]string{"count": "2", "peers": "b c"}}}},
		{"two kinds", append(change(probe.Stale, "b", "c"), change(probe.Down, "d")...), []control.Event{
			{Kind: "peer_stale", Fields: map[string]string{"count": "2", "peers": "b c"}},
			{Kind: "peer_down", Peer: "d"}}},
		{"all", change(probe.Down, thousands...), []control.Event{{Kind: "peer_down",
			Fields: map[string]string{"count": "10000", "peers": "n0 n1 n2 n3 n4 n5 n6 n7 n8 n9"}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			events := control.NewEvents()
			p := news.NewPeers(slog.New(control.NewEventLog(slog.DiscardHandler, events)), nobody)
			p.Tell(test.changes, probe.Self{}, noon)
			p.Tell(change(probe.Up, "late", "later"), probe.Self{}, noon.Add(time.Second/2))
			got, _ := events.Since(0)
			if wait := p.Wait(noon.Add(time.Second/2), time.Hour); wait != time.Second/2 {
				t.Errorf("due in %v", wait)
			}
			p.Tell(nil, probe.Self{}, noon.Add(time.Second))
			held, _ := events.Since(uint64(len(got)))
			if len(got) != len(test.want) || len(held) != 1 || held[0].Fields["count"] != "2" {
				t.Fatalf("%+v, then %+v", got, held)
			}
			for i, e := range got {
				want := test.want[i]
				if e.Kind != want.Kind || e.Peer != want.Peer || e.Fields["count"] != want.Fields["count"] ||
					e.Fields["peers"] != want.Fields["peers"] {
					t.Errorf("%+v, want %+v", e, want)
				}
			}
		})
	}
}

// Each state has a kind of its own; files are compared by what they mean, and a program without a file
// is not compared.
func TestKinds(t *testing.T) {
	self := probe.Self{Hash: [32]byte{1}, Meaning: probe.Meaning{1}}
	sameMeaning, other := probe.Self{Hash: [32]byte{2}, Meaning: probe.Meaning{1}}, probe.Self{Hash: [32]byte{3}}
	for _, test := range []struct {
		name   string
		change probe.Change
		want   []string
	}{
		{"up", probe.Change{New: probe.Up}, []string{"peer_up"}},
		{"stale", probe.Change{New: probe.Stale}, []string{"peer_stale"}},
		{"silent", probe.Change{New: probe.Silent}, []string{"peer_silent"}},
		{"one way", probe.Change{New: probe.OneWay}, []string{"peer_one_way"}},
		{"down", probe.Change{New: probe.Down}, []string{"peer_down"}},
		{"a form is lost", probe.Change{New: probe.Up, Forms: true}, nil},
		{"flannel", probe.Change{New: probe.Up, Told: &probe.Self{}}, nil},
		{"the same file", probe.Change{Told: &self}, []string{"peer_file_matches"}},
		{"the same meaning", probe.Change{Told: &sameMeaning}, []string{"peer_file_matches"}},
		{"another comment", probe.Change{Told: &sameMeaning, Before: self}, nil},
		{"another file", probe.Change{Told: &other, Before: self}, []string{"peer_file_differs"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := &nstest.Events{}
			news.NewPeers(slog.New(log), nobody).Tell([]probe.Change{test.change}, self, noon)
			if got := log.Take(); !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// A file that is rolled out is one line for all peers.
func TestFilesTogether(t *testing.T) {
	var changes []probe.Change
	for i := range 1000 {
		changes = append(changes, probe.Change{Peer: fmt.Sprint(i), Told: &probe.Self{Hash: [32]byte{1}}})
	}
	log := &nstest.Events{}
	news.NewPeers(slog.New(log), nobody).Tell(changes, probe.Self{Hash: [32]byte{2}}, noon)
	if got := log.Take(); !slices.Equal(got, []string{"peer_file_differs"}) {
		t.Errorf("%q", got)
	}
}

// Where the others take a file first, this node tells that they run its file when it takes it as well; of a
// peer that is gone, or waits for its turn, there is nothing to tell.
func TestCaughtUp(t *testing.T) {
	before, after := probe.Self{Hash: [32]byte{1}}, probe.Self{Hash: [32]byte{2}}
	says := map[string]probe.Self{"a": after, "b": after, "later": {Hash: [32]byte{3}}}
	log := &nstest.Events{}
	p := news.NewPeers(slog.New(log), func(peer string) (probe.Self, bool) {
		told, ok := says[peer]
		return told, ok
	})
	told := func(name string, self probe.Self) probe.Change { return probe.Change{Peer: name, Told: &self} }
	for _, step := range []struct {
		name    string
		changes []probe.Change
		self    probe.Self
		want    []string
	}{
		{"all as this node", []probe.Change{told("a", before), told("b", before)}, before,
			[]string{"peer_file_matches"}},
		{"others first", []probe.Change{told("a", after), told("gone", after), told("later", says["later"])},
			before, []string{"peer_file_differs"}},
		{"this node too, and b with it", []probe.Change{told("b", after)}, after, []string{"peer_file_matches"}},
		{"nothing new", nil, after, nil},
		{"back", nil, before, nil}, // what they run is told when they change
		{"and again", nil, after, nil},
	} {
		p.Tell(step.changes, step.self, noon)
		if got := log.Take(); !slices.Equal(got, step.want) {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}
