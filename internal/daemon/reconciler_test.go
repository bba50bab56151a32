package daemon

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
)

// pass lets time pass, and what is due then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestBegin(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.isAt("at the start", 1)
		l.logged("at the start", "forwarding")
		l.announced("at the start", "ready")
		v := l.view.now()
		if v.plan.Self.Name != "a" || !v.applied.Equal(now()) || !v.reload.OK || v.waits() || v.repairs != 0 {
			t.Errorf("%+v", v)
		}
		steps := l.get().steps
		if len(steps) != 1 || steps[0].old != nil || steps[0].next != v.plan || !steps[0].reread {
			t.Errorf("%+v", steps)
		}
		pass(time.Hour)
		if w := l.get(); w.looks != 1 || len(w.steps) != 1 {
			t.Errorf("%d looks though nothing happened", w.looks)
		}
	})
}

// What a daemon cannot begin with ends it: a file that cannot be, and a host that refuses.
func TestBeginThatFails(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(w *world)
		want   error
		config bool
	}{
		{"addresses of two nodes", func(w *world) { w.local = addrs("172.18.0.2", "172.18.0.3") },
			plan.ErrIdentity, true},
		{"the host refuses", func(w *world) { w.refused = errRefused }, errRefused, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, test.change)
			err := l.Run(t.Context())
			if !errors.Is(err, test.want) || errors.Is(err, ErrConfig) != test.config {
				t.Errorf("%v", err)
			}
			l.isAt("nothing is in force", 0, mesh.Starting)
			l.announced("nothing is in force")
		})
	}
}

// An edge box has no address yet. Its addresses come and go until the right one is there.
func TestWaitForAnAddress(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.isAt("without an address", 0, mesh.WaitingForUs)
		l.logged("without an address", "waiting")
		if v := l.view.now(); !v.waits() || v.notes[0].Severity != mesh.Failed || v.notes[0].Cause == "" {
			t.Errorf("%+v", v)
		}
		l.changes(func(w *world) { w.local = addrs("192.0.2.1") })
		l.changes(func(w *world) { w.local = nil })
		l.isAt("with others", 0, mesh.WaitingForUs)
		l.logged("it was said")
		l.announced("nothing is ready")
		l.changes(func(w *world) { w.local = addrs("172.18.0.3") })
		l.isAt("with an address", 1)
		l.logged("with an address", "forwarding")
		l.announced("with an address", "ready")
		if got := l.view.now().plan.Self.Name; got != "b" {
			t.Errorf("it is node %q", got)
		}
	}, func(w *world) { w.local = nil })
}

// Later a host that refuses the first plan is asked again, with longer and longer pauses.
func TestBeginLaterIsTriedAgain(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.changes(func(w *world) { w.local, w.refused, w.looks = addrs("172.18.0.2"), errRefused, 0 })
		l.isAt("refused", 0, mesh.CannotApply)
		pass(7*time.Second + time.Millisecond) // after 1, 3 and 7 s
		if looks := l.get().looks; looks != 4 {
			t.Errorf("%d attempts", looks)
		}
		l.set(func(w *world) { w.refused = nil })
		pass(8 * time.Second)
		l.isAt("at last", 1)
		pass(time.Hour)
		if w := l.get(); w.looks != 5 {
			t.Errorf("%d attempts after the one that succeeded", w.looks-5)
		}
		if got := l.backoff.Next(); got != backoff.First {
			t.Errorf("the failures are not forgotten: %v", got)
		}
	}, func(w *world) { w.local = nil })
}

// A file that was read while the host waited is the one in force once it has its address, and is not
// read once more.
func TestReloadWhileWaiting(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.edit(with("172.18.0.4", "172.18.0.9"))
		l.isAt("the new file waits", 0, mesh.WaitingForUs)
		l.rejects("the new file is good", "")
		if got := l.view.now().config; got != l.loaded || got.Nodes[2].Address().Addr() != addrs("172.18.0.9")[0] {
			t.Errorf("it waits with %+v", got.Nodes)
		}
		l.events.Take()
		l.changes(func(w *world) { w.local = addrs("172.18.0.2") })
		l.isAt("with an address", 1)
		pass(time.Hour)
		l.changes(func(*world) {})
		l.logged("it is in force, and stays", "forwarding")
		l.announced("it is in force, and stays", "ready")
		if parses := l.get().parses; parses != 1 {
			t.Errorf("the file was parsed %d times", parses)
		}
	}, func(w *world) { w.local = nil })
}

// While nothing is in force a file may be the wrong one, and the next one the right one.
func TestFaultyFileWhileWaiting(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.edit("[network")
		l.isAt("no TOML", 0, mesh.WaitingForUs)
		l.rejects("no TOML", mesh.FileRejected)
		l.edit(file)
		l.rejects("a good one", "")
		l.edit(with("172.18.0.2", "192.0.2.1"))
		l.isAt("the right one", 1)
		l.rejects("the right one", "")
	}, func(w *world) { w.local = addrs("192.0.2.1") })
}

// What others damage is repaired and counted, and no new generation.
func TestRepair(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.events.Take()
		l.changes(func(*world) {})
		l.isAt("nothing was damaged", 1)
		l.logged("nothing was damaged")
		pass(time.Second)
		l.changes(func(w *world) { w.damage = []mesh.Change{{Op: mesh.Repaired, Kind: mesh.ChangedRoute}} })
		l.isAt("a route was deleted", 1)
		l.logged("a route was deleted", "repaired")
		pass(time.Second)
		l.changes(func(w *world) { w.ways = []string{"eth1"} })
		l.logged("another way to a peer", "repaired")
		if got := l.view.now().repairs; got != 2 {
			t.Errorf("%d repairs", got)
		}
		steps := l.get().steps
		if last := steps[len(steps)-1]; last.reread || last.old == last.next || last.next != l.view.now().plan {
			t.Errorf("%+v", last)
		}
		l.service.Take()
	})
}

// A repair that fails is a condition and is tried again; that it succeeds at last is one repair.
func TestRepairThatFails(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.events.Take()
		l.changes(func(w *world) { w.refused = errRefused })
		pass(3*time.Second + time.Millisecond)
		l.isAt("the host refuses", 1, mesh.CannotApply)
		l.logged("the host refuses", "repair_failed", "repair_failed", "repair_failed")
		l.set(func(w *world) { w.refused = nil })
		pass(4 * time.Second)
		l.isAt("mended", 1)
		l.logged("mended", "repaired")
		pass(time.Hour)
		l.logged("and well")
		if got := l.view.now().repairs; got != 1 {
			t.Errorf("%d repairs", got)
		}
	})
}

// A program that takes the TUN away faster than it can be repaired is told as one that does it for ever, and
// not once a line. A host that refuses for a reason of its own is not taken for that.
func TestRepairThatIsUndone(t *testing.T) {
	for name, test := range map[string]struct {
		taken   int // by each attempt
		endless bool
	}{"taken away": {1, true}, "refused": {0, false}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(l *lab) {
				l.events.Take()
				for range 30 {
					l.changes(func(w *world) {
						w.refused = errRefused
						w.busy = func() { l.set(func(w *world) { w.taken += test.taken }) }
					})
					pass(time.Second)
				}
				got := l.repairs.Conditions(time.Now())
				if mesh.Has(got, mesh.RepairsEndless) != test.endless {
					t.Errorf("%+v", got)
				}
				seen := l.events.Take()
				if n := len(slices.DeleteFunc(seen, func(kind string) bool { return kind != "repair_failed" })); n != 10 {
					t.Errorf("%d lines of the log", n)
				}
			})
		})
	}
}

// A host that loses its address keeps the plan, with everything that it can do, until it is back.
func TestOwnAddressIsLost(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.events.Take()
		before := l.view.now().plan
		for range 2 {
			l.changes(func(w *world) { w.local = nil })
			pass(time.Second)
		}
		l.isAt("without its address", 1, mesh.HostMismatch)
		l.logged("it is said once", "address_lost")
		w := l.get()
		if last := w.steps[len(w.steps)-1]; len(w.steps) != 3 || last.old != before || last.next != before {
			t.Errorf("the plan in force was not applied: %+v", last)
		}
		if n := l.view.now().notes[0]; n.Severity != mesh.Degraded || n.Cause == "" || n.Remedy == "" {
			t.Errorf("%+v", n)
		}
		l.changes(func(w *world) { w.local = addrs("172.18.0.2") })
		l.isAt("back", 1)
		l.logged("back", "address_back")
		if got := l.view.now().repairs; got != 0 {
			t.Errorf("%d repairs", got)
		}
	})
}

// Without its address a host is damaged, and refuses: both is told, and both ends.
func TestOwnAddressIsLostAndTheHostRefuses(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.changes(func(w *world) { w.local, w.refused = nil, errRefused })
		l.isAt("both", 1, mesh.HostMismatch, mesh.CannotApply)
		l.set(func(w *world) { w.local = addrs("172.18.0.2") })
		pass(time.Second)
		l.isAt("the address is back", 1, mesh.CannotApply)
		l.set(func(w *world) { w.refused = nil })
		pass(2 * time.Second)
		l.isAt("all is well", 1)
	})
}

// A host whose routes take up the room of the plan is told, and keeps it.
func TestRoutesInTheWay(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.changes(func(w *world) { w.unfit = errRefused })
		l.isAt("in the way", 1, mesh.HostMismatch)
		pass(time.Second)
		l.changes(func(w *world) { w.unfit = nil })
		l.isAt("gone", 1)
	})
}

// A host with a million routes that come and go must not keep meshd busy: after a look it rests.
func TestRest(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.changes(func(w *world) { w.busy = func() { time.Sleep(time.Second) } })
		pass(time.Second)
		first := l.get().looks
		for range 39 { // 3.9 s
			wake(l.news)
			pass(100 * time.Millisecond)
		}
		if got := l.get().looks; got != first {
			t.Errorf("it looked %d times while it should rest", got-first)
		}
		pass(time.Second)
		if got := l.get().looks; got != first+1 {
			t.Errorf("it looked %d times after its rest", got-first)
		}
		pass(time.Second)
	})
}

// Run gives signs of life, but not while it hangs; whoever asks for one waits no longer than it wants.
func TestReconcilerAlive(t *testing.T) {
	inBubble(t, func(l *lab) {
		if err := l.alive(l.t.Context()); err != nil {
			t.Error(err)
		}
		end := make(chan struct{})
		l.changes(func(w *world) { w.hang = func() { <-end } })
		ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
		defer cancel()
		if err := l.alive(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if _, err := l.ask(ctx, "a test"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		close(end)
		if err := l.alive(l.t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// soon asks for one more look, unless one is due anyway.
func TestSoon(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.changes(func(w *world) {
			w.hang = func() { l.soon(); l.soon() } // as the part of forwarding does
		})
		l.set(func(w *world) { w.hang, w.looks = nil, 0 })
		pass(time.Minute)
		if got := l.get().looks; got != 1 {
			t.Errorf("%d looks", got)
		}
	})
}

// A warning is logged when a plan first has it, and not again with each plan.
func TestWarningsAreLoggedOnce(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.events.Take()
		const deaf = `name = "c"` + "\n" + `address = "172.18.0.4"`
		l.edit(with(deaf, `name = "c"`+"\n"+`address = "2001:db8::4"`))
		l.logged("a deaf peer", "warning", "reloaded")
		pass(time.Second)
		l.changes(func(*world) {})
		l.logged("it was said")
		if got := kindsOf(l.view.now().conditions()); !slices.Equal(got, []mesh.Kind{mesh.UnderlayFamilies}) {
			t.Errorf("%q", got)
		}
	})
}
