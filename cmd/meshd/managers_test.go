package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The root step of the unit takes the options of `meshd run`, leaves a bad file to the daemon, and tells of
// a name that no drop-in can have.
func TestNetworkManagers(t *testing.T) {
	root := t.TempDir()
	put := func(path, text string) string {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	put("usr/lib/systemd/system/NetworkManager.service", "")
	put("usr/lib/NetworkManager/conf.d/90-meshd.conf", "mesh0\n")
	override := filepath.Join(root, "run/NetworkManager/conf.d/90-meshd.conf")
	for _, test := range []struct {
		name string // of the interface, as TOML
		code int
		want string // in the override
	}{
		{`"edge0"`, 0, "edge0\n"}, {`"edge0`, exitNo, "edge0\n"}, {`"a;b"`, exitNo, ""}, {`"edge1"`, 0, "edge1\n"},
		{`"mesh0"`, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := put("mesh.toml", "[network]\ncidr = \"10.244.0.0/16\"\ninterface = "+test.name+
				"\n[[node]]\nname = \"a\"\naddress = \"172.18.0.2\"\nsubnets = [\"10.244.1.0/24\"]\n")
			code, out, errs := meshd("network-managers", "--node", "a", "--log-level", "info", "--root", root,
				"-c", file)
			if code != test.code || out != "" || (errs != "") != strings.Contains(test.name, ";") {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
			if got, _ := os.ReadFile(override); string(got) != test.want {
				t.Errorf("the override is %q, want %q", got, test.want)
			}
		})
	}
}
