package nstest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// CNIPlugins is where Debian has the stock CNI plugins.
const CNIPlugins = "/usr/lib/cni"

// RequireCNI is Require for those plugins.
func RequireCNI(t testing.TB) {
	t.Helper()
	RequirePrograms(t, "run `make deps`", filepath.Join(CNIPlugins, "bridge"),
		filepath.Join(CNIPlugins, "portmap"))
}

// CNI attaches pods to a host as container runtimes do: with cnitool and the plugins of
// the distribution, and folders of its own where a machine has one of each.
type CNI struct {
	Host    *Host
	Tool    string // path of cnitool
	Network string // name of the configuration
	Conf    string // folder of configurations, net.d
	Plugins string // further folder of plugins, before the distribution's; may be empty
	Data    string // what is /var/lib/cni: leases and results
	Run     string // what is /run/flannel
}

// A Port is published by a host for a pod.
type Port struct {
	Host      int    `json:"hostPort"`
	Container int    `json:"containerPort"`
	Protocol  string `json:"protocol"`
}

// Add attaches a pod and returns its addresses.
func (c *CNI) Add(pod *Namespace, ports ...Port) (addresses []netip.Prefix, err error) {
	out, err := c.do("add", pod, ports)
	if err != nil {
		return nil, err
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return nil, fmt.Errorf("cnitool add: %w: %s", err, out)
	}
	for _, ip := range result.IPs {
		addresses = append(addresses, ip.Address)
	}
	return addresses, nil
}

// Check returns an error if a pod is not attached as it was.
func (c *CNI) Check(pod *Namespace, ports ...Port) error {
	_, err := c.do("check", pod, ports)
	return err
}

// Del detaches a pod.
func (c *CNI) Del(pod *Namespace, ports ...Port) error {
	_, err := c.do("del", pod, ports)
	return err
}

// do runs cnitool, the reference runtime of the CNI project, for one pod. /var/lib/cni and
// /run/flannel are fixed paths of plugins, so the host gets its own by bind mounts.
func (c *CNI) do(command string, pod *Namespace, ports []Port) ([]byte, error) {
	plugins := CNIPlugins
	if c.Plugins != "" {
		plugins = c.Plugins + ":" + plugins
	}
	arguments, err := json.Marshal(map[string][]Port{"portMappings": ports})
	if err != nil {
		return nil, err
	}
	// cnitool takes a path of the pod's namespace, which is below /run/netns.
	cmd := c.Host.Command("sh", "-c",
		`mkdir -p "$0" "$1" /run/flannel /var/lib/cni &&
			mount --bind "$0" /var/lib/cni && mount --bind "$1" /run/flannel && shift && exec "$@"`,
		c.Data, c.Run, c.Tool, command, c.Network, filepath.Join("/run/netns", pod.Name))
	cmd.Env = append(os.Environ(), "NETCONFPATH="+c.Conf, "CNI_PATH="+plugins)
	if len(ports) > 0 {
		cmd.Env = append(cmd.Env, "CAP_ARGS="+string(arguments))
	}
	out, err := cmd.Output()
	if err != nil {
		said := strings.TrimSpace(string(out))
		if exit, ok := err.(*exec.ExitError); ok {
			said += string(exit.Stderr)
		}
		return nil, fmt.Errorf("%s: cnitool %s %s: %w: %s", c.Host.Name, command, pod.Name, err, said)
	}
	return out, nil
}

// Leases returns how many addresses host-local has given away.
func (c *CNI) Leases() (n int, err error) {
	entries, err := os.ReadDir(filepath.Join(c.Data, "networks", c.Network))
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			n++
		}
	}
	return n, err
}
