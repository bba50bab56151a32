package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What Debian's packages have installed, as far as the .rpm asks for it.
const stand = `Name: host
Version: 1
Release: 1
Summary: What this host has by other means
License: none
BuildArch: noarch
Provides: systemd
%description
It provides what Debian's packages have installed.
%files
`

// rpm installs the .rpm on a host of its own, with a systemd that runs and the dnf of Debian. A
// reinstallation runs the scripts of two versions in the order of an upgrade.
func (t *trial) rpm() (seen string, err error) {
	rpm, err := t.one("meshd-*.x86_64.rpm")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("sh", "-ec", `! rpm -qlp "$1" | grep sysctl
! rpm -qp --scripts "$1" | grep systemd-sysctl
rpm -qp --scripts "$1" | grep -q try-restart
rpm -qlp "$1" | grep -qx /usr/lib/systemd/system/meshd.service`, "sh", rpm).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, tail(string(out)))
	}
	c, err := t.boot("c")
	if err != nil {
		return "", err
	}
	name, err := c.take(rpm)
	if err != nil {
		return "", err
	}
	if err := errors.Join(c.write("/root/host.spec", stand), c.all(
		"rpmbuild --define '_rpmdir /root' -bb /root/host.spec", "rpm -i --nodeps /root/noarch/host-1-1.noarch.rpm",
		"ip addr add 172.18.0.2/16 dev lo")); err != nil {
		return "", err
	}
	if c.switches, err = c.forwarding(); err != nil {
		return "", err
	}
	return t.rpmLife(c, name)
}

// rpmLife installs, uses, replaces and removes the package.
func (t *trial) rpmLife(c *machine, name string) (seen string, err error) {
	if err := errors.Join(c.all("dnf install -y "+name, "rpm -V meshd"),
		c.exits(3, "inactive", "systemctl", "is-active", "meshd"),
		c.exits(1, "disabled", "systemctl", "is-enabled", "meshd"),
		c.exits(1, "no node is listed", "meshd", "check"),
		c.write("/etc/mesh.toml", meshToml),
		c.all("systemctl enable --now meshd", "meshd wait ready --timeout 30s", "meshtui --once")); err != nil {
		return "", err
	}
	before, err := c.run("systemctl", "show", "-P", "MainPID", "meshd")
	if err != nil {
		return "", err
	}
	if err := errors.Join(c.all("dnf reinstall -y "+name, "rpm -V meshd", "systemctl is-active meshd",
		"systemctl is-enabled meshd", "meshd wait ready --timeout 30s")); err != nil {
		return "", err
	}
	after, err := c.run("systemctl", "show", "-P", "MainPID", "meshd")
	if err == nil && after != before {
		err = errors.New("the process is another one")
	}
	if err := errors.Join(err, c.all("dnf remove -y meshd", "test -e /etc/mesh.toml", "! test -e /usr/bin/meshd",
		"! systemctl is-active meshd"), c.without(), c.switchesAsFound()); err != nil {
		return "", err
	}
	versions, err := c.run("rpm", "-q", "--qf", "rpm %{RPMVERSION}", "host")
	return versions + ": `rpm -V` finds no difference; the same process after the reinstallation; " +
		"removed, /etc/mesh.toml stays and nothing else", errors.Join(err, c.stop())
}

// otherMachines runs binaries of other machines under qemu.
func (t *trial) otherMachines() (seen string, err error) {
	var versions []string
	for arch, qemu := range map[string]string{"arm64": "qemu-aarch64-static", "armhf": "qemu-arm-static"} {
		deb, err := t.one("meshd_*_" + arch + ".deb")
		if err != nil {
			return "", err
		}
		dir := filepath.Join(t.work, arch)
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
		out, err := exec.Command("sh", "-ec", `dpkg-deb -x "$1" "$2"
"$3" "$2/usr/bin/meshd" version
"$3" "$2/usr/bin/meshtui" --version
"$3" "$2/usr/bin/meshd" init > "$2/mesh.toml"
"$3" "$2/usr/bin/meshd" check "$2/mesh.toml"`, "sh", deb, dir, qemu).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s: %w\n%s", arch, err, tail(string(out)))
		}
		versions = append(versions, arch)
	}
	return strings.Join(versions, " and ") + " start; their `meshd check` takes the file of `meshd init`", nil
}
