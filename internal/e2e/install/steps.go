package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const meshToml = `[network]
name = "packaged"
cidr = "10.244.0.0/16"
[[node]]
name    = "a"
address = "172.18.0.2"
subnets = ["10.244.0.0/24"]
[[node]]
name    = "b"
address = "172.18.0.3"
subnets = ["10.244.1.0/24"]
`

var steps = []step{
	{"two Debian hosts with systemd, joined by a wire", (*trial).hosts},
	{"the .deb installs, starts nothing, and says what to edit", (*trial).install},
	{"configured and enabled, pods reach each other", (*trial).configure},
	{"meshtui is for the group mesh", (*trial).permissions},
	{"an edit is a reload; a bad one is refused by systemctl reload", (*trial).edit},
	{"an upgrade under 5000 packets/s each way loses nothing", (*trial).upgrade},
	{"an upgrade that changes the unit restarts the service", (*trial).upgradeUnit},
	{"an upgrade that cannot run leaves the one that runs", (*trial).upgradeBroken},
	{"an upgrade while meshd waits for an address", (*trial).upgradeWaiting},
	{"a downgrade", (*trial).downgrade},
	{"killed, it comes back", (*trial).kill},
	{"a packet path that stands still: the watchdog fires", (*trial).watchdog},
	{"what there was before stays, in a file of the user's own", (*trial).ownFile},
	{"removed and purged, nothing is left", (*trial).remove},
	{"installed again", (*trial).again},
	{"the .rpm in a root of its own", (*trial).rpm},
	{"arm64 and armv7 start", (*trial).otherMachines},
}

func (t *trial) hosts() (err error) {
	if err := t.debootstrap(); err != nil {
		return err
	}
	if t.a, err = t.boot("a"); err != nil {
		return err
	}
	if t.b, err = t.boot("b"); err != nil {
		return err
	}
	if err := join(t.a, t.b); err != nil {
		return err
	}
	for i, m := range []*machine{t.a, t.b} {
		// A pod on a bridge, as on any host.
		if err := m.all(fmt.Sprintf("ip addr add 172.18.0.%d/16 dev eth0", i+2), "ip link set eth0 up", "ip link add cni0 type bridge",
			fmt.Sprintf("ip addr add 10.244.%d.1/24 dev cni0", i), "ip link set cni0 up mtu 1472", "ip netns add pod",
			"ip link add pod0 type veth peer name eth0 netns pod", "ip link set pod0 master cni0 up",
			fmt.Sprintf("ip -n pod addr add 10.244.%d.2/24 dev eth0", i), "ip -n pod link set eth0 up mtu 1472",
			fmt.Sprintf("ip -n pod route add default via 10.244.%d.1", i), "ip link set lo up",
			"useradd -r reader", "useradd -r stranger", "sysctl -qw net.ipv4.ip_forward=0"); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) install() error {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return err
	}
	for _, m := range []*machine{t.a, t.b} {
		if err := errors.Join(
			m.deb(deb),
			m.exits(3, "inactive", "systemctl", "is-active", "meshd"),
			m.exits(1, "disabled", "systemctl", "is-enabled", "meshd"),
			m.exits(1, "no node is listed: add a [[node]] table for every host", "meshd", "check"),
			m.exits(0, "1", "cat", "/proc/sys/net/ipv4/ip_forward"),
			// Started all the same, it says so and is not tried again and again.
			m.exits(1, "", "systemctl", "start", "meshd")); err != nil {
			return err
		}
		if err := m.exits(0, "ExecMainStatus=78", "systemctl", "show", "meshd", "-p", "ExecMainStatus"); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) configure() error {
	for _, m := range []*machine{t.a, t.b} {
		if err := m.write("/etc/mesh.toml", meshToml); err != nil {
			return err
		}
		if err := m.all("meshd check", "systemctl enable --now meshd", "systemctl is-active meshd"); err != nil {
			return err
		}
	}
	out, err := t.a.run("ip", "netns", "exec", "pod", "ping", "-c", "3", "-i", "0.2", "-w", "10", "10.244.1.2")
	if err == nil && !strings.Contains(out, "ttl=60") {
		err = fmt.Errorf("no ttl=60 in\n%s", out)
	}
	if err != nil {
		return err
	}
	log, err := t.a.run("journalctl", "-u", "meshd", "-t", "meshd", "--no-pager", "-o", "cat", "-p", "info")
	if err == nil && (!strings.Contains(log, "msg=forwarding node=a") || strings.Contains(log, "level=")) {
		err = fmt.Errorf("the journal is\n%s", log)
	}
	loud, loudErr := t.a.run("journalctl", "-u", "meshd", "-t", "meshd", "--no-pager", "-o", "cat", "-p", "err")
	if strings.Contains(loud, "msg=") {
		loudErr = fmt.Errorf("errors in the journal:\n%s", loud)
	}
	return errors.Join(err, loudErr, t.a.exits(0, "meshd", "ps", "-o", "user=", "-C", "meshd"), t.a.all("meshd wait peer:b --timeout 20s"),
		t.a.exits(0, "FLANNEL_SUBNET=10.244.0.1/24", "runuser", "-u", "stranger", "--", "cat", "/run/flannel/subnet.env"),
		t.a.all("systemctl start meshd-ready", "systemctl is-active meshd-ready",
			// What docs/cni.md tells people.
			"mkdir -p /etc/cni/net.d", "chown meshd /etc/cni/net.d", `printf '[container]\ncni_conf = "/etc/cni/net.d/10-mesh.conflist"\n' >> /etc/mesh.toml`,
			"systemctl restart meshd", "meshd wait ready --timeout 20s", "test -s /etc/cni/net.d/10-mesh.conflist", "meshd wait peer:b --timeout 20s"),
		t.a.write("/etc/mesh.toml", meshToml), t.a.all("systemctl restart meshd", "! test -e /etc/cni/net.d/10-mesh.conflist", "meshd wait peer:b --timeout 20s"))
}

func (t *trial) permissions() error {
	if err := t.a.all("usermod -aG mesh reader"); err != nil {
		return err
	}
	return errors.Join(
		t.a.exits(0, "NODE     a", "runuser", "-u", "reader", "--", "meshtui", "--once"),
		t.a.exits(4, `is for root and the group "mesh"`, "runuser", "-u", "stranger", "--", "meshtui", "--once"),
		t.a.exits(4, "mesh-admin", "runuser", "-u", "reader", "--", "meshd", "reload"))
}

func (t *trial) generation(m *machine, want string) error {
	return eventually(10*time.Second, func() error { return m.exits(0, want, "meshd", "status") })
}

func (t *trial) edit() error {
	if err := t.a.write("/etc/mesh.toml", meshToml+"[[node]]\nname = \"c\"\naddress = \"172.18.0.4\"\nsubnets = [\"10.244.2.0/24\"]\n"); err != nil {
		return err
	}
	if err := t.generation(t.a, "generation 2"); err != nil {
		return err
	}
	if err := t.a.write("/etc/mesh.toml", meshToml+"nonsense = 1\n"); err != nil {
		return err
	}
	if err := errors.Join(t.a.exits(1, "", "systemctl", "reload", "meshd"), t.a.exits(0, "active", "systemctl", "is-active", "meshd"),
		t.a.exits(0, "/etc/mesh.toml:12:1: error: node.nonsense", "meshd", "status")); err != nil {
		return err
	}
	if err := t.a.write("/etc/mesh.toml", meshToml); err != nil {
		return err
	}
	return errors.Join(t.a.all("systemctl reload meshd"), t.generation(t.a, "generation 3"))
}

// rebuilt is the same package with another version, and a changed file.
func (t *trial) rebuilt(version, file string, change func(text string) string) (path string, err error) {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(t.work, "rebuilt")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if out, err := exec.Command("dpkg-deb", "-R", deb, dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack: %w\n%s", err, out)
	}
	if err := os.Remove(filepath.Join(dir, "DEBIAN", "conffiles")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err // nfpm writes an empty one, which dpkg-deb refuses
	}
	edit := func(name string, change func(text string) string) error {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), []byte(change(string(text))), 0o644)
	}
	if err := errors.Join(edit(file, change), edit("DEBIAN/control", func(text string) string {
		return regexp.MustCompile(`(?m)^Version: .*`).ReplaceAllString(text, "Version: "+version)
	})); err != nil {
		return "", err
	}
	path = filepath.Join(t.work, "meshd_"+version+"_amd64.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Zgzip", "-b", dir, path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
}

// underLoad does something to a while packets flow both ways. It returns how many were
// lost each way, and how many of those from a since the TUN's queue was full: 500
// packets, 0.1 s of them.
func (t *trial) underLoad(what string, do func() error) (from, towards, overflowed uint64, err error) {
	before, err := t.dropped()
	if err != nil {
		return 0, 0, 0, err
	}
	there, err := startFlow(t.a, t.b, "10.244.0.1:7000", "10.244.1.1:7000")
	if err != nil {
		return 0, 0, 0, err
	}
	back, err := startFlow(t.b, t.a, "10.244.1.1:7001", "10.244.0.1:7001")
	if err != nil {
		there.finish()
		return 0, 0, 0, err
	}
	err = do()
	sent1, from := there.finish()
	sent2, towards := back.finish()
	after, droppedErr := t.dropped()
	overflowed = after - before
	t.note("%s: %d of %d packets lost from the host (%d in the TUN's queue), %d of %d towards it", what, from, sent1, overflowed, towards, sent2)
	return from, towards, overflowed, errors.Join(err, droppedErr)
}

// dropped is what the kernel dropped at a's TUN since its making.
func (t *trial) dropped() (n uint64, err error) {
	text, err := t.a.run("cat", "/sys/class/net/mesh0/statistics/tx_dropped")
	if err == nil {
		n, err = strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	}
	return n, err
}

// A run of meshd: its process, and which start of it.
func (t *trial) running() (pid, boot string, err error) {
	if pid, err = t.a.run("systemctl", "show", "-P", "MainPID", "meshd"); err != nil {
		return "", "", err
	}
	var status struct {
		BootID string `json:"boot_id"`
	}
	text, err := t.a.run("meshd", "status", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &status)
	}
	return pid, status.BootID, err
}

// upgraded installs a package on a under load, and waits for its meshd. Nothing is lost but
// what the kernel's queues cannot hold. It tells whether the process is still the same.
func (t *trial) upgraded(what, deb string) (same bool, err error) {
	pid, boot, err := t.running()
	if err != nil {
		return false, err
	}
	from, towards, overflowed, err := t.underLoad(what, func() error {
		return errors.Join(t.a.deb(deb), eventually(20*time.Second, func() error {
			now, nowBoot, err := t.running()
			if same = now == pid; err == nil && nowBoot == boot {
				err = errors.New("the old program still runs")
			}
			return err
		}))
	})
	if err == nil && (from > overflowed || towards != 0) {
		err = fmt.Errorf("%d packets lost from the host, %d of them in the TUN's queue, and %d towards it", from, overflowed, towards)
	}
	return same, errors.Join(err, t.a.all("systemctl is-active meshd", "meshd wait peer:b --timeout 20s"))
}

// upgrade: a package with the same unit takes over in place.
func (t *trial) upgrade() error {
	deb, err := t.rebuilt("99.0", "usr/share/doc/meshd/README.md", func(text string) string { return text + "\nNew.\n" })
	if err != nil {
		return err
	}
	same, err := t.upgraded("upgrade", deb)
	if err == nil && !same {
		err = errors.New("the process is another one")
	}
	if err != nil {
		return err
	}
	if version, err := t.a.run("dpkg-query", "-W", "-f", "${Version}", "meshd"); err != nil || version != "99.0" {
		return fmt.Errorf("version %q, %w", version, err)
	}
	return nil
}

// upgradeUnit: a package with another unit restarts the service, in its new confines.
func (t *trial) upgradeUnit() error {
	deb, err := t.rebuilt("99.1", "usr/lib/systemd/system/meshd.service", func(text string) string {
		return strings.Replace(text, "TimeoutStopSec=10", "TimeoutStopSec=11", 1)
	})
	if err != nil {
		return err
	}
	same, err := t.upgraded("upgrade with another unit", deb)
	if err == nil && same {
		err = errors.New("the process is the same")
	}
	return errors.Join(err, t.a.exits(0, "11s", "systemctl", "show", "-P", "TimeoutStopUSec", "meshd"))
}

// upgradeBroken: what does not start, or does not take the file, changes nothing but the
// disk, with the same unit and with another one; apt says so and is not stopped by it.
func (t *trial) upgradeBroken() error {
	pid, boot, err := t.running()
	if err != nil {
		return err
	}
	refuses := func(string) string { return "#!/bin/sh\necho mesh.toml:1:1: error: network: not in my time\nexit 78\n" }
	for _, version := range []string{"99.2", "99.3"} {
		deb, err := t.rebuilt(version, "usr/bin/meshd", refuses)
		if err == nil && version == "99.3" { // the other unit is still installed
			err = t.a.all("cp /usr/lib/systemd/system/meshd.service /root/unit", "echo '# changed' >> /usr/lib/systemd/system/meshd.service")
		}
		if err != nil {
			return err
		}
		if err := errors.Join(t.a.deb(deb), t.a.exits(0, "ii", "dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "meshd")); err != nil {
			return err
		}
	}
	good, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return err
	}
	now, err := t.a.run("systemctl", "show", "-P", "MainPID", "meshd")
	if err == nil && now != pid {
		err = errors.New("it was restarted")
	}
	ping := func() error { return t.a.all("ip netns exec pod ping -c 1 -W 2 10.244.1.2") }
	if err := errors.Join(err, ping(), t.a.deb(good), ping()); err != nil {
		return err
	}
	return eventually(20*time.Second, func() error {
		_, after, err := t.running()
		if err == nil && after == boot {
			err = errors.New("the cure does not run")
		}
		return err
	})
}

// upgradeWaiting: apt does not wait for an address, and neither does what starts after meshd.
func (t *trial) upgradeWaiting() error {
	deb, err := t.rebuilt("99.4", "usr/share/doc/meshd/README.md", func(text string) string { return text + "\nWaiting.\n" })
	if err != nil {
		return err
	}
	if err := t.a.all("ip addr del 172.18.0.2/16 dev eth0", "systemctl --no-block restart meshd"); err != nil {
		return err
	}
	if err := eventually(20*time.Second, func() error {
		return t.a.exits(0, "waiting for an address", "systemctl", "show", "-P", "StatusText", "meshd")
	}); err != nil {
		return err
	}
	return errors.Join(t.a.deb(deb), t.a.all("ip addr add 172.18.0.2/16 dev eth0", "meshd wait ready --timeout 30s", "meshd wait peer:b --timeout 20s"),
		t.a.exits(0, "active", "systemctl", "is-active", "meshd"))
}

func (t *trial) downgrade() error {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return err
	}
	return errors.Join(t.a.deb(deb), t.a.all("systemctl is-active meshd", "meshd wait peer:b --timeout 20s"),
		t.a.exits(0, "10s", "systemctl", "show", "-P", "TimeoutStopUSec", "meshd"))
}

func (t *trial) kill() error {
	_, _, _, err := t.underLoad("systemctl kill -s KILL", func() error {
		return errors.Join(t.a.all("systemctl kill --kill-whom=main -s KILL meshd"), eventually(20*time.Second, func() error {
			return t.a.all("systemctl is-active meshd", "meshd wait ready --timeout 1s")
		}))
	})
	// It is down for RestartSec: some are lost.
	return errors.Join(err, t.a.all("meshd wait peer:b --timeout 20s"))
}

func (t *trial) watchdog() error {
	if err := t.a.all("mkdir -p /run/systemd/system/meshd.service.d", "printf '[Service]\\nWatchdogSec=3\\nTimeoutAbortSec=2\\n' > /run/systemd/system/meshd.service.d/test.conf",
		"systemctl daemon-reload", "systemctl restart meshd", "systemctl kill --kill-whom=main -s STOP meshd"); err != nil {
		return err
	}
	if err := eventually(30*time.Second, func() error {
		return t.a.exits(0, "Watchdog timeout", "journalctl", "-u", "meshd", "--no-pager")
	}); err != nil {
		return err
	}
	return errors.Join(eventually(30*time.Second, func() error { return t.a.all("meshd wait peer:b --timeout 1s") }),
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
	return errors.Join(t.b.deb(deb), t.b.all("cmp /etc/mesh.toml /root/before", "systemctl enable --now meshd", "meshd wait peer:a --timeout 20s"))
}

func (t *trial) remove() error {
	if err := t.b.all("apt-get remove -y meshd", "test -e /etc/mesh.toml", "! ip link show mesh0", "! nft list ruleset | grep meshd",
		"! ip route | grep 10.244.0.0/16", "! systemctl is-active meshd"); err != nil {
		return err
	}
	if err := t.b.all("apt-get purge -y meshd", "! test -e /etc/mesh.toml"); err != nil {
		return err
	}
	left, err := t.b.run("sh", "-c", "find / -xdev \\( -name '*meshd*' -o -name 'mesh.toml*' \\) -not -path '/proc/*' -not -path '/sys/*' -not -path '/root/*' -not -path '/var/cache/*' -not -path '/var/log/*' -not -path '/var/lib/systemd/*'; ls -d /run/meshd /run/flannel 2>/dev/null || true")
	if err == nil && strings.TrimSpace(left) != "" {
		err = fmt.Errorf("left behind:\n%s", left)
	}
	return err
}

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
		shell(`mkdir -p "$2/var/lib/rpm"; rpm --root "$2" --nodeps -i "$1"`, `chroot "$2" meshd version`, `chroot "$2" meshtui --version`,
			`! chroot "$2" meshd check`, `chroot "$2" sh -c 'meshd init > /etc/mesh.toml && meshd check'`, `chroot "$2" getent group mesh mesh-admin`,
			`rpm --root "$2" --nodeps -e meshd`, `! test -e "$2/usr/bin/meshd"`, `test -e "$2/etc/mesh.toml"`),
		shell(`rpm -qp --scripts "$1" | grep -q try-restart`, `rpm -qlp "$1" | grep -qx /usr/lib/systemd/system/meshd.service`))
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
		if out, err := exec.Command("sh", "-ec", `dpkg-deb -x "$1" "$2"; "$3" "$2/usr/bin/meshd" version; "$3" "$2/usr/bin/meshtui" --version
"$3" "$2/usr/bin/meshd" init > "$2/mesh.toml"; "$3" "$2/usr/bin/meshd" check "$2/mesh.toml"`, "sh", deb, dir, qemu).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", arch, err, tail(string(out)))
		}
	}
	return nil
}
