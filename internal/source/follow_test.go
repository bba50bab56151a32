package source

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// following is a Follower of a file of a test's making, in a bubble of time.
type following struct {
	*Follower
	mu      sync.Mutex // held by the test but while time passes; readings of the file wait for it
	changed func()
	events  *nstest.Events
	doc     string
	err     error
	place   Place
	hang    chan struct{} // reads wait for it; may be nil
	reads   int
	got     []Reading
}

func follow(t *testing.T, test func(f *following)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &following{events: &nstest.Events{}, doc: "first"}
		f.Follower = NewFollower(NewReader("file", 100), slog.New(f.events))
		f.reader.read = func(string, int64) ([]byte, Place, error) {
			f.mu.Lock()
			f.reads++
			hang := f.hang
			f.mu.Unlock()
			if hang != nil {
				<-hang
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.err != nil {
				return nil, Place{}, f.err
			}
			return []byte(f.doc), f.place, nil
		}
		f.watch = func(ctx context.Context, _ string, changed func()) error {
			f.changed = changed // the test runs later
			changed()
			<-ctx.Done()
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx, func(_ context.Context, one Reading) { f.got = append(f.got, one) }) }()
		synctest.Wait()
		f.mu.Lock()
		test(f)
		f.mu.Unlock()
		began := time.Now()
		cancel()
		if err := <-done; err != nil || time.Since(began) > 0 {
			t.Errorf("ended with %v after %v", err, time.Since(began))
		}
		if f.hang != nil {
			close(f.hang)
		}
	})
}

// pass lets time pass, and what is due then happen.
func (f *following) pass(d time.Duration) {
	f.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	f.mu.Lock()
}

// take returns the texts, or errors, that were delivered since the last call.
func (f *following) take() (texts []string) {
	for _, one := range f.got {
		if one.Err != nil {
			texts = append(texts, "error")
		} else {
			texts = append(texts, string(one.Doc))
		}
	}
	f.got = nil
	return texts
}

func TestFollow(t *testing.T) {
	follow(t, func(f *following) {
		if got := f.take(); !slices.Equal(got, []string{"first"}) {
			t.Errorf("at the start: %q", got)
		}
		f.doc = "second"
		f.changed()
		f.pass(0)
		if got := f.take(); !slices.Equal(got, []string{"second"}) {
			t.Errorf("after a change: %q", got)
		}
		f.doc = "without a sign"
		f.pass(regularly)
		if got := f.take(); !slices.Equal(got, []string{"without a sign"}) {
			t.Errorf("after half a minute: %q", got)
		}
		if f.Conditions() != nil {
			t.Errorf("%+v", f.Conditions())
		}
	})
}

// A file that is empty or missing for a moment is being saved; one that stays so is an edit.
func TestFollowDoubtsNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		doc  string
		err  error
	}{
		{"empty", "", nil},
		{"missing", "", &fs.PathError{Op: "open", Path: "file", Err: syscall.ENOENT}},
	} {
		t.Run(test.name, func(t *testing.T) {
			follow(t, func(f *following) {
				f.take()
				f.doc, f.err = test.doc, test.err
				f.changed()
				f.pass(patience / 2)
				f.doc, f.err = "second", nil
				f.pass(patience)
				if got := f.take(); !slices.Equal(got, []string{"second"}) {
					t.Errorf("for a moment: %q", got)
				}
				f.doc, f.err = test.doc, test.err
				f.changed()
				f.pass(patience)
				if len(f.take()) != 1 {
					t.Error("for long: it was not believed")
				}
				f.changed()
				f.pass(0)
				if len(f.take()) != 1 {
					t.Error("it was doubted once more")
				}
				if got := f.events.Take(); !slices.Equal(got, []string{"file_missing", "file_missing"}) {
					t.Errorf("logged %q", got)
				}
			})
		})
	}
}

// A reason that passes is tried again, with longer and longer pauses; one that stays is not.
func TestFollowTriesAgain(t *testing.T) {
	follow(t, func(f *following) {
		f.take()
		f.err, f.reads = &fs.PathError{Op: "open", Path: "file", Err: syscall.EMFILE}, 0
		f.changed()
		f.pass(0)
		for i, want := range []time.Duration{backoff.First, 2 * backoff.First, 4 * backoff.First} {
			if len(f.got) != i+1 || f.got[i].Again != want || !errors.Is(f.got[i].Err, syscall.EMFILE) {
				t.Fatalf("attempt %d: %+v", i, f.got)
			}
			f.pass(want)
		}
		f.err = nil
		f.pass(8 * backoff.First)
		if one := f.got[len(f.got)-1]; string(one.Doc) != "first" || one.Again != 0 {
			t.Errorf("%+v", one)
		}
		f.take()
		f.err = &fs.PathError{Op: "open", Path: "file", Err: syscall.EACCES}
		f.changed()
		f.pass(5 * time.Second)
		if len(f.got) != 1 || f.got[0].Again != 0 {
			t.Errorf("%+v", f.got)
		}
	})
}

// A file system that hangs keeps nothing but a read waiting; the file counts again once it answers.
func TestFollowWhatHangs(t *testing.T) {
	follow(t, func(f *following) {
		f.take()
		f.hang, f.reads = make(chan struct{}), 0
		f.changed()
		f.pass(time.Minute)
		if f.reads != 1 || len(f.got) < 3 || !errors.Is(f.got[0].Err, ErrNoAnswer) {
			t.Errorf("%d reads: %+v", f.reads, f.got)
		}
		hang := f.hang
		f.hang, f.doc = nil, "second"
		close(hang)
		f.pass(time.Minute)
		if got := f.take(); got[len(got)-1] != "second" {
			t.Errorf("%q", got)
		}
		f.hang = make(chan struct{})
		f.changed() // follow ends while this read hangs
		f.pass(0)
	})
}

func TestFollowConditions(t *testing.T) {
	follow(t, func(f *following) {
		f.place = Place{Nameless: true, System: "nfs"}
		f.changed()
		f.pass(0)
		got := f.Conditions()
		if len(got) != 2 || got[0].Kind != mesh.FileDetached || got[0].Severity != mesh.Degraded ||
			got[1].Kind != mesh.FileElsewhere || got[1].Severity != mesh.Info || got[1].Subject != "nfs" {
			t.Errorf("%+v", got)
		}
		f.place = Place{}
		f.changed()
		f.pass(0)
		if got := f.Conditions(); got != nil {
			t.Errorf("mended: %+v", got)
		}
	})
}

// Where the kernel refuses to watch, the file is read every two seconds, which is said once.
func TestFollowUnwatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := &nstest.Events{}
		var reads atomic.Int64
		var allowed atomic.Bool
		f := NewFollower(NewReader("file", 100), slog.New(events))
		f.reader.read = func(string, int64) ([]byte, Place, error) { return []byte("x"), Place{}, nil }
		f.watch = func(ctx context.Context, _ string, changed func()) error {
			if !allowed.Load() {
				return errors.New("too many instances")
			}
			changed()
			<-ctx.Done()
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx, func(context.Context, Reading) { reads.Add(1) }) }()
		time.Sleep(5*watchAgain + time.Millisecond)
		synctest.Wait()
		if got := f.Conditions(); reads.Load() != 5 || len(got) != 1 || got[0].Kind != mesh.FileUnwatched {
			t.Errorf("%d reads, %+v", reads.Load(), got)
		}
		if got := events.Take(); !slices.Equal(got, []string{"watch_failed"}) {
			t.Errorf("logged %q", got)
		}
		allowed.Store(true)
		time.Sleep(watchAgain)
		synctest.Wait()
		if got := f.Conditions(); got != nil {
			t.Errorf("%+v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The real thing: a FIFO in the place of the file is told at once, and so is the file after it.
func TestFollowReplacedByFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.toml")
	must(t, put(path, "first"))
	readings := make(chan Reading, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	f := NewFollower(NewReader(path, 100), slog.New(&nstest.Events{}))
	go func() { done <- f.Run(ctx, func(_ context.Context, one Reading) { readings <- one }) }()
	until := func(what string, is func(Reading) bool) {
		t.Helper()
		for deadline := time.After(5 * time.Second); ; {
			select {
			case one := <-readings:
				if is(one) {
					return
				}
			case <-deadline:
				t.Fatalf("%s was not noticed", what)
			}
		}
	}
	until("the file", func(one Reading) bool { return string(one.Doc) == "first" })
	must(t, syscall.Mkfifo(path+".new", 0o644), os.Rename(path+".new", path))
	until("a FIFO", func(one Reading) bool { return errors.Is(one.Err, ErrNotRegular) })
	must(t, put(path+".new", "second"), os.Rename(path+".new", path))
	until("the next file", func(one Reading) bool { return string(one.Doc) == "second" })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
