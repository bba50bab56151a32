package nstest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A Lab is a set of hosts on one underlay switch.
type Lab struct {
	prefix string
	bpffs  string // where a BPF file system for its hosts is mounted
	sw     *Namespace
	ports  []string     // of the switch
	spaces []*Namespace // everything made, to be undone

	captures []*Capture
}

// NewLab makes an empty lab. prefix begins the names of all its namespaces.
func NewLab(prefix string) (*Lab, error) {
	l := &Lab{prefix: prefix, bpffs: "/run/" + prefix + bpfFolder}
	// A BPF file system of the lab's own: pins of its daemons, which survive a kill on purpose, then go
	// with it, and this machine's stay out of it.
	err := errors.Join(os.Mkdir(l.bpffs, 0o700), unix.Mount("bpf", l.bpffs, "bpf", 0, ""))
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if l.sw, err = l.namespace("sw"); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := l.sw.IP("link add br0 type bridge", "link set br0 up"); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// LabForTest makes a lab that ends with the test.
func LabForTest(t testing.TB) *Lab {
	t.Helper()
	Require(t)
	l, err := NewLab(uniqueName())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Sweep deletes namespaces that a process of the same kind left when it was
// killed: those whose name is prefix, the id of a process that is no more, and
// a dash and more.
func Sweep(prefix string) {
	entries, _ := os.ReadDir("/run/netns")
	for _, entry := range entries {
		rest, ours := strings.CutPrefix(entry.Name(), prefix)
		pid, _, dashed := strings.Cut(rest, "-")
		if _, err := strconv.Atoi(pid); !ours || !dashed || err != nil {
			continue
		}
		if _, err := os.Stat("/proc/" + pid); err != nil {
			// Whatever fails is tried again by the next run.
			_ = (&Namespace{Name: entry.Name()}).Close()
		}
	}
	folders, _ := filepath.Glob("/run/" + prefix + "*.*")
	for _, at := range folders {
		kind := filepath.Ext(at)
		pid, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(at, "/run/"+prefix), kind), "-")
		if _, err := os.Stat("/proc/" + pid); err == nil {
			continue
		}
		switch kind {
		case bpfFolder:
			_ = unmount(at)
		case wireguardFolder:
			_ = os.RemoveAll(at)
		}
	}
}

// Endings of folders in /run that labs have for their hosts.
const (
	bpfFolder       = ".bpf" // a mounted BPF file system
	wireguardFolder = ".wg"  // in the place of /run/wireguard
)

// unmount unmounts a file system and removes the folder that it was in.
func unmount(at string) error { return errors.Join(unix.Unmount(at, unix.MNT_DETACH), os.Remove(at)) }

// Close deletes everything in the lab. Processes in it must have ended.
func (l *Lab) Close() error {
	var errs []error
	for _, c := range l.captures {
		errs = append(errs, c.Close())
	}
	l.captures = nil
	for _, n := range l.spaces {
		errs = append(errs, n.Close(), os.RemoveAll(n.wireguardFolder()))
	}
	l.spaces = nil
	if l.bpffs != "" {
		errs = append(errs, unmount(l.bpffs))
		l.bpffs = ""
	}
	return errors.Join(errs...)
}

// Pins lists the folders of pins that the hosts' daemons have made, one for each host.
func (l *Lab) Pins() []string {
	folders, _ := filepath.Glob(l.bpffs + "/meshd/*")
	return folders
}

// Empty adds a namespace with nothing in it, as a container runtime makes it for a pod.
func (l *Lab) Empty(name string) (*Namespace, error) { return l.namespace(name) }

// namespace makes one that Close deletes. Names have the lab's prefix, by which Sweep knows them.
func (l *Lab) namespace(name string) (*Namespace, error) {
	n, err := New(l.prefix + "-" + name)
	if err == nil {
		l.spaces = append(l.spaces, n)
	}
	return n, err
}

// Switch returns the namespace of the bridge br0, through which the hosts' datagrams pass.
func (l *Lab) Switch() *Namespace { return l.sw }

// SetUnderlayMTU sets the MTU, in bytes, of the switch and its ports; the
// hosts' eth0 have their own.
func (l *Lab) SetUnderlayMTU(mtu int) error {
	lines := []string{fmt.Sprintf("link set br0 mtu %d", mtu)}
	for _, port := range l.ports {
		lines = append(lines, fmt.Sprintf("link set %s mtu %d", port, mtu))
	}
	return l.sw.IP(lines...)
}

// LikeAWire makes the uplinks behave as network cards do, and not as memory: what
// crosses them are packets of the underlay's MTU, merged again on receiving. Two
// namespaces would hand each other 64 KiB at once otherwise, which flatters.
func (l *Lab) LikeAWire(hosts ...*Host) error {
	features := strings.Fields(
		"tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off tx-udp-segmentation off tso off gro on")
	for _, h := range hosts {
		if _, err := h.Run("ethtool", append([]string{"-K", "eth0"}, features...)...); err != nil {
			return err
		}
	}
	for _, port := range l.ports {
		if _, err := l.sw.Run("ethtool", append([]string{"-K", port}, features...)...); err != nil {
			return err
		}
	}
	return nil
}

// KeepFlowsOnCPU has each flow that comes in by eth0 treated by a CPU of its own, as the
// queues of a network card do, by receive packet steering (Documentation/networking/scaling.rst).
func (h *Host) KeepFlowsOnCPU() error {
	_, err := h.Run("sh", "-c", `echo "$0" > /sys/class/net/eth0/queues/rx-0/rps_cpus`,
		strconv.FormatUint(1<<min(runtime.NumCPU(), 32)-1, 16))
	return err
}

// A Host is a machine on the underlay that forwards packets.
type Host struct {
	*Namespace
	Lab  *Lab
	name string
	port string // its end of the cable at the switch
}

// Host adds a host whose eth0 is on the switch and has the given addresses.
func (l *Lab) Host(name string, addresses ...string) (*Host, error) {
	n, err := l.namespace(name)
	if err != nil {
		return nil, err
	}
	port := fmt.Sprintf("p%d", len(l.spaces))
	lines := []string{fmt.Sprintf("link add eth0 type veth peer name %s netns %s", port, l.sw.Name)}
	for _, a := range addresses {
		lines = append(lines, address(a, "eth0"))
	}
	if err := n.IP(append(lines, "link set eth0 up")...); err != nil {
		return nil, err
	}
	if err := l.sw.IP("link set "+port+" master br0", "link set "+port+" up"); err != nil {
		return nil, err
	}
	l.ports = append(l.ports, port)
	h := &Host{Namespace: n, Lab: l, name: name, port: port}
	for _, key := range []string{"ipv4.ip_forward", "ipv6.conf.all.forwarding"} {
		if err := h.Sysctl(key, "1"); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Port returns the name of the host's end of the cable at the switch.
func (h *Host) Port() string { return h.port }

// Pods makes the bridge cni0 with the given gateway addresses.
func (h *Host) Pods(mtu int, gateways ...string) error {
	lines := []string{"link add cni0 type bridge", fmt.Sprintf("link set cni0 mtu %d up", mtu)}
	for _, a := range gateways {
		lines = append(lines, address(a, "cni0"))
	}
	return h.IP(lines...)
}

// Pod adds a pod on cni0 with the given MTU and addresses, such as
// "10.244.2.3/24". The host's bridge address, the first of each prefix, is its
// gateway; network is reached through it by a route of its own, as flannel's
// CNI plugin does it.
func (h *Host) Pod(name string, mtu int, networks []string, addresses ...string) (*Namespace, error) {
	n, err := h.Lab.namespace(h.name + "-" + name)
	if err != nil {
		return nil, err
	}
	port := fmt.Sprintf("veth%d", len(h.Lab.spaces))
	lines := []string{
		fmt.Sprintf("link add eth0 type veth peer name %s netns %s", port, h.Name),
		fmt.Sprintf("link set eth0 mtu %d up", mtu),
	}
	if err := h.attach(n, lines, port, mtu); err != nil {
		return nil, err
	}
	lines = nil
	for _, a := range addresses {
		lines = append(lines, address(a, "eth0"))
		p := netip.MustParsePrefix(a)
		gateway := p.Masked().Addr().Next()
		lines = append(lines, fmt.Sprintf("route add default via %s", gateway))
		for _, network := range networks {
			if netip.MustParsePrefix(network).Addr().Is4() == gateway.Is4() {
				lines = append(lines, fmt.Sprintf("route add %s via %s", network, gateway))
			}
		}
	}
	return n, n.IP(lines...)
}

// attach makes a pod's veth and puts the host's end into cni0. The MTU is set at both ends: a bridge
// takes the smallest MTU of its ports, and a larger packet would be dropped at the pod's end.
func (h *Host) attach(n *Namespace, lines []string, port string, mtu int) error {
	if err := n.IP(lines...); err != nil {
		return err
	}
	return h.IP(fmt.Sprintf("link set %s mtu %d master cni0", port, mtu), fmt.Sprintf("link set %s up", port))
}

// address is the `ip` line that adds an address; IPv6 ones are usable at once.
func address(prefix, dev string) string {
	line := "addr add " + prefix + " dev " + dev
	if netip.MustParsePrefix(prefix).Addr().Is6() {
		line += " nodad"
	}
	return line
}

// testPrefix begins the names of namespaces made for tests.
const testPrefix = "meshtest"

var names atomic.Uint32

// uniqueName returns a short name that no other test of this machine has.
func uniqueName() string {
	n := names.Add(1)
	// Once in a process: other tests of this one make namespaces at the same time.
	if n == 1 {
		Sweep(testPrefix)
	}
	return fmt.Sprintf("%s%d-%d", testPrefix, os.Getpid(), n)
}
