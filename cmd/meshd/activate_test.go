package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// A host does not take its next key while another one is known to have a file in force that may not list it.
// The operator may insist, and a host that does not answer is named.
func TestActivateAsksTheOthers(t *testing.T) {
	nstest.Require(t)
	defer func(before time.Duration) { newsOfFiles = before }(newsOfFiles)
	yes, no, asked := true, false, 0
	up := func(name string, same *bool) control.Peer {
		return control.Peer{Name: name, State: control.Up, ConfigMatch: same}
	}
	lists := func(next mesh.Key) *control.WireGuard { return &control.WireGuard{NextPublicKey: next.String()} }
	for _, test := range []struct {
		name   string
		line   string // of the file, with NEXT for the next key
		status func(next mesh.Key) control.Status
		force  bool
		taken  bool
		names  string // that the answer has
	}{
		{"all have the file", `next_public_key = "NEXT"`, func(next mesh.Key) control.Status {
			return control.Status{WireGuard: lists(next), Peers: []control.Peer{up("edge-1", &yes)}}
		}, false, true, ""},
		{"one has another", `next_public_key = "NEXT"`, func(next mesh.Key) control.Status {
			return control.Status{WireGuard: lists(next), Peers: []control.Peer{up("edge-1", &yes),
				up("edge-2", &no)}}
		}, false, false, "edge-2"},
		{"one tells of it a moment later", `next_public_key = "NEXT"`, func(next mesh.Key) control.Status {
			asked++
			return control.Status{WireGuard: lists(next), Peers: []control.Peer{up("edge-1", new(asked > 2))}}
		}, false, true, ""},
		{"one has another, whatever", `next_public_key = "NEXT"`, func(next mesh.Key) control.Status {
			return control.Status{WireGuard: lists(next), Peers: []control.Peer{up("edge-2", &no)}}
		}, true, true, ""},
		{"one is down, with another file", `next_public_key = "NEXT"`, func(next mesh.Key) control.Status {
			down := up("edge-3", &no)
			down.State = control.Down
			return control.Status{WireGuard: lists(next), Peers: []control.Peer{down}}
		}, false, true, "edge-3"},
		{"one does not tell", `next_public_key = "NEXT"`, func(next mesh.Key) control.Status {
			return control.Status{WireGuard: lists(next), Peers: []control.Peer{up("stock", nil)}}
		}, false, true, "stock"},
		{"the file is not in force here", `next_public_key = "NEXT"`, func(mesh.Key) control.Status {
			return control.Status{WireGuard: lists(mesh.Key{}), Peers: []control.Peer{up("edge-1", &yes)}}
		}, false, false, "meshd reload"},
		{"others do not know the key before any more", `# done: NEXT`, func(mesh.Key) control.Status {
			return control.Status{WireGuard: lists(mesh.Key{}), Peers: []control.Peer{up("edge-1", &no)}}
		}, false, true, ""},
		{"no encryption", `next_public_key = "NEXT"`, func(mesh.Key) control.Status { return control.Status{} },
			false, true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			// What is refused is refused when this has passed; what is waited for may come as late as it likes.
			newsOfFiles = 100 * time.Millisecond
			if test.taken {
				newsOfFiles = time.Minute / 2
			}
			folder := t.TempDir()
			path, file := filepath.Join(folder, "private.key"), filepath.Join(folder, "mesh.toml")
			code, out, _ := meshd("key", "--private-key", path)
			first := printedKey(t, code, out)
			code, out, _ = meshd("key", "--next", "--private-key", path)
			next := printedKey(t, code, out)
			if strings.HasPrefix(test.line, "#") {
				first = next
			}
			if err := os.WriteFile(file, []byte("[network]\ncidr = \"10.244.0.0/16\"\ntransport = \"wireguard\"\n"+
				"[[node]]\nname = \"a\"\nsubnets = [\"10.244.1.0/24\"]\npublic_key = \""+first.String()+"\"\n"+
				strings.ReplaceAll(test.line, "NEXT", next.String())+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			socket := fake(t, control.Source{Status: func() control.Status {
				s := test.status(next)
				s.Schema = control.Schema
				return s
			}})
			args := []string{"key", "--activate", "-c", file, "--private-key", path, "--socket", socket}
			if test.force {
				args = append(args, "--force")
			}
			code, out, errs := meshd(args...)
			if (code == 0) != test.taken || (out != "") != test.taken || !strings.Contains(errs, test.names) {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
			if _, err := os.Stat(path + ".next"); (err != nil) != test.taken {
				t.Errorf("the next key: %v", err)
			}
		})
	}
}
