package lastgood

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/state"
)

var since = time.Date(2026, 11, 25, 10, 11, 12, 0, time.UTC)

func TestWriteAndRead(t *testing.T) {
	for name, f := range map[string]File{
		"a file":            {"/etc/mesh.toml", "[network]\n", since, nil},
		"without a newline": {"/etc/mesh.toml", "[network]", since, nil},
		"empty":             {"/etc/mesh.toml", "", since, nil},
		"a last good file": {"/etc/mesh.toml", string(encode(File{"/etc/mesh.toml", "x", since, nil})), since,
			nil},
		"binary":      {"/etc/mesh.toml", "\x00\xff\n# meshd: \n", since, nil},
		"an odd path": {"/etc/\"x\" was in force at y\n sha256 z\xff", "x\n", since, nil},
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "state")
			if _, err := Read(t.Context(), folder, f.Path, 1000); !errors.Is(err, ErrNone) {
				t.Errorf("before: %v", err)
			}
			if err := Write(folder, f); err != nil {
				t.Fatal(err)
			}
			got, err := Read(t.Context(), folder, f.Path, int64(len(f.Text)))
			if err != nil || !got.same(f) || !got.Since.Equal(since) {
				t.Errorf("%+v, %v", got, err)
			}
			if _, err := Read(t.Context(), folder, "/etc/other.toml", 1000); !errors.Is(err, ErrOther) {
				t.Errorf("of another file: %v", err)
			}
			later := f
			if later.Since = since.Add(time.Hour); Write(folder, later) != nil {
				t.Error("the same once more")
			}
			if got, err := Read(t.Context(), folder, f.Path, 1000); err != nil || !got.Since.Equal(since) {
				t.Errorf("the same once more: %+v, %v", got, err)
			}
			if removed, err := Forget(folder); !removed || err != nil {
				t.Errorf("%v, %v", removed, err)
			}
			if removed, err := Forget(folder); removed || err != nil {
				t.Errorf("again: %v, %v", removed, err)
			}
		})
	}
}

// Whatever a power cut or a person does to it: it is damaged, or it is what was kept.
func TestDamaged(t *testing.T) {
	whole := encode(File{"/etc/mesh.toml", "[network]\ncidr = \"10.0.0.0/8\"\n", since, nil})
	for name, damage := range map[string]func(doc []byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"zeros":           func(doc []byte) []byte { return make([]byte, len(doc)) },
		"half of it":      func(doc []byte) []byte { return doc[:len(doc)/2] },
		"a byte less":     func(doc []byte) []byte { return doc[:len(doc)-1] },
		"a byte more":     func(doc []byte) []byte { return append(doc, '\n') },
		"another address": func(doc []byte) []byte { return bytes.Replace(doc, []byte("10."), []byte("11."), 1) },
		"no last line":    func(doc []byte) []byte { return []byte("[network]\n") },
		"another path":    func(doc []byte) []byte { return bytes.Replace(doc, []byte(`"/e`), []byte(`/e`), 1) },
		"another time":    func(doc []byte) []byte { return bytes.Replace(doc, []byte("2026"), []byte("yyyy"), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			if err := state.Write(folder, Name, damage(bytes.Clone(whole))); err != nil {
				t.Fatal(err)
			}
			f, err := Read(t.Context(), folder, "/etc/mesh.toml", 1000)
			if !errors.Is(err, ErrDamaged) || f.Text != "" {
				t.Errorf("%+v, %v", f, err)
			}
		})
	}
}

func TestReadWhatIsNoFile(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"a link":   func(path string) error { return os.Symlink("/dev/zero", path) },
		"a FIFO":   func(path string) error { return unix.Mkfifo(path, 0o644) },
		"a folder": func(path string) error { return os.Mkdir(path, 0o755) },
		"too large": func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("x", 10+maxLine+1)), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			if err := put(filepath.Join(folder, Name)); err != nil {
				t.Fatal(err)
			}
			_, err := Read(t.Context(), folder, "/etc/mesh.toml", 10)
			if !errors.Is(err, state.ErrNotRegular) && !errors.Is(err, state.ErrTooLarge) {
				t.Errorf("%v", err)
			}
		})
	}
}

// FuzzDecode: whatever is in the file, it is refused or is exactly what encode writes.
func FuzzDecode(f *testing.F) {
	f.Add(encode(File{"/etc/mesh.toml", "[network]\n", since, nil}))
	f.Add(encode(File{"/etc/\" was in force at \"", "\n# meshd: \"\" was in force at ", since, nil}))
	f.Add([]byte(mark + `""` + inForce + "2026-11-25T10:11:12Z" + sum + "00\n"))
	f.Add([]byte(mark + strings.Repeat(`"`+inForce, 100)))
	f.Fuzz(func(t *testing.T, kept []byte) {
		defer budget.Of(t)()
		file, err := decode(kept)
		if err != nil {
			if !errors.Is(err, ErrDamaged) || file.Text != "" {
				t.Errorf("%+v, %v", file, err)
			}
			return
		}
		if !bytes.Equal(encode(file), kept) {
			t.Errorf("%q is not what was written: %+v", kept, file)
		}
	})
}
