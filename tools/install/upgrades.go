package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// loss is what became of a flow: how many packets were sent and lost, and how many the queue
// of the sender's TUN had no room for, which are 500 packets, 0.1 s of them.
type loss struct{ sent, lost, overflowed uint64 }

// String is for the table.
func (l loss) String() string {
	text := fmt.Sprintf("%d of %d", l.lost, l.sent)
	if l.lost > 0 {
		text += fmt.Sprintf(" (%d in a full TUN queue)", l.overflowed)
	}
	return text
}

// between says what two hosts lost.
func between(from, towards loss) string {
	return fmt.Sprintf("lost from the host: %s packets, towards it: %s", from, towards)
}

// unexplained tells whether something else than a full queue has lost packets.
func (l loss) unexplained() bool { return l.lost > l.overflowed }

// underLoad does something to a while packets flow both ways, and returns what was lost.
func (t *trial) underLoad(do func() error) (from, towards loss, err error) {
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

// running tells which process meshd is on a, and which start of it: a takeover keeps the process.
func (t *trial) running() (pid, boot string, err error) {
	if pid, err = t.a.run("systemctl", "show", "-P", "MainPID", "meshd"); err != nil {
		return "", "", err
	}
	now, err := t.a.status()
	return pid, now.BootID, err
}

// upgraded installs a package on a under load, and waits for its meshd. Nothing is lost but
// what the kernel's queues cannot hold. It tells whether the process is still the same.
func (t *trial) upgraded(deb string) (same bool, seen string, err error) {
	pid, boot, err := t.running()
	if err != nil {
		return false, "", err
	}
	from, towards, err := t.underLoad(func() error {
		return errors.Join(t.a.deb(deb), eventually(20*time.Second, func() error {
			now, nowBoot, err := t.running()
			if same = now == pid; err == nil && nowBoot == boot {
				err = errors.New("the old program still runs")
			}
			return err
		}))
	})
	seen = between(from, towards)
	if err == nil && (from.unexplained() || towards.unexplained()) {
		err = errors.New(seen)
	}
	return same, seen, errors.Join(err, t.a.active(), t.a.all("meshd wait peer:b --timeout 20s"))
}

// active waits until systemd knows that the machine's meshd is ready, which meshd itself knows a moment
// before.
func (m *machine) active() error {
	return eventually(20*time.Second, func() error { return m.all("systemctl is-active meshd") })
}

// upgrade: a package with the same unit takes over in place.
func (t *trial) upgrade() (seen string, err error) {
	same, seen, err := t.upgraded(t.rebuilt("99.0"))
	if err == nil && !same {
		err = errors.New("the process is another one")
	}
	return "the same process; " + seen, errors.Join(err, t.a.version("99.0"))
}

// version: the package that is installed.
func (m *machine) version(want string) error {
	return m.exits(0, want, "dpkg-query", "-W", "-f", "${Version}", "meshd")
}

// upgradeUnit: a package with another unit restarts the service, in its new confines. The user engine needs
// systemd to keep its sockets and queues meanwhile; the kernel engine would forward by itself.
func (t *trial) upgradeUnit() (seen string, err error) {
	if err := errors.Join(t.a.write("/etc/mesh.toml", meshToml+"[dataplane]\nengine = \"user\"\n"),
		t.a.all("systemctl reload meshd", "meshd wait peer:b --timeout 20s")); err != nil {
		return "", err
	}
	same, seen, err := t.upgraded(t.rebuilt("99.1"))
	if err == nil && same {
		err = errors.New("the process is the same")
	}
	now, statusErr := t.a.status()
	seen = fmt.Sprintf("engine %s; another process with the new TimeoutStopSec=; %s", now.Dataplane.Engine, seen)
	return seen,
		errors.Join(err, statusErr, t.a.exits(0, "11s", "systemctl", "show", "-P", "TimeoutStopUSec", "meshd"),
			t.a.write("/etc/mesh.toml", meshToml), t.a.all("systemctl reload meshd"))
}

// upgradeBroken: what does not start, or does not take the file, changes nothing but the
// disk, with the same unit and with another one; apt says so and is not stopped by it.
func (t *trial) upgradeBroken() (seen string, err error) {
	pid, boot, err := t.running()
	if err != nil {
		return "", err
	}
	for _, version := range []string{"99.2", "99.3"} {
		if version == "99.3" { // the other unit is still installed
			err = t.a.all("cp /usr/lib/systemd/system/meshd.service /root/unit",
				"echo '# changed' >> /usr/lib/systemd/system/meshd.service")
		}
		if err := errors.Join(err, t.a.deb(t.rebuilt(version)), t.a.exits(0, "ii", "dpkg-query", "-W", "-f",
			"${db:Status-Abbrev}", "meshd")); err != nil {
			return "", err
		}
	}
	good, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return "", err
	}
	now, err := t.a.run("systemctl", "show", "-P", "MainPID", "meshd")
	if err == nil && now != pid {
		err = errors.New("it was restarted")
	}
	ping := func() error { return t.a.all("ip netns exec pod ping -c 1 -W 2 10.244.1.2") }
	if err := errors.Join(err, ping(), t.a.deb(good), ping()); err != nil {
		return "", err
	}
	return "apt succeeds, the old process runs on, pods reach each other; the version that works takes over",
		eventually(20*time.Second, func() error {
			_, after, err := t.running()
			if err == nil && after == boot {
				err = errors.New("the cure does not run")
			}
			return err
		})
}

// upgradeWaiting: apt does not wait for an address, and neither does what starts after meshd.
func (t *trial) upgradeWaiting() (seen string, err error) {
	if err := t.a.all("ip addr del 172.18.0.2/16 dev eth0", "systemctl --no-block restart meshd"); err != nil {
		return "", err
	}
	if err := t.a.waiting(); err != nil {
		return "", err
	}
	return "`systemctl status` has \"" + waiting + "\"; apt ends, and with the address the peer is up",
		errors.Join(t.a.deb(t.rebuilt("99.4")),
			t.a.all("ip addr add 172.18.0.2/16 dev eth0", "meshd wait ready --timeout 30s",
				"meshd wait peer:b --timeout 20s"), t.a.exits(0, "active", "systemctl", "is-active", "meshd"))
}

// waiting is what systemd shows of a meshd whose host has no address of the file.
const waiting = "waiting for an address"

// waiting waits until systemd has heard it.
func (m *machine) waiting() error {
	return eventually(20*time.Second, func() error {
		return m.exits(0, waiting, "systemctl", "show", "-P", "StatusText", "meshd")
	})
}

// downgrade: the packages' scripts are those of two versions, and must go together in both
// directions. `meshd cleanup` is what CHANGELOG.md asks for before a downgrade.
func (t *trial) downgrade() (seen string, err error) {
	err = t.a.all("systemctl stop meshd", "meshd cleanup")
	return "the version before runs and pods reach each other", errors.Join(err, t.a.deb(t.rebuilt("0.0")),
		t.a.version("0.0"), t.a.all("systemctl start meshd", "meshd wait peer:b --timeout 20s"), t.reach())
}

// upgradePrevious: what people do.
func (t *trial) upgradePrevious() (seen string, err error) {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return "", err
	}
	_, seen, err = t.upgraded(deb)
	return seen, errors.Join(err, t.reach())
}
