package daemon

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/source"
)

var accepted = time.Date(2026, 11, 25, 10, 11, 12, 0, time.UTC)

// lastGood has a text in the place of a bad one.
func (l *lab) lastGood(doc string, bad error) begin.File {
	c, err := config.Parse("/state/last-good.toml", []byte(doc))
	if err != nil {
		l.t.Fatal(err)
	}
	return begin.File{Config: c, Bad: bad, Since: accepted}
}

// run runs a lab's reconciler until the test ends.
func (l *lab) run(test func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	synctest.Wait()
	test()
	cancel()
	if err := <-done; err != nil {
		l.t.Error(err)
	}
}

// A daemon that begins with the last good file says so until the file is mended, and what it says then
// is that all is well.
func TestLastGoodFile(t *testing.T) {
	bad := config.Faults{{Path: "mesh.toml", Line: 21, Col: 1, Key: "container.mut", Message: "unknown key"}}
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.useLastGood(l.lastGood(moved, bad))
		l.run(func() {
			l.logged("at the start", "last_good", "forwarding")
			l.isAt("at the start", 1)
			l.rejects("at the start", mesh.LastGoodFile)
			l.announced("at the start", "ready")
			tell := newTeller(Options{ConfigPath: "mesh.toml"}, l.view)
			v := l.view.now()
			if v.config.Path != "/state/last-good.toml" || v.rejected.Severity != mesh.Degraded ||
				v.rejected.Cause != bad.Error() || v.rejected.Subject == "" || v.waits() {
				t.Errorf("%+v", v.rejected)
			}
			if tell.current() == nil {
				t.Error("a successor would begin with another file")
			}
			l.edit("[network")
			l.rejects("worse", mesh.LastGoodFile)
			l.set(func(w *world) { w.refused = errRefused })
			l.edit(file)
			l.rejects("good, but refused", mesh.ReloadPending)
			if l.view.now().lastGood.IsZero() {
				t.Error("the last good file is still in force")
			}
			l.set(func(w *world) { w.refused = nil })
			pass(time.Minute)
			l.rejects("mended", "")
			l.isAt("mended", 2)
			if v := l.view.now(); !v.lastGood.IsZero() || v.config.Path != "mesh.toml" {
				t.Errorf("%+v", v)
			}
		})
	})
}

// While the last good file waits for an address, the operator reads the path of the file to edit, and not
// that of the state folder's.
func TestLastGoodFileWaitsForAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, func(w *world) { w.local = nil })
		good := l.lastGood(file, errRefused)
		l.useLastGood(good)
		l.run(func() {
			l.isAt("at the start", 0, mesh.WaitingForUs)
			l.rejects("at the start", mesh.LastGoodFile)
			n := l.view.now().notes[0]
			if n.Subject != "/nowhere/mesh.toml" || strings.Contains(n.Cause, good.Config.Path) {
				t.Errorf("%+v", n)
			}
		})
	})
}

// The file is mended to what the last good one says: the same generation, of another source.
func TestLastGoodFileIsTheMendedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.useLastGood(l.lastGood(file, errRefused))
		l.latest, l.tried = source.Reading{Err: errRefused}, "bad"
		l.run(func() {
			l.edit(file)
			l.rejects("mended", "")
			l.isAt("mended", 1)
			if v := l.view.now(); !v.lastGood.IsZero() || v.config.Path != "mesh.toml" {
				t.Errorf("%+v", v)
			}
		})
	})
}

// A file may be good in itself and impossible on this host: then, too, the last good one is run. If that
// is impossible as well, or there is none, the daemon ends with the fault.
func TestLastGoodFileOfAnImpossibleOne(t *testing.T) {
	two := func(w *world) { w.local = addrs("172.18.0.2", "172.18.0.9") } // the host is a, and the moved c
	for _, test := range []struct {
		name, good string
		runs       bool
	}{
		{"possible", file, true},
		{"impossible, too", moved, false},
		{"none", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, two, func(w *world) { w.doc = moved })
				asked := 0
				l.instead = func(_ context.Context, _ source.Reading, bad error) (begin.File, error) {
					if asked++; test.good == "" {
						return begin.File{}, bad
					}
					return l.lastGood(test.good, bad), nil
				}
				if !test.runs {
					err := l.Run(t.Context())
					if !errors.Is(err, ErrConfig) || !errors.Is(err, plan.ErrIdentity) || asked != 1 {
						t.Errorf("%v, asked %d times", err, asked)
					}
					return
				}
				l.run(func() {
					l.isAt("the last good one", 1)
					l.rejects("the last good one", mesh.LastGoodFile)
					pass(time.Hour)
					if len(l.get().steps) != 1 || asked != 1 {
						t.Errorf("%d steps", len(l.get().steps))
					}
				})
			})
		})
	}
}

// A port that an ending program still has is waited for at the start, but not for long: whoever started
// the daemon wants to hear of a port that stays taken.
func TestStartWaitsForWhatPasses(t *testing.T) {
	for _, test := range []struct {
		name   string
		reason error
		passes time.Duration // 0: never
		begins time.Duration // 0: never
		ends   time.Duration
	}{
		{"a port that is free after 5 s", syscall.EADDRINUSE, 5 * time.Second, 7 * time.Second, 0},
		{"a port that stays taken", syscall.EADDRINUSE, 0, 0, 7 * time.Second},
		{"a reason that stays", syscall.EPERM, 0, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, func(w *world) { w.refused = test.reason })
				began, done := time.Now(), make(chan error, 1)
				ctx, cancel := context.WithCancel(t.Context())
				go func() { done <- l.Run(ctx) }()
				synctest.Wait()
				if test.passes == 0 {
					if err := <-done; !errors.Is(err, test.reason) || time.Since(began) != test.ends {
						t.Errorf("%v after %v", err, time.Since(began))
					}
					cancel()
					return
				}
				l.isAt("it waits", 0, mesh.CannotApply)
				if again := l.view.now().notes[0].Again; again != time.Second {
					t.Errorf("again in %v", again)
				}
				pass(test.passes)
				l.set(func(w *world) { w.refused = nil })
				pass(test.begins - test.passes)
				l.isAt("it has begun", 1)
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Status says which text is in force.
func TestStatusOfTheLastGoodFile(t *testing.T) {
	v := newPublished(plantest.Parse(t, file))
	tell := newTeller(Options{ConfigPath: "mesh.toml"}, v)
	if c := tell.status().Config; c.Source != control.SourceFile || !c.LastGood.IsZero() || c.Error != "" {
		t.Errorf("%+v", c)
	}
	v.useLastGood(errRefused, accepted)
	s := tell.status()
	if c := s.Config; c.Source != control.SourceLastGood || !c.LastGood.Equal(accepted) || c.Error == "" ||
		c.LastReload.OK || c.Path != absolute(t, "mesh.toml") {
		t.Errorf("%+v", c)
	}
	if s.Health.Problems[1].Kind != string(mesh.LastGoodFile) {
		t.Errorf("%+v", s.Health)
	}
}
