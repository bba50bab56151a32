package kernel

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// What is committed is what `go generate` makes of the source.
func TestGenerated(t *testing.T) {
	nstest.RequirePrograms(t, "`make deps` installs it", "clang-14", "llvm-strip-14")
	source, err := os.ReadFile("generate.go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for line := range strings.Lines(string(source)) {
		line, is := strings.CutPrefix(line, "//go:generate ")
		if !is {
			continue
		}
		cmd := exec.Command("sh", "-c", strings.Replace(line, "-target", "-output-dir "+dir+" -target", 1))
		cmd.Env = append(os.Environ(), "GOPACKAGE=kernel")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, file := range []string{"mesh_bpfel.go", "mesh_bpfel.o", "tap_bpfel.go", "tap_bpfel.o"} {
		want, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what `go generate` makes (%v)", file, err)
		}
	}
}

// Pinned maps outlive the daemon: whoever changes a map, or what is in one, has to raise layout, or
// a new meshd would misread what an old one has left. Names of constants, comments and programs may
// change.
func TestLayout(t *testing.T) {
	const forLayout, sum = 9, "3e5e0aab7c8c61f9"
	spec, err := loadMesh()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	types := btf.GoFormatter{}
	all := maps.Clone(spec.Maps)
	delete(all, ".bss") // is not loaded
	for name, m := range spec.Maps {
		if m.InnerMap != nil {
			all[name+" within"] = m.InnerMap
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		fmt.Fprintln(&text, name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
		for _, part := range []btf.Type{m.Key, m.Value} {
			if m.InnerMap != nil && part == m.Value { // it is a map
				continue
			}
			declaration, err := types.TypeDeclaration("T", part) // with the names, sizes and order of fields
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&text, declaration)
		}
	}
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(text.String())))[:16]; layout != forLayout || got != sum {
		t.Errorf("a map has changed: raise layout from %d in pins.go, if a release has it, "+
			"and write it here with %q\n%s",
			layout, got, &text)
	}
}

// enumOf returns the constants of an enum of bpf/mesh.h, in order, without a prefix and in lower case.
func enumOf(t *testing.T, name, prefix string) (words []string) {
	t.Helper()
	header, err := os.ReadFile("bpf/mesh.h")
	if err != nil {
		t.Fatal(err)
	}
	_, body, found := strings.Cut(string(header), "enum "+name+" {")
	body, _, closed := strings.Cut(body, "}")
	if !found || !closed {
		t.Fatalf("bpf/mesh.h has no enum %s", name)
	}
	for _, constant := range regexp.MustCompile(`(?m)^\s*([A-Z_0-9]+)\b`).FindAllStringSubmatch(body, -1) {
		if word, ok := strings.CutPrefix(constant[1], prefix); ok {
			words = append(words, strings.ToLower(word))
		}
	}
	return words
}

// Go and C number reasons in the same order: a name in status and metrics is what the programs mean.
func TestReasons(t *testing.T) {
	drops := make([]string, 0, mesh.NumDrops)
	for _, reason := range mesh.Reasons()[:mesh.NotEncrypted] { // the others are user space's alone
		drops = append(drops, reason.String())
	}
	for _, c := range []struct {
		enum, prefix string
		names        []string
	}{
		{"handover", "HAND_", handovers[:]},
		{"drop", "DROP_", drops},
	} {
		t.Run(c.enum, func(t *testing.T) {
			if words := enumOf(t, c.enum, c.prefix); !slices.Equal(words, c.names) {
				t.Errorf("bpf/mesh.h has\n%q, and Go\n%q", words, c.names)
			}
		})
	}
}
