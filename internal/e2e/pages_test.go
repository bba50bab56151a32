package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// The pages of docs/ that tell people what to type are typed here, on hosts with an /etc,
// a /run and a container runtime of their own. A block of sh is run on the host that its
// first line names ("# on worker", else worker2); each line of a block of text after it has
// to be in what it printed. What this machine does not have is played: systemctl, which
// runs meshd as nobody with CAP_NET_ADMIN alone, kubectl and etcdctl.

// pages are consoles of hosts and what else a page speaks of, by name.
type pages struct {
	t        *testing.T
	world    *world
	consoles map[string]*console
}

// newPages builds three hosts without pods, with a console each.
func newPages(t *testing.T) *pages {
	t.Helper()
	hosts, err := nstest.NewHosts(nstest.LabForTest(t))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "meshpages") // that everybody may look into
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile(shipped)
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "meshd"), program,
		0o755)); err != nil {
		t.Fatal(err)
	}
	p := &pages{
		t:        t,
		world:    &world{Reference: hosts, t: t, dir: dir, binary: shipped},
		consoles: map[string]*console{},
	}
	for i, name := range []string{"control-plane", "worker", "worker2"} {
		c := newConsole(t, hosts.Hosts()[i], filepath.Join(p.world.dir, name))
		c.meshd(t, filepath.Join(dir, "meshd"))
		c.program(t, "cnitool", `exec `+goProgram(t, cnitool)+` "$@"`)
		p.consoles[name] = c
	}
	return p
}

// mesh writes the file on all hosts, and starts meshd on some.
func (p *pages) mesh(doc string, on ...string) {
	p.t.Helper()
	for _, c := range p.consoles {
		if err := os.WriteFile(filepath.Join(c.dir, "mesh.toml"), []byte(doc), 0o644); err != nil {
			p.t.Fatal(err)
		}
		p.on(c, "cp "+filepath.Join(c.dir, "mesh.toml")+" /etc/mesh.toml")
	}
	for _, name := range on {
		p.on(p.consoles[name], "systemctl enable --now meshd\nmeshd wait ready --timeout 20s")
	}
}

// on types lines that must succeed.
func (p *pages) on(c *console, lines string) string {
	p.t.Helper()
	out, err := c.typed(lines)
	if err != nil {
		p.t.Fatalf("%v\n%s\n%s", err, lines, out)
	}
	return out
}

var (
	fences = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")
	onHost = regexp.MustCompile(`^# on (\S+)\n`)
	spaces = regexp.MustCompile(`\s+`)
)

// follow types a whole page.
func (p *pages) follow(page string) {
	p.t.Helper()
	last, blocks := "", 0
	for _, block := range p.blocks(page) {
		switch kind, text := block[0], block[1]; kind {
		case "sh":
			blocks++
			name := "worker2"
			if m := onHost.FindStringSubmatch(text); m != nil {
				name = m[1]
			}
			began := time.Now()
			out, err := p.consoles[name].typed(text)
			if err != nil {
				p.t.Errorf("on %s: %v\n%s\n%s", name, err, text, out)
			}
			p.t.Logf("on %s, %v:\n%s--\n%s", name, time.Since(began).Round(time.Millisecond), text, out)
			last = spaces.ReplaceAllString(out, " ")
		case "text":
			for line := range strings.Lines(text) {
				if line = strings.TrimSpace(spaces.ReplaceAllString(line, " ")); !strings.Contains(last, line) {
					p.t.Errorf("%s: no %q in\n%s", page, line, last)
				}
			}
		}
	}
	if blocks == 0 {
		p.t.Errorf("%s has no commands", page)
	}
}

// blocks returns the kinds and texts of a page's blocks.
func (p *pages) blocks(page string) (blocks [][2]string) {
	p.t.Helper()
	doc, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, m := range fences.FindAllSubmatch(doc, -1) {
		blocks = append(blocks, [2]string{string(m[1]), string(m[2])})
	}
	return blocks
}

// block returns the first block of a kind.
func (p *pages) block(page, kind string) string {
	p.t.Helper()
	for _, b := range p.blocks(page) {
		if b[0] == kind {
			return b[1]
		}
	}
	p.t.Fatalf("%s has no %s", page, kind)
	return ""
}

func TestPageWalkthrough(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	p := newPages(t)
	for _, name := range []string{"control-plane", "worker"} { // "the other two likewise"
		p.on(p.consoles[name], "mkdir -p /etc/cni/net.d\nchown meshd /etc/cni/net.d")
	}
	p.mesh(p.block("walkthrough.md", "toml"), "control-plane", "worker")
	p.follow("walkthrough.md")
}

func TestPageCNI(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	p := newPages(t)
	p.mesh(demoFile(t)+p.block("cni.md", "toml"), "worker", "worker2")
	p.follow("cni.md")
}

// pod attaches a pod to a host, as a container runtime has done it before.
func (p *pages) pod(host, name, address string) {
	p.t.Helper()
	network := address[:strings.LastIndex(address, ".")]
	p.on(p.consoles[host], fmt.Sprintf(`ip netns add %[1]s
ip link show cni0 >/dev/null 2>&1 || {
	ip link add cni0 type bridge; ip addr add %[3]s.1/24 dev cni0; ip link set cni0 up
}
ip link add v-%[1]s master cni0 type veth peer name eth0 netns %[1]s
ip link set v-%[1]s up
ip -n %[1]s addr add %[2]s/24 dev eth0
ip -n %[1]s link set eth0 up
ip -n %[1]s link set lo up
ip -n %[1]s route add default via %[3]s.1`, name, address, network))
}

func TestPageLAN(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	p := newPages(t)
	p.mesh(p.block("lan.md", "toml"), "control-plane", "worker", "worker2")
	p.pod("worker2", "pod-b", "10.244.2.3")
	camera, err := p.world.Lab.Host("camera")
	if err != nil {
		t.Fatal(err)
	}
	p.consoles["camera"] = newConsole(t, camera, filepath.Join(p.world.dir, "camera"))
	p.on(p.consoles["camera"], "ip addr add 192.168.7.20/24 dev eth0")
	p.on(p.consoles["worker"], "ip addr add 192.168.7.4/24 dev eth0")
	p.follow("lan.md")
}

// kubernetes plays kubectl, for nodes of the reference.
func (p *pages) kubernetes() {
	p.t.Helper()
	var items []string
	for i, node := range []string{"control-plane 172.18.0.2", "worker 172.18.0.4", "worker2 172.18.0.3"} {
		name, address, _ := strings.Cut(node, " ")
		items = append(items, fmt.Sprintf(
			`{"kind": "Node", "metadata": {"name": %q, "annotations": {
				"flannel.alpha.coreos.com/public-ip": %q, "flannel.alpha.coreos.com/backend-type": "udp"}},
			"spec": {"podCIDR": "10.244.%d.0/24"},
			"status": {"addresses": [{"type": "InternalIP", "address": %[2]q}]}}`,
			name, address, i))
	}
	p.consoles["worker2"].program(p.t, "kubectl", fmt.Sprintf(`case "$*" in
"get nodes -o json") cat <<'DOC'
{"kind": "List", "items": [%s]}
DOC
;;
*configmap*) cat <<'DOC'
{"kind": "ConfigMap", "data":
 {"net-conf.json": "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"udp\"}}"}}
DOC
;;
*) echo "kubectl $* is not played" >&2; exit 1 ;;
esac`, strings.Join(items, ",")))
}

func TestPageKubernetes(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	p := newPages(t)
	p.kubernetes()
	p.follow("kubernetes.md")
}

// A host changes over from flannel, and speaks with one that has not.
func TestPageFromFlannel(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	p := newPages(t)
	p.kubernetes()
	p.consoles["worker2"].program(t, "etcdctl", `cat <<'DOC'
/coreos.com/network/config
{"Network": "10.244.0.0/16", "Backend": {"Type": "udp"}}
/coreos.com/network/subnets/10.244.1.0-24
{"PublicIP": "172.18.0.4", "BackendType": "udp"}
/coreos.com/network/subnets/10.244.2.0-24
{"PublicIP": "172.18.0.3", "BackendType": "udp"}
DOC`)
	p.pod("worker2", "pod-b", "10.244.2.3")
	p.pod("worker", "pod-w", "10.244.1.2")
	flannel(t, p.world.Worker, "10.244.1.0", "172.18.0.4", map[string]string{"10.244.2.0/24": "172.18.0.3"})
	goes := flannel(t, p.world.Worker2, "10.244.2.0", "172.18.0.3",
		map[string]string{"10.244.1.0/24": "172.18.0.4"})
	c := p.consoles["worker2"]
	c.ends(t, "flanneld", goes.stop) // its TUN goes with it
	contains(t, p.on(c, "ip netns exec pod-b ping -c 1 10.244.1.2"), "ttl=60")
	p.mesh(strings.Replace(demoFile(t), "[network]", "[probe]\ninterval = \"200ms\"\n[network]", 1))
	p.follow("from-flannel.md")
}

// image is a tree with busybox in it, and a page for its web server.
func image(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-ec", `cd "$0"; mkdir -p bin www; cp "$1" bin/busybox
for c in sh httpd wget ip sleep; do ln bin/busybox bin/$c; done
echo hello from docker > www/index.html; tar -c .`, dir, busybox).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// docker starts a Docker on a host, with options, and an image called busybox.
func (p *pages) docker(host string, tree []byte, options ...string) {
	t, c := p.t, p.consoles[host]
	t.Helper()
	dir := filepath.Join(c.dir, "docker")
	socket := filepath.Join(dir, "sock")
	log := newAwaited("API listen on " + socket)
	cmd := c.command(
		"timeout",
		append(
			[]string{
				"300",
				"dockerd",
				"--data-root",
				filepath.Join(dir, "data"),
				"--exec-root",
				filepath.Join(dir, "exec"),
				"--pidfile",
				filepath.Join(dir, "pid"),
				"-H",
				"unix://" + socket,
				"--storage-driver",
				"vfs",
			},
			options...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = c.typed("docker rm --force web")
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("dockerd: %v\n%s", err, log)
		}
	})
	c.program(t, "docker", fmt.Sprintf(`exec /usr/bin/docker -H unix://%s "$@"`, socket))
	select {
	case <-log.came:
	case <-time.After(60 * time.Second):
		t.Fatalf("dockerd is not ready:\n%s", log)
	}
	load := c.command("docker", "import", "-", "busybox")
	load.Stdin = bytes.NewReader(tree)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestPageDocker(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	nstest.RequirePrograms(t, "run `make engines`", "dockerd", "docker", "podman", "runc", "busybox",
		"/usr/lib/podman/netavark")
	p := newPages(t)
	p.mesh(demoFile(t), "control-plane", "worker", "worker2")
	tree := image(t)
	p.docker("worker2", tree)

	// The options of the unit that the page shows, with the variables that it reads.
	unit := p.block("docker.md", "ini")
	_, line, _ := strings.Cut(unit, "containerd.sock \\\n")
	line, _, _ = strings.Cut(line, "\n")
	options := strings.Fields(p.on(p.consoles["worker"], `. /run/flannel/subnet.env; echo `+line))
	if len(options) != 3 {
		t.Fatalf("options %q", options)
	}
	p.docker("worker", tree, options...)

	c := p.consoles["control-plane"]
	dir, err := os.MkdirTemp("", "pm") // it wants a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(c.dir, "containers.conf"), []byte(`[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
`), 0o644); err != nil {
		t.Fatal(err)
	}
	c.program(t, "podman", fmt.Sprintf(`export CONTAINERS_CONF=%s
exec /usr/bin/podman --root %[2]s/root --runroot %[2]s/run --tmpdir %[2]s/tmp \
	--network-config-dir /etc/containers/networks --storage-driver vfs --runtime runc "$@"`,
		filepath.Join(c.dir, "containers.conf"), dir))
	load := c.command("podman", "import", "-", "busybox")
	load.Stdin = bytes.NewReader(tree)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { _, _ = c.typed("podman rm --force --time 0 web; podman system reset --force") })
	p.follow("docker.md")

	// Whatever the engines masquerade, a container is seen with its own address.
	var lines []string
	for _, host := range []string{"worker2", "worker", "control-plane"} {
		engine := "docker"
		if host == "control-plane" {
			engine = "podman"
		}
		lines = append(lines, strings.TrimSpace(p.on(p.consoles[host], engine+` exec web ip -4 -o addr show eth0`)))
	}
	t.Log(strings.Join(lines, "\n"))
	server := visitors(t, p.world.Worker2.Namespace, "10.244.2.1:80")
	for host, want := range map[string]string{"worker": "10.244.1.2", "control-plane": "10.244.0.2"} {
		engine := map[string]string{"worker": "docker", "control-plane": "podman"}[host]
		out := p.on(p.consoles[host], engine+` exec web wget -q -O - http://10.244.2.1/ || true`)
		select {
		case got := <-server:
			if got != want {
				t.Errorf("a container of %s was seen as %s, not %s", host, got, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("a container of %s does not reach another host: %s", host, out)
		}
	}
}
