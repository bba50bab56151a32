package main

import (
	"errors"
	"time"
)

// The lines of docs/firewalls.md, on a host with the real firewalld and the real ufw.

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

func (t *trial) firewalld() error {
	if err := t.b.all("systemctl start firewalld", "firewall-cmd --permanent --add-port=8285/udp",
		"firewall-cmd --reload", "nft list chain inet firewalld filter_FORWARD | grep -q reject"); err != nil {
		return err
	}
	if err := t.reach(); err != nil { // by meshd's accepts, which come back after the reload
		return err
	}
	if err := errors.Join(t.b.write("/etc/mesh.toml", noAccepts), t.b.all("systemctl reload meshd"),
		t.named("inet firewalld filter_F")); err != nil {
		return err
	}
	if err := t.b.all("firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16",
		"firewall-cmd --permanent --zone=trusted --add-source=fd00:10:244::/48",
		"firewall-cmd --reload"); err != nil {
		return err
	}
	return errors.Join(t.reach(), t.b.all("systemctl stop firewalld"), t.b.write("/etc/mesh.toml", meshToml),
		t.b.all("systemctl reload meshd"))
}

func (t *trial) ufw() error {
	if err := t.b.all("ufw allow 8285/udp", "ufw --force enable",
		"iptables -S FORWARD | grep -q -- '-P FORWARD DROP'"); err != nil {
		return err
	}
	if err := t.reach(); err != nil {
		return err
	}
	if err := errors.Join(t.b.write("/etc/mesh.toml", noAccepts), t.b.all("systemctl reload meshd",
		"ufw route allow in on mesh0", "ufw route allow out on mesh0")); err != nil {
		return err
	}
	return errors.Join(t.reach(), t.b.all("ufw --force disable"), t.b.write("/etc/mesh.toml", meshToml),
		t.b.all("systemctl reload meshd"), t.reach())
}
