package steer_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"example.org/meshd/internal/forms"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/probe"
)

// world is a prober whose neighbours lose what they are told to lose.
type world struct {
	*probe.Prober
	neighbour *probe.Prober
	now       time.Time
	loses     map[string]float64 // by peer and address: the share of questions without an answer
	large     bool               // large ones are lost, too
	unheard   bool               // neighbours tell that they hear nothing
}

func newWorld(p *probe.Prober) *world {
	w := &world{Prober: p, now: noon, loses: map[string]float64{},
		neighbour: probe.New(unheard)}
	w.neighbour.Introduce(probe.Self{Version: "2", Hash: [32]byte{1}})
	bounds := probe.Bounds{Sizes: probe.Sizes{Least: 548, Most: 1444, Headers: 28}}
	w.Set(probe.Settings{Peers: []string{"one", "two"}, Interval: time.Second,
		Bounds: []probe.Bounds{bounds, bounds},
		Via:    map[string][]netip.AddrPort{"two": {first, second}}})
	return w
}

// second lets a second pass, and returns the changes in it.
func (w *world) second() (all []probe.Change) {
	for end := w.now.Add(time.Second); w.now.Before(end); w.now = w.now.Add(50 * time.Millisecond) {
		for again := true; again; {
			questions, changes := w.Work(w.now)
			all, again = append(all, changes...), len(questions) >= probe.Batch
			for _, q := range questions {
				if rand.Float64() < w.loses[q.Peer+q.Via.String()] || w.large && q.Form == probe.Large {
					continue
				}
				answer, _ := w.neighbour.Answer("us", netip.AddrPort{}, false, bytes.Clone(q.Payload), w.now)
				if w.unheard {
					answer[9] |= byte(probe.Unheard) // where the payload has its flags
				}
				w.Answer(q.Peer, q.Via, true, answer, w.now.Add(7*time.Millisecond))
			}
		}
	}
	return all
}

// What follows from glances is what follows from a report of each peer every second, whatever happens.
func TestGlanceIsEnough(t *testing.T) {
	s, _, p, registry, _ := newSteerer()
	w, oracle, sender := newWorld(p), peers.New(), &forms.Sender{}
	sender.Configure(false, 1472)
	everything := func(r probe.Report) func(*peers.Facts) {
		return func(f *peers.Facts) {
			f.Asked, f.State = true, peers.State(r.State.String())
			sender.Update(f, r)
			f.Conclude(w.now)
		}
	}
	reports, glances, found := 0, 0, map[string]bool{}
	for phase := range 60 {
		for _, path := range []string{"oneinvalid AddrPort", "two" + first.String(), "two" + second.String()} {
			w.loses[path] = []float64{0, 0, 0, 0.05, 0.4, 1}[rand.IntN(6)]
		}
		w.large, w.unheard = rand.IntN(4) == 0, rand.IntN(4) == 0
		for range 5 + rand.IntN(60) {
			for _, c := range w.second() {
				r, _ := p.Report(c.Peer) // before either side follows
				s.Learn(c.Peer, w.now, everything(r))
				oracle.Report(c.Peer, everything(r))
			}
			for _, peer := range []string{"one", "two"} {
				glances++
				r, _ := p.Report(peer)
				s.Glance(peer, w.now, w.now, func(f *peers.Facts, r probe.Report) {
					reports++
					sender.Update(f, r)
				})
				oracle.Report(peer, func(f *peers.Facts) {
					f.Heard = w.now
					sender.Update(f, r)
					f.Conclude(w.now)
				})
			}
			s.Heed(w.now)
			for _, peer := range []string{"one", "two"} {
				got, want := registry.Of(peer), oracle.Of(peer)
				a, b := got.Conditions(peer, registry.Own(), w.now), want.Conditions(peer, oracle.Own(), w.now)
				if !reflect.DeepEqual(a, b) || got.Via() != want.Via() || got.Path != want.Path ||
					got.Met != want.Met {
					t.Fatalf("phase %d, %v: %s goes by %v, want %v:\n%+v\nwant\n%+v\n%+v\nwant\n%+v", phase, w.loses, peer,
						got.Via(), want.Via(), a, b, got, want)
				}
				for _, c := range a {
					found[fmt.Sprint(c.Kind)] = true
				}
			}
		}
	}
	if len(found) < 4 || reports == 0 || reports == glances {
		t.Errorf("%d reports for %d glances, conditions %v", reports, glances, found)
	}
	// Where all is well, nothing is left to report.
	w.loses, w.large, w.unheard = map[string]float64{}, false, false
	for range 120 {
		w.second()
		s.Glance("one", w.now, w.now, func(*peers.Facts, probe.Report) {})
	}
	s.Glance("one", w.now, w.now, func(*peers.Facts, probe.Report) {
		t.Error("a report of a peer that is well")
	})
}

// What probes do not follow is learned each time: here what was heard counts.
func TestGlanceOfWhatIsNotAsked(t *testing.T) {
	s, _, _, registry, _ := newSteerer()
	for second := range 3 {
		at := noon.Add(time.Duration(second) * time.Second)
		g := s.Glance("flannel", at, at, func(*peers.Facts, probe.Report) { t.Error("there is no report") })
		if g.Probes > 0 || registry.Of("flannel").StateAt(at) != peers.Up {
			t.Errorf("second %d: %+v", second, registry.Of("flannel"))
		}
	}
}
