package lastgood

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// keeping is a Keeper with a disk of a test's making, in a bubble of time.
type keeping struct {
	*Keeper
	mu     sync.Mutex // held by the test but while time passes; writes wait for it
	events *nstest.Events
	full   error
	hang   chan struct{}
	disk   []string
}

func keep(t *testing.T, test func(k *keeping)) (k *keeping) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k = &keeping{events: &nstest.Events{}}
		k.Keeper = NewKeeper("/state", slog.New(k.events))
		k.write = func(_ string, f File) error {
			k.mu.Lock()
			hang := k.hang
			k.mu.Unlock()
			if hang != nil {
				<-hang
			}
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.full == nil {
				k.disk = append(k.disk, f.Text)
			}
			return k.full
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		k.mu.Lock()
		test(k)
		k.mu.Unlock()
		began := time.Now()
		cancel()
		if err := <-done; err != nil || time.Since(began) > lastMoment {
			t.Errorf("ended with %v after %v", err, time.Since(began))
		}
		if k.hang != nil {
			close(k.hang)
		}
	})
	return k
}

// pass lets time pass, and what is due then happen.
func (k *keeping) pass(d time.Duration) {
	k.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	k.mu.Lock()
}

func (k *keeping) set(doc string) {
	k.Set(File{Path: "/etc/mesh.toml", Text: doc, Since: time.Now()})
	k.pass(0)
}

func (k *keeping) kinds() (kinds []mesh.Kind) {
	for _, c := range k.Conditions() {
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

// A text is written once, and again when it is another one.
func TestKeeper(t *testing.T) {
	keep(t, func(k *keeping) {
		for _, doc := range []string{"first", "first", "second", "first"} {
			k.set(doc)
		}
		if want := []string{"first", "second", "first"}; !slices.Equal(k.disk, want) || k.kinds() != nil {
			t.Errorf("%q, %q", k.disk, k.kinds())
		}
	})
}

// What cannot be written is a condition, is tried again, and is said once.
func TestKeeperOfAFullDisk(t *testing.T) {
	keep(t, func(k *keeping) {
		k.full = syscall.ENOSPC
		k.set("first")
		c := k.Conditions()
		if len(c) != 1 || c[0].Kind != mesh.StateFailed || c[0].Severity != mesh.Degraded ||
			c[0].Subject != "/state" || c[0].Again != time.Second || !strings.Contains(c[0].Cause, "no space") {
			t.Errorf("%+v", c)
		}
		k.pass(time.Minute)
		if got := k.events.Take(); !slices.Equal(got, []string{"state_failed"}) {
			t.Errorf("logged %q", got)
		}
		k.full = nil
		k.pass(time.Minute)
		if !slices.Equal(k.disk, []string{"first"}) || k.kinds() != nil {
			t.Errorf("%q, %q", k.disk, k.kinds())
		}
	})
}

// A disk that hangs keeps nobody waiting, and has the last text once it answers.
func TestKeeperOfADiskThatHangs(t *testing.T) {
	keep(t, func(k *keeping) {
		hang := make(chan struct{})
		k.hang = hang
		for _, doc := range []string{"first", "second", "third"} {
			k.set(doc)
		}
		k.pass(slow)
		if !slices.Equal(k.kinds(), []mesh.Kind{mesh.StateFailed}) {
			t.Errorf("%q", k.kinds())
		}
		k.hang = nil
		close(hang)
		k.pass(0)
		if !slices.Equal(k.disk, []string{"first", "third"}) || k.kinds() != nil {
			t.Errorf("%q, %q", k.disk, k.kinds())
		}
		k.hang = make(chan struct{})
		k.set("the daemon ends while this hangs")
	})
}

// A file that came into force just before the end is kept.
func TestKeeperAtTheEnd(t *testing.T) {
	k := keep(t, func(k *keeping) {
		k.Set(File{Path: "/etc/mesh.toml", Text: "last"}) // Run has not seen it yet
	})
	if !slices.Equal(k.disk, []string{"last"}) {
		t.Errorf("%q", k.disk)
	}
}

// Wait returns when the file is kept, and not before, unless the disk fails or hangs for long.
func TestKeeperIsWaitedFor(t *testing.T) {
	keep(t, func(k *keeping) {
		k.Wait(context.Background()) // nothing is wanted
		returned := func(after time.Duration) bool {
			done := make(chan struct{})
			go func() {
				defer close(done)
				k.Wait(context.Background())
			}()
			k.pass(after)
			select {
			case <-done:
				return true
			default:
				k.pass(patience)
				<-done
				return false
			}
		}
		hang := make(chan struct{})
		k.hang = hang
		k.set("first")
		if returned(patience - time.Millisecond) {
			t.Error("it does not wait for a disk that hangs")
		}
		k.hang = nil
		close(hang)
		if !returned(0) || !slices.Equal(k.disk, []string{"first"}) {
			t.Errorf("it waits for what is kept: %q", k.disk)
		}
		k.full = syscall.ENOSPC
		k.set("second")
		if returned(patience - time.Millisecond) {
			t.Error("it does not wait for a full disk")
		}
	})
}
