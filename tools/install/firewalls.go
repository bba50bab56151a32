package main

import (
	"errors"
	"fmt"
	"time"
)

// The lines of docs/firewalls.md, on hosts with the real firewalld, the real ufw and the real Docker.

// reach waits until pods of both hosts reach each other.
func (t *trial) reach() error {
	return eventually(20*time.Second, func() error {
		return errors.Join(
			t.a.exits(0, "", "ip", "netns", "exec", "pod", "ping", "-c", "1", "-W", "1", "10.244.1.2"),
			t.a.exits(0, "", "ip", "netns", "exec", "pod", "ping", "-c", "1", "-W", "1", "fd00:10:244:1::2"),
			t.b.exits(0, "", "ip", "netns", "exec", "pod", "ping", "-c", "1", "-W", "1", "10.244.0.2"))
	})
}

// named waits until host b names something in its status.
func (t *trial) named(what string) error {
	return eventually(20*time.Second, func() error { return t.b.exits(0, what, "meshd", "status") })
}

// noAccepts is a file by which meshd leaves the chains of others alone.
const noAccepts = meshToml + "[masquerade]\nforward = false\n"

func (t *trial) firewalld() (seen string, err error) {
	if err := t.b.all("systemctl start firewalld", "firewall-cmd --permanent --add-port=8285/udp",
		"firewall-cmd --reload", "nft list chain inet firewalld filter_FORWARD | grep -q reject"); err != nil {
		return "", err
	}
	if err := t.reach(); err != nil { // by meshd's accepts, which come back after the reload
		return "", err
	}
	const chain = "inet firewalld filter_F"
	if err := errors.Join(t.b.write("/etc/mesh.toml", noAccepts), t.b.all("systemctl reload meshd"),
		t.named(chain)); err != nil {
		return "", err
	}
	if err := t.b.all("firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16",
		"firewall-cmd --permanent --zone=trusted --add-source=fd00:10:244::/48",
		"firewall-cmd --reload"); err != nil {
		return "", err
	}
	return "pods reach each other by the accepts; without them status names the chain " + chain +
			"ORWARD; with the commands of docs/firewalls.md pods reach each other again",
		errors.Join(t.reach(), t.b.all("systemctl stop firewalld"), t.b.write("/etc/mesh.toml", meshToml),
			t.b.all("systemctl reload meshd"))
}

func (t *trial) ufw() (seen string, err error) {
	if err := errors.Join(t.b.all("ufw allow 8285/udp", "ufw --force enable"), t.b.drops()); err != nil {
		return "", err
	}
	if err := t.reach(); err != nil {
		return "", err
	}
	if err := errors.Join(t.b.write("/etc/mesh.toml", noAccepts), t.b.all("systemctl reload meshd",
		"ufw route allow in on mesh0", "ufw route allow out on mesh0")); err != nil {
		return "", err
	}
	return "the policy of FORWARD is drop, and pods reach each other both ways",
		errors.Join(t.reach(), t.b.all("ufw --force disable"), t.b.write("/etc/mesh.toml", meshToml),
			t.b.all("systemctl reload meshd"), t.reach())
}

// drops waits until the policy of FORWARD is drop. While others write their rules, iptables may find a chain
// that is half there, and call it incompatible.
func (m *machine) drops() error {
	return eventually(10*time.Second, func() error {
		return m.exits(0, "-P FORWARD DROP", "iptables", "-S", "FORWARD")
	})
}

// docker: Docker 20 sets the policy of FORWARD to drop when it turns forwarding on, and again at each start.
// b has no meshd yet.
func (t *trial) docker() (seen string, err error) {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return "", err
	}
	if err := both(t.a, t.b, func(m *machine) error {
		return errors.Join(m.all("apt-get install -y "+archives, "systemctl is-active docker"), m.drops())
	}); err != nil {
		return "", err
	}
	if err := errors.Join(t.b.deb(deb), t.b.write("/etc/mesh.toml", meshToml),
		t.b.all("systemctl enable --now meshd", "meshd wait peer:a --timeout 20s"), t.reach()); err != nil {
		return "", err
	}
	if err := both(t.a, t.b, func(m *machine) error { return m.all("systemctl restart docker") }); err != nil {
		return "", err
	}
	version, err := t.a.run("dpkg-query", "-W", "-f", "${Version}", "docker.io")
	return fmt.Sprintf("docker.io %s; the policy of FORWARD is drop, and pods reach each other, also after "+
		"Docker is restarted", version), errors.Join(err, t.reach())
}
