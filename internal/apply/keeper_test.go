package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/source"
)

// Texts of tests; the host takes any but faulty ones.
const (
	old, change, other = "old\n", "change\n", "other\n"
	faulty             = "faulty\n"
	refused            = "refused\n" // by the host, once it is tried
)

// A lab is a daemon around a Keeper, with clocks of its own. Its daemon dies and boots as tests say.
type lab struct {
	*Keeper
	t      *testing.T
	stop   func() // ends the daemon, without a last word
	folder string
	log    *nstest.Events

	boot   string
	booted time.Time
	jump   time.Duration // of the wall clock

	file word // on disk
	now  word // in force
	kept word // the last good file

	mu   sync.Mutex // guards puts
	puts []string
}

// A word is a text that the daemon and a test use at the same time.
type word struct{ held atomic.Value }

func (w *word) set(text string) { w.held.Store(text) }

func (w *word) get() string {
	text, _ := w.held.Load().(string)
	return text
}

// tried returns the texts that the reconciler was asked to put in force.
func (l *lab) tried() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.puts)
}

// inBubble runs a test with a daemon in whose file old is.
func inBubble(t *testing.T, test func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, stop: func() {}, folder: t.TempDir(), log: &nstest.Events{}, boot: "one",
			booted: time.Now()}
		l.file.set(old)
		l.start()
		defer func() { l.stop() }()
		test(l)
	})
}

// start begins a daemon as Run of package daemon does; the one before must have ended.
func (l *lab) start() {
	clock := Clock{Boot: func() string { return l.boot },
		Up:   func() time.Duration { return time.Since(l.booted) },
		Wall: func() time.Time { return time.Now().Add(l.jump) }}
	l.Keeper = New(l.folder, "/etc/mesh.toml", clock, slog.New(l.log))
	l.Load()
	l.Use(Daemon{
		Read: func(context.Context) source.Reading { return source.Holding([]byte(l.file.get())) },
		Plan: func(_ context.Context, path string, doc []byte) ([]control.Error, error) {
			if string(doc) == faulty {
				return []control.Error{{File: path, Line: 1}}, errors.New("it is faulty")
			}
			return nil, nil
		},
		Put:     l.put,
		Current: l.now.get,
		Settled: func(context.Context) { l.kept.set(l.now.get()) },
	})
	l.look()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = l.Run(ctx); close(done) }()
	synctest.Wait()
	l.stop = func() { cancel(); <-done }
}

// put is the reconciler.
func (l *lab) put(_ context.Context, _ string, doc []byte) (control.ReloadResult, error) {
	l.mu.Lock()
	l.puts = append(l.puts, string(doc))
	l.mu.Unlock()
	if string(doc) == refused {
		return control.ReloadResult{Reload: control.Reload{Error: "the host refuses"}}, nil
	}
	l.now.set(string(doc))
	if l.Accepted(string(doc)) {
		l.kept.set(string(doc))
	}
	return control.ReloadResult{Generation: 2, Reload: control.Reload{OK: true}}, nil
}

// look has the daemon read its file.
func (l *lab) look() {
	one := l.See(source.Holding([]byte(l.file.get())))
	if text := string(one.Doc); text != l.now.get() && text != faulty {
		_, _ = l.put(context.Background(), "the file changed", one.Doc)
	}
}

// edit writes the file by hand.
func (l *lab) edit(text string) {
	synctest.Wait()
	l.file.set(text)
	l.look()
	synctest.Wait()
}

// crash ends the daemon without a last word, and starts it again after a while, on another boot if it says
// so.
func (l *lab) crash(after time.Duration, reboots bool) {
	l.stop()
	l.now.set("")
	time.Sleep(after)
	if reboots {
		l.boot += "+"
		l.booted = time.Now()
	}
	l.start()
}

// change applies a text that waits for a minute, as root does who then writes the file, if it does.
func (l *lab) change(text string, writes bool) {
	l.t.Helper()
	synctest.Wait()
	_, err := l.Apply(context.Background(), control.ApplyRequest{Doc: []byte(text), ConfirmSeconds: 60,
		Follow: true,
		Asker:  control.Asker{By: "root", Told: control.Told{User: "alice"}}})
	if err != nil {
		l.t.Fatal(err)
	}
	if writes {
		l.edit(text)
	}
}

// is checks what is in force.
func (l *lab) is(when, want string, kinds ...mesh.Kind) {
	l.t.Helper()
	synctest.Wait()
	var got []mesh.Kind
	for _, c := range l.Conditions() {
		got = append(got, c.Kind)
	}
	if l.now.get() != want || !slices.Equal(got, kinds) {
		l.t.Errorf("%s: %q is in force, conditions %q; want %q, %q", when, l.now.get(), got, want, kinds)
	}
}

func TestConfirm(t *testing.T) {
	for _, writes := range []bool{true, false} {
		t.Run(fmt.Sprintf("file written %t", writes), func(t *testing.T) {
			inBubble(t, func(l *lab) {
				l.change(change, writes)
				l.is("it waits", change, mesh.ChangePending)
				if l.kept.get() != old {
					t.Errorf("%q is the last good file while a change waits", l.kept.get())
				}
				if p := l.Told(); p == nil || p.By != "root" || p.Told.User != "alice" || p.LeftSeconds != 60 {
					t.Errorf("%+v", p)
				}
				time.Sleep(59 * time.Second)
				if err := l.Confirm(l.t.Context(), control.Asker{By: "root"}, ""); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				var kinds []mesh.Kind
				if !writes {
					kinds = append(kinds, mesh.FileBehind)
				}
				l.is("confirmed", change, kinds...)
				if l.kept.get() != change || l.Told() != nil {
					t.Errorf("%q is the last good file", l.kept.get())
				}
				if err := l.Confirm(l.t.Context(), control.Asker{}, ""); !errors.Is(err, ErrNothing) {
					t.Errorf("again: %v", err)
				}
			})
		})
	}
}

func TestTakenBack(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.change(change, true)
		time.Sleep(61 * time.Second)
		l.is("its time is over", old, mesh.ChangeTakenBack)
		err := l.Confirm(l.t.Context(), control.Asker{}, "")
		if !errors.Is(err, ErrTakenBack) || control.ExitCode(refusal(err)) != 1 {
			t.Errorf("a late confirm: %v", err)
		}
		l.look()
		l.is("the file still has the change", old, mesh.ChangeTakenBack)
		l.edit(old) // as the unit of root does
		l.is("the file has followed", old, mesh.ChangeTakenBack)
		l.edit(change)
		l.is("somebody has written it again", change)
		if got := l.log.Take(); !slices.Contains(got, "change_pending") || !slices.Contains(got,
			"change_taken_back") {
			t.Errorf("logged %q", got)
		}
	})
}

// A change is taken back over crashes and reboots, whatever the wall clock does.
func TestRestarts(t *testing.T) {
	for _, test := range []struct {
		name    string
		away    time.Duration
		reboots bool
		jump    time.Duration // of the wall clock, while away
		want    string        // right after the start
		waits   time.Duration // how long it still waits, if it does
	}{
		{"a crash", 10 * time.Second, false, 0, change, 50 * time.Second},
		{"a crash that lasts", 61 * time.Second, false, 0, old, 0},
		{"a crash and a clock that is set forward", 10 * time.Second, false, time.Hour, change, 50 * time.Second},
		{"a crash and a clock that is set back", 10 * time.Second, false, -time.Hour, change, 50 * time.Second},
		{"a reboot", 10 * time.Second, true, 0, change, 50 * time.Second},
		{"a reboot that lasts", time.Hour, true, 0, old, 0},
		{"a reboot without a clock", 10 * time.Second, true, -time.Hour, old, 0},
		{"a reboot with a clock that is set forward", 10 * time.Second, true, time.Hour, old, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(l *lab) {
				l.change(change, true)
				l.jump = test.jump
				l.crash(test.away, test.reboots)
				kind := mesh.ChangePending
				if test.want == old {
					kind = mesh.ChangeTakenBack
				}
				l.is("after it", test.want, kind)
				if test.waits > 0 {
					time.Sleep(test.waits - time.Second)
					l.is("a second before its time", change, mesh.ChangePending)
					time.Sleep(2 * time.Second)
				}
				l.is("after its time", old, mesh.ChangeTakenBack)
				l.jump = 0
				l.crash(time.Hour, true)
				l.is("a later start", old, mesh.ChangeTakenBack)
			})
		})
	}
}

// A host that boots again and again does not put the deadline off.
func TestManyReboots(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.change(change, true)
		for range 7 {
			l.crash(9*time.Second, true)
		}
		l.is("after a minute of them", old, mesh.ChangeTakenBack)
	})
}

// An edit by hand is the newest word; one that is faulty is none.
func TestEdit(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.change(change, true)
		l.edit(faulty)
		l.is("a faulty edit", change, mesh.ChangePending)
		l.edit(other)
		l.is("an edit", other)
		time.Sleep(time.Hour)
		l.is("later", other)
		if got := l.log.Take(); !slices.Contains(got, "change_superseded") {
			t.Errorf("logged %q", got)
		}
		l.change(change, true)
		l.edit(other)
		l.is("the old file by hand", other)
	})
}

// Root writes each file after it is in force. One that comes late is no edit: the last one applied stays in
// force, and root is to write it.
func TestFilesRightAfterEachOther(t *testing.T) {
	apply := func(l *lab, text string) {
		_, err := l.Apply(l.t.Context(), control.ApplyRequest{Doc: []byte(text), Follow: true})
		must(l.t, err)
	}
	for name, write := range map[string]func(l *lab){
		"the first is written late": func(l *lab) {
			apply(l, change)
			apply(l, other)
			l.edit(change)
		},
		"the first is written while the second reads the file": func(l *lab) {
			apply(l, change)
			read := l.Keeper.daemon.Read
			l.Keeper.daemon.Read = func(ctx context.Context) source.Reading {
				before := read(ctx)
				l.file.set(change)
				l.look()
				return before
			}
			apply(l, other)
			l.Keeper.daemon.Read = read
			l.look()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(l *lab) {
				write(l)
				l.is("the file has the first one", other, mesh.FileBehind)
				text, owed, err := Owed(l.folder, "/etc/mesh.toml", []byte(change))
				if string(text) != other || !owed || err != nil {
					t.Errorf("root is to write %q, %t, %v", text, owed, err)
				}
				l.edit(other)
				l.is("the file has followed", other)
				l.edit(change)
				l.is("somebody writes the first one again", change)
			})
		})
	}
}

func TestApplyThatIsNotDone(t *testing.T) {
	inBubble(t, func(l *lab) {
		apply := func(text string) error {
			result, err := l.Apply(l.t.Context(), control.ApplyRequest{Doc: []byte(text), ConfirmSeconds: 60})
			if err == nil && !result.Reload.OK {
				err = errors.New(result.Reload.Error)
			}
			return err
		}
		if _, ok := errors.AsType[*control.Rejection](apply(faulty)); !ok || len(l.tried()) > 1 {
			t.Errorf("a faulty file is not rejected: tried %q", l.tried())
		}
		if err := apply(refused); err == nil {
			t.Error("the host refuses, and nothing is said")
		}
		l.is("a file that the host refuses", old)
		if got := l.tried()[len(l.tried())-1]; got != old {
			t.Errorf("the reconciler goes on with %q", got)
		}
		l.change(change, false)
		if err := apply(other); !errors.Is(err, ErrPending) {
			t.Errorf("while another waits: %v", err)
		}
		if err := apply(change); err != nil {
			t.Errorf("once more: %v", err)
		}
		if err := l.Confirm(l.t.Context(), control.Asker{}, sumOf([]byte(other))); !errors.Is(err, ErrOther) {
			t.Errorf("confirm another: %v", err)
		}
		l.is("after all that", change, mesh.ChangePending)
	})
}

// Without a way back there is no change.
func TestStateThatCannotBeKept(t *testing.T) {
	inBubble(t, func(l *lab) {
		must(t, os.RemoveAll(filepath.Join(l.folder, FilesName)))
		must(t, os.WriteFile(filepath.Join(l.folder, FilesName), nil, 0o600))
		_, err := l.Apply(l.t.Context(), control.ApplyRequest{Doc: []byte(change), ConfirmSeconds: 60})
		if !errors.Is(err, ErrNotKept) {
			t.Errorf("%v", err)
		}
		l.is("nothing was applied", old, mesh.StateFailed)
	})
}

// What a confirmation could not note in history is noted once the disk lets it, and the warning ends.
func TestConfirmedOnAFullDisk(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.change(change, true)
		synctest.Wait()
		files := filepath.Join(l.folder, FilesName)
		must(t, os.Rename(files, files+".away"), os.WriteFile(files, nil, 0o600))
		must(t, l.Confirm(l.t.Context(), control.Asker{}, ""))
		l.is("while the disk refuses", change, mesh.StateFailed)
		must(t, os.Remove(files), os.Rename(files+".away", files))
		time.Sleep(2 * again)
		l.is("afterwards", change)
		l.crash(time.Second, false)
		all, err := l.Files(l.t.Context())
		must(t, err)
		if got := all.Files[0].Outcome; got != "confirmed" {
			t.Errorf("history says %q", got)
		}
	})
}

func TestRollback(t *testing.T) {
	inBubble(t, func(l *lab) {
		rollback := func(number int) error {
			_, err := l.Rollback(l.t.Context(), control.RollbackRequest{Number: number})
			return err
		}
		if err := rollback(0); !errors.Is(err, ErrNoFile) {
			t.Errorf("without an earlier file: %v", err)
		}
		l.change(change, true)
		must(t, rollback(0))
		l.is("a change that waits", old, mesh.ChangeTakenBack)
		l.edit(old)
		l.edit(other)
		must(t, rollback(0))
		l.is("the file before", old, mesh.FileBehind)
		must(t, rollback(2))
		l.is("a file by its number", change, mesh.FileBehind)
		if err := rollback(99); !errors.Is(err, ErrNoFile) {
			t.Errorf("a number that there is not: %v", err)
		}
	})
}

func TestHistory(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.change(change, true)
		time.Sleep(2 * time.Minute)
		l.edit(old)
		for i := range Earlier {
			l.edit(fmt.Sprintf("edit %d\n", i))
		}
		all, err := l.Files(l.t.Context())
		if err != nil || len(all.Files) != Earlier+1 || !all.Files[0].InForce || all.Files[0].Number != Earlier+3 {
			t.Fatalf("%d files, %+v, %v", len(all.Files), all.Files[0], err)
		}
		oldest := all.Files[Earlier]
		one, err := l.File(l.t.Context(), oldest.Number)
		if err != nil || one.Text != old || oldest.Cause != CauseBack {
			t.Errorf("%+v, %v", one, err)
		}
		if _, err := l.File(l.t.Context(), 1); !errors.Is(err, ErrNoFile) {
			t.Errorf("one that was let go: %v", err)
		}
		texts, err := filepath.Glob(filepath.Join(l.folder, FilesName, "*"+suffix))
		if err != nil || len(texts) != Earlier+1 {
			t.Errorf("%d texts are kept, %v", len(texts), err)
		}
	})
}

// What happened to a change stands in history, with who made it.
func TestOutcomes(t *testing.T) {
	inBubble(t, func(l *lab) {
		l.change(change, true)
		time.Sleep(2 * time.Minute)
		l.edit(old)
		l.change(other, true)
		must(t, l.Confirm(l.t.Context(), control.Asker{}, ""))
		l.change(change, true)
		l.edit(old)
		all, err := l.Files(l.t.Context())
		must(t, err)
		var got []string
		for _, f := range all.Files {
			got = append(got, fmt.Sprintf("%s/%s/%s/%s", f.Cause, f.Outcome, f.By, f.Told.User))
		}
		want := []string{"edit///", "apply/superseded/root/alice", "apply/confirmed/root/alice", "taken_back///",
			"apply/taken_back/root/alice", "start///"}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
