package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

var example = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// What docs/api.md shows works as it stands there.
func TestExamplesOfTheAPI(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	doc, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	m := newWorld(t).startAll(often(t))
	for _, name := range []string{"control-plane", "worker"} {
		waitPeer(t, m.w2, name, "up",
			func(p control.Peer) bool { return p.State == control.Up && p.ConfigMatch != nil })
	}
	examples := example.FindAllStringSubmatch(string(doc), -1)
	if len(examples) < 8 {
		t.Fatalf("%d examples", len(examples))
	}
	first := examples[0][1] // defines ask
	for _, e := range examples {
		script := e[1]
		if script != first {
			script = first + "echo ---\n" + script
		}
		for _, line := range strings.Split(strings.TrimSpace(e[1]), "\n") {
			t.Log(line)
		}
		// Not pipefail: head ends what it reads from.
		out, err := m.Worker2.Run("env", "SOCK="+m.w2.Socket, "timeout", "20", "bash", "-eu", "-c", script)
		_, out, _ = strings.Cut(out, "---\n")
		if err != nil || script != first && strings.TrimSpace(out) == "" || strings.Contains(out, "null") ||
			strings.Contains(out, "false") {
			t.Errorf("%v\n%s", err, out)
		}
		t.Log(out)
	}
}

// Metrics over TCP come, move and go with the file; an address that is taken is an
// error of the edit, and no reason not to start.
func TestMetricsListen(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	listen := func(address string) string { return demoFile(t) + "[metrics]\nlisten = \"" + address + "\"\n" }
	d := w.own(w.Worker2, listen("127.0.0.1:9285"))
	scrape := func(port string) (string, error) {
		return w.Worker2.Run("curl", "-sS", "--fail", "--max-time", "5", "http://127.0.0.1:"+port+"/metrics")
	}
	// All scrapers share a page, which may be as old as four times what it took to make.
	shows := func(port, want string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; {
			out, err := scrape(port)
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("no %q: %v\n%s", want, err, out)
			}
			if strings.Contains(out, want) {
				return
			}
		}
	}
	c := client(t, d)
	reload := func(doc string) control.ReloadResult {
		t.Helper()
		save(t, d, doc)
		r, err := c.Reload(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	shows("9285", "meshd_config_generation 1")
	if r := reload(listen("127.0.0.1:9286")); !r.Reload.OK {
		t.Errorf("%+v", r)
	}
	shows("9286", "meshd_config_generation 2")
	if _, err := scrape("9285"); err == nil {
		t.Error("the old address is served, too")
	}
	// "All" stands in the way of "one", which is our own.
	for i, address := range []string{":9286", "127.0.0.1:9286"} {
		if r := reload(listen(address)); !r.Reload.OK {
			t.Errorf("%+v", r)
		}
		shows("9286", fmt.Sprintf("meshd_config_generation %d", 3+i))
	}
	if r := reload(listen("192.0.2.99:9300")); r.Reload.OK ||
		!strings.Contains(r.Reload.Error, "listen for metrics: listen tcp 192.0.2.99:9300") ||
		r.Generation != 4 {
		t.Errorf("an address of somebody else: %+v", r)
	}
	shows("9286", "meshd_config_last_reload_successful 0")
	if r := reload(demoFile(t)); !r.Reload.OK {
		t.Errorf("%+v", r)
	}
	if _, err := scrape("9286"); err == nil {
		t.Error("still served")
	}
}

// A metrics address that cannot be had is a warning at the start, until it is there.
func TestMetricsAddressComesLater(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	d := w.own(w.Worker2, demoFile(t)+"[metrics]\nlisten = \"192.0.2.99:9285\"\n")
	if s := status(t, d); !only(s, "metrics_failed") {
		t.Errorf("%q", s.Warnings)
	}
	if err := w.Worker2.IP("addr add 192.0.2.99/32 dev lo", "link set lo up"); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, d, "metrics are served", func(s control.Status) bool { return len(problems(s)) == 0 })
	contains(t, run(t, w.Worker2.Namespace, "curl", "-sS", "http://192.0.2.99:9285/metrics"), "meshd_build_info")
}
