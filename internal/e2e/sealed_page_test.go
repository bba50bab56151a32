package e2e

import (
	"encoding/base64"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

var (
	// prompt begins a command of docs/encryption.md, on host a or b. Other lines are what it prints.
	prompt = regexp.MustCompile(`^([ab])# (.*)$`)
	// printed is a key alone on a line.
	printed = regexp.MustCompile(`(?m)^[\w+/]{43}=$`)
	// ago is what differs from one walk to the next.
	ago = regexp.MustCompile(`handshake \S+ ago`)
)

// An encryptionPage walks along docs/encryption.md.
type encryptionPage struct {
	*pages
	hosts map[string]*console // a, b
	keys  map[string]string   // of the hosts, by those of the page
}

// mine returns a text of the page with the keys of the hosts.
func (e *encryptionPage) mine(text string) string {
	for _, theirs := range slices.Sorted(maps.Keys(e.keys)) {
		text = strings.ReplaceAll(text, theirs, e.keys[theirs])
	}
	return text
}

// block returns the first block that has a text in it.
func (e *encryptionPage) having(text string) string {
	e.t.Helper()
	for _, b := range e.blocks("encryption.md") {
		if strings.Contains(b[1], text) {
			return b[1]
		}
	}
	e.t.Fatalf("no block has %q", text)
	return ""
}

// commands types those of a block, and looks for what it says that they print.
func (e *encryptionPage) commands(block string, before func(command string)) {
	e.t.Helper()
	tidy := func(s string) string {
		return spaces.ReplaceAllString(ago.ReplaceAllString(s, "handshake ago"), " ")
	}
	var out string
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		if m := prompt.FindStringSubmatch(line); m != nil {
			before(m[2])
			command := m[2]
			if strings.HasPrefix(command, "meshd plan") {
				command += " || [ $? = 1 ]" // there are changes
			}
			out = e.on(e.hosts[m[1]], command)
			e.t.Logf("%s\n%s", line, out)
			continue
		}
		if key, err := base64.StdEncoding.DecodeString(line); err == nil && len(key) == 32 {
			own := printed.FindString(out)
			if known := e.keys[line]; known != "" && known != own {
				e.t.Errorf("the key is %s, and was %s", own, known)
			}
			e.keys[line] = own
		} else if !strings.Contains(tidy(out), tidy(e.mine(line))) {
			e.t.Errorf("no %q in\n%s", line, out)
		}
	}
}

// both types lines on both hosts.
func (e *encryptionPage) both(lines string) {
	e.t.Helper()
	for _, c := range e.hosts {
		e.on(c, lines)
	}
}

// file writes a file on both hosts.
func (e *encryptionPage) file(path, doc string) {
	e.t.Helper()
	e.both("cat >" + path + " <<'END'\n" + e.mine(doc) + "END")
}

// until types a command on hosts until it succeeds.
func (e *encryptionPage) until(command string, hosts ...string) {
	e.t.Helper()
	for _, h := range hosts {
		var out string
		eventually(e.t, command+" on "+h, func() (ok bool) {
			var err error
			out, err = e.hosts[h].typed(command)
			return err == nil
		}, func() string { return out })
	}
}

// Two hosts are encrypted as docs/encryption.md says, in two edits, and one of them changes its key.
func TestPageEncryption(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	p := newPages(t)
	e := &encryptionPage{p, map[string]*console{"a": p.consoles["worker"], "b": p.consoles["worker2"]},
		map[string]string{}}
	for name, c := range e.hosts {
		p.on(c, "ip addr add 192.0.2."+map[string]string{"a": "11", "b": "12"}[name]+"/24 dev eth0\n"+
			"echo meshd:x:65534:65534::/:/usr/sbin/nologin >>/etc/passwd\n"+
			"systemctl enable --now meshd-wireguard") // of the section about kernels without WireGuard
	}
	none := func(string) {}
	doc := e.having("[network]")
	e.commands(e.having("a# meshd key\n"), none)
	if len(e.keys) != 2 {
		t.Fatalf("keys %v", e.keys)
	}

	// A mesh that is in use.
	keys := strings.Replace(doc, "transport = \"wireguard\"\n", "", 1)
	e.file("/etc/mesh.toml", regexp.MustCompile(`(?m)^public_key.*\n`).ReplaceAllString(keys, ""))
	e.file("keys.toml", keys)
	e.file("sealed.toml", doc)
	e.both("systemctl restart meshd")
	e.until("meshd wait ready", "a", "b")
	e.commands(e.having("meshd plan keys.toml"), func(command string) {
		switch {
		case strings.HasPrefix(command, "cp "):
			p.on(e.hosts["b"], command) // all hosts
		case strings.HasPrefix(command, "meshd peers"):
			e.until("meshd status --json | jq -e '.peers[0].wireguard.state == \"ready\"'", "a", "b")
		}
	})
	e.until("meshd status --json | jq -e '.wireguard.state == \"sealed\"'", "a", "b")

	e.commands(e.having("meshd check\n"), none)
	contains(t, p.on(e.hosts["b"], "meshd peers site-a"), "encrypted  handshake ", "192.0.2.11:51820")
	p.on(e.hosts["b"], "meshd status --json | jq -e '.wireguard.implementation and .health.level == \"ok\"'")

	// Changing a key.
	line := regexp.MustCompile(`public_key = "gN.*\n`).FindString(doc)
	theirs := strings.Fields(e.having("meshd key --activate"))
	next := theirs[slices.IndexFunc(theirs, printed.MatchString)]
	e.commands(e.having("meshd key --activate"), func(command string) {
		if command == "meshd key --activate" {
			e.file("/etc/mesh.toml", strings.Replace(doc, line, line+"next_public_key = \""+next+"\"\n", 1))
			p.on(e.hosts["b"], "meshd reload")
			e.until("meshd status --json | jq -e .peers[0].config_match", "b")
		}
	})
	e.until("meshd status --json | jq -e '.peers[0].wireguard.public_key == \""+e.mine(next)+"\"'", "a")
	e.file("/etc/mesh.toml", strings.Replace(doc, line, "public_key = \""+next+"\"\n", 1))
	e.both("meshd reload")
	p.on(e.hosts["a"], "ping -c 2 -W 5 10.244.2.0")
}
