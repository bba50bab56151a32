package peers_test

import (
	"fmt"
	"maps"
	"reflect"
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/peers"
)

var noon = time.Unix(1e9, 0)

// report makes one report and compares what follows from it.
func report(t *testing.T, r *peers.Registry, peer string, update func(*peers.Facts),
	d peers.Directive, news bool) {
	t.Helper()
	if got, told := r.Report(peer, update); got != d || told != news {
		t.Errorf("%s: %+v, news %v, want %+v, news %v", peer, got, told, d, news)
	}
}

func nothing(*peers.Facts)     {}
func isMeshd(f *peers.Facts)   { f.Meshd = true }
func isFlannel(f *peers.Facts) { f.Meshd = false }
func isUp(f *peers.Facts)      { f.Asked, f.State = true, peers.Up }

// Engines learn what is new: the first time always, since their tables may be of an earlier run, and
// then only what leads to another directive.
func TestReport(t *testing.T) {
	r := peers.New()
	report(t, r, "a", nothing, peers.Directive{}, true)
	report(t, r, "a", nothing, peers.Directive{}, false)
	report(t, r, "a", isUp, peers.Directive{}, false)
	report(t, r, "a", isMeshd, peers.Directive{Finishes: true}, true)
	report(t, r, "a", isMeshd, peers.Directive{Finishes: true}, false)
	report(t, r, "b", nothing, peers.Directive{}, true)
	report(t, r, "b", isMeshd, peers.Directive{Finishes: true}, true)
	report(t, r, "a", isFlannel, peers.Directive{}, true)
	report(t, r, "c", isMeshd, peers.Directive{Finishes: true}, true)
}

// Each report adds to what is known.
func TestFactsStay(t *testing.T) {
	r := peers.New()
	report(t, r, "a", isMeshd, peers.Directive{Finishes: true}, true)
	report(t, r, "a", isUp, peers.Directive{Finishes: true}, false)
	report(t, r, "a", func(f *peers.Facts) {
		if f.State != peers.Up || !f.Meshd {
			t.Errorf("the update was given %+v", *f)
		}
		f.Heard = noon
	}, peers.Directive{Finishes: true}, false)
	want := peers.Facts{State: peers.Up, Asked: true, Heard: noon, Meshd: true, Met: true}
	if got := r.Of("a"); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := r.Of("b"); !reflect.DeepEqual(got, peers.Facts{}) {
		t.Errorf("of a stranger: %+v", got)
	}
}

// A peer that leaves the file and comes back is a new one, of which engines are told again.
func TestKeep(t *testing.T) {
	r := peers.New()
	for _, name := range []string{"a", "b", "c"} {
		r.Report(name, isMeshd)
	}
	r.Keep([]string{"a", "c", "never reported"})
	if got := r.Of("b"); !reflect.DeepEqual(got, peers.Facts{}) {
		t.Errorf("b is remembered: %+v", got)
	}
	if got := r.Of("never reported"); !reflect.DeepEqual(got, peers.Facts{}) {
		t.Errorf("%+v", got)
	}
	report(t, r, "b", nothing, peers.Directive{}, true)
	report(t, r, "a", nothing, peers.Directive{Finishes: true}, false)
	r.Keep(nil)
	report(t, r, "a", isMeshd, peers.Directive{Finishes: true}, true)
}

func TestStateAt(t *testing.T) {
	just, long := noon.Add(-9*time.Second), noon.Add(-10*time.Second)
	for _, test := range []struct {
		name  string
		facts peers.Facts
		want  peers.State
	}{
		{"nothing is known", peers.Facts{}, peers.Unknown},
		{"asked, and no answer yet", peers.Facts{Asked: true}, peers.Unknown},
		{"asked, and heard without an answer", peers.Facts{Asked: true, Heard: just}, peers.Unknown},
		{"as probes tell it: up", peers.Facts{Asked: true, State: peers.Up}, peers.Up},
		{"as probes tell it: stale", peers.Facts{Asked: true, State: peers.Stale, Heard: just}, peers.Stale},
		{"as probes tell it: down", peers.Facts{Asked: true, State: peers.Down, Heard: just}, peers.Down},
		{"not asked, heard just now", peers.Facts{Heard: noon}, peers.Up},
		{"not asked, heard lately", peers.Facts{Heard: just}, peers.Up},
		{"not asked, heard long ago", peers.Facts{Heard: long}, peers.Unknown},
		{"not asked any more", peers.Facts{State: peers.Down}, peers.Unknown},
		{"not asked any more, and heard", peers.Facts{State: peers.Down, Heard: just}, peers.Up},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.facts.StateAt(noon); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestCount(t *testing.T) {
	r := peers.New()
	for name, f := range map[string]peers.Facts{
		"a": {Asked: true, State: peers.Up}, "b": {Asked: true, State: peers.Down}, "c": {Heard: noon}, "d": {},
	} {
		r.Report(name, func(facts *peers.Facts) { *facts = f })
	}
	for _, test := range []struct {
		state peers.State
		at    time.Time
		want  int
	}{
		{peers.Up, noon, 2}, {peers.Down, noon, 1}, {peers.Stale, noon, 0}, {peers.Unknown, noon, 1},
		{peers.Up, noon.Add(time.Minute), 1}, {peers.Unknown, noon.Add(time.Minute), 2},
	} {
		t.Run(fmt.Sprintf("%s after %v", test.state, test.at.Sub(noon)), func(t *testing.T) {
			if got := r.Count(test.state, test.at); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}

// Probes, the engine, reloads and questions use it at once. Of all reports of one peer exactly one
// is the first.
func TestRegistryOfMany(t *testing.T) {
	r := peers.New()
	const count, reporters = 20, 8
	var names []string
	for i := range count {
		names = append(names, fmt.Sprint("n", i))
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	firsts := map[string]int{}
	for range reporters {
		all.Go(func() {
			for _, name := range names {
				if _, news := r.Report(name, func(f *peers.Facts) { f.Heard = noon }); news {
					mu.Lock()
					firsts[name]++
					mu.Unlock()
				}
				r.Of(name)
				r.Count(peers.Up, noon)
				r.Keep(names)
			}
		})
	}
	all.Wait()
	for _, name := range names {
		if firsts[name] != 1 {
			t.Errorf("%s was news %d times", name, firsts[name])
		}
	}
	if got := r.Count(peers.Up, noon); got != count {
		t.Errorf("%d are up, want %d", got, count)
	}
}

// Only paths that carry less than the interface are narrow.
func TestNarrow(t *testing.T) {
	want := map[string]int{"narrow": 1252, "a narrower interface": 1400}
	r := peers.New()
	for name, path := range map[string]peers.PathMTU{
		"full":                 {InUse: 1472, Most: 1472, Interface: 1472, Proven: true},
		"a narrower interface": {InUse: 1400, Most: 1400, Interface: 1472, Proven: true},
		"narrow":               {InUse: 1252, Most: 1472, Interface: 1472, Proven: true},
		"unmeasured":           {},
	} {
		d, _ := r.Report(name, func(f *peers.Facts) { f.Path = path })
		if want := want[name]; d.MTU != want {
			t.Errorf("%s: engines are told %d, want %d", name, d.MTU, want)
		}
	}
	if got := r.Narrow(); !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
