package filter

import (
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

var accept = Accept{
	Interfaces: []string{"mesh0", "meshd-wg"}, Networks: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
	Pods: prefixes("10.244.2.0/24", "fd00:10:244:2::/64"), LANs: prefixes("192.168.7.0/24"),
}

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func run(t testing.TB, n *nstest.Namespace, args ...string) string {
	t.Helper()
	out, err := n.Run(args[0], args[1:]...)
	if err != nil {
		t.Error(err)
	}
	return out
}

func ruleset(t *testing.T, n *nstest.Namespace) string {
	t.Helper()
	return nstest.SortSets(run(t, n, "nft", "-s", "list", "ruleset"))
}

// dropping are the ways in which hosts drop what they forward.
var dropping = map[string][]string{
	"iptables-nft -P FORWARD DROP": {
		"iptables-nft -P FORWARD DROP", "iptables-nft -A FORWARD -j LOG", "ip6tables-nft -P FORWARD DROP",
	},
	"nft inet": {`nft 'add table inet filter { chain fw {
		type filter hook forward priority 0; policy drop; ct state established accept; }; }'`},
	"nft ip": {`nft 'add table ip my { chain f {
		type filter hook forward priority 5; policy drop; }; }'`},
}

// ours is what nft shows of our rules in a chain of a family, in order.
var ours = map[string]string{
	"ip": `iifname "mesh0" counter accept comment "meshd"
		iifname "meshd-wg" counter accept comment "meshd"
		ip saddr 10.244.2.0/24 counter accept comment "meshd"
		oifname "mesh0" ip saddr 192.168.7.0/24 counter accept comment "meshd"
		oifname "meshd-wg" ip saddr 192.168.7.0/24 counter accept comment "meshd"
		ip saddr 192.168.7.0/24 ip daddr 10.244.0.0/16 counter accept comment "meshd"
		ip daddr 10.244.0.0/16 ct state established,related counter accept comment "meshd"
		ip daddr 10.244.0.0/16 ct status dnat counter accept comment "meshd"
		oifname "mesh0" ct status dnat counter accept comment "meshd"
		oifname "meshd-wg" ct status dnat counter accept comment "meshd"
`,
	"ip6": `iifname "mesh0" counter accept comment "meshd"
		iifname "meshd-wg" counter accept comment "meshd"
		ip6 saddr fd00:10:244:2::/64 counter accept comment "meshd"
		ip6 daddr fd00:10:244::/48 ct state established,related counter accept comment "meshd"
		ip6 daddr fd00:10:244::/48 ct status dnat counter accept comment "meshd"
		oifname "mesh0" ct status dnat counter accept comment "meshd"
		oifname "meshd-wg" ct status dnat counter accept comment "meshd"
`,
	"inet": `iifname "mesh0" counter accept comment "meshd"
		iifname "meshd-wg" counter accept comment "meshd"
		ip saddr 10.244.2.0/24 counter accept comment "meshd"
		ip6 saddr fd00:10:244:2::/64 counter accept comment "meshd"
		oifname "mesh0" ip saddr 192.168.7.0/24 counter accept comment "meshd"
		oifname "meshd-wg" ip saddr 192.168.7.0/24 counter accept comment "meshd"
		ip saddr 192.168.7.0/24 ip daddr 10.244.0.0/16 counter accept comment "meshd"
		ip daddr 10.244.0.0/16 ct state established,related counter accept comment "meshd"
		ip daddr 10.244.0.0/16 ct status dnat counter accept comment "meshd"
		ip6 daddr fd00:10:244::/48 ct state established,related counter accept comment "meshd"
		ip6 daddr fd00:10:244::/48 ct status dnat counter accept comment "meshd"
		oifname "mesh0" ct status dnat counter accept comment "meshd"
		oifname "meshd-wg" ct status dnat counter accept comment "meshd"
`,
}

// chains are the chains of dropping, with their families.
var chains = map[string][]string{
	"iptables-nft -P FORWARD DROP": {"ip filter FORWARD", "ip6 filter FORWARD"},
	"nft inet":                     {"inet filter fw"},
	"nft ip":                       {"ip my f"},
}

func TestForwardAcceptsWhereTheHostDrops(t *testing.T) {
	for name, commands := range dropping {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				for _, c := range commands {
					run(t, n, "sh", "-c", c)
				}
				before := ruleset(t, n)
				f := NewForward()
				set := func(a Accept, want bool) {
					t.Helper()
					if repaired, err := f.Set(a); err != nil || repaired != want {
						t.Errorf("Set: %v, %v, want %v", repaired, err, want)
					}
				}
				set(accept, false)
				whole := ruleset(t, n)
				for _, chain := range chains[name] {
					checkInFront(t, n, chain, "")
				}
				set(accept, false)
				if got := ruleset(t, n); got != whole {
					t.Errorf("a second Set changed\n%s\ninto\n%s", whole, got)
				}
				for _, chain := range chains[name] {
					// All of them are gone, with all others.
					run(t, n, "nft", "flush chain "+chain)
					set(accept, true)
					checkInFront(t, n, chain, "")

					// What an operator inserts stays in front, whatever happens to ours.
					const own = "counter comment \"own\"\n\t\t"
					run(t, n, "nft", "insert rule "+chain+" counter comment own")
					set(accept, false)
					checkInFront(t, n, chain, own)
					for _, which := range []string{"first", "last", "all"} {
						deleteOurs(t, n, chain, which)
						set(accept, true)
						checkInFront(t, n, chain, own)
						set(accept, false)
					}
					set(Accept{Interfaces: accept.Interfaces, Networks: accept.Networks,
						Pods: prefixes("10.244.9.0/24")}, true)
					set(accept, true)
					checkInFront(t, n, chain, own)
				}

				for _, want := range []bool{true, false} {
					if removed, err := NewForward().Remove(); err != nil || removed != want {
						t.Errorf("Remove: %v, %v, want %v", removed, err, want)
					}
				}
				if after := ruleset(t, n); strings.Contains(after, "meshd") {
					t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
				}
			})
		})
	}
}

// checkInFront looks for our rules right behind the policy of a chain, and behind one rule of
// somebody else if own is not empty. What nft shows of xtables' matches is the same, but for blanks.
func checkInFront(t *testing.T, n *nstest.Namespace, chain, own string) {
	t.Helper()
	family, _, _ := strings.Cut(chain, " ")
	list := run(t, n, "sh", "-c", "nft -s list chain "+chain)
	list = strings.NewReplacer("  ", " ", "related,established", "established,related").Replace(list)
	if want := "policy drop;\n\t\t" + own + ours[family]; !strings.Contains(list, want) {
		t.Errorf("%s is\n%s\nwant\n%s", chain, list, want)
	}
}

// deleteOurs deletes rules of ours from a chain, as an operator might.
func deleteOurs(t *testing.T, n *nstest.Namespace, chain, which string) {
	t.Helper()
	list := run(t, n, "sh", "-c", "nft -a list chain "+chain)
	all := regexp.MustCompile(`comment "meshd" # handle (\d+)`).FindAllStringSubmatch(list, -1)
	if len(all) == 0 {
		t.Fatalf("no rules of ours in\n%s", list)
	}
	switch which {
	case "first":
		all = all[:1]
	case "last":
		all = all[len(all)-1:]
	}
	for _, m := range all {
		run(t, n, "nft", "delete rule "+chain+" handle "+m[1])
	}
}

// "all" is what goes through the TUN, from the mesh's prefixes, or to them.
func TestForwardAll(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		run(t, n, "nft", "add table ip my { chain f { type filter hook forward priority 5; policy drop; }; }")
		all := accept
		all.All = true
		if _, err := NewForward().Set(all); err != nil {
			t.Fatal(err)
		}
		const want = `policy drop;
		iifname "mesh0" counter accept comment "meshd"
		oifname "mesh0" counter accept comment "meshd"
		iifname "meshd-wg" counter accept comment "meshd"
		oifname "meshd-wg" counter accept comment "meshd"
		ip saddr 10.244.0.0/16 counter accept comment "meshd"
		ip daddr 10.244.0.0/16 counter accept comment "meshd"
	}`
		if got := ruleset(t, n); !strings.Contains(got, want) {
			t.Errorf("got\n%s", got)
		}
	})
}

// Rules go where the policy is drop, and leave with it.
func TestForwardFollowsThePolicy(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		f := NewForward()
		run(t, n, "nft", `add table ip filter { chain FORWARD {
			type filter hook forward priority 0; policy accept; counter; }; }`)
		before := ruleset(t, n)
		for range 2 {
			for _, policy := range []string{"accept", "drop", "accept"} {
				run(t, n, "nft", "add chain ip filter FORWARD { policy "+policy+"; }")
				if repaired, err := f.Set(accept); err != nil || repaired {
					t.Errorf("%s: %v, %v", policy, repaired, err)
				}
				if got := strings.Contains(ruleset(t, n), "meshd"); got != (policy == "drop") {
					t.Errorf("%s: rules there: %v", policy, got)
				}
			}
		}
		if after := ruleset(t, n); after != before {
			t.Errorf("%s\nbefore\n%s", after, before)
		}
	})
}

// iptables-nft still reads a chain of its own with our rules in it.
func TestIptablesReadsOurRules(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		run := func(args ...string) string {
			t.Helper()
			return run(t, n, args...)
		}
		run("iptables-nft", "-P", "FORWARD", "DROP")
		run("iptables-nft", "-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "ACCEPT")
		before := run("iptables-nft-save")
		if _, err := NewForward().Set(accept); err != nil {
			t.Fatal(err)
		}
		want := `-P FORWARD DROP
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
		if got := run("iptables-nft", "-S", "FORWARD"); got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
		// What iptables saves and restores is still found, though spelled in another way.
		run("sh", "-c", "iptables-nft-save | iptables-nft-restore")
		f := NewForward()
		if repaired, err := f.Set(accept); err != nil || repaired {
			t.Errorf("after a restore: %v, %v", repaired, err)
		}
		if got := run("iptables-nft", "-S", "FORWARD"); got != want {
			t.Errorf("after a restore:\n%s\nwant:\n%s", got, want)
		}
		if _, err := f.Remove(); err != nil {
			t.Error(err)
		}
		after, undated := run("iptables-nft-save"), func(s string) []string { return strings.Split(s, "\n")[1:5] }
		if !slices.Equal(undated(after), undated(before)) {
			t.Errorf("after:\n%s\nbefore:\n%s", after, before)
		}
	})
}

// ways are programs that store rules and put them back, in the place of those there or in addition.
var ways = map[string]string{
	"iptables-save and -restore": "for p in iptables-nft ip6tables-nft; do $p-save >$0; $p-restore <$0; done",
	"iptables-restore --noflush": "for p in iptables-nft ip6tables-nft; do $p-save >$0; $p-restore -n <$0; done",
	"nft -f":                     "nft list ruleset >$0; nft -f $0",
	"nft -f, flushing":           "(echo flush ruleset; nft list ruleset) >$0; nft -f $0",
	"iptables-restore-translate": "iptables-nft-save >$0; iptables-restore-translate -f $0 | nft -f -",
	"comments in quotes": "iptables-nft-save | sed 's/--comment meshd/--comment \"meshd\"/' | " +
		"iptables-nft-restore",
}

// However rules were stored and put back, no rule of ours is there twice, and none of an older network or
// none at all stays behind. A rule of somebody else with the same comment does.
func TestSavedAndRestored(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				const own = "-A FORWARD -s 198.51.100.0/24" // nft forgets its comment
				run(t, n, "sh", "-c", "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP; "+
					"iptables-nft "+own+" -m comment --comment meshd -j DROP")
				stored := filepath.Join(t.TempDir(), "rules")
				restore := func() { t.Helper(); run(t, n, "sh", "-ec", way, stored) }
				rules := func() string {
					t.Helper()
					var found []string
					others := 0
					for line := range strings.Lines(run(t, n, "iptables-nft", "-S", "FORWARD") +
						run(t, n, "ip6tables-nft", "-S", "FORWARD")) {
						if strings.HasPrefix(line, own) {
							others++
							continue
						}
						found = append(found, line)
					}
					if others == 0 {
						t.Errorf("the rule of somebody else is gone: %q", found)
					}
					return strings.Join(found, "")
				}
				f := NewForward()
				set := func(a Accept) {
					t.Helper()
					if _, err := f.Set(a); err != nil {
						t.Error(err)
					}
				}
				set(accept)
				want := rules()
				for range 3 {
					restore()
					set(accept)
					if got := rules(); got != want {
						t.Errorf("got\n%s\nwant\n%s", got, want)
					}
				}
				restore()
				set(Accept{Interfaces: accept.Interfaces, Networks: prefixes("10.99.0.0/16"),
					Pods: prefixes("10.99.2.0/24")})
				if got := rules(); strings.Contains(got, "10.244.") || strings.Contains(got, "fd00:") {
					t.Errorf("the old network is left:\n%s", got)
				}
				restore()
				if removed, err := NewForward().Remove(); err != nil || !removed {
					t.Errorf("Remove: %v, %v", removed, err)
				}
				if got := rules(); strings.Contains(got, "meshd") {
					t.Errorf("left behind:\n%s", got)
				}
			})
		})
	}
}
