package masq

import (
	"fmt"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

var pods = ForwardSettings{Interface: "mesh0", Prefixes: prefixes("10.244.0.0/16", "fd00:10:244::/48")}

// dropping are the ways in which hosts drop what they forward.
var dropping = map[string][]string{
	"iptables-nft -P FORWARD DROP": {"iptables-nft -P FORWARD DROP", "iptables-nft -A FORWARD -j LOG", "ip6tables-nft -P FORWARD DROP"},
	"nft inet":                     {`nft 'add table inet filter { chain fw { type filter hook forward priority 0; policy drop; ct state established accept; }; }'`},
	"nft ip":                       {`nft 'add table ip my { chain f { type filter hook forward priority 5; policy drop; }; }'`},
}

func TestForwardStandsFirstWhereItDrops(t *testing.T) {
	for name, commands := range dropping {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				shell := func(command string) string {
					t.Helper()
					out, err := n.Run("sh", "-c", command)
					if err != nil {
						t.Error(err)
					}
					return out
				}
				for _, c := range commands {
					shell(c)
				}
				before := nft(t, n, "-s", "list", "ruleset")
				f := NewForward()
				set := func(want bool) {
					t.Helper()
					if repaired, err := f.Set(pods); err != nil || repaired != want {
						t.Errorf("Set: %v, %v, want %v", repaired, err, want)
					}
				}
				set(false)
				whole := nft(t, n, "-s", "list", "ruleset")
				checkAcceptsFirst(t, whole)
				set(false)
				if got := nft(t, n, "-s", "list", "ruleset"); got != whole {
					t.Errorf("a second Set changed\n%s\ninto\n%s", whole, got)
				}

				// Somebody deletes one of ours, puts his own before them, or flushes all.
				for _, damage := range damages(t, n) {
					nft(t, n, damage)
					set(true)
					checkAcceptsFirst(t, nft(t, n, "-s", "list", "ruleset"))
					set(false)
				}

				if removed, err := CleanUpForward(); err != nil || !removed {
					t.Errorf("CleanUpForward: %v, %v", removed, err)
				}
				if after := nft(t, n, "-s", "list", "ruleset"); strings.Contains(after, "meshd") {
					t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
				}
				if removed, err := CleanUpForward(); err != nil || removed {
					t.Errorf("CleanUpForward again: %v, %v", removed, err)
				}
			})
		})
	}
}

// checkAcceptsFirst looks for our rules right behind every policy drop.
func checkAcceptsFirst(t *testing.T, ruleset string) {
	t.Helper()
	chains := strings.Split(ruleset, "policy drop;\n")[1:]
	if len(chains) == 0 {
		t.Errorf("nothing drops:\n%s", ruleset)
	}
	for _, rules := range chains {
		lines := strings.Split(rules, "\n")
		for _, want := range []string{`iifname "mesh0" counter accept comment "meshd"`, `oifname "mesh0" counter accept comment "meshd"`} {
			if !strings.Contains(strings.Join(lines[:2], "\n"), want) {
				t.Errorf("no %q in front of\n%s", want, rules)
			}
		}
		for _, side := range []string{"saddr", "daddr"} {
			if !strings.Contains(strings.Join(lines[2:min(6, len(lines))], "\n"), side) {
				t.Errorf("no %s in front of\n%s", side, rules)
			}
		}
	}
}

// damages returns nft commands that harm our rules in each chain that drops.
func damages(t *testing.T, n *nstest.Namespace) (commands []string) {
	t.Helper()
	chains, _, err := forwardChains(connect(t))
	if err != nil {
		t.Fatal(err)
	}
	names := map[byte]string{2: "ip", 10: "ip6", 1: "inet"}
	for _, c := range chains {
		where := fmt.Sprintf("%s %s %s", names[byte(c.Table.Family)], c.Table.Name, c.Name)
		commands = append(commands, "insert rule "+where+" counter", "flush chain "+where)
	}
	return commands
}

// Rules go where the policy is drop, and leave with it.
func TestForwardFollowsThePolicy(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		f := NewForward()
		nft(t, n, "add table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; counter; }; }")
		before := nft(t, n, "list", "ruleset")
		for range 2 {
			for _, policy := range []string{"accept", "drop", "accept"} {
				nft(t, n, "add chain ip filter FORWARD { policy "+policy+"; }")
				if repaired, err := f.Set(pods); err != nil || repaired {
					t.Errorf("%s: %v, %v", policy, repaired, err)
				}
				if got := strings.Contains(nft(t, n, "list", "ruleset"), "meshd"); got != (policy == "drop") {
					t.Errorf("%s: rules there: %v", policy, got)
				}
			}
		}
		if after := nft(t, n, "list", "ruleset"); after != before {
			t.Errorf("%s\nbefore\n%s", after, before)
		}
	})
}

// iptables-nft still reads a chain of its own with our rules in it.
func TestIptablesReadsOurRules(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		run := func(args ...string) string {
			t.Helper()
			out, err := n.Run(args[0], args[1:]...)
			if err != nil {
				t.Error(err)
			}
			return out
		}
		run("iptables-nft", "-P", "FORWARD", "DROP")
		run("iptables-nft", "-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "ACCEPT")
		before := run("iptables-nft-save")
		if _, err := NewForward().Set(pods); err != nil {
			t.Fatal(err)
		}
		want := `-P FORWARD DROP
-A FORWARD -i mesh0 -m comment --comment meshd -j ACCEPT
-A FORWARD -o mesh0 -m comment --comment meshd -j ACCEPT
-A FORWARD -s 10.244.0.0/16 -m comment --comment meshd -j ACCEPT
-A FORWARD -d 10.244.0.0/16 -m comment --comment meshd -j ACCEPT
-A FORWARD -s 192.0.2.0/24 -j ACCEPT
`
		if got := run("iptables-nft", "-S", "FORWARD"); got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
		if _, err := CleanUpForward(); err != nil {
			t.Error(err)
		}
		if after := run("iptables-nft-save"); strings.Join(strings.Split(after, "\n")[1:5], "\n") != strings.Join(strings.Split(before, "\n")[1:5], "\n") {
			t.Errorf("after:\n%s\nbefore:\n%s", after, before)
		}
	})
}
