package e2e

import (
	"encoding/base64"
	"regexp"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// prompt begins a command of docs/encryption.md, on host a or b. Other lines are what it prints.
var prompt = regexp.MustCompile(`^([ab])# (.*)$`)

// Two hosts are encrypted as docs/encryption.md says.
func TestPageEncryption(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	const page = "encryption.md"
	p := newPages(t)
	hosts := map[string]*console{"a": p.consoles["worker"], "b": p.consoles["worker2"]}
	for name, c := range hosts {
		p.on(c, "ip addr add 192.0.2."+map[string]string{"a": "11", "b": "12"}[name]+"/24 dev eth0\n"+
			"echo meshd:x:65534:65534::/:/usr/sbin/nologin >>/etc/passwd\n"+
			"systemctl enable --now meshd-wireguard") // of the section about kernels without WireGuard
	}
	var walk [][2]string // its blocks up to the next section
	for _, b := range p.blocks(page) {
		if walk = append(walk, b); len(walk) == 3 {
			break
		}
	}
	doc, keys := walk[1][1], map[string]string{} // by those of the page
	commands := func(block string) {
		t.Helper()
		var out string
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			m := prompt.FindStringSubmatch(line)
			if m != nil {
				out = p.on(hosts[m[1]], m[2])
				t.Logf("%s\n%s", line, out)
				continue
			}
			if key, err := base64.StdEncoding.DecodeString(line); err == nil && len(key) == 32 {
				own := regexp.MustCompile(`(?m)^[\w+/]{43}=$`).FindString(out)
				if known := keys[line]; known != "" && known != own {
					t.Errorf("the key is %s, and was %s", own, known)
				}
				doc, keys[line] = strings.ReplaceAll(doc, line, own), own
			} else if !strings.Contains(spaces.ReplaceAllString(out, " "), spaces.ReplaceAllString(line, " ")) {
				t.Errorf("no %q in\n%s", line, out)
			}
		}
	}
	commands(walk[0][1])
	if len(keys) != 2 {
		t.Fatalf("keys %v", keys)
	}
	for _, c := range hosts {
		p.on(c, "cat >/etc/mesh.toml <<'END'\n"+doc+"END")
	}
	commands(walk[2][1])
	contains(t, p.on(hosts["b"], "meshd peers site-a"), "encrypted  handshake ", "192.0.2.11:51820")
	p.on(hosts["b"], "meshd status --json | jq -e '.wireguard.implementation and .health.level == \"ok\"'")
}
