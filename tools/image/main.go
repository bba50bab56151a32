// Command image packs meshd into an image for container runtimes, without a daemon: one archive for each
// architecture, which `podman load`, `docker load` and `ctr image import` read.
//
//	image -version 1.2.3 -at 1767225600 -bin bin -out dist
//
// The image holds static programs and nothing else: no shell, no package. Its user is not root. Runtimes give
// the capabilities of a container to root alone, so the program has the two of meshd.service as capabilities
// of its file; the runtime has to allow both: --cap-add NET_ADMIN --cap-add BPF. The same programs give the
// same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// user is that of the container, by number: whether a name is another user than root, no orchestrator knows.
const user = 65532

// platforms are those of the packages, by the folders that `make package` fills.
var platforms = map[string]v1.Platform{
	"amd64": {OS: "linux", Architecture: "amd64"},
	"arm64": {OS: "linux", Architecture: "arm64"},
	"arm":   {OS: "linux", Architecture: "arm", Variant: "v7"},
}

func main() {
	version := flag.String("version", "", "the version of the programs")
	at := flag.Int64("at", 0, "the time that everything in the image has, in seconds since 1970")
	bin := flag.String("bin", "bin", "the folder with a folder of programs for each architecture")
	out := flag.String("out", "dist", "the folder for the archives")
	flag.Parse()
	for arch := range platforms {
		path := filepath.Join(*out, fmt.Sprintf("meshd-%s-%s.image.tar", *version, arch))
		if err := write(path, filepath.Join(*bin, arch), arch, *version, time.Unix(*at, 0).UTC()); err != nil {
			fmt.Fprintln(os.Stderr, "image:", err)
			os.Exit(1)
		}
	}
}

// write writes the archive of one architecture.
func write(path, bin, arch, version string, at time.Time) error {
	image, err := build(bin, arch, version, at)
	if err != nil {
		return err
	}
	tag, err := name.NewTag("meshd:" + strings.ReplaceAll(version, "~", "-")) // a tag has no "~"
	if err != nil {
		return fmt.Errorf("name image of %q: %w", version, err)
	}
	return tarball.WriteToFile(path, tag, image)
}

// build returns the image of one architecture.
func build(bin, arch, version string, at time.Time) (v1.Image, error) {
	content, err := files(bin, at)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("pack layer: %w", err)
	}
	image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer,
		History: v1.History{CreatedBy: "meshd " + version, Created: v1.Time{Time: at}}})
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	config = config.DeepCopy()
	platform := platforms[arch]
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Created = v1.Time{Time: at}
	config.Config = v1.Config{
		User:       fmt.Sprintf("%d:%[1]d", user),
		Entrypoint: []string{"/usr/bin/meshd"},
		Cmd:        []string{"run"},
		Env:        []string{"PATH=/usr/bin"},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "meshd",
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	return mutate.ConfigFile(image, config)
}

// files returns the one layer, as tar.
func files(bin string, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content []byte) error {
		h.ModTime, h.Size, h.Format = at, int64(len(content)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return fmt.Errorf("pack %q: %w", h.Name, err)
		}
		_, err := w.Write(content)
		return err
	}
	for _, dir := range []struct {
		name  string
		owner int
	}{
		{"etc/", 0}, {"run/", 0}, {"run/meshd/", user}, {"run/flannel/", user}, {"usr/", 0}, {"usr/bin/", 0},
		{"var/", 0}, {"var/lib/", 0}, {"var/lib/meshd/", user},
	} {
		h := tar.Header{Typeflag: tar.TypeDir, Name: dir.name, Mode: 0o755, Uid: dir.owner, Gid: dir.owner}
		if err := add(h, nil); err != nil {
			return nil, err
		}
	}
	// The control socket belongs to the group mesh.
	passwd := fmt.Sprintf("root:x:0:0::/:\nmeshd:x:%d:%[1]d::/:\n", user)
	group := fmt.Sprintf("root:x:0:\nmesh:x:%d:\n", user)
	for _, file := range []struct{ name, content string }{{"etc/passwd", passwd}, {"etc/group", group}} {
		if err := add(tar.Header{Name: file.name, Mode: 0o644}, []byte(file.content)); err != nil {
			return nil, err
		}
	}
	for _, program := range []struct {
		name string
		caps []byte
	}{{"meshd", capabilities(unix.CAP_NET_ADMIN, unix.CAP_BPF)}, {"meshtui", nil}} {
		content, err := os.ReadFile(filepath.Join(bin, program.name))
		if err != nil {
			return nil, fmt.Errorf("read program: %w", err)
		}
		h := tar.Header{Name: "usr/bin/" + program.name, Mode: 0o755}
		if program.caps != nil {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(program.caps)}
		}
		if err := add(h, content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack layer: %w", err)
	}
	return b.Bytes(), nil
}

// capabilities returns the extended attribute security.capability of a file that gives these to whoever runs
// it: struct vfs_cap_data of linux/capability.h, version 2.
func capabilities(permitted ...int) []byte {
	const revision, effective = 0x02000000, 1 // VFS_CAP_REVISION_2, VFS_CAP_FLAGS_EFFECTIVE
	words := [5]uint32{revision | effective}  // then permitted and inheritable, the lower 32 and the upper
	for _, c := range permitted {
		words[1+2*(c/32)] |= 1 << (c % 32)
	}
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}
