package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A release is a tagged commit whose changelog is closed. Everything else is named, and nothing is built.
func TestReleaseNeedsItsTag(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	do := func(name string, args ...string) (string, error) {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
			"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	git := func(args ...string) {
		t.Helper()
		if out, err := do("git", args...); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	change := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script, err := filepath.Abs("../../packaging/release.sh")
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what, version string) {
		t.Helper()
		out, err := do(script, version)
		if err == nil || !strings.HasPrefix(out, "release: ") {
			t.Errorf("%s: %v, %q", what, err, out)
		}
	}

	git("init", "-q")
	change("# Changes\n\n## 0.9.0 (unreleased)\n\n- All of it.\n")
	git("add", ".")
	git("commit", "-qm", "first")
	refused("a commit between releases", "0.9.0~git20261127")
	refused("without a tag", "0.9.0")
	git("tag", "v0.9.0")
	refused("an open changelog", "0.9.0")
	git("tag", "-d", "v0.9.0")
	change("# Changes\n\n## 0.9.0 (2026-11-27)\n\n- All of it.\n")
	git("commit", "-qam", "close")
	git("tag", "v0.9.0")
	if out, err := do(script, "0.9.0"); err != nil {
		t.Errorf("the release: %v\n%s", err, out)
	}
	change("edited")
	refused("an edited checkout", "0.9.0")
	git("checkout", "-q", ".")
	git("commit", "-q", "--allow-empty", "-m", "next")
	refused("a later commit", "0.9.0")
}

// The notes of a version are its part of the changelog, and there are none of a version that it lacks.
func TestNotesAreOfOneVersion(t *testing.T) {
	t.Parallel()
	notes := func(version string) (string, error) {
		out, err := exec.Command("../../packaging/notes.sh", version).CombinedOutput()
		return string(out), err
	}
	first, err := notes("0.1.0")
	if err != nil || !strings.Contains(first, "one pod network") || strings.Contains(first, "\n## 0.") {
		t.Errorf("%v\n%s", err, first)
	}
	if next, err := notes("0.2.0~git20261127"); err != nil || strings.Contains(next, "one pod network") {
		t.Errorf("%v\n%s", err, next)
	}
	if out, err := notes("9.9.9"); err == nil {
		t.Errorf("notes of a version that the changelog lacks:\n%s", out)
	}
}
