package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// another is the file with one more node.
const another = meshToml + "[[node]]\nname = \"c\"\naddress = \"172.18.0.4\"\nsubnets = [\"10.244.2.0/24\"]\n"

// follow: a change that is not confirmed is taken back by the service, which may not write /etc, and the file
// there follows by meshd-file.service. What the service could plant for that unit gets nowhere.
func (t *trial) follow() (seen string, err error) {
	if err := errors.Join(t.a.all("systemctl is-active meshd-file.path"),
		t.a.write("/root/change.toml", another),
		t.a.all("chown root:mesh /etc/mesh.toml", "chmod 0640 /etc/mesh.toml",
			"meshd apply /root/change.toml --confirm 2s", "cmp /root/change.toml /etc/mesh.toml")); err != nil {
		return "", err
	}
	if err := t.a.reads(meshToml); err != nil {
		return "", fmt.Errorf("after the change was taken back: %w", err)
	}
	if err := errors.Join(t.a.all(`test "$(stat -c '%U %G %a' /etc/mesh.toml)" = 'root mesh 640'`,
		"chown root:root /etc/mesh.toml", "chmod 0644 /etc/mesh.toml"),
		t.a.exits(1, "taken back", "meshd", "confirm")); err != nil {
		return "", err
	}
	// Confirmed, the change stays; a file that is applied without a deadline stays, too.
	if err := t.a.all("echo '# again' >>/root/change.toml", "meshd apply /root/change.toml --confirm 1m",
		"meshd confirm", "cmp /root/change.toml /etc/mesh.toml", "meshd rollback", "meshd wait ready"); err != nil {
		return "", err
	}
	if err := errors.Join(t.a.reads(meshToml), t.a.planted()); err != nil {
		return "", err
	}
	return "/etc/mesh.toml follows with its owner and mode; a symbolic link, a hard link, 9 MB and a file " +
		"with faults are refused", nil
}

// reads waits until the file of a machine has a text.
func (m *machine) reads(text string) error {
	return eventually(20*time.Second, func() error {
		now, err := m.run("cat", "/etc/mesh.toml")
		if err == nil && now != text {
			err = fmt.Errorf("/etc/mesh.toml has\n%s", now)
		}
		return err
	})
}

// A plant is what somebody with the service's rights puts into the state folder for root to copy.
type plant struct {
	what, text string
	put        string // lines of a shell that put the text, which is at $text, at $kept
}

// planted has the service's user ask the unit of root for files that it must not copy, and at last for one
// that it must.
func (m *machine) planted() error {
	const copied = `cp "$text" "$kept"`
	valid := another + "# planted\n"
	for _, p := range []plant{
		{"a symbolic link", valid, `ln -s "$text" "$kept"`},
		{"a hard link", valid, `ln "$text" "$kept"`},
		{"a large file", valid + strings.Repeat("#"+strings.Repeat("x", 99)+"\n", 90_000), copied},
		{"a file with faults", valid + "nonsense = 1\n", copied},
		{"a FIFO", valid, `mkfifo "$kept"`},
	} {
		if err := m.plant(p); err != nil {
			return err
		}
		if err := errors.Join(m.exits(1, "", "systemctl", "restart", "meshd-file.service"),
			m.exits(0, "Result=exit-code", "systemctl", "show", "meshd-file", "-p", "Result"),
			m.reads(meshToml)); err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
	}
	// The same by the rules: it is copied, so the others were not refused for another reason.
	if err := m.plant(plant{"a regular file", valid, copied}); err != nil {
		return err
	}
	return errors.Join(m.all("systemctl restart meshd-file.service"), m.reads(valid),
		m.all("systemctl stop meshd", "rm -rf /var/lib/meshd/change /var/lib/meshd/files"),
		m.write("/etc/mesh.toml", meshToml), m.all("systemctl start meshd-file.path meshd", "meshd wait ready"))
}

// plant puts a text into the state folder as the service's user, with a record that asks root to copy it.
// meshd does not run, nor does systemd watch: each try of the unit is the trial's own.
func (m *machine) plant(p plant) error {
	sum := func(text string) string {
		all := sha256.Sum256([]byte(text))
		return hex.EncodeToString(all[:])
	}
	record := fmt.Sprintf(`{"path":"/etc/mesh.toml","state":"taken_back","cause":"taken_back","sha256":%q,`+
		`"in_place_of":[%q],"follow":true,"by":"root","told":{},"at":"2026-01-01T00:00:00Z"}`,
		sum(p.text), sum(meshToml))
	return errors.Join(m.write("/root/planted", p.text), m.write("/root/record", record), m.all(
		"systemctl stop meshd-file.path meshd", "systemctl reset-failed meshd-file.service || true",
		"export text=/var/lib/meshd/text kept=/var/lib/meshd/files/"+sum(p.text)+".toml",
		`rm -f "$text" "$kept"`, `install -o meshd -g meshd -m 0600 /root/planted "$text"`,
		"install -o meshd -g meshd -m 0600 /root/record /var/lib/meshd/change",
		"runuser -u meshd -- sh -ec '"+p.put+"'"))
}
