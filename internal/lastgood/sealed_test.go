package lastgood

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"example.org/meshd/internal/budget"
)

// The note outlives everything but a file that was in force and asks for no encryption.
func TestSealed(t *testing.T) {
	const path = "/etc/mesh.toml"
	folder := filepath.Join(t.TempDir(), "state")
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/48")}
	check := func(want []netip.Prefix, sealed bool) {
		t.Helper()
		if got, ok := Sealed(folder, path); ok != sealed || !slices.Equal(got, want) {
			t.Errorf("%v, %v, want %v, %v", got, ok, want, sealed)
		}
	}
	write := func(f File) {
		t.Helper()
		if err := Write(folder, f); err != nil {
			t.Fatal(err)
		}
	}
	check(nil, false)
	write(File{path, "plain", time.Now(), nil})
	check(nil, false)
	write(File{path, "encrypted", time.Now(), prefixes})
	check(prefixes, true)
	write(File{path, "encrypted", time.Now(), prefixes})
	check(prefixes, true)
	if got, ok := Sealed(folder, "/etc/other.toml"); ok {
		t.Errorf("another file is sealed with %v", got)
	}
	write(File{path, "plain", time.Now(), nil})
	check(nil, false)
	write(File{path, "encrypted", time.Now(), prefixes})
	if removed, err := Forget(folder); !removed || err != nil {
		t.Errorf("forgotten: %v, %v", removed, err)
	}
	check(nil, false)

	for name, text := range map[string]string{
		"nonsense": "nonsense", "empty": "", "host bits": `{"path":"` + path + `","prefixes":["10.1.2.3/8"]}`,
		"all addresses": `{"path":"` + path + `","prefixes":["0.0.0.0/0"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(folder, SealedName), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			check(nil, true)
		})
	}
}

func FuzzSealed(f *testing.F) {
	f.Add([]byte(`{"path":"/etc/mesh.toml","prefixes":["10.244.0.0/16"]}`))
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, doc []byte) {
		defer budget.Of(t)()
		if err := os.WriteFile(filepath.Join(folder, SealedName), doc, 0o644); err != nil {
			t.Fatal(err)
		}
		prefixes, _ := Sealed(folder, "/etc/mesh.toml")
		for _, p := range prefixes {
			if p != p.Masked() || p.Bits() == 0 {
				t.Errorf("%v would be refused", p)
			}
		}
	})
}
