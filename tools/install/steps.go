package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// Steps on two hosts, one after the other.
var steps = []step{
	{what: "two Debian hosts with systemd, joined by a wire", do: (*trial).hosts},
	{what: "the .deb installs, starts nothing, and says what to edit", do: (*trial).install},
	{what: "configured and enabled, pods reach each other, and no others do", do: (*trial).configure},
	{what: "meshtui is for the group mesh", do: (*trial).permissions},
	{what: "beside firewalld pods reach each other, or status names it", do: (*trial).firewalld},
	{what: "beside ufw pods reach each other", do: (*trial).ufw},
	{what: "an edit is a reload; a bad one is refused by systemctl reload", do: (*trial).edit},
	{what: "an upgrade under 5000 packets/s each way loses nothing", do: (*trial).upgrade, alone: true},
	{what: "an upgrade that changes the unit restarts the service", do: (*trial).upgradeUnit},
	{what: "an upgrade that cannot run leaves the one that runs", do: (*trial).upgradeBroken},
	{what: "an upgrade while meshd waits for an address", do: (*trial).upgradeWaiting},
	{what: "a downgrade", do: (*trial).downgrade},
	{what: "killed, it comes back", do: (*trial).kill},
	{what: "a packet path that stands still: the watchdog fires", do: (*trial).watchdog},
	{what: "what there was before stays, in a file of the user's own", do: (*trial).ownFile},
	{what: "removed and purged, nothing is left", do: (*trial).remove},
	{what: "installed again", do: (*trial).again},
}

// What needs no host.
var besides = []step{
	{what: "the .rpm in a root of its own", do: (*trial).rpm},
	{what: "arm64 and armv7 start", do: (*trial).otherMachines},
}

// both does something for each of two things at once.
func both[T any](first, second T, do func(T) error) error {
	done := make(chan error, 1)
	go func() { done <- do(first) }()
	return errors.Join(do(second), <-done)
}

// hosts boots a and b and gives each a pod, in both families, and two users who are not root.
// Forwarding is off, as on a new Debian, so that the trial sees whether meshd asks for it and gives
// it back.
func (t *trial) hosts() (err error) {
	if err := both("a", "b", func(name string) error {
		m, err := t.boot(name)
		if name == "a" {
			t.a = m
		} else {
			t.b = m
		}
		return err
	}); err != nil {
		return err
	}
	if err := join(t.a, t.b); err != nil {
		return err
	}
	for i, m := range []*machine{t.a, t.b} {
		// A pod on a bridge, as on any host.
		if err := m.all(fmt.Sprintf("ip addr add 172.18.0.%d/16 dev eth0", i+2), "ip link set eth0 up",
			"ip link add cni0 type bridge",
			fmt.Sprintf("ip addr add 10.244.%d.1/24 dev cni0", i), "ip link set cni0 up mtu 1472", "ip netns add pod",
			"ip link add pod0 type veth peer name eth0 netns pod", "ip link set pod0 master cni0 up",
			fmt.Sprintf("ip -n pod addr add 10.244.%d.2/24 dev eth0", i), "ip -n pod link set eth0 up mtu 1472",
			fmt.Sprintf("ip -n pod route add default via 10.244.%d.1", i), "ip link set lo up",
			fmt.Sprintf("ip addr add fd00:10:244:%x::1/64 dev cni0 nodad", i),
			fmt.Sprintf("ip -n pod addr add fd00:10:244:%x::2/64 dev eth0 nodad", i),
			fmt.Sprintf("ip -n pod route add default via fd00:10:244:%x::1", i),
			"useradd -r reader", "useradd -r stranger",
			"sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0"); err != nil {
			return err
		}
		// Two networks that the host is to keep apart.
		for n, lan := range []string{"lan1", "lan2"} {
			if err := m.all(fmt.Sprintf("ip netns add %s; ip link add %[1]s type veth peer name eth0 netns %[1]s",
				lan), fmt.Sprintf("ip addr add 192.168.%d.1/24 dev %s; ip link set %[2]s up", n+1, lan),
				fmt.Sprintf("ip -n %s addr add 192.168.%d.2/24 dev eth0; ip -n %[1]s link set eth0 up; "+
					"ip -n %[1]s route add default via 192.168.%[2]d.1", lan, n+1)); err != nil {
				return err
			}
		}
		if m.switches, err = m.forwarding(); err != nil {
			return err
		}
	}
	return nil
}

// install: a package must not start what nobody has configured, and must say what is missing. Exit
// code 78 (EX_CONFIG) is in RestartPreventExitStatus.
func (t *trial) install() error {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return err
	}
	return both(t.a, t.b, func(m *machine) error {
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
// what else the package promises: who the daemon is, what the journal has, and which forwarding is
// on.
func (t *trial) configure() error {
	for _, m := range []*machine{t.a, t.b} {
		if err := m.write("/etc/mesh.toml", meshToml); err != nil {
			return err
		}
		if err := m.all("meshd check", "systemctl enable --now meshd", "systemctl is-active meshd"); err != nil {
			return err
		}
	}
	for _, to := range []string{"10.244.1.2", "fd00:10:244:1::2"} {
		if err := t.a.exits(0, "ttl=60", "ip", "netns", "exec", "pod", "ping", "-c", "3", "-i", "0.2", "-w", "10",
			to); err != nil {
			return err
		}
	}
	for _, m := range []*machine{t.a, t.b} { // by interface, so that others find the host's switch as it was
		if err := errors.Join(m.exits(0, "0", "cat", "/proc/sys/net/ipv4/ip_forward"), m.exits(0, "0", "cat",
			"/proc/sys/net/ipv4/conf/lan1/forwarding"),
			m.exits(0, "1", "cat", "/proc/sys/net/ipv4/conf/eth0/forwarding"), m.exits(0, "1", "cat",
				"/proc/sys/net/ipv6/conf/all/forwarding"), m.apart()); err != nil {
			return err
		}
	}
	log, err := t.a.run("journalctl", "-u", "meshd", "-t", "meshd", "--no-pager", "-o", "cat", "-p", "info")
	if err == nil && (!strings.Contains(log, "msg=forwarding node=a") || strings.Contains(log, "level=")) {
		err = fmt.Errorf("the journal is\n%s", log)
	}
	loud, loudErr := t.a.run("journalctl", "-u", "meshd", "-t", "meshd", "--no-pager", "-o", "cat", "-p", "err")
	if strings.Contains(loud, "msg=") {
		loudErr = fmt.Errorf("errors in the journal:\n%s", loud)
	}
	return errors.Join(
		err,
		loudErr,
		t.a.exits(0, "meshd", "ps", "-o", "user=", "-C", "meshd"),
		t.a.all("meshd wait peer:b --timeout 20s"),
		t.a.exits(0, "FLANNEL_SUBNET=10.244.0.1/24", "runuser", "-u", "stranger", "--", "cat",
			"/run/flannel/subnet.env"),
		t.a.all(
			"systemctl start meshd-ready",
			"systemctl is-active meshd-ready",
			// What docs/cni.md tells people.
			"mkdir -p /etc/cni/net.d",
			"chown meshd /etc/cni/net.d",
			`printf '[container]\ncni_conf = "/etc/cni/net.d/10-mesh.conflist"\n' >> /etc/mesh.toml`,
			"systemctl restart meshd",
			"meshd wait ready --timeout 20s",
			"test -s /etc/cni/net.d/10-mesh.conflist",
			"meshd wait peer:b --timeout 20s",
		),
		t.a.write("/etc/mesh.toml", meshToml),
		t.a.all("systemctl restart meshd", "! test -e /etc/cni/net.d/10-mesh.conflist",
			"meshd wait peer:b --timeout 20s"),
	)
}

// permissions: the control socket answers members of its groups, and reading does not allow changes.
func (t *trial) permissions() error {
	if err := t.a.all("usermod -aG mesh reader"); err != nil {
		return err
	}
	return errors.Join(
		t.a.exits(0, "NODE     a", "runuser", "-u", "reader", "--", "meshtui", "--once"),
		t.a.exits(4, `is for root and the group "mesh"`, "runuser", "-u", "stranger", "--", "meshtui", "--once"),
		t.a.exits(4, "mesh-admin", "runuser", "-u", "reader", "--", "meshd", "reload"))
}

// generation waits until a machine's daemon has a generation of the file in force.
func (t *trial) generation(m *machine, want string) error {
	return eventually(10*time.Second, func() error { return m.exits(0, want, "meshd", "status") })
}

// edit changes the file as an editor does. The watched file reloads by itself; `systemctl reload`
// must report a rejected file by its exit code, and the service goes on with the old one.
func (t *trial) edit() error {
	if err := t.a.write("/etc/mesh.toml",
		meshToml+"[[node]]\nname = \"c\"\naddress = \"172.18.0.4\"\nsubnets = [\"10.244.2.0/24\"]\n"); err != nil {
		return err
	}
	if err := t.generation(t.a, "generation 2"); err != nil {
		return err
	}
	if err := t.a.write("/etc/mesh.toml", meshToml+"nonsense = 1\n"); err != nil {
		return err
	}
	if err := errors.Join(t.a.exits(1, "", "systemctl", "reload", "meshd"), t.a.exits(0, "active", "systemctl",
		"is-active", "meshd"),
		t.a.exits(0, "/etc/mesh.toml:12:1: error: node.nonsense", "meshd", "status")); err != nil {
		return err
	}
	if err := t.a.write("/etc/mesh.toml", meshToml); err != nil {
		return err
	}
	return errors.Join(t.a.all("systemctl reload meshd"), t.generation(t.a, "generation 3"))
}

// kill: Restart= brings the service back. Only the main process is killed, as the OOM killer does
// it.
func (t *trial) kill() error {
	_, _, err := t.underLoad("systemctl kill -s KILL", func() error {
		return errors.Join(
			t.a.all("systemctl kill --kill-whom=main -s KILL meshd"),
			eventually(20*time.Second, func() error {
				return t.a.all("systemctl is-active meshd", "meshd wait ready --timeout 1s")
			}),
		)
	})
	// It is down for RestartSec: some are lost.
	return errors.Join(err, t.a.all("meshd wait peer:b --timeout 20s"))
}

// watchdog stops the process, which then cannot send WATCHDOG=1: systemd must see it and start it
// anew. The drop-in is in /run, so that nothing of it survives, and its times are short to not wait
// for the unit's own.
func (t *trial) watchdog() error {
	if err := t.a.all("mkdir -p /run/systemd/system/meshd.service.d",
		"printf '[Service]\\nWatchdogSec=3\\nTimeoutAbortSec=2\\n' > /run/systemd/system/meshd.service.d/test.conf",
		"systemctl daemon-reload", "systemctl restart meshd",
		"systemctl kill --kill-whom=main -s STOP meshd"); err != nil {
		return err
	}
	if err := eventually(30*time.Second, func() error {
		return t.a.exits(0, "Watchdog timeout", "journalctl", "-u", "meshd", "--no-pager")
	}); err != nil {
		return err
	}
	return errors.Join(
		eventually(30*time.Second, func() error { return t.a.all("meshd wait peer:b --timeout 1s") }),
		t.a.all("rm /run/systemd/system/meshd.service.d/test.conf", "systemctl daemon-reload"))
}

// ownFile: installing over a file that was there first keeps it.
func (t *trial) ownFile() error {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return err
	}
	if err := t.b.all("apt-get remove -y meshd", "cp /etc/mesh.toml /root/before"); err != nil {
		return err
	}
	return errors.Join(t.b.deb(deb), t.b.all("cmp /etc/mesh.toml /root/before", "systemctl enable --now meshd",
		"meshd wait peer:a --timeout 20s"))
}

// remove: removing keeps the file, as Debian's policy has it for configuration, and purging does
// not. Forwarding is again as it was found.
func (t *trial) remove() error {
	if err := t.b.all("apt-get remove -y meshd", "test -e /etc/mesh.toml", "! ip link show mesh0",
		"! nft list ruleset | grep meshd",
		"! ip route | grep 10.244.0.0/16", "! systemctl is-active meshd"); err != nil {
		return err
	}
	if err := t.b.asFound(); err != nil {
		return err
	}
	if err := t.b.all("apt-get purge -y meshd", "! test -e /etc/mesh.toml"); err != nil {
		return err
	}
	left, err := t.b.run("sh", "-c",
		"find / -xdev \\( -name '*meshd*' -o -name 'mesh.toml*' \\) -not -path '/proc/*' -not -path '/sys/*' "+
			"-not -path '/root/*' -not -path '/var/cache/*' -not -path '/var/log/*' -not -path '/var/lib/systemd/*'; "+
			"ls -d /run/meshd /run/flannel 2>/dev/null || true")
	if err == nil && strings.TrimSpace(left) != "" {
		err = fmt.Errorf("left behind:\n%s", left)
	}
	return err
}

// again: a purge has left nothing that a second installation trips over.
func (t *trial) again() error {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return err
	}
	if err := errors.Join(t.b.deb(deb), t.b.write("/etc/mesh.toml", meshToml)); err != nil {
		return err
	}
	return t.b.all("systemctl enable --now meshd", "meshd wait peer:a --timeout 20s")
}

// rpm installs into a root of Debian, so without dependencies and without a systemd that runs: it
// proves the package's files and scripts, and that erasing keeps the file.
func (t *trial) rpm() error {
	rpm, err := t.one("meshd-*.x86_64.rpm")
	if err != nil {
		return err
	}
	root, err := t.copyOf("rpm")
	if err != nil {
		return err
	}
	shell := func(lines ...string) error {
		out, err := exec.Command("sh", "-ec", strings.Join(lines, "\n"), "sh", rpm, root).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, tail(string(out)))
		}
		return nil
	}
	return errors.Join(
		shell(`mkdir -p "$2/var/lib/rpm"; rpm --root "$2" --nodeps -i "$1"`, `chroot "$2" meshd version`,
			`chroot "$2" meshtui --version`, `! chroot "$2" meshd check`,
			`chroot "$2" sh -c 'meshd init > /etc/mesh.toml && meshd check'`,
			`chroot "$2" getent group mesh mesh-admin`, `rpm --root "$2" --nodeps -e meshd`,
			`! test -e "$2/usr/bin/meshd"`, `test -e "$2/etc/mesh.toml"`),
		shell(`! rpm -qlp "$1" | grep sysctl`, `! rpm -qp --scripts "$1" | grep systemd-sysctl`,
			`rpm -qp --scripts "$1" | grep -q try-restart`,
			`rpm -qlp "$1" | grep -qx /usr/lib/systemd/system/meshd.service`))
}

// otherMachines runs binaries of other machines under qemu.
func (t *trial) otherMachines() error {
	for arch, qemu := range map[string]string{"arm64": "qemu-aarch64-static", "armhf": "qemu-arm-static"} {
		deb, err := t.one("meshd_*_" + arch + ".deb")
		if err != nil {
			return err
		}
		dir := filepath.Join(t.work, arch)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		out, err := exec.Command("sh", "-ec", `dpkg-deb -x "$1" "$2"
"$3" "$2/usr/bin/meshd" version
"$3" "$2/usr/bin/meshtui" --version
"$3" "$2/usr/bin/meshd" init > "$2/mesh.toml"
"$3" "$2/usr/bin/meshd" check "$2/mesh.toml"`, "sh", deb, dir, qemu).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", arch, err, tail(string(out)))
		}
	}
	return nil
}
