package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.org/meshd/internal/foreign"
)

// The file follows what is in force, but never while another meshd may be writing it: what that one has read
// may be the text before.
func TestFollowFile(t *testing.T) {
	const node = "[network]\nname = \"demo\"\ncidr = \"10.244.0.0/16\"\n" +
		"[[node]]\nname = \"a\"\naddress = \"172.18.0.2\"\nsubnets = [\"10.244.1.0/24\"]\n"
	before, after := node, "# the file in force\n"+node
	path, folder := write(t, before), t.TempDir()
	record, err := json.Marshal(map[string]any{"path": path, "state": "settled", "cause": "apply",
		"follow": true, "by": "root", "sha256": sumOf([]byte(after)),
		"in_place_of": []string{sumOf([]byte(before)), sumOf(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	files := filepath.Join(folder, "files")
	if err := os.Mkdir(files, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string][]byte{
		filepath.Join(folder, "change"):                    record,
		filepath.Join(files, sumOf([]byte(after))+".toml"): []byte(after),
	} {
		if err := os.WriteFile(name, doc, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	follow := func(ctx context.Context, when string, wantCode int, want string) {
		t.Helper()
		var out, errs bytes.Buffer
		err := run(ctx, []string{"follow-file", "--config", path, "--state", folder}, &out, &errs)
		got, readErr := os.ReadFile(path)
		if exitCode(err) != wantCode || string(got) != want || readErr != nil {
			t.Errorf("%s: %v, %s, the file has %q, %v", when, err, &errs, got, readErr)
		}
	}
	f, err := foreign.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lock, err := f.Lock(true)
	if err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	follow(impatient, "another one is writing", exitNo, before)
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	follow(t.Context(), "alone", 0, after)

	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	err = run(t.Context(), []string{"follow-file", "--config", path, "--state", folder}, &out, &errs)
	if got := errs.String(); exitCode(err) != exitNo || !strings.Contains(got, path) ||
		!strings.Contains(got, "`meshd apply`") {
		t.Errorf("the file cannot be written: %v, %s", err, got)
	}
}
