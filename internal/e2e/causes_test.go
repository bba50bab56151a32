package e2e

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// reliability asks for the page to be written, which takes some minutes: `make reliability`.
var reliability = flag.String("reliability", "", "write the table of causes into this `file`")

// A cause is something of the field that stops pods' packets, or some of them.
type cause struct {
	name string
	// what to run on worker2, or on the switch between the hosts, to bring it about and to cure it. The
	// cure is what the remedy of the problem asks for.
	on     func(m *mesh) *nstest.Namespace
	spoil  []string
	cure   []string
	kinds  []string // any of which worker2 has to name
	engine string   // empty: both
	// carries tells that pods' packets of any kind go on, so that only the telling is looked at.
	carries bool
}

func onWorker2(m *mesh) *nstest.Namespace { return m.Worker2.Namespace }
func onSwitch(m *mesh) *nstest.Namespace  { return m.Lab.Switch() }

// dropOnPath is a rule of the network between worker2 and worker.
func dropOnPath(what string) []string {
	return []string{"nft", "add table bridge path; add chain bridge path pass " +
		"{ type filter hook forward priority 0; }; " + fromW2ToW + what + " drop"}
}

var healPath = []string{"nft", "delete table bridge path"}

var causes = []cause{
	{name: "INPUT drops the mesh port", on: onWorker2,
		spoil: []string{"nft", "table inet f { chain c { type filter hook input priority 0; " +
			"ip saddr 172.18.0.4 udp dport 8285 drop; }; }"},
		cure: []string{"nft", "delete table inet f"}, kinds: []string{"peer_refused", "peer_one_way", "peer_down"}},
	{name: "raw PREROUTING drops the mesh port", on: onWorker2,
		spoil: []string{"nft", "table ip f { chain c { type filter hook prerouting priority -300; " +
			"ip saddr 172.18.0.4 udp dport 8285 drop; }; }"},
		cure: []string{"nft", "delete table ip f"}, kinds: []string{"peer_refused", "peer_one_way", "peer_down"}},
	{name: "OUTPUT drops the mesh port", on: onWorker2,
		spoil: []string{"nft", "table inet f { chain c { type filter hook output priority 0; " +
			"ip daddr 172.18.0.4 udp dport 8285 drop; }; }"},
		cure: []string{"nft", "delete table inet f"}, kinds: []string{"send_refused"}},
	{name: "OUTPUT marks what goes to the mesh port", on: onWorker2,
		spoil: []string{"nft", "table inet f { chain c { type route hook output priority 0; " +
			"udp dport 8285 meta mark set 7; }; }"},
		cure: []string{"nft", "delete table inet f"}, kinds: []string{"peers_ruled"}, engine: "tcx", carries: true},
	{name: "raw PREROUTING drops pods' packets", on: onWorker2,
		spoil: []string{"nft", "table ip f { chain c { type filter hook prerouting priority -300; " +
			"iifname mesh0 ip daddr 10.244.2.0/24 drop; }; }"},
		cure: []string{"nft", "delete table ip f"}, kinds: []string{"pods_filtered"}},
	{name: "another table's FORWARD chain drops pods' packets in postrouting", on: onWorker2,
		spoil: []string{"nft", "table ip f { chain c { type filter hook postrouting priority 0; " +
			"ip daddr 10.244.2.0/24 drop; }; }"},
		cure: []string{"nft", "delete table ip f"}, kinds: []string{"pods_filtered"}},
	{name: "ip_forward is 0", on: onWorker2,
		spoil: []string{"sysctl", "-qw", "net.ipv4.ip_forward=0"},
		cure:  []string{"sysctl", "-qw", "net.ipv4.ip_forward=1"}, kinds: []string{"forwarding_off"}},
	{name: "a routing rule takes pods' packets", on: onWorker2,
		spoil: []string{"sh", "-c", "ip link add d0 type veth peer name d1; ip link set d0 up; " +
			"ip link set d1 up; ip route add 10.0.0.0/8 dev d0 table 52; ip rule add lookup 52 pref 5270"},
		cure:  []string{"sh", "-c", "ip rule del pref 5270; ip link del d0"},
		kinds: []string{"rule_diverts"}},
	{name: "the path drops UDP without a checksum", on: onSwitch, spoil: dropOnPath("udp checksum 0"),
		cure: healPath, kinds: []string{"path_checksum"}, engine: "tcx", carries: true},
	{name: "the path drops large packets, without a word", on: onSwitch,
		spoil: dropOnPath("meta length > 1450"),
		cure:  healPath, kinds: []string{"path_large"}, carries: true},
	{name: "the path drops packets with DSCP 46", on: onSwitch, spoil: dropOnPath("ip dscp 46"),
		cure: healPath, kinds: []string{"path_dscp"}, carries: true},
	{name: "the path works one way", on: onSwitch, spoil: dropOnPath(""),
		cure: healPath, kinds: []string{"peer_one_way"}},
	{name: "an IPsec policy blocks the datagrams", on: onWorker2,
		spoil: []string{"ip", "xfrm", "policy", "add", "src", "172.18.0.4", "dst", "172.18.0.3", "proto", "udp",
			"dport", "8285", "dir", "in", "action", "block"},
		cure:  []string{"ip", "xfrm", "policy", "flush"},
		kinds: []string{"peers_policed", "peer_refused", "peer_one_way", "peer_down"}},
	{name: "the TUN has a shaper", on: onWorker2,
		spoil: []string{"tc", "qdisc", "replace", "dev", "mesh0", "root", "tbf", "rate", "10mbit", "burst", "32k",
			"latency", "50ms"},
		cure:  []string{"tc", "qdisc", "del", "dev", "mesh0", "root"},
		kinds: []string{"tun_shaped"}, engine: "tcx", carries: true},
}

// findings is a row of the page.
type findings struct {
	cause, engine, kind, level, remedy string
	named, cured                       time.Duration
}

// Each cause is named by the status within a minute, and once the cause is gone so is the problem, and
// pods' packets pass. Without the flag only the page is looked at: it has a row for each.
func TestCausesAreNamed(t *testing.T) {
	if *reliability == "" {
		page, err := os.ReadFile("../../docs/reliability.md")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range causes {
			if n := strings.Count(string(page), "| "+c.name+" |"); n < 1 {
				t.Errorf("docs/reliability.md has %d rows about %q: `make reliability` writes them", n, c.name)
			}
		}
		return
	}
	var rows []findings
	for _, engine := range []string{"user", "tcx"} {
		t.Run(engine, func(t *testing.T) {
			enginesOfTests.Store(t.Name(), engine)
			m := newWorld(t).startAll(demoFile(t))
			for _, c := range causes {
				if c.engine == "" || c.engine == engine {
					t.Run(c.name, func(t *testing.T) { rows = append(rows, m.find(t, c, engine)) })
				}
			}
		})
	}
	if err := nstest.Rewrite(*reliability, "causes", pageOf(rows)); err != nil {
		t.Fatal(err)
	}
}

// find brings a cause about, waits until it is named, and cures it.
func (m *mesh) find(t *testing.T, c cause, engine string) findings {
	well := func(s control.Status) bool {
		return len(problems(s)) == 0 && s.Health.Level == control.OK &&
			!slices.ContainsFunc(s.Peers, func(p control.Peer) bool { return p.State != control.Up })
	}
	settle := func() {
		for _, d := range []*nstest.Daemon{m.w, m.w2} {
			waitStatus(t, d, "all is well", well)
		}
		run(t, m.PodW2a, "ping", "-c", "2", "-i", "0.2", "-Q", "0xb8", "10.244.1.2")
	}
	settle()
	run(t, c.on(m), c.spoil[0], c.spoil[1:]...)
	began := time.Now()
	f := findings{cause: c.name, engine: engine}
	waitStatus(t, m.w2, strings.Join(c.kinds, " or "), func(s control.Status) bool {
		i := slices.IndexFunc(s.Health.Problems,
			func(p control.Problem) bool { return slices.Contains(c.kinds, p.Kind) })
		if i < 0 {
			return false
		}
		p := s.Health.Problems[i]
		f.kind, f.level, f.remedy, f.named = p.Kind, p.Level, p.Remedy, time.Since(began)
		return true
	})
	if !c.carries {
		if out, err := m.PodW2a.Run("ping", "-c", "2", "-i", "0.2", "-W", "1", "10.244.1.2"); err == nil {
			t.Errorf("pods' packets pass:\n%s", out)
		}
	}
	run(t, c.on(m), c.cure[0], c.cure[1:]...)
	began = time.Now()
	settle()
	f.cured = time.Since(began)
	return f
}

// pageOf writes the part of docs/reliability.md about causes.
func pageOf(rows []findings) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", nstest.Measured("make reliability"))
	b.WriteString("| cause | engine | problem | level | named after | well again after |\n" +
		"|---|---|---|---|---|---|\n")
	for _, f := range rows {
		engine := strings.Replace(f.engine, "tcx", "kernel", 1)
		fmt.Fprintf(&b, "| %s | %s | `%s` | %s | %.0f s | %.0f s |\n", f.cause, engine, f.kind, f.level,
			f.named.Seconds(), f.cured.Seconds())
	}
	b.WriteString("\n## Remedies that status names\n\n| problem | remedy |\n|---|---|\n")
	seen := map[string]bool{}
	for _, f := range rows {
		if !seen[f.kind] {
			seen[f.kind] = true
			fmt.Fprintf(&b, "| `%s` | %s |\n", f.kind, strings.ReplaceAll(f.remedy, "|", "\\|"))
		}
	}
	return b.String()
}
