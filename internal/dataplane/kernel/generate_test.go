package kernel

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// What is committed is what `go generate` makes of the source.
func TestGenerated(t *testing.T) {
	nstest.RequirePrograms(t, "`make deps` installs it", "clang-14", "llvm-strip-14")
	source, err := os.ReadFile("generate.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(source), "//go:generate ")
	line, _, _ = strings.Cut(line, "\n")
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", strings.Replace(line, "-target", "-output-dir "+dir+" -target", 1))
	cmd.Env = append(os.Environ(), "GOPACKAGE=kernel")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, file := range []string{"mesh_bpfel.go", "mesh_bpfel.o"} {
		want, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what `go generate` makes (%v)", file, err)
		}
	}
}

// Pinned maps outlive the daemon: who changes what is in them has to raise layout, or a new
// meshd would misread what an old one has left.
func TestLayout(t *testing.T) {
	const forLayout, sum = 3, "2a33070e9af89acb"
	shared, err := os.ReadFile("bpf/mesh.h")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("bpf/maps.h")
	if err != nil {
		t.Fatal(err)
	}
	words := regexp.MustCompile(`(?s)/\*.*?\*/|\s+`) // but comments and space
	text := words.ReplaceAllString(string(shared), " ")
	for _, declaration := range regexp.MustCompile(`(?ms)^(struct( sender)? \{.*?^\}[^;]*;|#define (NODES|PREFIXES) \w+)`).FindAllString(string(maps), -1) {
		text += words.ReplaceAllString(declaration, " ")
	}
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:16]; layout != forLayout || got != sum {
		t.Errorf("bpf/mesh.h or a map has changed: raise layout from %d in pins.go, if a release has it, and write it here with %q", layout, got)
	}
}
