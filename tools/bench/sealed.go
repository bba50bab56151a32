package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Names of the systems that encrypt in user space with one library.
const (
	sealed      = "meshd sealed"
	wireguardGo = "wireguard-go"
)

// newKeys returns a private and a public key for each host.
func newKeys() (private, public [2]string, err error) {
	for i := range 2 {
		key, err := exec.Command("wg", "genkey").Output()
		if err != nil {
			return private, public, err
		}
		private[i] = strings.TrimSpace(string(key))
		derive := exec.Command("wg", "pubkey")
		derive.Stdin = strings.NewReader(private[i])
		pub, err := derive.Output()
		if err != nil {
			return private, public, err
		}
		public[i] = strings.TrimSpace(string(pub))
	}
	return private, public, nil
}

// startSealed runs meshd with encryption on both hosts, by its process in user space: this kernel may have no
// WireGuard, and the same library is compared with itself.
func startSealed(l *lab, binary string) error {
	private, public, err := newKeys()
	if err != nil {
		return err
	}
	doc := "[network]\ncidr = \"10.244.0.0/16\"\ntransport = \"wireguard\"\n" +
		"[masquerade]\nenabled = false\nforward = false\n"
	for i := range l.hosts {
		doc += fmt.Sprintf("[[node]]\nname = \"%c\"\naddress = \"192.0.2.%d\"\nsubnets = [\"10.244.%d.0/24\"]\n"+
			"public_key = %q\n", 'a'+i, i+1, i+1, public[i])
	}
	file := filepath.Join(l.dir, "sealed.toml")
	if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
		return err
	}
	for i := range l.hosts {
		own := filepath.Join(l.dir, fmt.Sprintf("host%d", i))
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(own, "private.key"), []byte(private[i]+"\n"), 0o400); err != nil {
			return err
		}
		// Hosts share this machine's files, and both have an interface of one name.
		script := `mkdir -p /run/wireguard && mount --bind "$0" /run/wireguard &&
			exec env CREDENTIALS_DIRECTORY="$0" "$@"`
		for _, line := range [][]string{
			{"wireguard-user", "-c", file}, {"run", "-c", file, "--socket", l.socket(i)},
		} {
			if err := l.spawn(i, "sh", append([]string{"-c", script, own, binary}, line...)...); err != nil {
				return err
			}
		}
	}
	for i, h := range l.hosts {
		peer := fmt.Sprintf("peer:%c", 'b'-i)
		if err := eventually(func() error {
			_, err := h.Run(binary, "wait", peer, "--socket", l.socket(i))
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}
