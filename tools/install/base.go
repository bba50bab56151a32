package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// debian is what every host has. Hosts have no way to the outside, so Docker's packages wait in apt's
// cache for the step that installs them.
const (
	debian = "systemd,systemd-sysv,dbus,iproute2,iputils-ping,procps,nftables," +
		"firewalld,ufw,network-manager,rpm,dnf," +
		"libpam-systemd" // for firewalld: debootstrap does not know that it provides default-logind
	fetched  = "docker.io"
	archives = "/var/cache/apt/archives/*.deb"
)

// setUp makes hosts of a new base. Only the steps about firewalls and network managers start one. dpkg
// need not wait for the disk, since no host lives longer than the trial. A container would inherit the
// forwarding of this machine, where a new Debian forwards nothing. Without lists of packages apt starts a
// second sooner.
const setUp = `systemctl disable firewalld ufw NetworkManager systemd-networkd
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/trial
printf 'net.ipv4.ip_forward=0\nnet.ipv6.conf.all.forwarding=0\n' >/etc/sysctl.d/50-trial.conf
apt-get clean
apt-get update
apt-get install -y --no-install-recommends --download-only ` + fetched + `
rm -r /var/lib/apt/lists/*`

// prepare makes the base, unless an earlier run has. Where each run begins on a fresh machine, its
// work folder is the artefact to keep.
func (t *trial) prepare() error {
	const recipe = debian + "\n" + setUp
	complete := filepath.Join(t.base, "complete")
	if made, err := os.ReadFile(complete); err == nil && string(made) == recipe {
		return nil
	}
	err := t.bootstrap()
	if err != nil && t.ctx.Err() == nil {
		fmt.Printf("once more, since: %v\n", err) // a mirror is busy at times
		err = t.bootstrap()
	}
	if err != nil {
		return err
	}
	// Last, so that a run that was killed in between does not leave half a base to the next.
	return os.WriteFile(complete, []byte(recipe), 0o644)
}

// bootstrap makes the base anew.
func (t *trial) bootstrap() (err error) {
	if err := t.removeRoot(t.base); err != nil {
		return err
	}
	// debootstrap mounts /proc in its root, and leaves it there when it fails.
	defer func() { err = errors.Join(err, unmountBelow(t.base)) }()
	if out, err := exec.CommandContext(t.ctx, "debootstrap", "--variant=minbase", "--include="+debian,
		"bookworm", t.base).CombinedOutput(); err != nil {
		return fmt.Errorf("debootstrap: %w\n%s", err, tail(string(out)))
	}
	resolver := filepath.Join(t.base, "etc/resolv.conf")
	names, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	if err := os.WriteFile(resolver, names, 0o644); err != nil {
		return err
	}
	if out, err := exec.CommandContext(t.ctx, "chroot", t.base, "env", "-i",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "sh", "-ec",
		setUp).CombinedOutput(); err != nil {
		return fmt.Errorf("set up the base: %w\n%s", err, tail(string(out)))
	}
	return os.Remove(resolver)
}

// removeRoot removes a root. What is still mounted in it is unmounted first: os.RemoveAll would go into it.
func (t *trial) removeRoot(root string) error {
	if err := unmountBelow(root); err != nil {
		return err
	}
	return os.RemoveAll(root)
}

// unmountBelow unmounts whatever is mounted in a folder, the deepest first.
func unmountBelow(folder string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(mounts)) { // proc(5): the fifth field is the mount point
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], folder+"/") {
			points = append(points, fields[4])
		}
	}
	for _, point := range slices.Backward(points) {
		if out, umountErr := exec.Command("umount", point).CombinedOutput(); umountErr != nil {
			err = errors.Join(err, fmt.Errorf("umount %s: %w\n%s", point, umountErr, out))
		}
	}
	return err
}

// copyOf makes a root of its own.
func (t *trial) copyOf(name string) (root string, err error) {
	root = filepath.Join(t.work, name)
	if err := t.removeRoot(root); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(t.ctx, "cp", "-a", t.base, root).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy %s: %w\n%s", t.base, err, out)
	}
	return root, nil
}

// tail returns the last lines of a long output.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
