package e2e

import (
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

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// byKernel tells whether the kernel encrypts: MESH_WIREGUARD=kernel, as the trial of kernels has it.
// Otherwise the process in user space does, which each kernel can run.
var byKernel = os.Getenv("MESH_WIREGUARD") == "kernel"

// sealed is the reference's mesh with encryption.
type sealed struct {
	*world
	keys    map[*nstest.Host]string // folder of the host's private key
	public  map[*nstest.Host]string
	helpers map[*nstest.Host]*nstest.Daemon // none where the kernel encrypts
}

// newSealed makes the hosts with their keys. Nothing runs yet.
func newSealed(t testing.TB) *sealed {
	t.Helper()
	s := &sealed{newWorldMTU(t, 1440), map[*nstest.Host]string{}, map[*nstest.Host]string{},
		map[*nstest.Host]*nstest.Daemon{}}
	for _, h := range s.Hosts() {
		s.addKey(h)
	}
	return s
}

// addKey makes the key of a host.
func (s *sealed) addKey(h *nstest.Host) {
	s.t.Helper()
	s.keys[h] = s.t.TempDir()
	out, err := exec.Command(meshd, "key", "--private-key", filepath.Join(s.keys[h], "private.key")).Output()
	if err != nil {
		s.t.Fatal(err)
	}
	s.public[h] = strings.TrimSpace(string(out))
}

// file returns the demo's file with encryption and the keys of the hosts.
func (s *sealed) file() string {
	s.t.Helper()
	doc := strings.Replace(demoFile(s.t), "[network]\n", "[network]\ntransport = \"wireguard\"\n", 1)
	for n, h := range s.Hosts() {
		subnet := fmt.Sprintf("subnets = [\"10.244.%d.0/24\"]\n", n)
		doc = strings.Replace(doc+"\n", subnet, subnet+fmt.Sprintf("public_key = %q\n", s.public[h]), 1)
	}
	return doc
}

// helper starts WireGuard in user space on a host; the test ends it. Where the kernel encrypts there is
// nothing to start, and the result is nil.
func (s *sealed) helper(h *nstest.Host) *nstest.Daemon {
	s.t.Helper()
	if byKernel {
		return nil
	}
	d, err := h.StartHelper(s.binary)
	if err != nil {
		s.t.Fatal(err)
	}
	s.helpers[h] = d
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("helper on %s, %s:\n%s", h.Name, d.State(), d.Log())
		}
		d.Kill()
	})
	return d
}

// run starts meshd on a host with a file of its own, and waits until it forwards.
func (s *sealed) run(h *nstest.Host, doc string) *nstest.Daemon {
	s.t.Helper()
	d := s.begin(h, s.write(doc))
	if err := d.WaitReady(); err != nil {
		s.t.Fatal(err)
	}
	return d
}

// begin starts meshd on a host, by another command whose last arguments it is if there is one.
func (s *sealed) begin(h *nstest.Host, file string, by ...string) *nstest.Daemon {
	s.t.Helper()
	d, err := h.MeshdBy(append(by, "env", "CREDENTIALS_DIRECTORY="+s.keys[h]), s.binary, file, s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("meshd on %s, %s:\n%s", h.Name, d.State(), d.Log())
		}
		if err := nstest.StopAll(d); err != nil {
			s.t.Error(err)
		}
	})
	return d
}

// runAll starts helper and meshd on all hosts, and waits until each reaches the others.
func (s *sealed) runAll(doc string) (all []*nstest.Daemon) {
	s.t.Helper()
	for _, h := range s.Hosts() {
		s.helper(h)
		all = append(all, s.run(h, doc))
	}
	for _, d := range all {
		waitStatus(s.t, d, "all peers are up", func(st control.Status) bool {
			return !slices.ContainsFunc(st.Peers, func(p control.Peer) bool { return p.State != control.Up })
		})
	}
	return all
}

// arrive waits until packets of a stream that were sent from now on arrive.
func (s *sealed) arrive(stream *timed, what string) {
	s.t.Helper()
	was := time.Now()
	eventually(s.t, "packets arrive after "+what, func() bool { return stream.since(was) > 50 },
		func() string { return "" })
}

// breakDown has encryption fail on a host for good, and returns the kind of the condition that tells so: the
// process in user space ends, or another socket has the port of the kernel's.
func (s *sealed) breakDown(h *nstest.Host) (kind string) {
	s.t.Helper()
	if !byKernel {
		s.helpers[h].Kill()
		s.ip(h, "link del meshd-wg")
		return "wireguard_missing"
	}
	// The port is free between the end of the interface and meshd's next one, so it may take several tries.
	eventually(s.t, "another socket has the port", func() bool {
		_ = h.IP("link del meshd-wg") // which meshd may have to make first
		return h.Do(func() error {
			c, err := net.ListenPacket("udp4", ":51820")
			if err == nil {
				s.t.Cleanup(func() { c.Close() })
			}
			return err
		}) == nil
	}, func() string { return "" })
	return "wireguard_refused"
}

// A damage is something that breaks encryption on a host, or might do so.
type damage struct {
	name string
	do   func()
}

// damages returns those that meshd has to mend on a host; d is its daemon, and may be another one afterwards.
func (s *sealed) damages(host *nstest.Host, d **nstest.Daemon, doc string, stream *timed) []damage {
	all := []damage{
		{"kill -9 of meshd", func() {
			(*d).Kill()
			s.arrive(stream, "meshd was killed") // the interface goes on
			*d = s.run(host, doc)
		}},
		{"stop and start", func() {
			if _, err := (*d).Stop(); err != nil {
				s.t.Fatal(err)
			}
			s.arrive(stream, "meshd has stopped")
			*d = s.run(host, doc)
		}},
		{"interface deleted", func() { s.ip(host, "link del meshd-wg") }},
		{"interface down", func() { s.ip(host, "link set meshd-wg down") }},
		{"route deleted", func() { s.ip(host, "route del 10.244.1.0/24 dev meshd-wg") }},
		{"address deleted", func() { s.ip(host, "addr flush dev meshd-wg") }},
		{"TUN deleted", func() { s.ip(host, "link del mesh0") }},
		{"rules flushed", func() { run(s.t, host.Namespace, "nft", "flush", "ruleset") }},
		{"peers deleted", func() {
			if out, err := host.WG("set", "meshd-wg", "peer", s.public[s.Worker], "remove"); err != nil {
				s.t.Fatalf("%v: %s", err, out)
			}
		}},
		{"reload", func() {
			if out, code := ask(*d, "reload"); code != 0 {
				s.t.Fatalf("exit %d: %s", code, out)
			}
		}},
	}
	if !byKernel {
		all = append(all, damage{"process killed", func() {
			s.helpers[host].Kill()
			s.helper(host)
		}})
	}
	return all
}

// Whatever breaks, no packet of a pod leaves a host bare, and packets go on as soon as it is mended.
func TestNothingLeavesBare(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	watch := s.watchBare("10.244.2.3", "10.244.1.2", "10.244.0.2")
	doc := s.file()
	w2 := s.runAll(doc)[2]
	stream := startTimed(t, s.PodW2b, s.PodW, "10.244.2.3:7000", "10.244.1.2:7000", 500)
	route, err := client(t, w2).Route(t.Context(), netip.MustParseAddr("10.244.1.2"))
	if err != nil || route.Interface != "meshd-wg" || !route.Carried() {
		t.Errorf("route %+v, %v", route, err)
	}
	implementation := control.WireGuardUser
	if byKernel {
		implementation = control.WireGuardKernel
	}
	if got := status(t, w2).WireGuard; got == nil || got.Implementation != implementation {
		t.Errorf("encryption is by %+v, want %s", got, implementation)
	}
	for _, damage := range s.damages(s.Worker2, &w2, doc, stream) {
		t.Run(damage.name, func(t *testing.T) {
			damage.do()
			s.arrive(stream, damage.name)
			waitStatus(t, w2, "health is well again", func(st control.Status) bool {
				return !slices.ContainsFunc(st.Health.Problems,
					func(p control.Problem) bool { return p.Level == control.Failed })
			})
		})
	}
	stream.finish()

	// The floor counts what would have left bare.
	before := status(t, w2).Totals.Drops["not_encrypted"]
	kind := s.breakDown(s.Worker2)
	waitStatus(t, w2, "encryption has failed, and is told", func(st control.Status) bool {
		return slices.Contains(problems(st), kind) && st.Health.Level == control.Failed
	})
	pings := s.PodW2b.Command("ping", "-c", "3", "-i", "0.01", "-W", "1", "10.244.1.2")
	if out, err := pings.CombinedOutput(); err == nil {
		t.Errorf("pings without encryption: %s", out)
	}
	if got := status(t, w2).Totals.Drops["not_encrypted"]; got < before+3 {
		t.Errorf("not_encrypted is %d, and was %d before three pings", got, before)
	}
	watch.end(t)
}

// ip runs ip(8) on a host.
func (s *sealed) ip(h *nstest.Host, line string) {
	s.t.Helper()
	if err := h.IP(line); err != nil {
		s.t.Fatal(err)
	}
}

// A start with a key that is missing, open to others or of another node ends with exit code 78, and the
// host's own private key in the file is called what it is.
func TestKeysOfThisHost(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	s := newSealed(t)
	private := func(h *nstest.Host) string { return filepath.Join(s.keys[h], "private.key") }
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	secret := read(private(s.Worker))
	for _, test := range []struct {
		name   string
		folder func() string // of the key
		doc    func() string
	}{
		{"missing", t.TempDir, s.file},
		{"of another node", func() string { return s.keys[s.Worker2] }, s.file},
		{"in the file", func() string { return s.keys[s.Worker] },
			func() string { return strings.Replace(s.file(), s.public[s.Worker2], secret, 1) }},
		{"open", func() string {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "key"), []byte(secret), 0o644); err != nil {
				t.Fatal(err)
			}
			return dir
		}, func() string {
			return s.file() + fmt.Sprintf("[wireguard]\nprivate_key = %q\n", filepath.Join(s.dir, "open.key"))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(s.dir, "open.key"), []byte(secret+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			d, err := s.Worker.MeshdBy([]string{"env", "CREDENTIALS_DIRECTORY=" + test.folder()}, s.binary,
				s.write(test.doc()), s.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Kill()
			if code, err := d.Exit(); err != nil || code != 78 {
				t.Errorf("exit %d, %v:\n%s", code, err, d.Log())
			}
			if strings.Contains(d.Log(), secret) {
				t.Error("the log has the private key")
			}
			// No packet to a pod leaves by another way while nothing runs.
			if out, err := s.Worker.Run("ip", "route", "get", "10.244.2.2"); err == nil {
				t.Errorf("packets of pods would leave: %s", out)
			}
		})
	}
}

// rekeyAfter is how long the keys of a session are used, where packets flow all the time (REKEY_AFTER_TIME in
// drivers/net/wireguard/messages.h).
const rekeyAfter = 2 * time.Minute

// handshake returns when the session with worker was made.
func handshake(t *testing.T, d *nstest.Daemon) time.Time {
	t.Helper()
	w := peer(t, status(t, d), "worker").WireGuard
	if w == nil || w.LatestHandshake == nil {
		t.Fatalf("no session: %+v", w)
	}
	return *w.LatestHandshake
}

// lasting returns when the session with worker was made, once no other one follows from the start: where
// both hosts call each other at once and the first message of one is lost, it calls again after 5 s and a
// third of a second at most (REKEY_TIMEOUT in section 6.1 of the WireGuard paper).
func lasting(t *testing.T, d *nstest.Daemon) (at time.Time) {
	t.Helper()
	eventually(t, "the session stays", func() bool {
		at = handshake(t, d)
		return time.Since(at) > 6*time.Second
	}, d.Log)
	return at
}
