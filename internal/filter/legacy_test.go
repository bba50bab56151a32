package filter

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

func TestLegacy(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		run := func(args ...string) string {
			t.Helper()
			out, err := n.Run(args[0], args[1:]...)
			if err != nil {
				t.Error(err)
			}
			return out
		}
		set := func() {
			t.Helper()
			if warning, err := SetLegacy(accept); err != nil || warning != "" {
				t.Errorf("SetLegacy: %q, %v", warning, err)
			}
		}
		set() // not in use: nothing to do, and nothing loaded
		if names, err := os.ReadFile(legacyFamilies[0].names); err == nil && len(names) != 0 {
			t.Errorf("tables %q", names)
		}
		run("iptables-legacy", "-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "ACCEPT")
		set()
		if got := run("iptables-legacy", "-S", "FORWARD"); strings.Contains(got, "meshd") {
			t.Errorf("rules where nothing drops:\n%s", got)
		}
		run("iptables-legacy", "-P", "FORWARD", "DROP")
		run("ip6tables-legacy", "-P", "FORWARD", "DROP")
		const want = `-P FORWARD DROP
-A FORWARD -i mesh0 -m comment --comment meshd -j ACCEPT
-A FORWARD -s 10.244.2.0/24 -m comment --comment meshd -j ACCEPT
-A FORWARD -s 192.168.7.0/24 -o mesh0 -m comment --comment meshd -j ACCEPT
-A FORWARD -s 192.168.7.0/24 -d 10.244.0.0/16 -m comment --comment meshd -j ACCEPT
-A FORWARD -d 10.244.0.0/16 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment meshd -j ACCEPT
-A FORWARD -d 10.244.0.0/16 -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
-A FORWARD -o mesh0 -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
-A FORWARD -s 192.0.2.0/24 -j ACCEPT
`
		const want6 = `-P FORWARD DROP
-A FORWARD -i mesh0 -m comment --comment meshd -j ACCEPT
-A FORWARD -s fd00:10:244:2::/64 -m comment --comment meshd -j ACCEPT
-A FORWARD -d fd00:10:244::/48 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment meshd -j ACCEPT
-A FORWARD -d fd00:10:244::/48 -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
-A FORWARD -o mesh0 -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
`
		check := func() {
			t.Helper()
			if got := run("iptables-legacy", "-S", "FORWARD"); got != want {
				t.Errorf("got:\n%s", got)
			}
			if got := run("ip6tables-legacy", "-S", "FORWARD"); got != want6 {
				t.Errorf("got:\n%s", got)
			}
		}
		set()
		check()
		set()
		check()
		run("iptables-legacy", "-D", "FORWARD", "2") // damaged
		set()
		check()
		// What an operator inserts stays in front.
		run("iptables-legacy", "-I", "FORWARD", "-s", "198.51.100.9/32", "-j", "DROP")
		run("iptables-legacy", "-D", "FORWARD", "3")
		set()
		if got := run("iptables-legacy", "-S", "FORWARD"); got != strings.Replace(want, "DROP\n", "DROP\n-A FORWARD -s 198.51.100.9/32 -j DROP\n", 1) {
			t.Errorf("got:\n%s", got)
		}
		run("iptables-legacy", "-D", "FORWARD", "1")
		for _, want := range []bool{true, false} {
			if removed, err := CleanUpLegacy(); err != nil || removed != want {
				t.Errorf("CleanUpLegacy: %v, %v", removed, err)
			}
		}
		if got := run("iptables-legacy", "-S", "FORWARD"); got != "-P FORWARD DROP\n-A FORWARD -s 192.0.2.0/24 -j ACCEPT\n" {
			t.Errorf("left behind:\n%s", got)
		}

		t.Setenv("PATH", filepath.Join(t.TempDir(), "empty"))
		if warning, err := SetLegacy(accept); err != nil || !strings.Contains(warning, "run `iptables-legacy -I FORWARD -i mesh0 -m comment ") {
			t.Errorf("without the program: %q, %v", warning, err)
		}
	})
}
