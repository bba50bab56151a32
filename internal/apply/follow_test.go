package apply

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/foreign"
)

// Programs that have the file follow come one after the other. None waits for ever.
func TestAlone(t *testing.T) {
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f, err := foreign.Open(folder)
		must(t, err)
		defer f.Close()
		lock, err := f.Lock(true)
		must(t, err)
		called, done := 0, make(chan error, 1)
		alone := func() { done <- Alone(context.Background(), folder, func() error { called++; return nil }) }
		go alone()
		if err := <-done; !errors.Is(err, foreign.ErrLocked) || called > 0 {
			t.Errorf("another one hangs: %v, called %d times", err, called)
		}
		go alone()
		synctest.Wait()
		must(t, lock.Close())
		if err := <-done; err != nil || called != 1 {
			t.Errorf("another one has ended: %v, called %d times", err, called)
		}
		go alone()
		if err := <-done; err != nil || called != 2 {
			t.Errorf("once more: %v, called %d times", err, called)
		}
		failing := func() error { return os.ErrClosed }
		if err := Alone(t.Context(), filepath.Join(folder, "none"), failing); !errors.Is(err, os.ErrClosed) {
			t.Errorf("without a folder: %v", err)
		}
	})
}

// What root is to write to the file.
func TestOwed(t *testing.T) {
	const path = "/etc/mesh.toml"
	inBubble(t, func(l *lab) {
		owed := func(when, content, want string) {
			t.Helper()
			text, ok, err := Owed(l.folder, path, []byte(content))
			if err != nil || ok != (want != "") || string(text) != want {
				t.Errorf("%s: %q, %t, %v, want %q", when, text, ok, err, want)
			}
		}
		owed("nothing was applied", old, "")
		l.change(change, false)
		owed("root applied it, and has not written the file", old, change)
		owed("somebody has edited the file", other, "")
		time.Sleep(2 * time.Minute)
		owed("taken back, and the file has it", change, old)
		owed("taken back, and the file is as before", old, "")
		if text, ok, err := Owed(l.folder, "/etc/other.toml", []byte(change)); ok || err != nil {
			t.Errorf("another file: %q, %v", text, err)
		}
		kept := filepath.Join(l.folder, FilesName, sumOf([]byte(old))+suffix)
		must(t, os.WriteFile(kept, []byte(other), 0o600))
		if text, ok, err := Owed(l.folder, path, []byte(change)); ok || err == nil {
			t.Errorf("a text that was exchanged: %q", text)
		}
		// Another name of the right text is none, either: whoever may write it need not be the service.
		elsewhere := filepath.Join(t.TempDir(), "text")
		must(t, os.WriteFile(elsewhere, []byte(old), 0o600))
		for what, link := range map[string]func(from, to string) error{
			"a symbolic link": os.Symlink, "a hard link": os.Link,
		} {
			must(t, os.Remove(kept), link(elsewhere, kept))
			if text, ok, err := Owed(l.folder, path, []byte(change)); ok || err == nil {
				t.Errorf("%s in its place: %q", what, text)
			}
		}
		must(t, os.Remove(kept), os.WriteFile(kept, []byte(old), 0o600))
		owed("the right text again", change, old)
	})
}
