package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/source"
)

var moved = with("172.18.0.4", "172.18.0.9")

// An edit is a new generation, and whoever asks later hears what it changed.
func TestReload(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.events.Take()
		l.service.Take()
		pass(time.Minute)
		l.edit(moved)
		l.isAt("an edit", 2)
		l.rejects("an edit", "")
		l.logged("an edit", "reloaded")
		l.announced("an edit", "reloading", "ready")
		v := l.view.now()
		want := []control.Change{{Op: "~", Kind: "peer", Subject: "c", Field: "address", Old: "172.18.0.4:8285",
			New: "172.18.0.9:8285"}}
		if !slices.Equal(v.reload.Details, want) || len(v.reload.Changes) != 1 || !v.reload.At.Equal(now()) ||
			!v.applied.Equal(now()) {
			t.Errorf("%+v", v.reload)
		}
		w := l.get()
		if last := w.steps[len(w.steps)-1]; !last.reread || last.next != v.plan || last.old == last.next {
			t.Errorf("%+v", last)
		}
		if v.repairs != 0 {
			t.Errorf("%d repairs", v.repairs)
		}
	})
}

// An edit that the kernel tells of while somebody waits for a reload is applied once, and both hear of it.
func TestEditIsAppliedOnce(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.read = func(ctx context.Context) source.Reading { // reading takes its time
			pass(time.Millisecond)
			one := l.readFile(ctx)
			l.take(ctx, one)
			pass(time.Millisecond)
			return one
		}
		ask := func(what string, applied, changes int) {
			t.Helper()
			before := len(l.get().steps)
			r, err := l.ask(l.t.Context(), "a test")
			if err != nil || !r.Reload.OK || len(r.Reload.Changes) != changes {
				t.Errorf("%s: %+v, %v", what, r, err)
			}
			if n := len(l.get().steps) - before; n != applied {
				t.Errorf("%s: applied %d times", what, n)
			}
		}
		l.set(func(w *world) { w.doc = moved })
		ask("an edit", 1, 1)
		ask("no edit", 1, 0)
		l.isAt("an edit", 2)
	})
}

// A generation is a file, or what a file asks of another host: the same again is none.
func TestGenerationGrowsOnChange(t *testing.T) {
	inBubble(t, func(l *lab) {
		ask := func() control.ReloadResult {
			t.Helper()
			r, err := l.ask(l.t.Context(), "a test")
			if err != nil {
				t.Error(err)
			}
			return r
		}
		l.saved()
		if got := l.get().parses; got != 0 {
			t.Errorf("the same content was parsed %d times", got)
		}
		applied := l.view.now().applied
		pass(time.Minute)
		for range 2 {
			if r := ask(); r.Generation != 1 || !r.Reload.OK || len(r.Reload.Changes) != 0 || r.Reload.Changes == nil {
				t.Errorf("the same file: %+v", r)
			}
		}
		if v := l.view.now(); !v.applied.Equal(applied) || v.reload.At.Equal(applied) {
			t.Errorf("generation 1 came into force anew: %+v", v)
		}
		l.set(func(w *world) { w.doc = file + "# a comment\n" })
		if r := ask(); r.Generation != 2 || !r.Reload.OK || len(r.Reload.Changes) != 0 {
			t.Errorf("another comment is another file: %+v", r)
		}
		l.set(func(w *world) { w.ways = []string{"eth1"} })
		if r := ask(); r.Generation != 3 || len(r.Reload.Changes) != 1 {
			t.Errorf("the same file on another host: %+v", r)
		}
		l.set(func(w *world) { w.damage = []mesh.Change{{Op: mesh.Repaired}} })
		if r := ask(); r.Generation != 3 {
			t.Errorf("what was damaged is no change: %+v", r)
		}
	})
}

// A file that cannot be is rejected as a whole, and is not tried again.
func TestFaultyFile(t *testing.T) {
	for _, test := range []struct {
		name, doc string
		err       error
		faults    int // with a place
	}{
		{"no TOML", "[network", nil, 1},
		{"two faults", with(`subnets = ["10.244.2.0/24"]`, `subnets = ["x"]`) + "x = 1\n", nil, 2},
		{"another name of the TUN", with("[network]", "[network]\ninterface = \"x\""), nil, 1},
		{"addresses of two nodes", strings.Replace(file, "172.18.0.3", "192.0.2.9", 1), plan.ErrIdentity, 0},
		{"an MTU that IPv6 cannot live with",
			with(`["10.244.0.0/16"]`, "[\"10.244.0.0/16\", \"fd00::/48\"]\nmtu = 1000"), nil, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(l *lab) {
				before := l.view.now()
				l.events.Take()
				l.set(func(w *world) { w.doc, w.looks = test.doc, 0 })
				r, err := l.ask(l.t.Context(), "a test")
				if err != nil || r.Reload.OK || r.Reload.Error == "" || r.Generation != 1 ||
					len(r.Faults) != test.faults {
					t.Errorf("%+v, %v", r, err)
				}
				for _, f := range r.Faults {
					if f.Line == 0 || f.File != "mesh.toml" {
						t.Errorf("%+v", f)
					}
				}
				l.isAt("rejected", 1)
				l.rejects("rejected", mesh.FileRejected)
				l.logged("rejected", "reload_rejected")
				if v := l.view.now(); v.plan != before.plan || v.rejected.Severity != mesh.Degraded {
					t.Errorf("%+v", v)
				}
				looks := l.get().looks
				pass(time.Hour)
				l.saved()
				l.changes(func(*world) {})
				l.rejects("an hour later", mesh.FileRejected)
				if w := l.get(); w.parses != 1 || w.looks != looks+1 || len(w.steps) != 2 {
					t.Errorf("it was tried again: %d times, %d looks", w.parses, w.looks)
				}
				l.edit(file)
				l.rejects("mended", "")
				l.isAt("mended", 1)
			}, func(w *world) { w.local = append(w.local, addrs("192.0.2.9")...) })
		})
	}
}

// A good file that the host refuses waits, and is in force once the host is ready for it.
func TestFaultyHost(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.events.Take()
		l.set(func(w *world) { w.refused = errRefused })
		l.edit(moved)
		l.rejects("refused", mesh.ReloadPending)
		l.isAt("refused", 1)
		l.logged("refused", "reload_pending")
		before := l.view.now().plan
		parses := l.get().parses
		if v := l.view.now(); !v.reload.Pending || v.reload.RetrySeconds != 1 || v.rejected.Again != time.Second {
			t.Errorf("%+v, %+v", v.reload, v.rejected)
		}
		pass(3*time.Second + time.Millisecond)
		l.rejects("tried again", mesh.ReloadPending)
		if l.view.now().plan != before {
			t.Error("another plan is in force")
		}
		l.set(func(w *world) { w.refused = nil })
		pass(time.Minute)
		l.rejects("the host is ready", "")
		l.isAt("the host is ready", 2)
		if got := l.get().parses; got == parses {
			t.Error("the file was not tried again")
		}
		looks := l.get().looks
		pass(time.Hour)
		if got := l.get().looks; got != looks {
			t.Errorf("%d more attempts", got-looks)
		}
	})
}

// An attempt changes the host and changes it back, which is news of the host: so a file that was
// refused is tried again after a pause, whatever the host does meanwhile, and that is said once.
func TestRefusedFileWaitsForItsTime(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.set(func(w *world) {
			w.picky = func(p *plan.Plan) error {
				if p.Config.Nodes[2].Address().Addr() == addrs("172.18.0.9")[0] {
					return errRefused
				}
				return nil
			}
		})
		l.edit(moved)
		l.rejects("refused", mesh.ReloadPending)
		for range 9 {
			pass(100 * time.Millisecond)
			l.changes(func(*world) {})
		}
		if got := l.get().parses; got != 1 {
			t.Errorf("it was tried %d times in the first second", got)
		}
		pass(time.Second)
		if got := l.get().parses; got != 2 {
			t.Errorf("it was tried %d times after a second", got)
		}
		pass(time.Hour)
		l.isAt("the plan in force is not damaged by that", 1)
		rejected := slices.DeleteFunc(l.events.Take(), func(kind string) bool { return kind != "reload_pending" })
		if len(rejected) != 1 {
			t.Errorf("it was said %d times", len(rejected))
		}
		if v := l.view.now(); v.repairs != 0 {
			t.Errorf("%d repairs", v.repairs)
		}
	})
}

// While a file waits, the host is asked less and less often, and the log says it once.
func TestPendingFileIsTriedWithPauses(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.set(func(w *world) { w.unfit = errRefused })
		l.edit(moved)
		l.events.Take()
		l.set(func(w *world) { w.looks = 0 })
		pass(10 * time.Minute)
		// A minute between two, each of which asks for the plan in force and for the one that waits.
		if got := l.get().looks; got < 20 || got > 40 {
			t.Errorf("%d looks in ten minutes", got)
		}
		if got := l.events.Take(); slices.Contains(got, "reload_pending") {
			t.Errorf("logged %q", got)
		}
		l.rejects("ten minutes later", mesh.ReloadPending)
		l.changes(func(w *world) { w.unfit = nil })
		l.rejects("news of the host", "")
		l.isAt("news of the host", 2)
	})
}

// A file without an address of this host waits for one; the plan in force stays meanwhile.
func TestFileOfOtherHosts(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.edit(with("172.18.0.2", "172.18.0.77"))
		l.rejects("no node is this host", mesh.ReloadPending)
		if v := l.view.now(); v.generation != 1 || v.plan.Self.Address().Addr() != addrs("172.18.0.2")[0] {
			t.Errorf("%+v", v.plan.Self)
		}
		pass(time.Second)
		l.changes(func(w *world) { w.local = addrs("172.18.0.77") })
		pass(time.Minute)
		l.rejects("the address arrived", "")
		l.isAt("the address arrived", 2)
	})
}

// A file that waits may be replaced by another, which is the one that counts then.
func TestPendingFileIsReplaced(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.set(func(w *world) { w.unfit = errRefused })
		l.edit(moved)
		l.rejects("it waits", mesh.ReloadPending)
		l.edit("[network")
		l.rejects("a faulty one", mesh.FileRejected)
		l.changes(func(w *world) { w.unfit = nil })
		pass(time.Hour)
		l.rejects("the one that waited is gone", mesh.FileRejected)
		l.isAt("the one that waited is gone", 1)
	})
}

// A file that cannot be read for a passing reason is not rejected: it counts once it can be read.
func TestFileThatCannotBeReadForNow(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.events.Take()
		l.set(func(w *world) {
			w.unread = &fs.PathError{Op: "open", Path: "mesh.toml", Err: syscall.EMFILE}
			w.doc, w.again = moved, time.Second
		})
		l.saved()
		l.rejects("no descriptor", mesh.FileUnread)
		l.isAt("no descriptor", 1)
		l.logged("no descriptor", "reload_pending")
		l.set(func(w *world) { w.again = 8 * time.Second })
		l.saved()
		l.logged("it was said")
		if v := l.view.now(); v.rejected.Again != 8*time.Second || !v.reload.Pending || v.reload.RetrySeconds != 8 {
			t.Errorf("%+v, %+v", v.reload, v.rejected)
		}
		r, err := l.ask(l.t.Context(), "a test")
		if err != nil || r.Reload.OK || !r.Reload.Pending || r.Generation != 1 || len(r.Faults) != 0 {
			t.Errorf("%+v, %v", r, err)
		}
		l.edit(moved)
		l.rejects("it can be read", "")
		l.isAt("it can be read", 2)
		l.set(func(w *world) { w.unread = syscall.EIO })
		l.saved()
		l.rejects("a bad disk", mesh.FileUnread)
		l.edit(moved)
		l.rejects("it is the one in force", "")
		l.isAt("it is the one in force", 2)
	})
}

// What somebody read before an edit must not come into force after it.
func TestReadingThatIsLate(t *testing.T) {
	inBubble(t, func(l *lab) {
		late := l.readFile(l.t.Context())
		l.edit(moved)
		l.isAt("the edit", 2)
		l.take(l.t.Context(), late)
		synctest.Wait()
		l.read = func(context.Context) source.Reading { return late }
		if r, err := l.ask(l.t.Context(), "a test"); err != nil || r.Generation != 2 || !r.Reload.OK {
			t.Errorf("%+v, %v", r, err)
		}
		l.isAt("the late reading", 2)
	})
}

// Each file that comes into force is kept for a bad day, and no other.
func TestFilesInForceAreKept(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.edit("[network")
		l.set(func(w *world) { w.refused = errRefused })
		l.edit(with("172.18.0.4", "172.18.0.8"))
		l.set(func(w *world) { w.refused = nil })
		l.edit(moved)
		l.changes(func(w *world) { w.damage = []mesh.Change{{Op: mesh.Repaired}} })
		if got := l.get().kept; !slices.Equal(got, []string{file, moved}) {
			t.Errorf("%q", got)
		}
	})
}

func TestReloadBySignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, hup := newLab(t), make(chan os.Signal, 1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- l.Run(ctx) }()
		go func() { done <- l.obey(ctx, hup) }()
		synctest.Wait()
		l.set(func(w *world) { w.doc = moved })
		hup <- os.Interrupt
		synctest.Wait()
		l.isAt("after the signal", 2)
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
}

// Status holds a bounded number of changes, while whoever asked for the reload gets all.
func TestManyChanges(t *testing.T) {
	inBubble(t, func(l *lab) {
		var doc strings.Builder
		doc.WriteString(file)
		const more = changesKept + 7
		for i := range more {
			fmt.Fprintf(&doc, "[[node]]\nname = \"n%d\"\naddress = \"172.18.1.%d\"\nsubnets = [\"10.244.%d.0/24\"]\n",
				i, i+1, i+4)
		}
		l.set(func(w *world) { w.doc = doc.String() })
		r, err := l.ask(l.t.Context(), "a test")
		if err != nil || len(r.Reload.Changes) < more || len(r.Reload.Details) != len(r.Reload.Changes) {
			t.Errorf("%d changes, %d details, %v", len(r.Reload.Changes), len(r.Reload.Details), err)
		}
		v := l.view.now()
		if n := len(v.reload.Details); n != changesKept || len(v.reload.Changes) != n+1 ||
			v.reload.More != len(r.Reload.Details)-n {
			t.Errorf("status has %d of them and %d lines", len(v.reload.Details), len(v.reload.Changes))
		}
	})
}

// What is published is never changed: who holds a view holds a moment.
func TestViewsAreMoments(t *testing.T) {
	v := newPublished(plantest.Parse(t, file))
	starting := v.now()
	p := plantest.Make(t, file)
	v.began(p, now())
	v.failed(mesh.Condition{Kind: mesh.CannotApply}, false)
	failed := v.now()
	v.unfit(mesh.Condition{Kind: mesh.HostMismatch})
	v.failed(mesh.Condition{Kind: mesh.CannotApply, Cause: "another"}, true)
	both := v.now()
	v.repaired(p, true, true)
	unfit := v.now()
	v.repaired(p, false, false)
	for _, test := range []struct {
		name    string
		view    view
		repairs uint64
		notes   []mesh.Kind
	}{
		{"starting", starting, 0, []mesh.Kind{mesh.Starting}},
		{"failed", failed, 0, []mesh.Kind{mesh.CannotApply}},
		{"both", both, 0, []mesh.Kind{mesh.HostMismatch, mesh.CannotApply}},
		{"repaired, but unfit", unfit, 1, []mesh.Kind{mesh.HostMismatch}},
		{"well", v.now(), 1, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := kindsOf(test.view.notes); !slices.Equal(got, test.notes) || test.view.repairs != test.repairs {
				t.Errorf("%q, %d repairs", got, test.view.repairs)
			}
		})
	}
}

func TestFaultsOf(t *testing.T) {
	one := config.Faults{{Path: "x", Line: 3, Col: 1, Key: "network.mtu", Message: "m"}}
	for _, test := range []struct {
		name string
		err  error
		want []control.Error
	}{
		{"none", nil, nil},
		{"of the host", errRefused, nil},
		{"of the file", errors.Join(errRefused, one),
			[]control.Error{{Code: "bad_configuration", Message: one[0].String(), File: "x", Line: 3}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := faultsOf(test.err); !slices.Equal(got, test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}
