package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// outside adds a machine on the underlay that knows nothing of pods.
func (m *mesh) outside() *nstest.Host {
	m.t.Helper()
	h, err := m.Lab.Host("outside", "172.18.0.77/16", "2001:db8::77/64")
	if err != nil {
		m.t.Fatal(err)
	}
	return h
}

// kubeProxy installs on a host what kube-proxy's iptables mode has for a
// NodePort: DNAT to one pod, the mark 0x4000 for what must be masqueraded, and
// the masquerading of what is marked.
func kubeProxy(t *testing.T, h *nstest.Host, port, to string, mark bool) {
	t.Helper()
	rules := [][]string{
		{"-N", "KUBE-SERVICES"}, {"-N", "KUBE-POSTROUTING"}, {"-N", "KUBE-MARK-MASQ"},
		{"-A", "PREROUTING", "-j", "KUBE-SERVICES"}, {"-A", "OUTPUT", "-j", "KUBE-SERVICES"},
		{"-A", "POSTROUTING", "-j", "KUBE-POSTROUTING"},
		{"-A", "KUBE-MARK-MASQ", "-j", "MARK", "--or-mark", "0x4000"},
		{"-A", "KUBE-POSTROUTING", "-m", "mark", "!", "--mark", "0x4000/0x4000", "-j", "RETURN"},
		{"-A", "KUBE-POSTROUTING", "-j", "MARK", "--xor-mark", "0x4000"},
		{"-A", "KUBE-POSTROUTING", "-j", "MASQUERADE", "--random-fully"},
	}
	service := []string{"-A", "KUBE-SERVICES", "-p", "tcp", "--dport", port, "-m", "addrtype", "--dst-type", "LOCAL", "-j"}
	if mark {
		rules = append(rules, append(service, "KUBE-MARK-MASQ"))
	}
	rules = append(rules, append(service, "DNAT", "--to-destination", to))
	for _, rule := range rules {
		run(t, h.Namespace, "iptables-nft", append([]string{"-t", "nat"}, rule...)...)
	}
}

// listenTCP listens in a pod until the test ends.
func listenTCP(t *testing.T, n *nstest.Namespace, address string) (l net.Listener) {
	t.Helper()
	if err := n.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve answers every TCP connection in a pod with the address it came from.
func serve(t *testing.T, n *nstest.Namespace, address string) {
	t.Helper()
	l := listenTCP(t, n, address)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, conn.RemoteAddr().String())
			conn.Close()
		}
	}()
}

// askWho connects from a namespace and returns the address the server saw.
func askWho(n *nstest.Namespace, address string) (netip.Addr, error) {
	var reply []byte
	err := n.Do(func() error {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		reply, err = io.ReadAll(conn)
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	seen, err := netip.ParseAddrPort(string(reply))
	return seen.Addr(), err
}

func seenAs(t *testing.T, n *nstest.Namespace, address, want string) {
	t.Helper()
	if got, err := askWho(n, address); err != nil || got != netip.MustParseAddr(want) {
		t.Errorf("%s saw %s come from %v, %v; want %s", address, n.Name, got, err, want)
	}
}

// The walk's NodePort: a pod asks its own host for a port that is served by a
// pod on another host.
func TestWalkNodePort(t *testing.T) {
	m := newMesh(t)
	serve(t, m.PodW, "10.244.1.2:80")
	kubeProxy(t, m.Worker2, "32000", "10.244.1.2:80", true)
	seenAs(t, m.PodW2b, "172.18.0.3:32000", "10.244.2.0")
	flows := run(t, m.Worker2.Namespace, "conntrack", "-L", "-p", "tcp", "--dport", "32000")
	line := regexp.MustCompile(`src=10\.244\.2\.3 dst=172\.18\.0\.3 sport=\d+ dport=32000 src=10\.244\.1\.2 dst=10\.244\.2\.0 sport=80 `)
	if !line.MatchString(flows) {
		t.Errorf("conntrack:\n%s", flows)
	}
}

// A service without kube-proxy's mark: the client is hidden only where the
// answer would not find back otherwise.
func TestUnmarkedService(t *testing.T) {
	m := newMesh(t)
	outside := m.outside()
	serve(t, m.PodW, "10.244.1.2:80")
	serve(t, m.PodW2b, "10.244.2.3:80")
	kubeProxy(t, m.Worker2, "32000", "10.244.1.2:80", false)
	run(t, m.Worker2.Namespace, "iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "32001", "-j", "DNAT", "--to-destination", "10.244.2.3:80")
	seenAs(t, outside.Namespace, "172.18.0.3:32000", "10.244.2.0")  // remote pod: the TUN's address
	seenAs(t, outside.Namespace, "172.18.0.3:32001", "172.18.0.77") // local pod: the client's own
}

// Who is seen as whom, in both families.
func TestWhoIsSeenAsWhom(t *testing.T) {
	w := newWorldMTU(t, 1452)
	file := dualStack("172.18.0.%d") + "[masquerade]\nexclude = [\"172.18.0.78/32\", \"2001:db8::78/128\"]\n"
	m := w.startAll(file)
	outside := m.outside()
	if err := outside.IP("addr add 172.18.0.78/16 dev eth0", "addr add 2001:db8::78/64 dev eth0 nodad",
		"route add 10.244.2.0/24 via 172.18.0.3", "route add fd00:10:244:2::/64 via 2001:db8::3"); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"172.18.0.77:80", "172.18.0.78:80", "[2001:db8::77]:80", "[2001:db8::78]:80"} {
		serve(t, outside.Namespace, address)
	}
	serve(t, m.PodW, "10.244.1.2:80")
	serve(t, m.PodW, "[fd00:10:244:1::2]:80")
	serve(t, m.PodW2b, "10.244.2.3:80")

	seenAs(t, m.PodW2b, "10.244.1.2:80", "10.244.2.3")
	seenAs(t, m.PodW2b, "[fd00:10:244:1::2]:80", "fd00:10:244:2::3")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
	seenAs(t, m.PodW2b, "[2001:db8::77]:80", "2001:db8::3")
	seenAs(t, m.PodW2b, "172.18.0.78:80", "10.244.2.3")            // excluded
	seenAs(t, m.PodW2b, "[2001:db8::78]:80", "fd00:10:244:2::3")   // excluded
	seenAs(t, outside.Namespace, "10.244.2.3:80", "172.18.0.77")   // outside to a local pod
	seenAs(t, m.Worker2.Namespace, "10.244.1.2:80", "10.244.2.0")  // a host to a remote pod
	seenAs(t, m.Worker2.Namespace, "172.18.0.77:80", "172.18.0.3") // not our business

	s := status(t, m.w2)
	counts := map[string]uint64{}
	for _, r := range s.Masquerade.Rules {
		counts[r.Name] = r.Packets
	}
	for _, name := range []string{"mesh-to-mesh", "outside-to-local-pod", "excluded", "pods-to-outside"} {
		if counts[name] == 0 {
			t.Errorf("rule %s counted nothing: %v", name, counts)
		}
	}
	if !s.Masquerade.Enabled || s.Masquerade.Repairs != 0 || len(s.Masquerade.Rules) != 6 {
		t.Errorf("masquerade %+v", s.Masquerade)
	}
}

// Whatever somebody does to the rules, they come back, and nobody notices: a
// quiet connection through NAT, a download and a new connection go on.
func TestRulesComeBack(t *testing.T) {
	m := newMesh(t)
	outside := m.outside()
	long, err := dialStream(m.PodW2b, outside.Namespace, "172.18.0.77:81")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { long.Close() })
	finish := startDownload(t, m.PodW2b, outside.Namespace, "172.18.0.77:82")
	serve(t, outside.Namespace, "172.18.0.77:80")
	run(t, m.Worker2.Namespace, "nft", "add table ip foreign { chain c { counter; }; }")
	whole := run(t, m.Worker2.Namespace, "nft", "-s", "list", "table", "ip", "meshd")
	for i, damage := range []string{
		"flush ruleset",
		"delete table ip meshd",
		"flush table ip meshd",
		"insert rule ip meshd postrouting accept",
		"flush set ip meshd mesh",
	} {
		run(t, m.Worker2.Namespace, "nft", damage)
		began := time.Now()
		seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3") // at once, not only after the repair
		waitStatus(t, m.w2, damage, func(s control.Status) bool { return s.Masquerade.Repairs == uint64(i+1) })
		t.Logf("%q was seen repaired after %v", damage, time.Since(began).Round(time.Millisecond))
		if got := run(t, m.Worker2.Namespace, "nft", "-s", "list", "table", "ip", "meshd"); got != whole {
			t.Errorf("after %q:\n%s", damage, got)
		}
		seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
		if err := long.echo(fmt.Sprintf("after %d\n", i)); err != nil {
			t.Errorf("the old connection after %q: %v", damage, err)
		}
	}
	finish()
	if got := len(m.w2.Events("rules_restored", "program", "nft")); got != 5 {
		t.Errorf("%d events\n%s", got, m.w2.Log())
	}
	// Others may rewrite their own tables as often as they like.
	for range 20 {
		run(t, m.Worker2.Namespace, "nft", "add table ip foreign { chain c { counter; }; }; flush table ip foreign; delete table ip foreign")
	}
	if s := status(t, m.w2); s.Masquerade.Repairs != 5 {
		t.Errorf("%d repairs", s.Masquerade.Repairs)
	}
}

// stream is one TCP connection between two namespaces whose far end echoes.
type stream struct {
	net.Conn
	server net.Conn
}

func dialStream(from, to *nstest.Namespace, address string) (*stream, error) {
	var l net.Listener
	if err := to.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}); err != nil {
		return nil, err
	}
	defer l.Close()
	s := &stream{}
	if err := from.Do(func() (err error) {
		s.Conn, err = net.DialTimeout("tcp", address, 5*time.Second)
		return err
	}); err != nil {
		return nil, err
	}
	var err error
	s.server, err = l.Accept()
	return s, err
}

// startDownload lets the far end of a connection send without a pause until the
// returned function is called, which checks every byte of what came.
func startDownload(t *testing.T, from, to *nstest.Namespace, address string) (finish func()) {
	t.Helper()
	s, err := dialStream(from, to, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := errors.Join(s.Conn.SetDeadline(time.Now().Add(time.Minute)), s.server.SetDeadline(time.Now().Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 2)
	const chunk = 1 << 16
	go func() {
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				done <- s.server.(*net.TCPConn).CloseWrite()
				return
			default:
			}
			if err := sendStream(s.server, i, chunk); err != nil {
				done <- err
				return
			}
		}
	}()
	received := uint64(0)
	go func() {
		for ; ; received++ {
			if err := checkStream(s.Conn, received, chunk); errors.Is(err, io.EOF) {
				done <- nil
				return
			} else if err != nil {
				done <- err
				return
			}
		}
	}()
	return func() {
		t.Helper()
		close(stop)
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("the download: %v", err)
			}
		}
		if received == 0 {
			t.Error("the download never began")
		}
		t.Logf("downloaded %d MiB through NAT meanwhile", received*chunk>>20)
	}
}

// echo sends text there and back.
func (s *stream) echo(text string) error {
	deadline := time.Now().Add(10 * time.Second)
	if err := errors.Join(s.Conn.SetDeadline(deadline), s.server.SetDeadline(deadline)); err != nil {
		return err
	}
	buf := make([]byte, len(text))
	for _, ends := range [][2]net.Conn{{s.Conn, s.server}, {s.server, s.Conn}} {
		if _, err := io.WriteString(ends[0], text); err != nil {
			return err
		}
		if _, err := io.ReadFull(ends[1], buf); err != nil || string(buf) != text {
			return fmt.Errorf("%q, %w", buf, err)
		}
	}
	return nil
}

func (s *stream) Close() error { return errors.Join(s.Conn.Close(), s.server.Close()) }

// rewrite changes the file of a daemon, has it read and returns its status.
func rewrite(t *testing.T, d *nstest.Daemon, doc string) control.Status {
	t.Helper()
	before := status(t, d).Config.LastReload.At
	if err := os.WriteFile(d.Config, []byte(onEngine(doc)), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, d.Host.Namespace, "kill", "-HUP", fmt.Sprint(d.PID()))
	return waitStatus(t, d, "reload", func(s control.Status) bool { return !s.Config.LastReload.At.Equal(before) })
}

// Rules that somebody flushes over and over come back when that ends, with nobody asking.
func TestRulesComeBackAfterAStorm(t *testing.T) {
	w := newWorld(t)
	run(t, w.Worker2.Namespace, "nft", "add table ip own { chain f { type filter hook forward priority 0; policy drop; }; }")
	m := w.startAll(demoFile(t))
	const own = "add table ip own { chain f { type filter hook forward priority 0; policy drop; }; }"
	ruleset := func() string { return run(t, m.Worker2.Namespace, "nft", "-s", "list", "ruleset") }
	whole := sortedLines(ruleset())
	for range 3 {
		run(t, m.Worker2.Namespace, "sh", "-c", "for i in $(seq 50); do nft flush ruleset; nft '"+own+"'; done")
		waitStatus(t, m.w2, "the rules are back", func(control.Status) bool { return sortedLines(ruleset()) == whole })
	}
}

// sortedLines returns lines in their alphabet: tables come back in another order.
func sortedLines(text string) string {
	lines := strings.Split(nstest.SortSets(text), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Everything in [masquerade] changes live; running connections go on.
func TestMasqueradeChangesLive(t *testing.T) {
	w := newWorld(t)
	m := w.startAll(demoFile(t))
	outside := m.outside()
	serve(t, outside.Namespace, "172.18.0.77:80")
	if err := outside.IP("route add 10.244.2.0/24 via 172.18.0.3"); err != nil {
		t.Fatal(err)
	}
	run(t, m.Worker2.Namespace, "iptables-nft", "-P", "FORWARD", "DROP")
	d := m.w2
	ruleset := func() string { return run(t, m.Worker2.Namespace, "nft", "-s", "list", "ruleset") }
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
	long, err := dialStream(m.PodW2b, outside.Namespace, "172.18.0.77:81")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { long.Close() })
	change := func(generation int, masquerade string) {
		t.Helper()
		s := rewrite(t, d, demoFile(t)+"[masquerade]\n"+masquerade)
		if s.Config.Generation != generation || s.Config.Error != "" || len(s.Warnings) != 0 || s.Masquerade.Repairs != 0 {
			t.Errorf("config %+v, warnings %q, masquerade %+v", s.Config, s.Warnings, s.Masquerade)
		}
		if err := long.echo("still here\n"); err != nil {
			t.Errorf("the connection after %q: %v", masquerade, err)
		}
	}
	change(2, `exclude = ["172.18.0.77/32"]`)
	seenAs(t, m.PodW2b, "172.18.0.77:80", "10.244.2.3")
	change(3, "fully_random = false")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
	if strings.Contains(ruleset(), "fully-random") {
		t.Errorf("still fully random:\n%s", ruleset())
	}
	change(4, "enabled = false")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "10.244.2.3")
	if strings.Contains(ruleset(), "counter masquerade") || strings.Contains(ruleset(), "mesh-to-mesh") {
		t.Errorf("rules:\n%s", ruleset())
	}
	change(5, "")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
	s := rewrite(t, d, demoFile(t)+"[masquerade]\nforward = false\n")
	if s.Config.Generation != 6 || strings.Contains(ruleset(), `comment "meshd"`) {
		t.Errorf("generation %d\n%s", s.Config.Generation, ruleset())
	}
	change(7, "forward = true")
	if got := ruleset(); !strings.Contains(got, `iifname "mesh0" counter`) || strings.Contains(got, `oifname "mesh0" counter`) {
		t.Errorf("not the forward rules:\n%s", got)
	}
	change(8, `forward = "all"`)
	if !strings.Contains(ruleset(), `oifname "mesh0" counter`) {
		t.Errorf("not all that goes to the mesh is accepted:\n%s", ruleset())
	}
}

// A file that cannot be applied changes nothing, and says so until it is mended.
func TestBadReload(t *testing.T) {
	m := newWorld(t)
	m.own(m.Worker, demoFile(t))
	d := m.own(m.Worker2, demoFile(t)) // the others' file stays as it is
	before := hostState(t, m.Worker2)
	for doc, words := range map[string]string{
		strings.Replace(demoFile(t), "cidr = ", "mtu = 7\ncidr = ", 1):                   ":4:7: error: network.mtu: 7 is out of range",
		strings.Replace(demoFile(t), "[network]", "[network]\ninterface = \"mesh7\"", 1): "network.interface: a running meshd cannot change it from mesh0 to mesh7",
		strings.ReplaceAll(demoFile(t), "172.18.0.3", "172.18.0.33"):                     "no node of",
	} {
		s := rewrite(t, d, doc)
		if s.Config.Generation != 1 || s.Config.LastReload.OK || !strings.Contains(s.Config.Error, words) || len(s.Warnings) != 1 {
			t.Errorf("%s: %+v, %q", words, s.Config, s.Warnings)
		}
	}
	sameHostState(t, m.Worker2, before)
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
	if s := rewrite(t, d, demoFile(t)); s.Config.Generation != 1 || s.Config.Error != "" || len(s.Warnings) != 0 {
		t.Errorf("%+v, %q", s.Config, s.Warnings)
	}
}

// Docker's way: the host drops what it forwards. Pods reach each other and the
// outside all the same, whether it did before meshd came or does it later.
func TestForwardPolicyDrop(t *testing.T) {
	w := newWorld(t)
	drop := func(h *nstest.Host, policy string) {
		t.Helper()
		run(t, h.Namespace, "iptables-nft", "-P", "FORWARD", policy)
	}
	drop(w.Worker2, "DROP")
	m := w.startAll(demoFile(t))
	outside := m.outside()
	serve(t, outside.Namespace, "172.18.0.77:80")
	serve(t, m.PodW, "10.244.1.2:80")
	seenAs(t, m.PodW2b, "10.244.1.2:80", "10.244.2.3")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")

	// Bridged packets pass the same chains where br_netfilter is on, as
	// Kubernetes wants it; without the module there is no such setting.
	serve(t, m.PodW2a, "10.244.2.2:80")
	if err := m.Worker2.Sysctl("bridge.bridge-nf-call-iptables", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	seenAs(t, m.PodW2b, "10.244.2.2:80", "10.244.2.3")

	foreign := capture(t, m.PodW, "eth0")
	drop(m.Worker, "DROP")
	// The repair is an event away: what is sent again arrives.
	if out, err := m.PodW2b.Run("ping", "-c", "20", "-i", "0.1", "-W", "1", "10.244.1.2"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	next(t, foreign, "a packet of the pod", isIPv4)
	// What is none of ours is still dropped.
	if err := outside.IP("route add 192.0.2.0/24 via 172.18.0.3"); err != nil {
		t.Fatal(err)
	}
	if err := m.Worker2.IP("link add t0 type veth peer name t1", "addr add 192.0.2.1/24 dev t0", "link set t0 up", "link set t1 up",
		"neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev t0"); err != nil {
		t.Fatal(err)
	}
	tap := capture(t, m.Worker2.Namespace, "t0")
	_, _ = outside.Run("ping", "-c", "1", "-W", "1", "192.0.2.9")
	if frame, err := tap.Next(100*time.Millisecond, isIPv4); !errors.Is(err, nstest.ErrNoFrame) {
		t.Errorf("a foreign packet was forwarded: % x, %v", frame, err)
	}

	if s := status(t, m.w2); s.Masquerade.Repairs != 0 || len(s.Warnings) != 0 {
		t.Errorf("%+v, %q", s.Masquerade, s.Warnings)
	}
	before := run(t, m.Worker2.Namespace, "iptables-nft", "-S", "FORWARD")
	contains(t, before, "-A FORWARD -i mesh0 -m comment --comment meshd -j ACCEPT")
	if _, err := m.w2.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.w2.Ask("cleanup"); err != nil {
		t.Error(err)
	}
	if got := run(t, m.Worker2.Namespace, "iptables-nft", "-S", "FORWARD"); got != "-P FORWARD DROP\n" {
		t.Errorf("left behind:\n%s", got)
	}
}

// The old iptables, which nftables does not see.
func TestForwardPolicyDropLegacy(t *testing.T) {
	w := newWorld(t)
	for _, h := range w.Hosts() {
		run(t, h.Namespace, "iptables-legacy", "-P", "FORWARD", "DROP")
	}
	m := w.startAll(demoFile(t))
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
	if _, err := m.w2.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.w2.Ask("cleanup"); err != nil {
		t.Error(err)
	}
	left := func() string { return run(t, m.Worker2.Namespace, "iptables-legacy", "-S", "FORWARD") }
	if got := left(); got != "-P FORWARD DROP\n" {
		t.Errorf("left behind:\n%s", got)
	}
	// What the service has root do for it.
	if _, err := m.w2.Ask("legacy-forward"); err != nil {
		t.Error(err)
	}
	contains(t, left(), "-A FORWARD -i mesh0 ", "-A FORWARD -s 10.244.2.0/24 ")
	save(t, m.w2, demoFile(t)+"[masquerade]\nforward = false\n")
	if _, err := m.w2.Ask("legacy-forward"); err != nil {
		t.Error(err)
	}
	if got := left(); got != "-P FORWARD DROP\n" {
		t.Errorf("left behind:\n%s", got)
	}
}

// A host that does not forward is told of, and changed only on request. Strict
// reverse path filtering is no trouble.
func TestSysctls(t *testing.T) {
	w := newWorld(t)
	keys := []string{"ipv4.ip_forward", "ipv6.conf.all.forwarding"}
	for _, key := range keys {
		if err := w.Worker2.Sysctl(key, "0"); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range w.Hosts() {
		if err := errors.Join(h.Sysctl("ipv4.conf.all.rp_filter", "1"), h.Sysctl("ipv4.conf.default.rp_filter", "1")); err != nil {
			t.Fatal(err)
		}
	}
	m := w.startAll(dualStack("172.18.0.%d"))
	s := status(t, m.w2)
	if len(s.Warnings) != 2 || !strings.HasPrefix(s.Warnings[0], "net.ipv4.ip_forward is 0: pods cannot reach other hosts") || !strings.HasPrefix(s.Warnings[1], "net.ipv6.conf.all.forwarding is 0") {
		t.Errorf("warnings %q", s.Warnings)
	}
	told(t, m.w2, "net.ipv4.ip_forward")
	told(t, m.w2, "net.ipv6.conf.all.forwarding")
	for _, key := range keys {
		if got := run(t, m.Worker2.Namespace, "sysctl", "-n", "net."+key); got != "0\n" {
			t.Errorf("%s was changed to %s", key, got)
		}
	}
	if err := w.Worker2.Sysctl("ipv4.ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	if s := status(t, m.w2); len(s.Warnings) != 1 {
		t.Errorf("warnings %q", s.Warnings)
	}
	if _, err := m.w2.Stop(); err != nil {
		t.Fatal(err)
	}
	d := w.start(w.Worker2, m.w2.Config, "--sysctl")
	if err := d.WaitReady(); err != nil {
		t.Fatal(err)
	}
	if s := status(t, d); len(s.Warnings) != 0 {
		t.Errorf("warnings %q", s.Warnings)
	}
	contains(t, run(t, m.Worker2.Namespace, "sysctl", "-n", "net.ipv6.conf.all.forwarding"), "1")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "fd00:10:244:1::2"), "ttl=60")
	run(t, m.PodW2b, "traceroute", "-n", "-q", "1", "-w", "3", "10.244.1.2")
	if out, err := m.PodW2b.Run("ping", "-c", "1", "-W", "5", "10.244.9.9"); err == nil || !strings.Contains(out, "Destination Net Unreachable") {
		t.Errorf("%v\n%s", err, out)
	}
}
