package masq

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/nstest"
)

var update = flag.Bool("update", false, "rewrite testdata/*.nft")

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func run(t *testing.T, n *nstest.Namespace, args ...string) string {
	t.Helper()
	out, err := n.Run("nft", args...)
	if err != nil {
		t.Error(err)
	}
	return nstest.SortSets(out)
}

var (
	one = Settings{
		Mesh: prefixes("10.244.0.0/16"), Local: prefixes("10.244.2.0/24"), Pods: prefixes("10.244.2.0/24"),
		FullyRandom: true,
	}
	both = Settings{
		Mesh:     prefixes("10.244.0.0/16", "fd00:10:244::/48", "192.168.7.0/24"),
		Local:    prefixes("10.244.2.0/24", "10.244.3.0/24", "192.168.7.0/24", "fd00:10:244:2::/64"),
		Pods:     prefixes("10.244.2.0/24", "10.244.3.0/24", "fd00:10:244:2::/64"),
		PodLinks: []string{"cni0", "veth-a"},
		Links:    []string{"mesh0", "meshd-wg"},
		Sources:  []netip.Addr{netip.MustParseAddr("10.244.2.0"), netip.MustParseAddr("fd00:10:244:2::")},
		Exclude:  prefixes("172.16.0.0/12", "172.18.0.0/16", "fd01::/16"),
	}
)

// What `nft list` says of our tables, for each case.
func TestRulesAsNftShowsThem(t *testing.T) {
	for name, s := range map[string]Settings{"one-family": one, "both-families": both} {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				if changed, err := New().Set(s); err != nil || !changed {
					t.Fatalf("Set: %v, %v", changed, err)
				}
				golden(t, "testdata/"+name+".nft", run(t, n, "-s", "list", "ruleset"))
			})
		})
	}
}

// The very bytes of each rule, as they go to the kernel: an update of the library
// that changes them shows here, on machines without nftables too.
func TestRuleBytes(t *testing.T) {
	var got strings.Builder
	line := func(family string, name string, exprs []expr.Any, number byte) {
		fmt.Fprintf(&got, "%s %s\n", family, name)
		for _, e := range exprs {
			b, err := expr.Marshal(number, e)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&got, "\t%x\n", b)
		}
	}
	for i, f := range nft.Families {
		for _, r := range rules(f, both) {
			line([]string{"ip", "ip6"}[i], r.Name, r.Exprs, []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}[i])
		}
		for _, r := range rules(f.InBoth(), both) {
			line([]string{"standby ip", "standby ip6"}[i], r.Name, r.Exprs, unix.NFPROTO_INET)
		}
	}
	idle := runningConnections(nft.IPv4.Table(TableName)).Chains[0].Rules[0]
	line("ip", idle.Name, idle.Exprs, unix.NFPROTO_IPV4)
	golden(t, "testdata/rules.hex", got.String())
}

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestSetIsIdempotentAndRepairs(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		run(t, n, "add table ip foreign { chain c { counter; }; }")
		foreign := run(t, n, "list table ip foreign")
		m := New()
		set := func(s Settings, want bool) {
			t.Helper()
			if changed, err := m.Set(s); err != nil || changed != want {
				t.Errorf("Set: %v, %v, want %v", changed, err, want)
			}
		}
		set(both, true)
		whole := run(t, n, "-s", "list", "ruleset")
		set(both, false)
		set(both, false)
		for _, damage := range []string{
			"delete table ip meshd",
			"delete table ip6 meshd",
			"flush table ip meshd",
			"flush set ip meshd mesh",
			"delete element ip meshd local { 10.244.2.0-10.244.3.255 }",
			"add element ip6 meshd exclude { fd02::/16 }",
			"insert rule ip meshd postrouting accept",
			"add rule ip meshd postrouting accept",
			"add table ip meshd { flags dormant; }",
		} {
			run(t, n, damage)
			set(both, true)
			if got := run(t, n, "-s", "list", "ruleset"); got != whole {
				t.Errorf("after %q:\n%s\nwant:\n%s", damage, got, whole)
			}
			set(both, false)
		}
		set(one, true)
		if got := run(t, n, "list", "ruleset"); strings.Contains(got, "table ip6 meshd") {
			t.Errorf("a table without a family:\n%s", got)
		}
		for range 2 {
			if err := m.Remove(); err != nil {
				t.Error(err)
			}
			const idle = `ct status snat counter packets 0 bytes 0 return comment "running-connections"`
			got := run(t, n, "list", "table", "ip", "meshd")
			if strings.Contains(got, "masquerade") || !strings.Contains(got, idle) {
				t.Errorf("not a chain for running connections alone:\n%s", got)
			}
		}
		for _, want := range []bool{true, false} {
			if removed, err := CleanUp(); err != nil || removed != want {
				t.Errorf("CleanUp: %v, %v", removed, err)
			}
			if got := run(t, n, "list", "ruleset"); got != foreign {
				t.Errorf("left behind:\n%s\nwant:\n%s", got, foreign)
			}
		}
		if err := m.Remove(); err != nil || run(t, n, "list", "ruleset") != foreign {
			t.Errorf("Remove made something: %v", err)
		}
	})
}

func TestMovedAndDeletedRules(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		m := New()
		if _, err := m.Set(one); err != nil {
			t.Fatal(err)
		}
		whole := run(t, n, "-s", "list", "ruleset")
		for i := range rules(nft.IPv4, one) {
			handles := handles(t, n)
			run(t, n, "delete", "rule", "ip", "meshd", "postrouting", "handle", handles[i])
			if i%2 == 0 { // moved instead of deleted
				run(t, n, "add rule ip meshd postrouting counter return")
			}
			if changed, err := m.Set(one); err != nil || !changed {
				t.Errorf("rule %d: %v, %v", i, changed, err)
			}
			if got := run(t, n, "-s", "list", "ruleset"); got != whole {
				t.Errorf("after rule %d:\n%s", i, got)
			}
		}
	})
}

// handles returns those of our rules, in their order.
func handles(t *testing.T, n *nstest.Namespace) (all []string) {
	t.Helper()
	list := run(t, n, "-a", "list", "chain", "ip", "meshd", "postrouting")
	for _, m := range regexp.MustCompile(`comment ".*" # handle (\d+)`).FindAllStringSubmatch(list, -1) {
		all = append(all, m[1])
	}
	if want := len(rules(nft.IPv4, one)); len(all) != want {
		t.Fatalf("%d rules, want %d", len(all), want)
	}
	return all
}

func TestCountersOutliveRules(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := n.IP("link add a0 type veth peer name a1", "addr add 10.244.2.1/24 dev a0", "link set a0 up",
			"link set a1 up", "neigh add 10.244.2.9 lladdr 02:00:00:00:00:09 dev a0"); err != nil {
			t.Fatal(err)
		}
		m := New()
		count := func() uint64 {
			counters, err := m.Counters()
			if err != nil || len(counters) != len(RuleNames()) {
				t.Fatalf("%v, %v", counters, err)
			}
			return counters[slices.Index(RuleNames(), MeshToMesh)].Packets
		}
		ping := func() { _, _ = n.Run("ping", "-c", "1", "-W", "0.1", "10.244.2.9") } // nobody answers
		if _, err := m.Set(one); err != nil {
			t.Fatal(err)
		}
		ping()
		if got := count(); got != 1 {
			t.Errorf("%d packets counted", got)
		}
		other := one
		other.FullyRandom = false
		if _, err := m.Set(other); err != nil {
			t.Fatal(err)
		}
		ping()
		if got := count(); got != 2 {
			t.Errorf("%d packets counted after a change", got)
		}
		if err := m.Remove(); err != nil {
			t.Fatal(err)
		}
		if got := count(); got != 2 {
			t.Errorf("%d packets counted after the end", got)
		}
	})
}

// Whatever somebody flushes while rules are being written, one look afterwards finds it.
func TestFlushStorm(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		m := New()
		if _, err := m.Set(both); err != nil {
			t.Fatal(err)
		}
		whole := run(t, n, "-s", "list", "ruleset")
		for range 10 {
			storm := make(chan error, 1)
			go func() {
				_, err := n.Run("sh", "-c", "for i in $(seq 20); do nft flush ruleset; done")
				storm <- err
			}()
			for raging := true; raging; {
				select {
				case err := <-storm:
					raging = false
					if err != nil {
						t.Error(err)
					}
				default:
					if _, err := m.Set(both); err != nil {
						t.Error(err)
					}
				}
			}
			if _, err := m.Set(both); err != nil {
				t.Error(err)
			}
			if got := run(t, n, "-s", "list", "ruleset"); got != whole {
				t.Fatalf("after a storm:\n%s\nwant:\n%s", got, whole)
			}
		}
	})
}

// Pods reach the outside masqueraded, and a multicast group as they are.
func TestMulticastIsLeftAlone(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := n.IP("link add a0 type veth peer name a1", "addr add 10.244.2.1/24 dev a0", "link set a0 up",
			"link set a1 up", "addr add fd00:10:244:2::1/64 dev a0 nodad",
			"neigh add 10.244.2.9 lladdr 02:00:00:00:00:09 dev a0",
			"neigh add fd00:10:244:2::9 lladdr 02:00:00:00:00:09 dev a0",
			"route add 0.0.0.0/0 via 10.244.2.9", "route add ::/0 via fd00:10:244:2::9"); err != nil {
			t.Fatal(err)
		}
		m := New()
		if _, err := m.Set(both); err != nil {
			t.Fatal(err)
		}
		for i, to := range []string{"203.0.113.5:9", "239.1.1.1:9", "[2001:db8::5]:9", "[ff05::1%a0]:9"} {
			local := net.ParseIP([]string{"10.244.2.1", "fd00:10:244:2::1"}[i/2])
			conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: local}}).Dial("udp", to)
			if err == nil {
				_, err = conn.Write([]byte("x"))
				conn.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			counters, err := m.Counters()
			if err != nil {
				t.Fatal(err)
			}
			got := counters[slices.Index(RuleNames(), PodsToOutside)].Packets
			if want := uint64(i/2 + 1); got != want {
				t.Errorf("after %s: %d packets are masqueraded, want %d", to, got, want)
			}
		}
	})
}

// Ten thousand nodes with a route each: no more rules, and sets that hold them
// all.
func TestManyNodes(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		s := one
		s.Mesh = prefixes("10.0.0.0/8", "fd00::/16")
		for i := range 10000 {
			ip := netip.AddrFrom4([4]byte{192, 168 + byte(i/16384), byte(i / 64), byte(i % 64 * 4)})
			s.Mesh = append(s.Mesh, netip.PrefixFrom(ip, 31))
		}
		m := New()
		for _, want := range []bool{true, false} {
			if changed, err := m.Set(s); err != nil || changed != want {
				t.Errorf("Set: %v, %v", changed, err)
			}
		}
		handles(t, n)
		out := run(t, n, "list", "set", "ip", "meshd", "mesh")
		if got := strings.Count(out, "/31"); got != 10000 {
			t.Errorf("%d of 10000 prefixes", got)
		}
	})
}

// manyRoutes returns settings with 10,000 routes of which no two touch.
func manyRoutes() Settings {
	s := one
	for i := range 10000 {
		ip := netip.AddrFrom4([4]byte{192, 168, byte(i / 64), byte(i % 64 * 4)})
		s.Mesh = append(s.Mesh, netip.PrefixFrom(ip, 31))
	}
	return s
}

func BenchmarkSet10000(b *testing.B) {
	n := nstest.ForTest(b)
	s := manyRoutes()
	if err := n.Do(func() error {
		for b.Loop() {
			if _, err := New().Set(s); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkStandBy10000(b *testing.B) {
	n := nstest.ForTest(b)
	s := manyRoutes()
	if err := n.Do(func() error {
		for b.Loop() {
			m := New()
			if err := errors.Join(m.StandBy(s), m.Close()); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
}
