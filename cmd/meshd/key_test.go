package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// printedKey returns the key that a call printed, alone.
func printedKey(t *testing.T, code int, out string) mesh.Key {
	t.Helper()
	key, err := mesh.ParseKey(strings.TrimSuffix(out, "\n"))
	if code != 0 || err != nil {
		t.Fatalf("%d, %q: %v", code, out, err)
	}
	return key
}

// The first call makes a key, all others print the same one, and stdout has nothing else.
func TestKey(t *testing.T) {
	nstest.Require(t)
	path := filepath.Join(t.TempDir(), "meshd", "private.key")
	if code, out, errs := meshd("key", "--public", "--private-key", path); code != exitNo || out != "" ||
		errs == "" {
		t.Errorf("without a key: %d, %q, %q", code, out, errs)
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("--public has made something")
	}
	code, out, errs := meshd("key", "--private-key", path)
	key := printedKey(t, code, out)
	if !strings.Contains(errs, path) || !strings.Contains(errs, key.String()) {
		t.Errorf("%q", errs)
	}
	private, err := os.ReadFile(path)
	if err != nil || strings.Contains(out+errs, strings.TrimSpace(string(private))) {
		t.Fatalf("%v, or the private key was printed", err)
	}
	for _, args := range [][]string{{"key"}, {"key", "--public"}} {
		code, out, errs := meshd(append(args, "--private-key", path)...)
		if again := printedKey(t, code, out); again != key || errs != "" {
			t.Errorf("%q: %s, then %s, and %q", args, key, again, errs)
		}
	}
	code, out, _ = meshd("key", "--json", "--private-key", path)
	if got := decode[keyAnswer](t, out); code != 0 || got != (keyAnswer{key.String(), path, false}) {
		t.Errorf("%d, %+v", code, got)
	}
}

// The file says where the key is, also one with faults: its keys may be what is missing.
func TestKeyOfTheFile(t *testing.T) {
	nstest.Require(t)
	folder := t.TempDir()
	path, file := filepath.Join(folder, "elsewhere.key"), filepath.Join(folder, "mesh.toml")
	doc := "[network]\ncidr = \"10.244.0.0/16\"\ntransport = \"wireguard\"\n[wireguard]\nprivate_key = \"" +
		path + "\"\n[[node]]\nname = \"a\"\nsubnets = [\"10.244.1.0/24\"]\n"
	if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, _ := meshd("key", "-c", file)
	printedKey(t, code, out)
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// Where no key can be had, the exit code says so, and nothing on stdout looks like one.
func TestKeyProblems(t *testing.T) {
	nstest.Require(t)
	for _, test := range []struct {
		name string
		make func(path string) error
	}{
		{"others may read it", func(path string) error { return os.WriteFile(path, []byte("x"), 0o644) }},
		{"no key in it", func(path string) error { return os.WriteFile(path, []byte("x"), 0o400) }},
		{"folder", func(path string) error { return os.Mkdir(path, 0o700) }},
		{"another user's", func(path string) error {
			if err := os.WriteFile(path, []byte("x"), 0o400); err != nil {
				return err
			}
			return os.Chown(path, 65533, 65533)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "private.key")
			if err := test.make(path); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"key"}, {"key", "--public"}} {
				code, out, errs := meshd(append(args, "--private-key", path)...)
				if code != exitNo || out != "" || !strings.Contains(errs, path) {
					t.Errorf("%q: %d, %q, %q", args, code, out, errs)
				}
			}
		})
	}
}

// The next key is made beside the key, takes its place once, and leaves the way back.
func TestNextKey(t *testing.T) {
	nstest.Require(t)
	folder := t.TempDir()
	path, file := filepath.Join(folder, "private.key"), filepath.Join(folder, "mesh.toml")
	call := func(args ...string) (int, string, string) {
		return meshd(append(args, "-c", file, "--private-key", path, "--socket", filepath.Join(folder, "none"))...)
	}
	code, out, _ := call("key")
	first := printedKey(t, code, out)
	for _, args := range [][]string{{"key", "--activate"}, {"key", "--next", "--public"}} {
		if code, out, errs := call(args...); code != exitNo || out != "" || !strings.Contains(errs, path+".next") {
			t.Errorf("%q without a next key: %d, %q, %q", args, code, out, errs)
		}
	}
	code, out, errs := call("key", "--next")
	next := printedKey(t, code, out)
	if next == first || !strings.Contains(errs, next.String()) || !strings.Contains(errs, "next_public_key") {
		t.Errorf("%s after %s, %q", next, first, errs)
	}
	code, out, _ = call("key", "--next")
	if again := printedKey(t, code, out); again != next {
		t.Errorf("next key %s, then %s", next, again)
	}
	doc := "[network]\ncidr = \"10.244.0.0/16\"\ntransport = \"wireguard\"\n[[node]]\nname = \"a\"\n" +
		"subnets = [\"10.244.1.0/24\"]\npublic_key = \"" + first.String() + "\"\n"
	if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errs = call("key", "--activate")
	if code != exitNo || out != "" || !strings.Contains(errs, file) {
		t.Errorf("a key that the file does not list: %d, %q, %q", code, out, errs)
	}
	doc += "next_public_key = \"" + next.String() + "\"\n"
	if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errs = call("key", "--activate")
	if got := printedKey(t, code, out); got != next || !strings.Contains(errs, path+".old") {
		t.Errorf("activated %s, want %s, and %q", got, next, errs)
	}
	code, out, _ = call("key", "--public")
	if got := printedKey(t, code, out); got != next {
		t.Errorf("the key is %s, want %s", got, next)
	}
	code, out, _ = meshd("key", "--public", "--private-key", path+".old")
	if got := printedKey(t, code, out); got != first {
		t.Errorf("the old key is %s, want %s", got, first)
	}
	for _, args := range [][]string{{"key", "--next", "--activate"}, {"key", "--public", "--activate"},
		{"key", "--force"}, {"key", "--next", "--force"}} {
		if code, out, _ := call(args...); code != exitUsage || out != "" {
			t.Errorf("%q: %d, %q", args, code, out)
		}
	}
	if code, out, _ = call("key", "--activate"); code != exitNo || out != "" {
		t.Errorf("activated twice: %d, %q", code, out)
	}
}
