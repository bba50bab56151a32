package e2e

import (
	"os"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// engines are [dataplane] keys by the value of MESH_ENGINE: `make test-engines` runs tests
// that say nothing of an engine with each of them.
var engines = map[string]string{
	"":     "",
	"user": "engine = \"user\"",
	"tcx":  "engine = \"kernel\"\nreceive = \"tcx\"",
	"xdp":  "engine = \"kernel\"\nreceive = \"xdp\"",
}

// onEngine returns a file that asks for the engine of this run, unless it asks for one.
func onEngine(doc string) string {
	keys := engines[os.Getenv("MESH_ENGINE")]
	switch {
	case keys == "" || strings.Contains(doc, "engine = "):
		return doc
	case strings.Contains(doc, "[dataplane]\n"):
		return strings.Replace(doc, "[dataplane]\n", "[dataplane]\n"+keys+"\n", 1)
	}
	return doc + "\n[dataplane]\n" + keys + "\n"
}

// captureTUN is capture on the TUN of a daemon's host; from now on it sees all that passes,
// whichever engine forwards.
func captureTUN(t *testing.T, d *nstest.Daemon) *nstest.Capture {
	t.Helper()
	c := capture(t, d.Host.Namespace, "mesh0")
	waitStatus(t, d, "the capture is known", func(s control.Status) bool { return s.Dataplane.Engine == "user" || s.Dataplane.Captured })
	return c
}
