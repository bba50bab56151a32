package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// bookSteps are `make test-ansible`: docs/ansible.md, played against two hosts that have no meshd.
var bookSteps = []step{
	{what: "two Debian hosts boot", do: (*trial).hosts, how: "systemd-nspawn boots a and b"},
	{what: "the role of docs/ansible.md installs, changes and takes back", do: (*trial).ansible,
		how: "ansible-playbook, with files that are good, the same, faulty and cut a host off"},
}

// A book is the folder with the files of the page.
type book struct {
	*trial
	dir string
}

// named is a block of the page that is a file: its first line has the path.
var named = regexp.MustCompile("(?ms)^```yaml\n# (\\S+)\n(.*?)^```$")

// intoMachine stands for ssh, which hosts of the trial do not have: the last two arguments are the host and
// the command for its shell.
const intoMachine = `#!/bin/sh
while [ $# -gt 2 ]; do shift; done
case $1 in a) pid=%d ;; b) pid=%d ;; *) exit 255 ;; esac
exec nsenter -t $pid -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 sh -c "$2"
`

// newBook writes the files of the page.
func (t *trial) newBook(page string) (*book, error) {
	k := &book{t, filepath.Join(t.work, "ansible")}
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(k.dir); err != nil {
		return nil, err
	}
	blocks := named.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 3 {
		return nil, fmt.Errorf("%s has %d files", page, len(blocks))
	}
	for _, b := range blocks {
		err = errors.Join(err, k.put(b[1], b[2], 0o644))
	}
	ssh := fmt.Sprintf(intoMachine, t.a.init, t.b.init)
	return k, errors.Join(err, k.put("ssh", ssh, 0o755), k.put("mesh.toml", meshToml, 0o644))
}

// put writes a file of the folder.
func (k *book) put(name, text string, mode os.FileMode) error {
	path := filepath.Join(k.dir, name)
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode))
}

// recap is what a play says of a host at its end.
var recap = regexp.MustCompile(`(?m)^([ab]) +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=(\d+)`)

// play plays the page. It returns how much has changed on both hosts, and what ansible said.
func (k *book) play() (changed string, failed bool, said string, err error) {
	deb, err := k.one("meshd_*_amd64.deb")
	if err == nil {
		deb, err = filepath.Abs(deb)
	}
	if err != nil {
		return "", false, "", err
	}
	cmd := exec.CommandContext(k.ctx, "ansible-playbook", "-i", "inventory.yml", "site.yml",
		"-e", "meshd_package="+deb, "-e", "meshd_confirm=15s")
	cmd.Dir = k.dir
	cmd.Env = append(os.Environ(), "ANSIBLE_SSH_EXECUTABLE="+filepath.Join(k.dir, "ssh"),
		"ANSIBLE_SSH_TRANSFER_METHOD=piped", "ANSIBLE_SSH_CONTROL_PATH=none", "ANSIBLE_NOCOLOR=1",
		"ANSIBLE_HOME="+filepath.Join(k.dir, "home"), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	said = string(out)
	for _, m := range recap.FindAllStringSubmatch(said, -1) {
		changed, failed = changed+m[1]+m[2], failed || m[3] != "0"
	}
	if changed == "" || (err == nil) == failed {
		return "", false, said, fmt.Errorf("ansible-playbook: %w\n%s", err, said)
	}
	return changed, failed, said, nil
}

// ansible plays the page with one file after the other.
func (t *trial) ansible() (seen string, err error) {
	k, err := t.newBook("docs/ansible.md")
	if err != nil {
		return "", err
	}
	cut := strings.Replace(another, `"172.18.0.3"`, `"172.18.0.33"`, 1)
	for _, p := range []struct {
		what, text string
		fails      bool
		changed    string // on both hosts; empty: something
		then       string // the file that the hosts have afterwards
	}{
		{"a new mesh", meshToml, false, "", meshToml},
		{"the same again", meshToml, false, "a0b0", meshToml},
		{"one more node", another, false, "", another},
		{"a file with faults", another + "nonsense = 1\n", true, "a0b0", another},
		{"a file that cuts a host off", cut, true, "", another},
		{"and the one before", another, false, "", another},
	} {
		if err := k.put("mesh.toml", p.text, 0o644); err != nil {
			return "", err
		}
		changed, failed, said, err := k.play()
		if err == nil && (failed != p.fails || p.changed != "" && changed != p.changed) {
			err = fmt.Errorf("changed %s, failed %t\n%s", changed, failed, said)
		}
		if err == nil {
			err = both(t.a, t.b, func(m *machine) error {
				return errors.Join(m.reads(p.then), m.all("meshd wait ready --timeout 20s",
					"! meshd status --json | grep -q change_pending"))
			})
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.what, err)
		}
		fmt.Printf("    %s: changed %s, failed %t\n", p.what, changed, failed)
	}
	return "installed and started; a second run changes nothing; what cuts a host off is taken back by all",
		t.a.exits(0, "ttl=60", "ip", "netns", "exec", "pod", "ping", "-c", "3", "-w", "10", "10.244.1.2")
}
