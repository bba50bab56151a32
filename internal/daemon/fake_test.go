package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/seal"
	"example.org/meshd/internal/source"
	"example.org/meshd/internal/survey"
)

// file is a mesh of three nodes; the host of most tests is a.
const file = plantest.File

// with returns the file with one text in the place of another.
func with(old, next string) string {
	if !strings.Contains(file, old) {
		panic("the file has no " + old)
	}
	return strings.ReplaceAll(file, old, next)
}

func addrs(ss ...string) (as []netip.Addr) {
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// kindsOf returns what conditions are about.
func kindsOf(cs []mesh.Condition) (kinds []mesh.Kind) {
	for _, c := range cs {
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

// announcements is a service that remembers what it was told.
type announcements struct{ nstest.Events }

func (a *announcements) Reloading(string) { a.Add("reloading") }
func (a *announcements) Ready()           { a.Add("ready") }

// world is the file and the host around a reconciler.
type world struct {
	doc     string
	unread  error                  // why the file cannot be read
	again   time.Duration          // when it is read again, if it cannot be read
	local   []netip.Addr           // addresses of the host
	ways    []string               // to the peers
	unfit   error                  // why the host's routes leave no room
	refused error                  // why a part fails
	picky   func(*plan.Plan) error // why a part fails with a plan; may be nil
	damage  []mesh.Change
	taken   int    // how often the TUN was taken away
	busy    func() // called by each look at the host; may be nil
	hang    func() // called by each part; may be nil

	looks, parses int      // at the host, and of the file
	order         uint64   // of the last reading
	steps         []step   // that were applied
	kept          []string // texts that came into force
}

// lab is a reconciler in a world of a test's making.
type lab struct {
	t *testing.T
	*reconciler
	events  *nstest.Events
	service *announcements

	mu    sync.Mutex
	world world
}

var errRefused = errors.New("no memory")

// newLab returns a reconciler of a daemon that has loaded file, on the host of node a.
func newLab(t *testing.T, change ...func(w *world)) *lab {
	l := &lab{t: t, events: &nstest.Events{}, service: &announcements{}}
	l.world = world{doc: file, local: addrs("172.18.0.2")}
	for _, f := range change {
		f(&l.world)
	}
	c := plantest.Parse(t, l.world.doc)
	o := Options{ConfigPath: "/nowhere/mesh.toml", Log: slog.New(l.events)}
	first := begin.File{Config: c, Reading: l.readFile(t.Context())}
	l.reconciler = newReconciler(o, first, newPublished(c), &host{}, noNames(o), make(chan struct{}, 1))
	l.reconciler.service = l.service
	l.read, l.parse, l.observe, l.fits, l.parts = l.readFile, l.parseFile, l.observeHost, l.fit, l.fakeParts
	l.accepted = func(c *config.Config) { l.set(func(w *world) { w.kept = append(w.kept, c.Text()) }) }
	l.told, l.taken = func() seal.Told { return seal.Told{} }, func() int { return l.get().taken }
	l.instead = func(_ context.Context, _ source.Reading, bad error) (begin.File, error) {
		return begin.File{}, bad
	}
	return l
}

// set changes the world, and get returns it as it is.
func (l *lab) set(f func(w *world)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.world)
}

func (l *lab) get() world {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.world
}

// readFile returns the file as it is in the world.
func (l *lab) readFile(context.Context) source.Reading {
	l.set(func(w *world) { w.order++ })
	w := l.get()
	if w.unread != nil {
		return source.Reading{Err: w.unread, Order: w.order, Again: w.again}
	}
	// Any hash will do that is another one for another text.
	return source.Reading{Doc: []byte(w.doc), Sum: w.doc, Order: w.order}
}

func (l *lab) parseFile(_ *config.Config, one source.Reading) (*config.Config, error) {
	l.set(func(w *world) { w.parses++ })
	if one.Err != nil {
		return nil, config.Unreadable("mesh.toml", one.Err)
	}
	return config.Parse("mesh.toml", one.Doc)
}

func (l *lab) observeHost(c *config.Config) (self int, h plan.Host, err error) {
	l.set(func(w *world) { w.looks++ })
	w := l.get()
	if w.busy != nil {
		w.busy()
	}
	h = plan.Host{Local: w.local, Underlay: link.Underlay{MTU: 1500, Ways: w.ways}, CPUs: 2}
	self, err = plan.Identify(c, "", w.local, mesh.Key{})
	return self, h, err
}

func (l *lab) fit(*plan.Plan) error { return l.get().unfit }

func (l *lab) fakeParts(s step) []part {
	return []part{{name: "fake", apply: func(context.Context, *plan.Plan) (effect, error) {
		w := l.get()
		if w.hang != nil {
			w.hang()
		}
		if w.refused != nil {
			return effect{}, w.refused
		}
		if w.picky != nil {
			if err := w.picky(s.next); err != nil {
				return effect{}, err
			}
		}
		l.set(func(w *world) { w.steps, w.damage = append(w.steps, s), nil })
		return effect{changes: w.damage}, nil
	}}}
}

// inBubble runs a test with a reconciler whose Run runs, in a bubble of time, and ends both.
func inBubble(t *testing.T, test func(l *lab), change ...func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, change...)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		test(l)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// edit saves a file, as somebody with an editor does.
func (l *lab) edit(doc string) {
	l.set(func(w *world) { w.doc, w.unread = doc, nil })
	l.saved()
}

// saved reads the file and gives it to the reconciler, as the follower does after an event in its folder.
func (l *lab) saved() {
	l.take(l.t.Context(), l.readFile(l.t.Context()))
	synctest.Wait()
}

// changes changes the host, which is news.
func (l *lab) changes(f func(w *world)) {
	l.set(f)
	wake(l.news)
	synctest.Wait()
}

// isAt compares what is published of the plan in force.
func (l *lab) isAt(when string, generation int, notes ...mesh.Kind) {
	l.t.Helper()
	v := l.view.now()
	if got := kindsOf(v.notes); v.generation != generation || !slices.Equal(got, notes) {
		l.t.Errorf("%s: generation %d, %q, want %d, %q", when, v.generation, got, generation, notes)
	}
	if (v.plan == nil) != (generation == 0) || v.plan != nil && v.config != v.plan.Config {
		l.t.Errorf("%s: plan %v with another file", when, v.plan)
	}
}

// rejects compares why the file on disk is not in force.
func (l *lab) rejects(when string, kind mesh.Kind) {
	l.t.Helper()
	v := l.view.now()
	var got mesh.Kind
	if v.rejected != nil {
		got = v.rejected.Kind
	}
	if got != kind || v.reload.OK != (kind == "") || (v.reload.Error == "") != v.reload.OK {
		l.t.Errorf("%s: %q, reload %+v, want %q", when, got, v.reload, kind)
	}
}

// logged compares the events since the last call.
func (l *lab) logged(when string, want ...string) {
	l.t.Helper()
	if got := l.events.Take(); !slices.Equal(got, want) {
		l.t.Errorf("%s: logged %q, want %q", when, got, want)
	}
}

// announced compares what the service was told since the last call.
func (l *lab) announced(when string, want ...string) {
	l.t.Helper()
	if got := l.service.Take(); !slices.Equal(got, want) {
		l.t.Errorf("%s: announced %q, want %q", when, got, want)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// noNames resolves nothing: it is not run.
func noNames(o Options) survey.Names {
	return survey.NewNames(o.Log, "", func() {}, nil)
}
