package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
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
		wake(l.file) // as for any event in the file's directory
		synctest.Wait()
		if got := l.get().reads; got != 0 {
			t.Errorf("the same content was read %d times", got)
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
				wake(l.file)
				l.changes(func(*world) {})
				l.rejects("an hour later", mesh.FileRejected)
				if w := l.get(); w.reads != 1 || w.looks != looks+1 || len(w.steps) != 2 {
					t.Errorf("it was tried again: %d reads, %d looks", w.reads, w.looks)
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
		l.logged("refused", "reload_rejected")
		before := l.view.now().plan
		reads := l.get().reads
		pass(3*time.Second + time.Millisecond)
		l.rejects("tried again", mesh.ReloadPending)
		if l.view.now().plan != before {
			t.Error("another plan is in force")
		}
		l.set(func(w *world) { w.refused = nil })
		pass(time.Minute)
		l.rejects("the host is ready", "")
		l.isAt("the host is ready", 2)
		if got := l.get().reads; got == reads {
			t.Error("the file was not read again: it may be another one by now")
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
				if p.Config.Nodes[2].Address.Addr() == addrs("172.18.0.9")[0] {
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
		if got := l.get().reads; got != 1 {
			t.Errorf("it was tried %d times in the first second", got)
		}
		pass(time.Second)
		if got := l.get().reads; got != 2 {
			t.Errorf("it was tried %d times after a second", got)
		}
		pass(time.Hour)
		l.isAt("the plan in force is not damaged by that", 1)
		rejected := slices.DeleteFunc(l.events.Take(), func(kind string) bool { return kind != "reload_rejected" })
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
		if got := l.events.Take(); slices.Contains(got, "reload_rejected") {
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
		if v := l.view.now(); v.generation != 1 || v.plan.Self.Address.Addr() != addrs("172.18.0.2")[0] {
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

// A save in place shows an empty file for a moment, and some editors none at all: that is no edit.
func TestFileThatIsMissingForAMoment(t *testing.T) {
	for name, change := range map[string]func(w *world){
		"empty":   func(w *world) { w.doc = "" },
		"missing": func(w *world) { w.missing = true },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(l *lab) {
				l.events.Take()
				gone := func() {
					l.set(change)
					wake(l.file)
					pass(patience / 2)
					l.rejects("for a moment", "")
				}
				gone()
				l.set(func(w *world) { w.doc, w.missing = file, false })
				pass(time.Minute)
				l.logged("it was back in time", "file_missing")
				if got := l.get().reads; got != 0 {
					t.Errorf("it was read %d times", got)
				}
				gone()
				pass(patience)
				l.rejects("for long", mesh.FileRejected)
				l.logged("for long", "file_missing", "reload_rejected")
				wake(l.file)
				pass(time.Minute)
				if got := l.get().reads; got != 1 {
					t.Errorf("what is gone was read %d times", got)
				}
				l.edit(moved)
				l.rejects("back", "")
				l.isAt("back", 2)
			})
		})
	}
}

func TestReloadBySignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, hup := newLab(t), make(chan os.Signal, 1)
		l.reloads = hup
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		l.set(func(w *world) { w.doc = moved })
		hup <- os.Interrupt
		synctest.Wait()
		l.isAt("after the signal", 2)
		cancel()
		if err := <-done; err != nil {
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

func TestSpoken(t *testing.T) {
	var changes []mesh.Change
	for i := range changesLogged + 2 {
		changes = append(changes, mesh.Change{Op: mesh.Added, Kind: mesh.ChangedRoute, New: fmt.Sprint(i)})
	}
	for _, test := range []struct {
		name    string
		changes []mesh.Change
		lines   int
		last    string
	}{
		{"none", nil, 1, ""},
		{"one", changes[:1], 1, changes[0].String()},
		{"as many as fit", changes[:changesLogged], changesLogged, changes[changesLogged-1].String()},
		{"more", changes, changesLogged + 1, "and 2 more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			lines := strings.Split(spoken(test.changes), "; ")
			if len(lines) != test.lines || lines[len(lines)-1] != test.last {
				t.Errorf("%q", lines)
			}
		})
	}
}

// What is published is never changed: who holds a view holds a moment.
func TestViewsAreMoments(t *testing.T) {
	v := newPublished(parse(t, file))
	starting := v.now()
	p := planned(t, file)
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
