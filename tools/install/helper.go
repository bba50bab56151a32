package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// sealed is a file that asks for WireGuard. Only meshd-wireguard.service gets to see it.
const sealed = `[network]
cidr      = "10.244.0.0/16"
transport = "wireguard"
[[node]]
name       = "a"
address    = "172.18.0.2"
subnets    = ["10.244.0.0/24"]
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
`

// helper: the service of WireGuard in user space runs where a file asks for it and the kernel has none, comes
// back when it is killed, and goes on through an upgrade, since its sessions would end.
func (t *trial) helper() (seen string, err error) {
	const unit = "meshd-wireguard"
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return "", err
	}
	if err := errors.Join(t.b.all("systemctl start "+unit),
		t.b.exits(3, "inactive", "systemctl", "is-active", unit), t.b.write("/etc/sealed.toml", sealed), t.b.all(
			"mkdir -p /run/systemd/system/meshd-wireguard.service.d",
			"printf '[Service]\\nEnvironment=\"MESHD_OPTS=-c /etc/sealed.toml\"\\n' >"+
				"/run/systemd/system/meshd-wireguard.service.d/test.conf",
			"systemctl daemon-reload", "systemctl start "+unit)); err != nil {
		return "", err
	}
	if _, err := t.b.run("meshd", "wireguard-user", "--needed", "-c", "/etc/sealed.toml"); err != nil {
		return "the kernel has WireGuard, so the service is skipped",
			errors.Join(t.b.exits(3, "inactive", "systemctl", "is-active", unit), t.b.withoutHelper())
	}
	if err := errors.Join(t.b.all("systemctl is-active "+unit, "ip link show meshd-wg",
		`test "$(stat -c '%U %a' /run/wireguard/meshd-wg.sock)" = 'meshd 600'`,
		"systemctl kill --kill-whom=main -s KILL "+unit),
		eventually(20*time.Second, func() error {
			return t.b.all(`test "$(systemctl show -P NRestarts meshd-wireguard)" = 1`, "systemctl is-active "+unit)
		})); err != nil {
		return "", err
	}
	if err := t.b.helperStays(deb); err != nil {
		return "", err
	}
	return "active, as the user meshd; started again after SIGKILL; the same process after the reinstallation",
		t.b.withoutHelper()
}

// helperStays installs the package again and looks at the helper's process before and after.
func (m *machine) helperStays(deb string) error {
	name, err := m.take(deb)
	if err != nil {
		return err
	}
	pid := func() (string, error) { return m.run("systemctl", "show", "-P", "MainPID", "meshd-wireguard") }
	before, err := pid()
	if err != nil {
		return err
	}
	said, err := m.run("apt-get", "install", "-y", "--reinstall", "--allow-downgrades", name)
	if err != nil {
		return err
	}
	after, err := pid()
	if err == nil && (before != after || !strings.Contains(said, "systemctl restart meshd-wireguard")) {
		err = fmt.Errorf("the helper was process %s and is %s; apt said:\n%s", before, after, said)
	}
	return err
}

// withoutHelper ends it, and removes what this step made.
func (m *machine) withoutHelper() error {
	return m.all("systemctl stop meshd-wireguard", "rm -r /run/systemd/system/meshd-wireguard.service.d",
		"rm /etc/sealed.toml", "systemctl daemon-reload", "ip link del meshd-wg 2>/dev/null || true")
}
