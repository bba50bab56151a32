package container

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// pass lets time pass, and what is due then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// keepingFiles runs a test with a Keeper that has a file to keep.
func keepingFiles(t *testing.T, test func(t *testing.T, k *Keeper, log *nstest.Events, s Settings)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := Settings{SubnetEnv: filepath.Join(dir, "subnet.env"), Networks: prefixes("10.244.0.0/16"),
			Subnets: prefixes("10.244.1.0/24"), MTU: 1400}
		log := &nstest.Events{}
		k := NewKeeper(filepath.Join(dir, "s.files"), slog.New(log))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		test(t, k, log, s)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Files are written with a plan, kept as they are, and go back to those of the plan before.
func TestFilesForContainers(t *testing.T) {
	keepingFiles(t, func(t *testing.T, k *Keeper, log *nstest.Events, s Settings) {
		path := s.SubnetEnv
		read := func() string {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			return string(text)
		}
		set := func(s Settings) (undo func() error) {
			t.Helper()
			undo, err := k.Set(t.Context(), s)
			if err != nil || !k.Fine() || k.Conditions() != nil {
				t.Errorf("%v, %+v", err, k.Conditions())
			}
			return undo
		}
		first := set(s)
		want := read()
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
		pass(filesEvery)
		if got := log.Take(); read() != want || !slices.Equal(got, []string{"files_restored"}) {
			t.Errorf("removed: %q, logged %q", read(), got)
		}
		next := s
		next.MTU = 1300
		second := set(next)
		if read() == want {
			t.Error("the file has the MTU before")
		}
		for _, undo := range []func() error{second, first} { // without a plan before the file stays
			if err := undo(); err != nil || read() != want {
				t.Errorf("undone: %v, %q, want %q", err, read(), want)
			}
		}
	})
}

// A file that cannot be written is a condition, and is written once it can be.
func TestFilesThatFail(t *testing.T) {
	keepingFiles(t, func(t *testing.T, k *Keeper, log *nstest.Events, s Settings) {
		folder := filepath.Join(filepath.Dir(s.SubnetEnv), "folder")
		s.SubnetEnv = filepath.Join(folder, "subnet.env")
		if err := os.WriteFile(folder, nil, 0o600); err != nil { // a file in the way
			t.Error(err)
		}
		if _, err := k.Set(t.Context(), s); err == nil || k.Fine() {
			t.Errorf("%v", err)
		}
		pass(3 * filesEvery)
		if got := k.Conditions(); len(got) != 1 || got[0].Kind != mesh.FilesFailed || got[0].Cause == "" {
			t.Errorf("%+v", got)
		}
		if err := os.Remove(folder); err != nil {
			t.Error(err)
		}
		pass(filesEvery)
		if got := log.Take(); !k.Fine() || !slices.Equal(got, []string{"files_failed", "files_written"}) {
			t.Errorf("logged %q", got)
		}
	})
}

// Whoever asks for files does not wait longer than its context lasts.
func TestFilesWithoutATask(t *testing.T) {
	k := NewKeeper(filepath.Join(t.TempDir(), "files"), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Set(ctx, Settings{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
