// Package e2e proves meshd from outside: real daemons on hosts made of network
// namespaces, real pods, and packets counted and read on the wire.
package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/configs"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// The binaries under test: meshd with the race detector and with coverage, which lands in
// $MESH_COVERDIR; shipped as users have it, for tests in which its speed decides what the
// kernel's queues lose.
var meshd, shipped, meshtui string

// checked are the flags of what is looked at while it runs.
var checked = []string{"-race", "-cover", "-coverpkg=example.org/meshd/..."}

// use takes the binaries from a folder: meshd and meshtui as users have them and, if it is
// there, a folder of checked ones.
func use(bin string) {
	meshd, shipped, meshtui = filepath.Join(bin, "meshd"), filepath.Join(bin,
		"meshd"), filepath.Join(bin, "meshtui")
	if _, err := os.Stat(filepath.Join(bin, "checked")); err == nil {
		meshd, meshtui = filepath.Join(bin, "checked", "meshd"), filepath.Join(bin, "checked", "meshtui")
	}
}

func TestMain(m *testing.M) {
	nstest.SideBySide()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "meshtest")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin := os.Getenv("MESH_BIN") // `make test` and tools/kernels have built them
		if bin == "" {
			bin = dir
			for to, flags := range map[string][]string{bin: nil, filepath.Join(bin, "checked"): checked} {
				args := slices.Concat([]string{"build", "-o", to + "/"}, flags, []string{"example.org/meshd/cmd/..."})
				if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
					fmt.Fprintf(os.Stderr, "go %s: %v\n%s", strings.Join(args, " "), err, out)
					return 1
				}
			}
		}
		use(bin)
		os.Setenv("GORACE", "atexit_sleep_ms=0") // the default waits a second at each exit
		// Not the GOCOVERDIR of this process: `go test` sets that for itself.
		os.Setenv("GOCOVERDIR", cmp.Or(os.Getenv("MESH_COVERDIR"), dir))
		return m.Run()
	}())
}

// world is a lab with the reference's hosts and pods and the files of a test.
type world struct {
	*nstest.Reference
	t      testing.TB
	dir    string
	binary string // that start runs

	daemons []*nstest.Daemon // that were started
}

// newWorld builds the hosts and pods; no daemon runs yet.
func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldMTU(t, 1472)
}

func newWorldMTU(t testing.TB, mtu int) *world {
	t.Helper()
	lab := nstest.LabForTest(t)
	r, err := nstest.NewReference(lab, mtu)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range r.Hosts() {
		if !byXDP(t) {
			break
		}
		if err := h.KeepFlowsOnCPU(); err != nil {
			t.Fatal(err)
		}
	}
	return &world{Reference: r, t: t, dir: t.TempDir(), binary: meshd}
}

// write stores a configuration file and returns its path.
func (w *world) write(doc string) string {
	w.t.Helper()
	f, err := os.CreateTemp(w.dir, "*.toml")
	if err == nil {
		_, err = f.WriteString(onEngine(w.t, doc))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return f.Name()
}

// start starts meshd on one host; the test ends it.
func (w *world) start(h *nstest.Host, file string, args ...string) *nstest.Daemon {
	w.t.Helper()
	return w.startService(nil, h, file, args...)
}

// startService is start by a service manager, unless that is nil.
func (w *world) startService(s *nstest.Service, h *nstest.Host, file string, args ...string) *nstest.Daemon {
	w.t.Helper()
	d, err := h.MeshdService(s, w.binary, file, w.dir, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.daemons = append(w.daemons, d)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("meshd on %s, %s:\n%s", h.Name, d.State(), d.Log())
		}
		if err := nstest.StopAll(d); err != nil {
			w.t.Errorf("%v\n%s", err, d.Log())
		}
		if strings.Contains(d.Log(), "DATA RACE") || strings.Contains(d.Log(), "panic:") {
			w.t.Errorf("%s", d.Log())
		}
	})
	return d
}

// mesh is a world in which all three daemons forward packets.
type mesh struct {
	*world
	cp, w, w2 *nstest.Daemon
}

func (w *world) startAll(doc string) *mesh {
	w.t.Helper()
	file := w.write(doc)
	m := &mesh{world: w}
	for i, d := range []**nstest.Daemon{&m.cp, &m.w, &m.w2} {
		*d = w.start(w.Hosts()[i], file)
	}
	for _, d := range []*nstest.Daemon{m.cp, m.w, m.w2} {
		if err := d.WaitReady(); err != nil {
			w.t.Fatal(err)
		}
	}
	return m
}

// newMesh starts the mesh of the demo.
func newMesh(t testing.TB) *mesh {
	t.Helper()
	return newWorld(t).startAll(demoFile(t))
}

func demoFile(t testing.TB) string {
	t.Helper()
	doc, err := configs.Files.ReadFile("demo.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// dualStack is the demo's mesh with IPv6 inside, over the given underlay
// address pattern.
func dualStack(address string) string {
	doc := "[network]\ncidr = [\"10.244.0.0/16\", \"fd00:10:244::/48\"]\n"
	for i, n := range []struct {
		name     string
		underlay int
	}{{"control-plane", 2}, {"worker", 4}, {"worker2", 3}} {
		doc += fmt.Sprintf(
			"[[node]]\nname = %q\naddress = %q\nsubnets = [\"10.244.%d.0/24\", \"fd00:10:244:%d::/64\"]\n", n.name,
			fmt.Sprintf(address, n.underlay), i, i)
	}
	return doc
}

// client returns a client of a daemon, which closes with the test.
func client(t testing.TB, d *nstest.Daemon) *control.Client {
	c := control.NewClient(d.Socket)
	t.Cleanup(c.Close)
	return c
}

// status asks a daemon for its status, as `meshd status --json` does; to start that costs a
// fifth of a second of a CPU each time.
func status(t testing.TB, d *nstest.Daemon) control.Status {
	t.Helper()
	c := control.NewClient(d.Socket)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := c.Status(ctx)
	if err != nil {
		t.Fatalf("status of %s: %v", d.Host.Name, err)
	}
	return s
}

func peer(t testing.TB, s control.Status, name string) control.Peer {
	t.Helper()
	for _, p := range s.Peers {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no peer %q in %s", name, brief(s.Peers))
	return control.Peer{}
}

// patience is how long a test waits for what a daemon or a program does in milliseconds.
var patience = nstest.Patience

// eventually polls until ok is true, for what has no event to wait for. It fails the test with
// what so says when that takes too long.
func eventually(t testing.TB, what string, ok func() bool, so func() string) {
	t.Helper()
	within(t, patience, what, ok, so)
}

// within is eventually for what may take another time.
func within(t testing.TB, longest time.Duration, what string, ok func() bool, so func() string) {
	t.Helper()
	for deadline := time.Now().Add(longest); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v; %s", what, longest, so())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// brief prints the beginning of a value: the status of ten thousand peers has ten million bytes.
func brief(v any) string {
	const enough = 8000
	text := fmt.Sprintf("%+v", v)
	if len(text) <= enough {
		return text
	}
	return fmt.Sprintf("%s... (%d bytes)", text[:enough], len(text))
}

// waitStatus polls a daemon until ok accepts its status. Counters have no event
// to wait for.
func waitStatus(t testing.TB, d *nstest.Daemon, what string,
	ok func(control.Status) bool) (s control.Status) {
	t.Helper()
	eventually(t, what, func() bool {
		s = status(t, d)
		return ok(s)
	}, func() string { return "status " + brief(s) })
	return s
}

// run runs a command in a namespace that must succeed.
func run(t testing.TB, n *nstest.Namespace, name string, args ...string) string {
	t.Helper()
	out, err := n.Run(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func contains(t testing.TB, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// waitEvents waits until a daemon has logged an event of a kind, with the given attributes, n times; more
// fail the test. What status shows may be logged a moment later, and what is logged is read through a pipe.
func waitEvents(t testing.TB, d *nstest.Daemon, n int, kind string, fields ...string) {
	t.Helper()
	var all []nstest.Record
	eventually(t, fmt.Sprintf("%d times %s %q", n, kind, fields), func() bool {
		all = d.Events(kind, fields...)
		return len(all) >= n
	}, d.Log)
	if len(all) > n {
		t.Errorf("%d times %s %q, want %d\n%s", len(all), kind, fields, n, d.Log())
	}
}

// told waits until a warning about a subject (an address, a route, a key) is in a daemon's log and in its
// status.
func told(t testing.TB, d *nstest.Daemon, subject string) {
	t.Helper()
	waitStatus(t, d, "a warning about "+subject, func(s control.Status) bool {
		return slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, subject) })
	})
	eventually(t, "a warning about "+subject, func() bool {
		return slices.ContainsFunc(d.Events("warning"), func(r nstest.Record) bool {
			return strings.Contains(r.String(), subject)
		})
	}, d.Log)
}

// problems returns the kinds of what is wrong with a node itself, the worst first. Most labs run fewer
// hosts than their file lists, so what is wrong with peers is left out; see peerProblems.
func problems(s control.Status) (kinds []string) {
	for _, p := range s.Health.Problems {
		if !ofPeers(p) {
			kinds = append(kinds, p.Kind)
		}
	}
	return kinds
}

// peerProblems returns the kinds of what is wrong with one peer, or with "" for what is wrong with
// groups of them.
func peerProblems(s control.Status, peer string) (kinds []string) {
	for _, p := range s.Health.Problems {
		if ofPeers(p) && p.Peer == peer {
			kinds = append(kinds, p.Kind)
		}
	}
	return kinds
}

// ofPeers tells whether a problem is about peers, one or a group, and not about what this host does.
func ofPeers(p control.Problem) bool {
	switch p.Kind {
	case "address_silent", "peer_drains", "peer_maintained", "peer_down", "peer_silent", "peer_one_way",
		"peer_loss", "file_differs",
		"path_large", "path_checksum", "path_port", "path_dscp", "path_forwarding",
		"port_unreachable", "host_unreachable", "prohibited", "routing_loop", "no_neighbour",
		"send_refused":
		return true
	}
	return false
}

// only tells whether one problem is all that a node has, and of which kind it is.
func only(s control.Status, kind string) bool { return slices.Equal(problems(s), []string{kind}) }

// isRepair accepts the record of a repair that made a change which begins so, as `meshd plan`
// writes it.
func isRepair(change string) func(nstest.Record) bool {
	return func(r nstest.Record) bool {
		return r.Event == "repaired" && slices.ContainsFunc(strings.Split(r.Fields["what"], "; "),
			func(c string) bool { return strings.HasPrefix(c, change) })
	}
}

// repairsOf returns a daemon's repairs that made a change.
func repairsOf(d *nstest.Daemon, change string) []nstest.Record {
	is := isRepair(change)
	return slices.DeleteFunc(d.Records(), func(r nstest.Record) bool { return !is(r) })
}

// waitRepair waits for a repair that makes a change.
func waitRepair(t testing.TB, d *nstest.Daemon, change string) {
	t.Helper()
	if _, err := d.WaitRecord(0, "repair with "+change, isRepair(change)); err != nil {
		t.Fatal(err)
	}
}

// listen opens a UDP socket in a namespace.
func listen(t testing.TB, n *nstest.Namespace, address string) *net.UDPConn {
	t.Helper()
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UDPConn)
}

// send sends one datagram.
func send(t testing.TB, conn *net.UDPConn, to string, payload []byte) {
	t.Helper()
	if _, err := conn.WriteToUDPAddrPort(payload, netip.MustParseAddrPort(to)); err != nil {
		t.Fatal(err)
	}
}

// receive waits for the next datagram.
func receive(t testing.TB, conn *net.UDPConn) (payload []byte, from netip.AddrPort) {
	t.Helper()
	buf := make([]byte, 65536)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, from, err := conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// capture listens on an interface until the test ends.
func capture(t testing.TB, n *nstest.Namespace, dev string) *nstest.Capture {
	t.Helper()
	c, err := n.Capture(dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// isProbe tells whether meshd itself asks here how a peer is.
func isProbe(b []byte) bool { return bytes.Contains(b, []byte("meshd\x00\x01\n")) }

// next waits for a frame that is no probe.
func next(t testing.TB, c *nstest.Capture, what string, match func([]byte) bool) []byte {
	t.Helper()
	frame, err := c.Next(10*time.Second, func(b []byte) bool { return match(b) && !isProbe(b) })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return frame
}
