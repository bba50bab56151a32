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
	if err := os.Remove(filepath.Join(dir, "DEBIAN", "conffiles")); err != nil &&
		!errors.Is(err, os.ErrNotExist) {
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
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Zgzip", "-b", dir,
		path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
}

// loss is what became of a flow: how many packets were sent and lost, and how many the queue
// of the sender's TUN had no room for, which are 500 packets, 0.1 s of them.
type loss struct{ sent, lost, overflowed uint64 }

// String is for the figures at the end.
func (l loss) String() string {
	return fmt.Sprintf("%d of %d packets lost (%d in the sender's TUN queue)", l.lost, l.sent, l.overflowed)
}

// unexplained tells whether something else than a full queue has lost packets.
func (l loss) unexplained() bool { return l.lost > l.overflowed }

// underLoad does something to a while packets flow both ways, and returns what was lost.
func (t *trial) underLoad(what string, do func() error) (from, towards loss, err error) {
	beforeA, errA := dropped(t.a)
	beforeB, errB := dropped(t.b)
	if err := errors.Join(errA, errB); err != nil {
		return from, towards, err
	}
	there, err := startFlow(t.a, t.b, "10.244.0.1:7000", "10.244.1.1:7000")
	if err != nil {
		return from, towards, err
	}
	back, err := startFlow(t.b, t.a, "10.244.1.1:7001", "10.244.0.1:7001")
	if err != nil {
		there.finish()
		return from, towards, err
	}
	err = do()
	from.sent, from.lost = there.finish()
	towards.sent, towards.lost = back.finish()
	afterA, errA := dropped(t.a)
	afterB, errB := dropped(t.b)
	from.overflowed, towards.overflowed = afterA-beforeA, afterB-beforeB
	t.note("%s: from the host %s, towards it %s", what, from, towards)
	return from, towards, errors.Join(err, errA, errB)
}

// dropped is what the kernel dropped at a machine's TUN since its making.
func dropped(m *machine) (n uint64, err error) {
	text, err := m.run("cat", "/sys/class/net/mesh0/statistics/tx_dropped")
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
	from, towards, err := t.underLoad(what, func() error {
		return errors.Join(t.a.deb(deb), eventually(20*time.Second, func() error {
			now, nowBoot, err := t.running()
			if same = now == pid; err == nil && nowBoot == boot {
				err = errors.New("the old program still runs")
			}
			return err
		}))
	})
	if err == nil && (from.unexplained() || towards.unexplained()) {
		err = fmt.Errorf("from the host %s, towards it %s", from, towards)
	}
	return same, errors.Join(err, t.a.all("systemctl is-active meshd", "meshd wait peer:b --timeout 20s"))
}

// upgrade: a package with the same unit takes over in place.
func (t *trial) upgrade() error {
	deb, err := t.rebuilt("99.0", "usr/share/doc/meshd/README.md",
		func(text string) string { return text + "\nNew.\n" })
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
	if version, err := t.a.run("dpkg-query", "-W", "-f", "${Version}", "meshd"); err != nil ||
		version != "99.0" {
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
	refuses := func(string) string {
		return "#!/bin/sh\necho mesh.toml:1:1: error: network: not in my time\nexit 78\n"
	}
	for _, version := range []string{"99.2", "99.3"} {
		deb, err := t.rebuilt(version, "usr/bin/meshd", refuses)
		if err == nil && version == "99.3" { // the other unit is still installed
			err = t.a.all("cp /usr/lib/systemd/system/meshd.service /root/unit",
				"echo '# changed' >> /usr/lib/systemd/system/meshd.service")
		}
		if err != nil {
			return err
		}
		if err := errors.Join(t.a.deb(deb), t.a.exits(0, "ii", "dpkg-query", "-W", "-f", "${db:Status-Abbrev}",
			"meshd")); err != nil {
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
	deb, err := t.rebuilt("99.4", "usr/share/doc/meshd/README.md",
		func(text string) string { return text + "\nWaiting.\n" })
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
	return errors.Join(t.a.deb(deb),
		t.a.all("ip addr add 172.18.0.2/16 dev eth0", "meshd wait ready --timeout 30s",
			"meshd wait peer:b --timeout 20s"), t.a.exits(0, "active", "systemctl", "is-active", "meshd"))
}

// downgrade: the packages' scripts are those of two versions, and must go together in both
// directions. The last look is at a setting that the newer unit had changed.
func (t *trial) downgrade() error {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return err
	}
	return errors.Join(t.a.deb(deb), t.a.all("systemctl is-active meshd", "meshd wait peer:b --timeout 20s"),
		t.a.exits(0, "10s", "systemctl", "show", "-P", "TimeoutStopUSec", "meshd"))
}
