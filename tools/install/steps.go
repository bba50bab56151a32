package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

const meshToml = `[network]
name = "packaged"
cidr = ["10.244.0.0/16", "fd00:10:244::/48"]
[[node]]
name    = "a"
address = "172.18.0.2"
subnets = ["10.244.0.0/24", "fd00:10:244::/64"]
[[node]]
name    = "b"
address = "172.18.0.3"
subnets = ["10.244.1.0/24", "fd00:10:244:1::/64"]
`

// Steps on the hosts a and b, one after the other.
var steps = []step{
	{what: "two Debian hosts boot", do: (*trial).hosts,
		how: "systemd-nspawn boots a and b, joined by a wire, each with a pod and two networks of its own"},
	{what: "the .deb installs, starts nothing, and says what to edit", do: (*trial).install,
		how: "`apt install`, `meshd check`, then a start without a valid file"},
	{what: "configured and enabled, pods reach each other, and no others do", do: (*trial).configure,
		how: "`systemctl enable --now meshd`; pings between pods and between the host's networks; cni_conf"},
	{what: "reading is for the group mesh", do: (*trial).permissions,
		how: "meshtui and `meshd reload` as members of mesh and as a stranger"},
	{what: "systemd-networkd leaves the mesh's interfaces alone", do: (*trial).networkd,
		how: "systemd-networkd on a, with a file that asks for an address on all interfaces"},
	{what: "NetworkManager leaves the mesh's interfaces alone", do: (*trial).networkManager,
		how: "NetworkManager on b, restarted, and with another `network.interface`"},
	{what: "beside firewalld pods reach each other, or status names it", do: (*trial).firewalld,
		how: "firewalld with and without meshd's accepts, reloaded"},
	{what: "beside ufw pods reach each other", do: (*trial).ufw,
		how: "ufw with and without meshd's accepts"},
	{what: "an edit is a reload; an invalid file is rejected", do: (*trial).edit,
		how: "a third node, then a key that does not exist, then the first file"},
	{what: "a change that nobody confirms leaves /etc/mesh.toml again", do: (*trial).follow,
		how: "`meshd apply --confirm 2s`; then what meshd-file.service must not copy, planted as the user meshd"},
	{what: "an upgrade loses no packet", do: (*trial).upgrade, alone: true,
		how: "`apt install` of a higher version under 5,000 packets/s each way"},
	{what: "an upgrade with another unit restarts the service", do: (*trial).upgradeUnit,
		how: "the same with a changed meshd.service, and the user engine"},
	{what: "an upgrade that cannot run leaves the version that runs", do: (*trial).upgradeBroken,
		how: "a program that rejects the file, with and without another unit; then one that works"},
	{what: "an upgrade does not wait for an address", do: (*trial).upgradeWaiting,
		how: "`apt install` while the host has no address of the file"},
	{what: "a downgrade to the version before", do: (*trial).downgrade,
		how: "`meshd cleanup`, `apt install --allow-downgrades`"},
	{what: "an upgrade from the version before", do: (*trial).upgradePrevious,
		how: "`apt install` of this version under 5,000 packets/s each way"},
	{what: "a killed daemon comes back", do: (*trial).kill,
		how: "SIGKILL to meshd under 5,000 packets/s each way"},
	{what: "a daemon that hangs is started anew", do: (*trial).watchdog,
		how: "SIGSTOP to meshd; WatchdogSec= is 3 s for this step"},
	{what: "a host comes back after a power cut", do: (*trial).powerCut,
		how: "SIGKILL to the machine's init, then a boot of the same disk"},
	{what: "after a power cut during an edit the last good file is used", do: (*trial).lastGood,
		how: "the same with half of /etc/mesh.toml"},
	{what: "an edit starts a service that gave up", do: (*trial).gaveUp,
		how: "a start with an invalid file and none before it; then a valid one"},
	{what: "WireGuard runs in user space where the kernel has none", do: (*trial).helper,
		how: "`systemctl start meshd-wireguard` with a file that asks for it; SIGKILL; `apt install --reinstall`"},
	{what: "installing keeps a file that is there", do: (*trial).ownFile,
		how: "`apt remove`, `apt install`"},
	{what: "purged, nothing is left", do: (*trial).purge,
		how: "`apt purge`; a search for files, rules, routes and switches"},
	{what: "Docker may be installed before meshd, or after it", do: (*trial).docker,
		how: "docker.io and then meshd on b; docker.io beside the running meshd on a"},
	{what: "purged beside Docker, forwarding stays as Docker has it", do: (*trial).purgeBesideDocker,
		how: "`apt purge meshd` on both hosts"},
}

// What needs neither a nor b.
var besides = []step{
	{what: "arm64 and armv7 start", do: (*trial).otherMachines,
		how: "both programs under qemu-user: version, init, check"},
	{what: "other versions of the package", do: (*trial).otherVersions,
		how: "dpkg-deb builds them for the steps about upgrades"},
	{what: "the .rpm installs, upgrades and leaves", do: (*trial).rpm,
		how: "Debian's dnf on a third host: install, `rpm -V`, enable, reinstall, remove"},
}

// both does something for each of two things at once.
func both[T any](first, second T, do func(T) error) error {
	done := make(chan error, 1)
	go func() { done <- do(first) }()
	return errors.Join(do(second), <-done)
}

// hosts boots a and b. Forwarding is off, as on a new Debian, so that the trial sees whether meshd asks
// for it and gives it back.
func (t *trial) hosts() (seen string, err error) {
	if err := both("a", "b", func(name string) error {
		m, err := t.boot(name)
		if name == "a" {
			t.a = m
		} else {
			t.b = m
		}
		return err
	}); err != nil {
		return "", err
	}
	if err := join(t.a, t.b); err != nil {
		return "", err
	}
	if err := errors.Join(t.a.furnish(0), t.b.furnish(1)); err != nil {
		return "", err
	}
	for _, m := range []*machine{t.a, t.b} {
		if err := m.all("useradd -r reader", "useradd -r stranger"); err != nil {
			return "", err
		}
		if m.switches, err = m.forwarding(); err != nil {
			return "", err
		}
	}
	versions, err := t.a.run("sh", "-c",
		"dpkg-query -W -f 'systemd ${Version}' systemd; uname -r | sed 's/^/, Linux /'")
	return strings.TrimSpace(versions), err
}

// furnish gives a booted host its address, a pod on a bridge, and two networks that it is to keep apart.
func (m *machine) furnish(i int) error {
	lines := []string{"ip link set lo up",
		fmt.Sprintf("ip addr add 172.18.0.%d/16 dev eth0", i+2), "ip link set eth0 up",
		"ip link add cni0 type bridge", "ip netns add pod",
		fmt.Sprintf("ip addr add 10.244.%d.1/24 dev cni0", i), "ip link set cni0 up mtu 1472",
		"ip link add pod0 type veth peer name eth0 netns pod", "ip link set pod0 master cni0 up",
		fmt.Sprintf("ip -n pod addr add 10.244.%d.2/24 dev eth0", i), "ip -n pod link set eth0 up mtu 1472",
		fmt.Sprintf("ip -n pod route add default via 10.244.%d.1", i),
		fmt.Sprintf("ip addr add fd00:10:244:%x::1/64 dev cni0 nodad", i),
		fmt.Sprintf("ip -n pod addr add fd00:10:244:%x::2/64 dev eth0 nodad", i),
		fmt.Sprintf("ip -n pod route add default via fd00:10:244:%x::1", i)}
	for n, lan := range []string{"lan1", "lan2"} {
		lines = append(lines, fmt.Sprintf("ip netns add %s", lan),
			fmt.Sprintf("ip link add %s type veth peer name eth0 netns %[1]s", lan),
			fmt.Sprintf("ip addr add 192.168.%d.1/24 dev %s; ip link set %[2]s up", n+1, lan),
			fmt.Sprintf("ip -n %s addr add 192.168.%d.2/24 dev eth0", lan, n+1),
			fmt.Sprintf("ip -n %s link set eth0 up", lan),
			fmt.Sprintf("ip -n %s route add default via 192.168.%d.1", lan, n+1))
	}
	return m.all(lines...)
}

// install: a package must not start what nobody has configured, and must say what is missing. Exit
// code 78 (EX_CONFIG) is in RestartPreventExitStatus.
func (t *trial) install() (seen string, err error) {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return "", err
	}
	seen = "inactive, disabled; \"no node is listed\"; exit code 78 and no restart"
	return seen, both(t.a, t.b, func(m *machine) error {
		return errors.Join(
			m.deb(deb),
			m.exits(3, "inactive", "systemctl", "is-active", "meshd"),
			m.exits(1, "disabled", "systemctl", "is-enabled", "meshd"),
			m.exits(1, "no node is listed: add a [[node]] table for every host", "meshd", "check"),
			m.asFound(),
			// Started all the same, it says so and is not tried again and again.
			m.exits(1, "", "systemctl", "start", "meshd"),
			m.exits(0, "ExecMainStatus=78", "systemctl", "show", "meshd", "-p", "ExecMainStatus"))
	})
}

// configure follows the manual from `systemctl enable` to pods that reach each other, then looks at
// what else the package promises: who the daemon is, what the journal has, which forwarding is on, and
// what docs/cni.md tells people.
func (t *trial) configure() (seen string, err error) {
	if err := both(t.a, t.b, func(m *machine) error {
		return errors.Join(m.write("/etc/mesh.toml", meshToml),
			m.all("meshd check", "systemctl enable --now meshd", "systemctl is-active meshd"))
	}); err != nil {
		return "", err
	}
	for _, to := range []string{"10.244.1.2", "fd00:10:244:1::2"} {
		if err := t.a.exits(0, "ttl=60", "ip", "netns", "exec", "pod", "ping", "-c", "3", "-i", "0.2", "-w", "10",
			to); err != nil {
			return "", err
		}
	}
	if err := both(t.a, t.b, forwardsForTheMesh); err != nil {
		return "", err
	}
	if err := errors.Join(t.a.journal(), t.a.exits(0, "meshd", "ps", "-o", "user=", "-C", "meshd"),
		t.a.all("meshd wait peer:b --timeout 20s"),
		t.a.exits(0, "FLANNEL_SUBNET=10.244.0.1/24", "runuser", "-u", "stranger", "--", "cat",
			"/run/flannel/subnet.env"),
		t.a.all("systemctl start meshd-ready", "systemctl is-active meshd-ready", "mkdir -p /etc/cni/net.d",
			"chown meshd /etc/cni/net.d",
			`printf '[container]\ncni_conf = "/etc/cni/net.d/10-mesh.conflist"\n' >> /etc/mesh.toml`,
			"systemctl restart meshd", "meshd wait ready --timeout 20s", "test -s /etc/cni/net.d/10-mesh.conflist"),
		t.a.write("/etc/mesh.toml", meshToml),
		t.a.all("systemctl restart meshd", "! test -e /etc/cni/net.d/10-mesh.conflist",
			"meshd wait peer:b --timeout 20s")); err != nil {
		return "", err
	}
	now, err := t.a.status()
	return fmt.Sprintf("4 hops; engine %s (%s); nothing else is forwarded; no error in the journal",
		now.Dataplane.Engine, now.Dataplane.Receive), err
}

// forwardsForTheMesh: forwarding is on for the mesh's interfaces, so that others find the host's switch as
// it was. IPv6 has one switch for all (ip-sysctl.rst of the kernel).
func forwardsForTheMesh(m *machine) error {
	return errors.Join(m.exits(0, "0", "cat", "/proc/sys/net/ipv4/ip_forward"),
		m.exits(0, "0", "cat", "/proc/sys/net/ipv4/conf/lan1/forwarding"),
		m.exits(0, "1", "cat", "/proc/sys/net/ipv4/conf/eth0/forwarding"),
		m.exits(0, "1", "cat", "/proc/sys/net/ipv6/conf/all/forwarding"), m.apart())
}

// journal: systemd has the levels of meshd's lines, and none of them is an error.
func (m *machine) journal() error {
	log, err := m.run("journalctl", "-u", "meshd", "-t", "meshd", "--no-pager", "-o", "cat", "-p", "info")
	if err == nil && (!strings.Contains(log, "msg=forwarding node="+m.name) || strings.Contains(log, "level=")) {
		err = fmt.Errorf("the journal is\n%s", log)
	}
	loud, loudErr := m.run("journalctl", "-u", "meshd", "-t", "meshd", "--no-pager", "-o", "cat", "-p", "err")
	if strings.Contains(loud, "msg=") {
		loudErr = fmt.Errorf("errors in the journal:\n%s", loud)
	}
	return errors.Join(err, loudErr)
}

// permissions: the control socket answers members of its groups, and reading does not allow changes.
func (t *trial) permissions() (seen string, err error) {
	return "a member of mesh sees the node, a stranger does not; neither may reload", errors.Join(
		t.a.all("usermod -aG mesh reader"),
		t.a.exits(0, "a  ", "runuser", "-u", "reader", "--", "meshtui", "--once"),
		t.a.exits(4, `is for root and the group "mesh"`, "runuser", "-u", "stranger", "--", "meshtui", "--once"),
		t.a.exits(4, "mesh-admin", "runuser", "-u", "reader", "--", "meshd", "reload"))
}

// generation waits until a machine's daemon has a generation of the file in force.
func (t *trial) generation(m *machine, want string) error {
	return eventually(10*time.Second, func() error { return m.exits(0, want, "meshd", "status") })
}

// edit changes the file as an editor does. The watched file reloads by itself; `systemctl reload`
// must report a rejected file by its exit code, and the service goes on with the old one.
func (t *trial) edit() (seen string, err error) {
	if err := t.a.write("/etc/mesh.toml",
		meshToml+"[[node]]\nname = \"c\"\naddress = \"172.18.0.4\"\nsubnets = [\"10.244.2.0/24\"]\n"); err != nil {
		return "", err
	}
	if err := t.generation(t.a, "generation 2"); err != nil {
		return "", err
	}
	if err := t.a.write("/etc/mesh.toml", meshToml+"nonsense = 1\n"); err != nil {
		return "", err
	}
	const fault = "/etc/mesh.toml:12:1: error: node.nonsense"
	if err := errors.Join(t.a.exits(1, "", "systemctl", "reload", "meshd"),
		t.a.exits(0, "active", "systemctl", "is-active", "meshd"),
		t.a.exits(0, fault, "meshd", "status")); err != nil {
		return "", err
	}
	if err := t.a.write("/etc/mesh.toml", meshToml); err != nil {
		return "", err
	}
	return "generation 2; `systemctl reload` fails, status has \"" + fault + "\"; generation 3",
		errors.Join(t.a.all("systemctl reload meshd"), t.generation(t.a, "generation 3"))
}
