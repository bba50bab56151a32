package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// pathPage asks for the page to be written, which takes some minutes: `make reliability`.
var pathPage = flag.String("paths", "", "write the table of path changes into this `file`")

// A pathChange is something that packets to a peer, or to a network behind it, have to go around.
type pathChange struct {
	name   string
	file   func(t testing.TB) string // of all hosts
	to     func(r *pathRig) (n *nstest.Namespace, address string)
	before func(r *pathRig) // before packets are sent; may be nil
	cause  func(r *pathRig)
	over   func(s control.Status) bool // packets go as they should from now on, as worker2's status says
}

// A pathRig is worker, worker2 and control-plane with two uplinks each, a network behind worker and
// control-plane, and a name server for worker2.
type pathRig struct {
	*world
	server    *nstest.Namespace // of the network behind two nodes
	w2, w, cp *nstest.Daemon
	hosts     string // names of worker2's name server
}

const lanPrefix = "192.168.7.0/24"

func withLAN(t testing.TB) string {
	return strings.NewReplacer(`"10.244.1.0/24"]`,
		`"10.244.1.0/24"]`+"\nroutes = [{ prefix = \""+lanPrefix+`", metric = 10 }]`,
		`"10.244.0.0/24"]`, `"10.244.0.0/24"]`+"\nroutes = [\""+lanPrefix+`"]`).Replace(demoFile(t))
}

func withName(t testing.TB) string {
	return strings.Replace(demoFile(t), `"172.18.0.4"`, `"worker.test"`, 1)
}

func toPod(r *pathRig) (*nstest.Namespace, string) { return r.PodW, "10.244.1.2:7000" }
func toLAN(r *pathRig) (*nstest.Namespace, string) { return r.server, "192.168.7.9:7000" }

func goesTo(address string) func(control.Status) bool {
	return func(s control.Status) bool {
		return slices.ContainsFunc(s.Peers,
			func(p control.Peer) bool { return p.Name == "worker" && active(p) == address })
	}
}

func goesBy(name string) func(control.Status) bool {
	return func(s control.Status) bool { return carrier(s, lanPrefix) == name }
}

func (r *pathRig) cutPath() { run(r.t, r.Lab.Switch(), dropOnPath("")[0], dropOnPath("")[1:]...) }

var pathChanges = []pathChange{
	{name: "the address in use falls silent", file: twoUplinks, to: toPod, cause: (*pathRig).cutPath,
		over: goesTo("[2001:db8:99::4]:8285")},
	{name: "the uplink of this host goes down", file: twoUplinks, to: toPod,
		cause: func(r *pathRig) { run(r.t, r.Worker2.Namespace, "ip", "link", "set", "eth0", "down") },
		over:  goesTo("[2001:db8:99::4]:8285")},
	{name: "the preferred address answers again", file: twoUplinks, to: toPod,
		before: func(r *pathRig) {
			r.cutPath()
			waitStatus(r.t, r.w2, "packets left", goesTo("[2001:db8:99::4]:8285"))
		},
		cause: func(r *pathRig) { run(r.t, r.Lab.Switch(), healPath[0], healPath[1:]...) },
		over:  goesTo("172.18.0.4:8285")},
	{name: "the peer moves, and its name follows", file: withName, to: toPod,
		cause: func(r *pathRig) {
			r.names("172.18.0.44")
			run(r.t, r.Worker.Namespace, "sh", "-c",
				"ip addr del 172.18.0.4/16 dev eth0; ip addr add 172.18.0.44/16 dev eth0")
		}, over: goesTo("172.18.0.44:8285")},
	{name: "the carrier of a shared prefix falls silent", file: withLAN, to: toLAN, cause: (*pathRig).cutPath,
		over: goesBy("control-plane")},
	{name: "the carrier of a shared prefix is drained", file: withLAN, to: toLAN,
		cause: func(r *pathRig) {
			if out, code := ask(r.w, "drain", "--reason", "test"); code != 0 {
				r.t.Fatal(out)
			}
		}, over: goesBy("control-plane")},
}

// names has worker2's name server say where worker is, and starts it again.
func (r *pathRig) names(worker string) {
	r.t.Helper()
	if err := os.WriteFile(r.hosts, []byte(worker+" worker.test\n"), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// newPathRig builds the rig, and runs meshd on all hosts.
func newPathRig(t *testing.T, file string) *pathRig {
	r := &pathRig{world: newWorld(t)}
	r.secondUplink(map[int]*nstest.Host{3: r.Worker2, 4: r.Worker, 2: r.ControlPlane})
	r.server = r.lan()
	file = onEngine(t, file)
	if strings.Contains(file, ".test") {
		r.serveNames("172.18.0.4")
	}
	r.w2, r.w = r.own(r.Worker2, file), r.startNamed("worker", r.Worker, file)
	if strings.Contains(file, "control-plane") {
		r.cp = r.own(r.ControlPlane, file)
	}
	return r
}

// startNamed starts a daemon whose node has a name of DNS, which it cannot tell.
func (r *pathRig) startNamed(name string, h *nstest.Host, file string) *nstest.Daemon {
	r.t.Helper()
	d := r.start(h, r.write(file), "--node", name)
	if err := d.WaitReady(); err != nil {
		r.t.Fatal(err)
	}
	return d
}

// serveNames runs dnsmasq on worker2, which asks it.
func (r *pathRig) serveNames(worker string) {
	r.t.Helper()
	r.hosts = filepath.Join(r.t.TempDir(), "hosts")
	r.names(worker)
	serveNames(r.t, r.Worker2, filepath.Dir(r.hosts))
}

// serveNames runs dnsmasq on a host, with the names in the files of a folder, and has it ask there
// (ip-netns(8): /etc/netns). A file that changes is read again.
func serveNames(t testing.TB, h *nstest.Host, hosts string) {
	t.Helper()
	folder := filepath.Join("/etc/netns", h.Name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	server := []byte("nameserver 127.0.0.1\n")
	if err := os.WriteFile(filepath.Join(folder, "resolv.conf"), server, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.IP("link set lo up"); err != nil {
		t.Fatal(err)
	}
	if err := h.Background(t.Context(), "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts",
		"--user=root", "--pid-file=", "--conf-file=/dev/null", "--listen-address=127.0.0.1", "--bind-interfaces",
		"--hostsdir="+hosts, "--local=/test/"); err != nil {
		t.Fatal(err)
	}
}

// pathFinding is a row of the page.
type pathFinding struct {
	change, engine, said string
	gap                  time.Duration
	lost                 uint64
}

// Packets find another way by themselves. Without the flag only the page is looked at: it has a row for
// each change.
func TestPathChanges(t *testing.T) {
	page, err := os.ReadFile("../../docs/paths.md")
	if err != nil {
		t.Fatal(err)
	}
	if *pathPage == "" {
		for _, c := range pathChanges {
			for _, engine := range []string{"user", "tcx", "xdp"} {
				if !strings.Contains(string(page), "| "+c.name+" | "+engine+" |") {
					t.Errorf("docs/paths.md has no row about %q, %s: `make reliability` writes them", c.name, engine)
				}
			}
		}
		return
	}
	var rows []pathFinding
	for _, c := range pathChanges {
		for _, engine := range []string{"user", "tcx", "xdp"} {
			t.Run(c.name+" "+engine, func(t *testing.T) {
				enginesOfTests.Store(t.Name(), engine)
				rows = append(rows, c.find(t, engine))
			})
		}
	}
	if err := os.WriteFile(*pathPage, []byte(pathPageOf(string(page), rows)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// find brings a change about while packets flow, and sees what it costs.
func (c pathChange) find(t *testing.T, engine string) pathFinding {
	const rate = 5000
	r := newPathRig(t, c.file(t))
	waitStatus(t, r.w2, "all answer", func(s control.Status) bool {
		for _, p := range s.Peers {
			if p.State != control.Up || slices.ContainsFunc(p.Addresses,
				func(a control.PeerAddress) bool { return a.State != control.Up }) {
				return false
			}
		}
		return true
	})
	if c.before != nil {
		c.before(r)
	}
	to, address := c.to(r)
	full := r.overflows()
	s := startTimed(t, r.PodW2b, to, "10.244.2.3:7000", address, rate)
	c.cause(r)
	var said []string
	deadline := time.Now().Add(2 * time.Minute)
	for s := status(t, r.w2); ; s = status(t, r.w2) {
		for _, p := range s.Health.Problems {
			if p.Peer == "worker" && !slices.Contains(said, p.Kind) {
				said = append(said, p.Kind)
			}
		}
		if c.over(s) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s)
		}
		time.Sleep(50 * time.Millisecond)
	}
	at := time.Now()
	eventually(t, "packets arrive", func() bool { return s.since(at) > rate }, func() string { return "" })
	for _, p := range status(t, r.w2).Health.Problems {
		if p.Peer == "worker" && !slices.Contains(said, p.Kind) {
			said = append(said, p.Kind)
		}
	}
	lost, gap, _ := s.finish()
	lost -= min(lost, r.overflows().since(full)[0])
	return pathFinding{change: c.name, engine: engine, said: strings.Join(said, ", "), gap: gap, lost: lost}
}

// pathTable begins the table of the page, which is all of it that is written.
const pathTable = "| change | engine | no packet for | lost | status says |\n|---|---|---|---|---|\n"

// pathPageOf writes the table behind the text of the page.
func pathPageOf(page string, rows []pathFinding) string {
	var b strings.Builder
	text, _, _ := strings.Cut(page, pathTable)
	b.WriteString(text + pathTable)
	for _, f := range rows {
		said := "nothing of the peer"
		if f.said != "" {
			said = "`" + strings.ReplaceAll(f.said, ", ", "`, `") + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %.1f s | %d | %s |\n", f.change, f.engine, f.gap.Seconds(), f.lost, said)
	}
	return b.String()
}
