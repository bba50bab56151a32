package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// catchAll is how many hosts have it: systemd-networkd asks for an address on whatever has no file of its
// own. The first two files are the host's, and sort after the drop-in of the package.
var catchAll = map[string]string{
	"10-eth0.network": "[Match]\nName=eth0\n" + // no router is on the wire
		"[Network]\nAddress=172.18.0.2/16\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
	"20-pods.network": "[Match]\nName=cni0 pod0 lan*\n[Link]\nUnmanaged=yes\n",
	"80-all.network":  "[Match]\nName=*\n[Network]\nDHCP=yes\n",
}

// networkd runs systemd-networkd on a, which takes the host's address over.
func (t *trial) networkd() (seen string, err error) {
	const folder = "/etc/systemd/network/"
	for name, text := range catchAll {
		if err := t.a.write(folder+name, text); err != nil {
			return "", err
		}
	}
	if err := t.a.all("ip addr flush dev eth0"); err != nil { // networkd 252 fails to take over what ip(8) added
		return "", err
	}
	var took time.Duration
	for range 2 { // the second start finds the interfaces there, as after an upgrade of systemd
		if err := t.a.all("systemctl restart systemd-networkd"); err != nil {
			return "", err
		}
		began := time.Now()
		if err := t.a.all("/lib/systemd/systemd-networkd-wait-online --timeout=30"); err != nil {
			return "", err
		}
		took = max(took, time.Since(began))
		if err := t.a.unmanaged("networkctl list --no-legend", "mesh0", "meshd-gro0", "meshd-gro1"); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("mesh0 and meshd-gro* are unmanaged; systemd-networkd-wait-online ends after %.1f s",
			took.Seconds()),
		errors.Join(t.reach(), t.a.all("systemctl stop systemd-networkd.socket systemd-networkd",
			"rm "+folder+"*.network"))
}

// networkManager runs NetworkManager on b, with a profile for the host's address, and a file of the host
// that sets unmanaged-devices anew.
func (t *trial) networkManager() (seen string, err error) {
	const own = "/etc/NetworkManager/conf.d/99-host.conf"
	if err := errors.Join(t.b.write(own, "[keyfile]\nunmanaged-devices=interface-name:cni0;interface-name:pod0;"+
		"interface-name:lan*\n"), t.b.all("systemctl start NetworkManager",
		"nmcli -w 10 con add type ethernet ifname eth0 con-name wan ipv4.method manual "+
			"ipv4.addresses 172.18.0.3/16 ipv6.method disabled", "nmcli -w 10 con up wan",
		"systemctl restart NetworkManager")); err != nil {
		return "", err
	}
	began := time.Now()
	if err := t.b.all("nm-online -s -q -t 30"); err != nil {
		return "", err
	}
	took := time.Since(began)
	const list = "nmcli -t -f DEVICE,STATE device"
	if err := errors.Join(t.b.unmanaged(list, "mesh0", "meshd-gro0", "meshd-gro1"), t.reach()); err != nil {
		return "", err
	}
	// With another name the root step of the unit tells NetworkManager.
	renamed := strings.Replace(meshToml, "[network]\n", "[network]\ninterface = \"pods9\"\n", 1)
	if err := errors.Join(t.b.write("/etc/mesh.toml", renamed), t.b.all("systemctl restart meshd",
		"meshd wait peer:a --timeout 20s"), t.b.unmanaged(list, "pods9", "meshd-gro0", "meshd-gro1"),
		t.reach()); err != nil {
		return "", err
	}
	return fmt.Sprintf("mesh0 and meshd-gro* are unmanaged, also with interface = \"pods9\"; nm-online -s ends "+
			"after %.1f s", took.Seconds()),
		errors.Join(t.b.write("/etc/mesh.toml", meshToml), t.b.all("systemctl restart meshd",
			"systemctl stop NetworkManager", "rm "+own, "meshd wait peer:a --timeout 20s"), t.reach())
}

// unmanaged returns an error unless a manager's list of devices calls each of these unmanaged.
func (m *machine) unmanaged(list string, devices ...string) error {
	return eventually(10*time.Second, func() error {
		text, err := m.run("sh", "-c", list)
		if err != nil {
			return err
		}
		for _, device := range devices {
			found := false
			for line := range strings.Lines(text) {
				found = found || strings.Contains(line, device) && strings.Contains(line, "unmanaged")
			}
			if !found {
				return fmt.Errorf("%s is not unmanaged on %s:\n%s", device, m.name, text)
			}
		}
		return nil
	})
}
