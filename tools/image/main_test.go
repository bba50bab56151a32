package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// programs are two files that stand for the real ones.
func programs(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"meshd", "meshtui"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("the program "+name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The same programs give the same bytes, and the archive says for which machine it is, and as whom it runs.
func TestImageIsReproducible(t *testing.T) {
	bin, at := programs(t), time.Unix(1767225600, 0).UTC()
	for arch := range platforms {
		t.Run(arch, func(t *testing.T) {
			var archives [][]byte
			for range 2 {
				path := filepath.Join(t.TempDir(), "image.tar")
				if err := write(path, bin, arch, "0.2.0~git1", at); err != nil {
					t.Fatal(err)
				}
				image, err := tarball.ImageFromPath(path, nil)
				if err != nil {
					t.Fatal(err)
				}
				config, err := image.ConfigFile()
				if err != nil {
					t.Fatal(err)
				}
				if config.Platform().String() != platforms[arch].String() || config.Config.User != "65532:65532" ||
					!config.Created.Equal(at) {
					t.Errorf("%+v", config)
				}
				archive, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				archives = append(archives, archive)
			}
			if !bytes.Equal(archives[0], archives[1]) {
				t.Error("two archives of the same programs differ")
			}
		})
	}
}

// The layer has what meshd needs, and meshd alone has capabilities: 12 and 39, of the file and in effect.
func TestLayer(t *testing.T) {
	content, err := files(programs(t), time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	const capability = "SCHILY.xattr.security.capability"
	found := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if _, twice := found[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		found[h.Name] = h.PAXRecords[capability]
	}
	want := "\x01\x00\x00\x02\x00\x10\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00"
	if got := found["usr/bin/meshd"]; got != want {
		t.Errorf("capabilities %q, want %q", got, want)
	}
	for name, caps := range found {
		if name != "usr/bin/meshd" && caps != "" {
			t.Errorf("%s has capabilities", name)
		}
	}
	for _, name := range []string{"usr/bin/meshtui", "etc/passwd", "etc/group", "run/meshd/", "var/lib/meshd/"} {
		if _, ok := found[name]; !ok {
			t.Errorf("no %s in the layer", name)
		}
	}
}
