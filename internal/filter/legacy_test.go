package filter

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// What iptables-legacy prints of the chains that have all rules.
const (
	legacyWant = `-P FORWARD DROP
-A FORWARD -i mesh0 -m comment --comment meshd -j ACCEPT
-A FORWARD -i meshd-wg -m comment --comment meshd -j ACCEPT
-A FORWARD -s 10.244.2.0/24 -m comment --comment meshd -j ACCEPT
-A FORWARD -s 192.168.7.0/24 -o mesh0 -m comment --comment meshd -j ACCEPT
-A FORWARD -s 192.168.7.0/24 -o meshd-wg -m comment --comment meshd -j ACCEPT
-A FORWARD -s 192.168.7.0/24 -d 10.244.0.0/16 -m comment --comment meshd -j ACCEPT
-A FORWARD -d 10.244.0.0/16 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment meshd -j ACCEPT
-A FORWARD -d 10.244.0.0/16 -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
-A FORWARD -o mesh0 -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
-A FORWARD -o meshd-wg -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
-A FORWARD -s 192.0.2.0/24 -j ACCEPT
`
	legacyWant6 = `-P FORWARD DROP
-A FORWARD -i mesh0 -m comment --comment meshd -j ACCEPT
-A FORWARD -i meshd-wg -m comment --comment meshd -j ACCEPT
-A FORWARD -s fd00:10:244:2::/64 -m comment --comment meshd -j ACCEPT
-A FORWARD -d fd00:10:244::/48 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment meshd -j ACCEPT
-A FORWARD -d fd00:10:244::/48 -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
-A FORWARD -o mesh0 -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
-A FORWARD -o meshd-wg -m conntrack --ctstate DNAT -m comment --comment meshd -j ACCEPT
`
)

// setLegacy is SetLegacy on a host that can run the program.
func setLegacy(t *testing.T) {
	t.Helper()
	if warning, err := SetLegacy(accept); err != nil || warning != "" {
		t.Errorf("SetLegacy: %q, %v", warning, err)
	}
}

// forward checks what a program prints of its chain.
func forward(t *testing.T, n *nstest.Namespace, program, want string) {
	t.Helper()
	if got := run(t, n, program, "-S", "FORWARD"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// The rules stand in chains that drop, and only there; they come back where they were, and
// CleanUpLegacy takes them out.
func TestLegacy(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		iptables := func(args ...string) { t.Helper(); run(t, n, append([]string{"iptables-legacy"}, args...)...) }
		setLegacy(t) // not in use: nothing to do, and nothing loaded
		if names, err := os.ReadFile(legacyFamilies[0].names); err == nil && len(names) != 0 {
			t.Errorf("tables %q", names)
		}
		iptables("-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "ACCEPT")
		setLegacy(t)
		forward(t, n, "iptables-legacy", "-P FORWARD ACCEPT\n-A FORWARD -s 192.0.2.0/24 -j ACCEPT\n")
		iptables("-P", "FORWARD", "DROP")
		run(t, n, "ip6tables-legacy", "-P", "FORWARD", "DROP")
		for range 2 {
			setLegacy(t)
			forward(t, n, "iptables-legacy", legacyWant)
			forward(t, n, "ip6tables-legacy", legacyWant6)
		}
		iptables("-D", "FORWARD", "2") // damaged
		setLegacy(t)
		forward(t, n, "iptables-legacy", legacyWant)
		// What an operator inserts stays in front.
		iptables("-I", "FORWARD", "-s", "198.51.100.9/32", "-j", "DROP")
		iptables("-D", "FORWARD", "3")
		setLegacy(t)
		const own = "-A FORWARD -s 198.51.100.9/32 -j DROP\n"
		forward(t, n, "iptables-legacy", strings.Replace(legacyWant, "DROP\n", "DROP\n"+own, 1))
		iptables("-D", "FORWARD", "1")
		for _, want := range []bool{true, false} {
			if removed, err := CleanUpLegacy(); err != nil || removed != want {
				t.Errorf("CleanUpLegacy: %v, %v", removed, err)
			}
		}
		forward(t, n, "iptables-legacy", "-P FORWARD DROP\n-A FORWARD -s 192.0.2.0/24 -j ACCEPT\n")
	})
}

// A host without the program gets the commands to run.
func TestLegacyWithoutTheProgram(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		run(t, n, "iptables-legacy", "-P", "FORWARD", "DROP")
		t.Setenv("PATH", filepath.Join(t.TempDir(), "empty"))
		warning, err := SetLegacy(accept)
		if err != nil || warning == "" {
			t.Fatalf("%q, %v", warning, err)
		}
		for _, command := range legacyFamilies[0].commands(accept) {
			if !strings.Contains(warning, command) {
				t.Errorf("%q is not in %q", command, warning)
			}
		}
		if removed, err := CleanUpLegacy(); err != nil || removed {
			t.Errorf("CleanUpLegacy: %v, %v", removed, err)
		}
	})
}

// Rules of ours are known by their comment, and their place by counting all rules.
func TestLegacyOurs(t *testing.T) {
	const mine, other = "-i mesh0 -m comment --comment meshd -j ACCEPT", "-s 192.0.2.0/24 -j ACCEPT"
	const quoted = `-i mesh0 -m comment --comment "meshd" -j ACCEPT`
	const early = "-m comment --comment meshd -m conntrack --ctstate DNAT -j ACCEPT"
	for name, test := range map[string]struct {
		rules []string
		ours  []string
		at    int
	}{
		"none":                          {nil, nil, 1},
		"others":                        {[]string{other, other}, nil, 1},
		"in front":                      {[]string{mine, other}, []string{mine}, 1},
		"behind some":                   {[]string{other, other, mine, other, mine}, []string{mine, mine}, 3},
		"that drops":                    {[]string{strings.Replace(mine, "ACCEPT", "DROP", 1)}, nil, 1},
		"in quotes":                     {[]string{quoted}, []string{quoted}, 1},
		"in front of another condition": {[]string{early}, []string{early}, 1},
		"of another":                    {[]string{strings.Replace(mine, "meshd", "meshd2", 1)}, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			lines := []string{"-P FORWARD DROP"}
			for _, r := range test.rules {
				lines = append(lines, "-A FORWARD "+r)
			}
			if ours, at := legacyOurs(lines); !slices.Equal(ours, test.ours) || at != test.at {
				t.Errorf("%q at %d, want %q at %d", ours, at, test.ours, test.at)
			}
		})
	}
}
