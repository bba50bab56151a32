package main

import (
	"errors"
	"fmt"
	"time"
)

// kill: Restart= brings the service back. Only the main process is killed, as the OOM killer does it.
// meshd is down for RestartSec=, so some packets may be lost.
func (t *trial) kill() (seen string, err error) {
	from, towards, err := t.underLoad(func() error {
		return errors.Join(
			t.a.all("systemctl kill --kill-whom=main -s KILL meshd"),
			eventually(20*time.Second, func() error {
				return t.a.all("systemctl is-active meshd", "meshd wait ready --timeout 1s")
			}),
		)
	})
	return between(from, towards), errors.Join(err, t.a.all("meshd wait peer:b --timeout 20s"))
}

// watchdog stops the process, which then cannot send WATCHDOG=1: systemd must see it and start it
// anew. The drop-in is in /run, so that nothing of it survives, and its times are short to not wait
// for the unit's own.
func (t *trial) watchdog() (seen string, err error) {
	if err := t.a.all("mkdir -p /run/systemd/system/meshd.service.d",
		"printf '[Service]\\nWatchdogSec=3\\nTimeoutAbortSec=2\\n' > /run/systemd/system/meshd.service.d/test.conf",
		"systemctl daemon-reload", "systemctl restart meshd",
		"systemctl kill --kill-whom=main -s STOP meshd"); err != nil {
		return "", err
	}
	const logged = "Watchdog timeout"
	if err := eventually(30*time.Second, func() error {
		return t.a.exits(0, logged, "journalctl", "-u", "meshd", "--no-pager")
	}); err != nil {
		return "", err
	}
	return "the journal has \"" + logged + "\"; the peer is up again", errors.Join(
		eventually(30*time.Second, func() error { return t.a.all("meshd wait peer:b --timeout 1s") }),
		t.a.all("rm /run/systemd/system/meshd.service.d/test.conf", "systemctl daemon-reload"))
}

// powerCut: nothing of meshd is stopped in order, and the network of the host is gone with all that meshd
// had made in it. This does not show what a disk loses that had not written its cache.
func (t *trial) powerCut() (seen string, err error) {
	if err := t.offAndOn(); err != nil {
		return "", err
	}
	if err := errors.Join(t.a.all("systemctl is-active meshd", "meshd wait peer:b --timeout 20s"),
		t.reach()); err != nil {
		return "", err
	}
	now, err := t.a.status()
	return "meshd waits for the host's address, then pods reach each other; health is " + now.Health.Level, err
}

// offAndOn cuts the power of host a and boots it again. The wire is gone with its end on a. meshd starts
// before the host has its address, as with DHCP; systemd waits for it.
func (t *trial) offAndOn() error {
	if err := t.a.cut(); err != nil {
		return err
	}
	if err := t.a.start("starting"); err != nil {
		return err
	}
	if err := t.a.waiting(); err != nil {
		return err
	}
	if err := join(t.a, t.b); err != nil {
		return err
	}
	if err := errors.Join(t.b.all("ip addr add 172.18.0.3/16 dev eth0", "ip link set eth0 up"),
		t.a.furnish(0)); err != nil {
		return err
	}
	return t.a.all("systemctl is-system-running --wait")
}

// lastGood: the power goes while an edit is half written. The next start uses the file that was in force.
func (t *trial) lastGood() (seen string, err error) {
	if err := t.a.write("/etc/mesh.toml", meshToml[:len(meshToml)-30]); err != nil {
		return "", err
	}
	if err := eventually(20*time.Second, func() error { return t.a.has("file_rejected") }); err != nil {
		return "", err
	}
	if err := t.offAndOn(); err != nil {
		return "", err
	}
	const told = "last_good_file"
	if err := errors.Join(t.a.active(), t.a.all("meshd wait peer:b --timeout 20s"), t.reach(),
		t.a.has(told)); err != nil {
		return "", err
	}
	if err := t.a.write("/etc/mesh.toml", meshToml); err != nil {
		return "", err
	}
	mended := eventually(20*time.Second, func() error {
		if t.a.has(told) == nil {
			return errors.New("the mended file is not in force")
		}
		return nil
	})
	return "pods reach each other with the last good file; status has `" + told + "` until the file is mended",
		mended
}

// gaveUp: without a last good file an invalid one ends the service, and an edit starts it.
func (t *trial) gaveUp() (seen string, err error) {
	if err := errors.Join(t.a.all("systemctl stop meshd", "rm -f /var/lib/meshd/last-good.toml"),
		t.a.write("/etc/mesh.toml", "[network]\n"), t.a.exits(1, "", "systemctl", "start", "meshd"),
		t.a.exits(0, "ExecMainStatus=78", "systemctl", "show", "meshd", "-p", "ExecMainStatus"),
		t.a.write("/etc/mesh.toml", meshToml)); err != nil {
		return "", err
	}
	return "exit code 78; after the edit the service is active and pods reach each other",
		errors.Join(t.a.active(), t.a.all("meshd wait peer:b --timeout 20s"), t.reach())
}

// has returns an error unless the machine's status has a kind of problem.
func (m *machine) has(kind string) error {
	now, err := m.status()
	if err != nil {
		return err
	}
	for _, problem := range now.Health.Problems {
		if problem.Kind == kind {
			return nil
		}
	}
	return fmt.Errorf("status of %s has no %s, but %+v", m.name, kind, now.Health)
}
