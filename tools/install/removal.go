package main

import (
	"errors"
	"fmt"
	"strings"
)

// ownFile: installing over a file that was there first keeps it.
func (t *trial) ownFile() (seen string, err error) {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return "", err
	}
	if err := t.b.all("apt-get remove -y meshd", "cp /etc/mesh.toml /root/before"); err != nil {
		return "", err
	}
	return "the file is the same, and the service starts with it", errors.Join(t.b.deb(deb),
		t.b.all("cmp /etc/mesh.toml /root/before", "systemctl enable --now meshd",
			"meshd wait peer:a --timeout 20s"))
}

// purge: removing keeps the file, as Debian's policy has it for configuration, and purging does
// not. Forwarding is again as it was found.
func (t *trial) purge() (seen string, err error) {
	const key = "/etc/meshd/private.key"
	if err := t.b.all("install -m 0400 -o meshd /dev/null "+key, "apt-get remove -y meshd",
		"test -e /etc/mesh.toml", "test -e "+key, "! systemctl is-active meshd"); err != nil {
		return "", err
	}
	if err := errors.Join(t.b.without(), t.b.asFound()); err != nil {
		return "", err
	}
	if err := t.b.all("apt-get purge -y meshd", "! test -e /etc/mesh.toml", "! test -e /etc/meshd"); err != nil {
		return "", err
	}
	left, err := t.b.run("sh", "-c",
		"find / -xdev \\( -name '*meshd*' -o -name 'mesh.toml*' \\) -not -path '/proc/*' -not -path '/sys/*' "+
			"-not -path '/root/*' -not -path '/var/cache/*' -not -path '/var/log/*' -not -path '/var/lib/systemd/*'; "+
			"ls -d /run/meshd /run/flannel 2>/dev/null || true")
	if err == nil && strings.TrimSpace(left) != "" {
		err = fmt.Errorf("left behind:\n%s", left)
	}
	return "remove keeps /etc/mesh.toml and the private key, purge does not; " +
		"no interface, route, rule or file; " +
		"each forwarding switch is as it was found", err
}

// without: nothing of meshd is in the kernel.
func (m *machine) without() error {
	return m.all("! ip link show mesh0", "! ip link | grep meshd", "! nft list ruleset | grep meshd",
		"! ip route | grep 10.244.0.0/16", "! ip -6 route | grep fd00:10:244::/48")
}

// purgeBesideDocker: ip_forward is Docker's, which found it off, whether it came before meshd or later.
func (t *trial) purgeBesideDocker() (seen string, err error) {
	if err := both(t.a, t.b, func(m *machine) error {
		return errors.Join(m.exits(0, "1", "cat", "/proc/sys/net/ipv4/ip_forward"),
			m.all("apt-get purge -y meshd", "systemctl is-active docker",
				"iptables -S FORWARD | grep -q -- '-j DOCKER-USER'"),
			m.exits(0, "1", "cat", "/proc/sys/net/ipv4/ip_forward"), m.without())
	}); err != nil {
		return "", err
	}
	return "ip_forward is 1 before and after; Docker's rules stay, meshd's are gone", nil
}
