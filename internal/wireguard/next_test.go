package wireguard

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"example.org/meshd/internal/nstest"
)

// publicAt returns the public key of the file at a path; empty: there is none.
func publicAt(t *testing.T, path string) string {
	t.Helper()
	key, err := ReadKeyFile(t.Context(), path)
	if err != nil && !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	if err != nil {
		return ""
	}
	return key.Public().String()
}

// Each change moves three files on: the next key is the key, and the key is the old one.
func TestActivateKey(t *testing.T) {
	nstest.Require(t)
	asService(t)
	t.Setenv("CREDENTIALS_DIRECTORY", t.TempDir()) // has no part in it
	path := filepath.Join(t.TempDir(), "private.key")
	if _, err := ActivateKey(t.Context(), path); !errors.Is(err, ErrNoKey) {
		t.Fatalf("without a next key: %v", err)
	}
	first, err := MakeKey(path)
	must(t, err)
	was := first.Public().String()
	for range 3 {
		next, err := MakeKey(NextPath(path))
		must(t, err)
		got, err := ActivateKey(t.Context(), path)
		if err != nil || got != next {
			t.Fatalf("another key is active: %v", err)
		}
		if key, old := publicAt(t, path), publicAt(t, OldPath(path)); key != next.Public().String() || old != was {
			t.Errorf("key %s and old %s, want %s and %s", key, old, next.Public(), was)
		}
		was = next.Public().String()
		if _, err := ActivateKey(t.Context(), path); !errors.Is(err, ErrNoKey) || publicAt(t, path) != was {
			t.Errorf("a second time: %v", err)
		}
		left, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(left) != 2 {
			t.Errorf("%v is left, %v", left, err)
		}
		for _, file := range left {
			if info, err := file.Info(); err != nil || info.Mode() != keyMode {
				t.Errorf("%s: %v, %v", file.Name(), info.Mode(), err)
			}
		}
	}
	must(t, os.Rename(OldPath(path), path)) // the way back
	if publicAt(t, path) == was {
		t.Error("there is no way back")
	}
}

// What stopped in the middle is finished by the next call: the key has two names by then.
func TestActivateKeyAgain(t *testing.T) {
	nstest.Require(t)
	path := filepath.Join(t.TempDir(), "private.key")
	first, err := MakeKey(path)
	must(t, err)
	next, err := MakeKey(NextPath(path))
	must(t, err, os.Link(path, OldPath(path)))
	if _, err := ActivateKey(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if publicAt(t, path) != next.Public().String() || publicAt(t, OldPath(path)) != first.Public().String() {
		t.Error("wrong keys")
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 2 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// A next key that is of no use changes nothing.
func TestActivateKeyRefuses(t *testing.T) {
	nstest.Require(t)
	for _, test := range []struct {
		name string
		make func(next string) error
		want error
	}{
		{"none", func(string) error { return nil }, ErrNoKey},
		{"no key in it", func(next string) error { return os.WriteFile(next, []byte("x"), keyMode) }, ErrBadKey},
		{"open to others", func(next string) error {
			return errors.Join(os.WriteFile(next, []byte(alicePrivate), 0o600), os.Chmod(next, 0o644))
		}, ErrOpenKey},
		{"another user's", func(next string) error {
			return errors.Join(os.WriteFile(next, []byte(alicePrivate), keyMode), os.Chown(next, third, third))
		}, ErrForeignKey},
		{"folder", func(next string) error { return os.Mkdir(next, 0o700) }, ErrBadKey},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "private.key")
			key, err := MakeKey(path)
			must(t, err, test.make(NextPath(path)))
			if _, err := ActivateKey(t.Context(), path); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if publicAt(t, path) != key.Public().String() || publicAt(t, OldPath(path)) != "" {
				t.Error("the key has changed")
			}
		})
	}
}
