package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// podMTU is that of all pods and of each mesh, in bytes: it fits an underlay of 1500 with encryption, so that
// a mesh may go over to it. With a larger one the mesh would lose fragments of IPv6: connection tracking puts
// them together, takes the largest for 40 bytes larger than it was (nf_ct_frag6_reasm), and so sends some
// whole that do not fit into a pod's interface.
const podMTU = 1440

// A mesh is three hosts with a pod each, of which the third is behind a router:
//
//	pod a - host a --+                  +-- router: 172.18.0.1 and 172.19.0.1
//	pod b - host b --+-- the switch ----+
//	        172.18/16                   +-- host c - pod c
//	                                        172.19/16
type mesh struct {
	name    string
	dir     string // files and sockets
	binary  string
	lab     *nstest.Lab
	hosts   []*host
	helps   bool     // each host has the process that encrypts in user space
	state   settings // of all hosts, but while a switch is on its way
	pods    []*pod
	routers []*nstest.Namespace // whose counters may explain a loss
}

// A host is one node of a mesh.
type host struct {
	*nstest.Host
	name    string
	address string
	public  string // its key
	folder  string // of the private key
	daemon  *nstest.Daemon
	helper  *nstest.Daemon // nil: none
	client  *control.Client
}

// settings are what the file of a host says that may change during the soak.
type settings struct {
	engine string // lines of [dataplane]
	keys   bool   // the file lists the keys
	sealed bool   // transport = "wireguard"
	edits  int    // of a key that has nothing to do with traffic
}

// newMesh makes hosts, pods and the daemons of one mesh, and waits until all hosts reach each other. If it
// fails, close removes what was made.
func newMesh(ctx context.Context, name, dir, binary string, s settings, helps bool) (m *mesh, err error) {
	m = &mesh{name: name, dir: filepath.Join(dir, name), binary: binary, state: s, helps: helps}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return m, err
	}
	m.lab, err = nstest.NewLab(fmt.Sprintf("%s%d-%s", labPrefix, os.Getpid(), name))
	if err != nil {
		return m, err
	}
	for i, address := range []string{"172.18.0.2", "172.18.0.3", "172.19.0.2"} {
		if err := m.addHost(i, address); err != nil {
			return m, err
		}
	}
	if err := m.addRouter(); err != nil {
		return m, err
	}
	return m, m.startAll(ctx)
}

// addHost makes a host with its key and its pod.
func (m *mesh) addHost(i int, address string) error {
	h := &host{name: string(rune('a' + i)), address: address}
	h.folder = filepath.Join(m.dir, "key-"+h.name)
	if err := os.Mkdir(h.folder, 0o700); err != nil {
		return err
	}
	key := filepath.Join(h.folder, "private.key")
	public, err := exec.Command(m.binary, "key", "--private-key", key).Output()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	h.public = strings.TrimSpace(string(public))
	if h.Host, err = m.lab.Host(h.name, address+"/16"); err != nil {
		return err
	}
	m.hosts = append(m.hosts, h)
	v4, v6 := fmt.Sprintf("10.244.%d.", i), fmt.Sprintf("fd00:10:244:%d::", i)
	if err := h.Pods(podMTU, v4+"1/24", v6+"1/64"); err != nil {
		return err
	}
	p := &pod{name: h.name, addresses: map[int]netip.Addr{
		4: netip.MustParseAddr(v4 + "2"), 6: netip.MustParseAddr(v6 + "2")}}
	networks := []string{"10.244.0.0/16", "fd00:10:244::/48"}
	if p.Namespace, err = h.Pod("pod", podMTU, networks, v4+"2/24", v6+"2/64"); err != nil {
		return err
	}
	m.pods = append(m.pods, p)
	// Ping sockets are for groups in a range, which is empty by default.
	return p.Sysctl("ipv4.ping_group_range", "0 0")
}

// addRouter joins both networks. It is one host with an address of each: no redirect may tell the others that
// they could do without it.
func (m *mesh) addRouter() error {
	router, err := m.lab.Host("router", "172.18.0.1/16", "172.19.0.1/16")
	if err != nil {
		return err
	}
	m.routers = append(m.routers, router.Namespace, m.lab.Switch())
	all := []*nstest.Host{router}
	for _, h := range m.hosts {
		all = append(all, h.Host)
		to, by, _ := strings.Cut("172.19.0.0/16 172.18.0.1", " ")
		if strings.HasPrefix(h.address, "172.19.") {
			to, by = "172.18.0.0/16", "172.19.0.1"
		}
		if err := h.IP("route add " + to + " via " + by); err != nil {
			return err
		}
	}
	return errors.Join(router.Sysctl("ipv4.conf.all.send_redirects", "0"),
		router.Sysctl("ipv4.conf.eth0.send_redirects", "0"), m.lab.LikeAWire(all...))
}

// startAll starts helpers and daemons, and waits until all hosts reach each other.
func (m *mesh) startAll(ctx context.Context) (err error) {
	for _, h := range m.hosts {
		if m.helps {
			if h.helper, err = h.StartHelper(m.binary); err != nil {
				return err
			}
		}
		if err := os.WriteFile(m.path(h), []byte(m.file(m.state)), 0o644); err != nil {
			return err
		}
		by := []string{"env", "CREDENTIALS_DIRECTORY=" + h.folder}
		if h.daemon, err = h.MeshdBy(by, m.binary, m.path(h), m.dir); err != nil {
			return err
		}
		h.client = control.NewClient(h.daemon.Socket)
	}
	for _, h := range m.hosts {
		if err := h.daemon.WaitReady(); err != nil {
			return err
		}
	}
	return m.up(ctx)
}

// up waits until each host reaches the others.
func (m *mesh) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*nstest.Patience)
	defer cancel()
	for _, h := range m.hosts {
		down := func(p control.Peer) bool { return p.State != control.Up }
		for {
			s, err := h.client.Status(ctx)
			if err == nil && len(s.Peers) == len(m.hosts)-1 && !slices.ContainsFunc(s.Peers, down) {
				break
			}
			if !pause(ctx, 200*time.Millisecond) {
				return fmt.Errorf("%s: host %s does not reach its peers: %w\n%s", m.name, h.name,
					cmp.Or(err, ctx.Err()), h.daemon.Log())
			}
		}
	}
	return nil
}

// path returns where the file of a host is.
func (m *mesh) path(h *host) string { return filepath.Join(m.dir, h.name+".toml") }

// file returns the file of a host.
func (m *mesh) file(s settings) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[network]\ncidr = [\"10.244.0.0/16\", \"fd00:10:244::/48\"]\nmtu = %d\n", podMTU)
	if s.sealed {
		b.WriteString("transport = \"wireguard\"\n")
	}
	// Rules are written anew for it, and no packet of a pod goes there.
	fmt.Fprintf(&b, "[dataplane]\n%s\n[masquerade]\nexclude = [\"198.51.100.%d/32\"]\n", s.engine, s.edits%250)
	for i, h := range m.hosts {
		fmt.Fprintf(&b, "[[node]]\nname = %q\naddress = %q\n", h.name, h.address)
		fmt.Fprintf(&b, "subnets = [\"10.244.%d.0/24\", \"fd00:10:244:%d::/64\"]\n", i, i)
		if s.keys || s.sealed {
			fmt.Fprintf(&b, "public_key = %q\n", h.public)
		}
	}
	return b.String()
}

// apply puts settings into force on one host.
func (m *mesh) apply(ctx context.Context, h *host, s settings) error {
	temporary := m.path(h) + ".new"
	err := os.WriteFile(temporary, []byte(m.file(s)), 0o644)
	if err == nil {
		err = os.Rename(temporary, m.path(h)) // whole, as editors and packages do it
	}
	if err != nil {
		return err
	}
	r, err := h.client.Reload(ctx)
	if err == nil && !r.Reload.OK {
		err = errors.New(r.Reload.Error)
	}
	if err != nil {
		return fmt.Errorf("%s: reload on host %s: %w", m.name, h.name, err)
	}
	return nil
}

// applyAll puts settings into force on all hosts, one after the other, with a pause.
func (m *mesh) applyAll(ctx context.Context, s settings, between time.Duration) error {
	for _, h := range m.hosts {
		if err := m.apply(ctx, h, s); err != nil {
			return err
		}
		if between > 0 && !pause(ctx, between) {
			break
		}
	}
	m.state = s
	return nil
}

// said returns the last records of all daemons, for somebody who looks for what happened.
func (m *mesh) said() (all []string) {
	const most = 12 // of each
	for _, h := range m.hosts {
		records := h.daemon.Records()
		for _, r := range records[max(0, len(records)-most):] {
			all = append(all, h.name+": "+r.String())
		}
	}
	return all
}

// close ends the daemons and removes the hosts.
func (m *mesh) close() error {
	var errs []error
	for _, h := range m.hosts {
		if h.client != nil {
			h.client.Close()
		}
		for _, d := range []*nstest.Daemon{h.daemon, h.helper} {
			if d != nil {
				errs = append(errs, nstest.StopAll(d))
			}
		}
	}
	if m.lab != nil {
		errs = append(errs, m.lab.Close())
	}
	return errors.Join(errs...)
}
