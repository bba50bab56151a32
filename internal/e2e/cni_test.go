package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"example.org/meshd/internal/nstest"
)

// Programs of others that come as Go modules, built once for all tests.
const (
	cnitool = "github.com/containernetworking/cni/cnitool@v1.3.1"
	// The last version before it moved.
	flannelPlugin = "github.com/containernetworking/plugins/plugins/meta/flannel@v0.9.1"
)

var goPrograms = struct {
	sync.Mutex
	built map[string]string
}{built: map[string]string{}}

// goProgram returns the path of a program that is a Go package at a version.
func goProgram(t *testing.T, pkg string) string {
	t.Helper()
	goPrograms.Lock()
	defer goPrograms.Unlock()
	if path := goPrograms.built[pkg]; path != "" {
		return path
	}
	name, _, _ := strings.Cut(filepath.Base(pkg), "@")
	dir := filepath.Join(filepath.Dir(meshd), name+".bin")
	build := exec.Command("go", "install", pkg)
	build.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("install %s: %v\n%s", pkg, err, out)
	}
	goPrograms.built[pkg] = filepath.Join(dir, name)
	return goPrograms.built[pkg]
}

// cniMesh is a mesh whose pods are attached by CNI plugins.
type cniMesh struct {
	*mesh
	runtimes map[*nstest.Host]*nstest.CNI
}

// newBareMesh starts daemons on hosts without pods and bridges, which get a configuration
// for CNI.
func newBareMesh(t *testing.T, doc string) *cniMesh {
	t.Helper()
	nstest.RequireCNI(t)
	hosts, err := nstest.NewHosts(nstest.LabForTest(t))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Reference: hosts, t: t, dir: t.TempDir(), binary: shipped}
	m := &cniMesh{
		mesh:     w.startAll(doc + "[container]\ncni_conf = \"/run/flannel/10-mesh.conflist\"\n"),
		runtimes: map[*nstest.Host]*nstest.CNI{},
	}
	for i, d := range []*nstest.Daemon{m.cp, m.w, m.w2} {
		m.runtimes[w.Hosts()[i]] = &nstest.CNI{
			Host:    d.Host,
			Tool:    goProgram(t, cnitool),
			Network: "mesh",
			Conf:    d.Run,
			Data:    filepath.Join(w.dir, d.Host.Name+".cni"),
			Run:     d.Run,
		}
	}
	return m
}

// pod makes a pod on a host; the test need not remove it.
func (m *cniMesh) pod(h *nstest.Host, name string, ports ...nstest.Port) (*nstest.Namespace, []netip.Prefix) {
	m.t.Helper()
	pod, err := m.Lab.Empty(name)
	if err != nil {
		m.t.Fatal(err)
	}
	return pod, m.add(h, pod, ports...)
}

func (m *cniMesh) add(h *nstest.Host, pod *nstest.Namespace, ports ...nstest.Port) []netip.Prefix {
	m.t.Helper()
	addresses, err := m.runtimes[h].Add(pod, ports...)
	if err != nil {
		m.t.Fatal(err)
	}
	return addresses
}

func (m *cniMesh) del(h *nstest.Host, pod *nstest.Namespace, ports ...nstest.Port) {
	m.t.Helper()
	if err := m.runtimes[h].Del(pod, ports...); err != nil {
		m.t.Fatal(err)
	}
}

// newCNIMesh is newBareMesh with the pods of the reference.
func newCNIMesh(t *testing.T, doc string) *cniMesh {
	t.Helper()
	m := newBareMesh(t, doc)
	for _, p := range []struct {
		host    *nstest.Host
		name    string
		pod     **nstest.Namespace
		address string
	}{
		{m.ControlPlane, "pod-cp", &m.PodCP, "10.244.0.2/24"},
		{m.Worker, "pod-w", &m.PodW, "10.244.1.2/24"},
		{m.Worker2, "pod-a", &m.PodW2a, "10.244.2.2/24"},
		{m.Worker2, "pod-b", &m.PodW2b, "10.244.2.3/24"},
	} {
		var addresses []netip.Prefix
		*p.pod, addresses = m.pod(p.host, p.name)
		if addresses[0].String() != p.address {
			t.Fatalf("%s got %v, not %s", p.name, addresses, p.address)
		}
		if err := m.runtimes[p.host].Check(*p.pod); err != nil {
			t.Errorf("CNI's own check: %v", err)
		}
	}
	return m
}

// Dual stack and IPv6 alone, with a published port that another host and the pod's own
// host reach in both families.
func TestCNIBothFamilies(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	for name, test := range map[string]struct{ doc, address, port, outside, mtu string }{
		"dual stack over IPv4": {dualStack("172.18.0.%d"), "10.244.1.2/24 fd00:10:244:1::2/64", "172.18.0.4:8080",
			"172.18.0.2", "1472"},
		"dual stack over IPv6": {dualStack("2001:db8::%d"), "10.244.1.2/24 fd00:10:244:1::2/64",
			"[2001:db8::4]:8080", "2001:db8::2", "1452"},
		"IPv6 alone": {regexp.MustCompile(`"10\.244\.[0-9./]*", `).ReplaceAllString(dualStack("2001:db8::%d"), ""),
			"fd00:10:244:1::2/64", "[2001:db8::4]:8080", "2001:db8::2", "1452"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newBareMesh(t, test.doc)
			port := nstest.Port{Host: 8080, Container: 80, Protocol: "tcp"}
			server, addresses := m.pod(m.Worker, "server", port)
			if got := strings.Trim(fmt.Sprint(addresses), "[]"); got != test.address {
				t.Fatalf("the pod got %s", got)
			}
			client, own := m.pod(m.Worker2, "client")
			for i, a := range addresses {
				contains(t, run(t, client, "ping", "-c", "1", a.Addr().String()), "ttl=60")
				serve(t, server, netip.AddrPortFrom(a.Addr(), 80).String())
				seenAs(t, client, netip.AddrPortFrom(a.Addr(), 80).String(), own[i].Addr().String())
			}
			contains(t, run(t, client, "ip", "addr", "show", "eth0"), "mtu "+test.mtu)
			// The published port: a client of the underlay keeps its address.
			seenAs(t, m.ControlPlane.Namespace, test.port, test.outside)
			if _, err := askWho(client, test.port); err != nil {
				t.Errorf("the published port from a pod of another host: %v", err)
			}
			if _, err := askWho(server, test.port); err != nil { // hairpin
				t.Errorf("the published port from the pod itself: %v", err)
			}
		})
	}
}

// A pod that goes leaves nothing, two hundred times.
func TestPodsComeAndGo(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	const times = 200
	m := newBareMesh(t, demoFile(t))
	stays, _ := m.pod(m.Worker, "stays")
	serve(t, stays, "10.244.1.2:80")
	left := func(h *nstest.Host) string {
		n, err := m.runtimes[h].Leases()
		if err != nil {
			t.Fatal(err)
		}
		rules := run(t, h.Namespace, "iptables-save", "-t", "nat")
		return fmt.Sprintf("%d leases\n%s\n%s", n, run(t, h.Namespace, "ip", "-br", "link", "show", "type", "veth"),
			regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]`).ReplaceAllString(rules, ""))
	}
	// The plugins sleep until a pod's link is up, so several come at once.
	var pods [8]*nstest.Namespace
	for i := range pods {
		var err error
		if pods[i], err = m.Lab.Empty(fmt.Sprintf("comes-and-goes-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	cycle := func(i int) error {
		var ports []nstest.Port
		if i == 0 { // costs twenty programs
			ports = []nstest.Port{{Host: 8080, Container: 80, Protocol: "tcp"}}
		}
		runtime := m.runtimes[m.Worker2]
		addresses, err := runtime.Add(pods[i], ports...)
		if err != nil {
			return err
		}
		seen, err := askWho(pods[i], "10.244.1.2:80")
		if err == nil && seen != addresses[0].Addr() {
			err = fmt.Errorf("%v was seen as %s", addresses, seen)
		}
		return errors.Join(err, runtime.Del(pods[i], ports...))
	}
	if err := cycle(0); err != nil { // makes the bridge and portmap's chains, which stay
		t.Fatal(err)
	}
	before := left(m.Worker2)
	done := make(chan error)
	for i := range pods {
		go func() {
			var err error
			for range times / len(pods) {
				err = errors.Join(err, cycle(i))
			}
			done <- err
		}()
	}
	for range pods {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if after := left(m.Worker2); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if s := status(t, m.w2); s.Masquerade.Repairs != 0 || s.Network.Repairs != 0 || len(problems(s)) != 0 {
		t.Errorf("%+v", s)
	}
}

// Pods that are restarted disturb no other pod's packets, and are reached at once.
func TestPodsRestartUnderTraffic(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	m := newCNIMesh(t, demoFile(t))
	before := m.overflows()
	traffic := m.newTraffic(2000)
	port := nstest.Port{Host: 8080, Container: 80, Protocol: "tcp"}
	m.del(m.Worker2, m.PodW2a)
	for i := range 10 {
		pod, addresses := m.pod(m.Worker2, fmt.Sprintf("again-%d", i), port)
		serve(t, pod, netip.AddrPortFrom(addresses[0].Addr(), 80).String())
		seenAs(t, m.PodCP, netip.AddrPortFrom(addresses[0].Addr(), 80).String(), "10.244.0.2")
		seenAs(t, m.ControlPlane.Namespace, "172.18.0.3:8080", "172.18.0.2")
		m.del(m.Worker2, pod, port)
	}
	if lost, overflows := traffic.finish(), m.overflows().since(before); lost != overflows {
		t.Errorf("lost %v, in the TUN's queues %v", lost, overflows)
	}
}

// A subnet that moves to another host takes its addresses along: a pod there gets one that
// was another pod's, and is reached.
func TestAddressMovesToAnotherHost(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newCNIMesh(t, demoFile(t))
	serve(t, m.PodW, "10.244.1.2:80")
	seenAs(t, m.PodW2b, "10.244.1.2:80", "10.244.2.3")

	// Both hosts are drained. The bridge keeps the old subnet's gateway, so it goes, too.
	for h, pod := range map[*nstest.Host]*nstest.Namespace{m.Worker: m.PodW, m.ControlPlane: m.PodCP} {
		m.del(h, pod)
		if err := h.IP("link del cni0"); err != nil {
			t.Fatal(err)
		}
	}
	moved := swapped.Replace(demoFile(t)) +
		"[container]\ncni_conf = \"/run/flannel/10-mesh.conflist\"\n"
	for _, d := range []*nstest.Daemon{m.cp, m.w, m.w2} { // one file for all
		if r := rewrite(t, d, moved); r.Config.Generation < 2 {
			t.Fatalf("%+v", r.Config)
		}
	}
	env, err := os.ReadFile(filepath.Join(m.cp.Run, "subnet.env"))
	const want = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n" +
		"FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n"
	if err != nil || string(env) != want {
		t.Errorf("%v\n%s", err, env)
	}
	pod, addresses := m.pod(m.ControlPlane, "moved")
	if addresses[0].String() != "10.244.1.2/24" {
		t.Fatalf("the pod got %v", addresses)
	}
	serve(t, pod, "10.244.1.2:80")
	seenAs(t, m.PodW2b, "10.244.1.2:80", "10.244.2.3")
	seenAs(t, pod, "10.244.1.2:80", "10.244.1.2")
}

// flannel's own CNI plugin reads subnet.env as it reads flannel's.
func TestFlannelPlugin(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newBareMesh(t, demoFile(t))
	conf := t.TempDir()
	// As in flannel's manifest.
	flannel := `{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
		{"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}`
	if err := os.WriteFile(filepath.Join(conf, "10-flannel.conflist"), []byte(flannel), 0o644); err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Dir(goProgram(t, flannelPlugin))
	for _, r := range m.runtimes {
		r.Network, r.Conf, r.Plugins = "cbr0", conf, plugin
	}
	a, _ := m.pod(m.Worker2, "flannel-a")
	b, addresses := m.pod(m.Worker, "flannel-b")
	if addresses[0].String() != "10.244.1.2/24" {
		t.Errorf("%v", addresses)
	}
	contains(t, run(t, a, "ip", "addr", "show", "eth0"), "mtu 1472", "inet 10.244.2.2/24")
	contains(t, run(t, a, "ip", "route"), "default via 10.244.2.1 dev eth0",
		"10.244.0.0/16 via 10.244.2.1 dev eth0")
	serve(t, b, "10.244.1.2:80")
	seenAs(t, a, "10.244.1.2:80", "10.244.2.2") // not masqueraded: FLANNEL_IPMASQ
}

// The files follow the file, come back within a moment, and go with cleanup; what keeps
// them from being written is said.
func TestContainerFiles(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newBareMesh(t, demoFile(t))
	env, conf := filepath.Join(m.w2.Run, "subnet.env"), filepath.Join(m.w2.Run, "10-mesh.conflist")
	want := "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.2.1/24\n" +
		"FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n"
	is := func(want string) {
		t.Helper()
		got, err := os.ReadFile(env)
		info, statErr := os.Stat(env)
		if err := errors.Join(err, statErr); err != nil || string(got) != want || info.Mode() != 0o644 {
			t.Errorf("%v\n%s", err, got)
		}
	}
	is(want) // it is there before readiness is said
	if err := os.Remove(env); err != nil {
		t.Fatal(err)
	}
	if err := m.w2.WaitEvent("files_restored"); err != nil {
		t.Fatal(err)
	}
	is(want)

	// The underlay's MTU falls: pods that come now get a lower one.
	if err := m.Worker2.IP("link set eth0 mtu 1400"); err != nil {
		t.Fatal(err)
	}
	waitRepair(t, m.w2, "~ mtu 1472 -> 1372")
	is(strings.Replace(want, "1472", "1372", 1))
	if doc, err := os.ReadFile(conf); err != nil || !strings.Contains(string(doc), `"mtu": 1372`) {
		t.Errorf("%v\n%s", err, doc)
	}

	s := rewrite(t, m.w2,
		demoFile(t)+"[masquerade]\nenabled = false\n[container]\ncni_conf = \"/proc/no/10-mesh.conflist\"\n")
	if s.Config.Generation != 1 ||
		!strings.Contains(s.Config.LastReload.Error,
			"write /proc/no/10-mesh.conflist") {
		t.Errorf("%+v", s.Config)
	}
	is(strings.Replace(want, "1472", "1372", 1)) // all or nothing
	s = rewrite(t, m.w2, demoFile(t)+"[masquerade]\nenabled = false\n")
	if s.Config.Generation != 2 || len(problems(s)) != 0 {
		t.Errorf("%+v %q", s.Config, s.Warnings)
	}
	is(strings.NewReplacer("1472", "1372", "true", "false").Replace(want))
	if _, err := os.Stat(conf); !os.IsNotExist(err) {
		t.Errorf("%s is not wanted any more: %v", conf, err)
	}

	// It is there while meshd is not, and goes with cleanup.
	if _, err := m.w2.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(env); err != nil {
		t.Error(err)
	}
	if _, err := m.w2.Ask("cleanup"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(m.w2.Run)
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if left, err := filepath.Glob(filepath.Join(m.dir, "worker2.files*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}

	// A file that cannot be written is no reason not to forward.
	d := m.own(m.Worker2, demoFile(t)+"[container]\ncni_conf = \"/proc/no/10-mesh.conflist\"\n")
	if s := status(t, d); !only(s, "files_failed") ||
		!strings.Contains(s.Health.Problems[0].Text, "/proc/no/10-mesh.conflist") {
		t.Errorf("%q", s.Warnings)
	}
}
