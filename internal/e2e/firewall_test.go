package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// firewalldLike is what firewalld makes of forwarding, shortened: the policy is accept, and the last
// rule rejects all.
const firewalldLike = `table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_FORWARD_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD_ZONES { iifname "eth0" goto filter_FWD_public; goto filter_FWD_public; }
	chain filter_FWD_public { jump filter_FWD_public_allow; reject with icmpx admin-prohibited; }
	chain filter_FWD_public_allow { }
}`

// pinged tells whether a pod of another host reaches one of worker2's.
func (m *mesh) pinged() bool {
	_, err := m.PodW.Run("ping", "-c", "1", "-W", "1", "10.244.2.2")
	return err == nil
}

// A forward chain that rejects what none of its rules accepts stops no pod, as one whose policy is drop
// does not; also after the firewall has loaded its rules again.
func TestRejectingForwardChain(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) {
		m := newMesh(t)
		again := "flush table inet firewalld; delete table inet firewalld;" + firewalldLike
		for _, load := range []string{firewalldLike, again} {
			run(t, m.Worker2.Namespace, "nft", load)
			eventually(t, "pods reach each other", m.pinged,
				func() string { return run(t, m.Worker2.Namespace, "nft", "list", "ruleset") })
			run(t, m.PodW2a, "ping", "-c", "1", "-w", "10", "10.244.1.2")
		}
		waitStatus(t, m.w2, "all is well", func(s control.Status) bool { return s.Health.Level == "ok" })
		// Where the operator wants no accept, status names the rule that rejects.
		rewrite(t, m.w2, demoFile(t)+"[masquerade]\nforward = false\n")
		if err := m.w2.WaitEvent("pods_filtered", "where", "inet firewalld filter_FWD_public"); err != nil {
			t.Fatal(err)
		}
		waitStatus(t, m.w2, "this node has failed", func(s control.Status) bool {
			return s.Health.Level == "failed" && hasProblem(s, "pods_filtered")
		})
		rewrite(t, m.w2, demoFile(t))
		m.podsPass(t, "inet firewalld filter_FWD_public")
	})
}

// A probe that this host forwards is a new connection for its firewall, reaches no pod, and leaves no
// connection behind.
func TestForwardedProbesEndHere(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	run(t, w.Worker2.Namespace, "nft", `table ip seen { chain f { type filter hook forward priority 0
		icmp type echo-request ip daddr 10.244.2.254 ct state new counter
		icmp type echo-request ip daddr 10.244.2.254 ct state != new counter; }; }`)
	m := w.startAll(demoFile(t))
	bridge := capture(t, m.Worker2.Namespace, "cni0")
	counted := func() (fresh, other string) {
		lines := strings.Split(run(t, m.Worker2.Namespace, "nft", "list chain ip seen f"), "\n")
		for _, line := range lines {
			_, count, _ := strings.Cut(line, "counter packets ")
			count, _, _ = strings.Cut(count, " ")
			switch {
			case strings.Contains(line, "ct state new"):
				fresh = count
			case strings.Contains(line, "ct state != new"):
				other = count
			}
		}
		return fresh, other
	}
	eventually(t, "three probes were forwarded", func() bool {
		fresh, _ := counted()
		n, err := strconv.Atoi(fresh)
		return err == nil && n >= 3
	}, func() string { return run(t, m.Worker2.Namespace, "nft", "list ruleset") })
	if _, other := counted(); other != "0" {
		t.Errorf("%s probes were of connections that exist", other)
	}
	run(t, m.PodW, "ping", "-c", "1", "-w", "10", "10.244.2.2") // a later frame
	if f, err := bridge.Next(time.Second, isProbe); err == nil {
		t.Errorf("on the pods' bridge: % x", f)
	}
	if s := status(t, m.w2); s.Health.Level != "ok" {
		t.Errorf("health %+v", s.Health)
	}
}

// hasProblem tells whether status has a problem of a kind.
func hasProblem(s control.Status, kind string) bool {
	for _, p := range s.Health.Problems {
		if p.Kind == kind {
			return true
		}
	}
	return false
}

// podsPass waits until worker2 says that a place drops nothing any more, and that is so.
func (m *mesh) podsPass(t *testing.T, where string) {
	t.Helper()
	if err := m.w2.WaitEvent("pods_pass", "where", where); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, m.w2, "all is well", // peers tell of their file within a second
		func(s control.Status) bool { return s.Health.Level == "ok" })
	run(t, m.PodW, "ping", "-c", "1", "-w", "10", "10.244.2.2")
	run(t, m.PodW2a, "ping", "-c", "1", "-w", "10", "10.244.1.2")
}

// drops are rules of other programs that an accept in a chain of ours cannot beat.
var drops = []struct{ name, rules, where, level string }{
	{"of all pods before connection tracking", `table ip other {
		chain pre { type filter hook prerouting priority raw; ip daddr 10.244.2.0/24 iifname != "cni0" drop; }
	}`, "ip other pre", "failed"},
	{"of one pod, as Docker drops what is sent to each container", `table ip raw {
		chain PREROUTING { type filter hook prerouting priority raw; policy accept
			ip daddr 10.244.2.2 iifname != "cni0" counter drop
		}
	}`, "ip raw PREROUTING", "degraded"},
	{"by the name of a set", `table inet other {
		set pods { type ipv4_addr; elements = { 10.244.2.2, 192.0.2.1 }; }
		chain pre { type filter hook prerouting priority mangle; ip daddr @pods drop; }
	}`, "inet other pre", "degraded"},
	{"of new connections in a mangle table", `table ip mangle {
		chain FORWARD { type filter hook forward priority mangle; oifname "cni0" ct state new jump own; }
		chain own { counter drop; }
	}`, "ip mangle own", "failed"},
	{"Docker's own tables", `table ip docker-bridges {
		map in { type ifname : verdict; elements = { "cni0" : jump in__cni0 }; }
		chain filter-FORWARD { type filter hook forward priority filter; oifname vmap @in; }
		chain in__cni0 { ct state established,related accept; iifname "cni0" accept; counter drop; }
	}`, "ip docker-bridges in__cni0", "failed"},
	{"Tailscale's", `table ip filter {
		chain FORWARD { type filter hook forward priority filter; policy accept; counter jump ts-forward; }
		chain ts-forward { ip saddr 10.244.0.0/16 iifname != "tailscale0" counter drop; }
	}`, "ip filter ts-forward", "failed"},
	{"a policy behind routing", `table inet other {
		chain post { type filter hook postrouting priority 0; policy drop; udp dport 8285 accept; }
	}`, "inet other post", "failed"},
}

// What drops pods' packets is named by table and chain, and the command that status shows cures it.
func TestDropsOfOthersAreNamed(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) {
		m := newMesh(t)
		for _, test := range drops {
			t.Run(test.name, func(t *testing.T) {
				run(t, m.Worker2.Namespace, "nft", test.rules)
				if err := m.w2.WaitEvent("pods_filtered", "where", test.where); err != nil {
					t.Fatal(err)
				}
				if m.pinged() {
					t.Error("the pod is reached")
				}
				s := status(t, m.w2)
				if s.Health.Level != test.level || !hasProblem(s, "pods_filtered") {
					t.Fatalf("health %+v", s.Health)
				}
				_, command, _ := strings.Cut(s.Health.Problems[0].Remedy, "`")
				command, _, _ = strings.Cut(command, "`")
				run(t, m.Worker2.Namespace, "sh", "-c", command)
				m.podsPass(t, test.where)
				run(t, m.Worker2.Namespace, "nft", "delete table "+strings.Fields(test.rules)[1]+" "+
					strings.Fields(test.rules)[2])
			})
		}
	})
}

// A rule that drops pods' packets is forgotten once it is gone.
func TestDropIsForgotten(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) {
		m := newMesh(t)
		run(t, m.Worker2.Namespace, "nft",
			`table ip other { chain pre { type filter hook prerouting priority raw; iifname "mesh0" drop; }; }`)
		if err := m.w2.WaitEvent("pods_filtered", "where", "ip other pre"); err != nil {
			t.Fatal(err)
		}
		run(t, m.Worker2.Namespace, "nft", "delete table ip other")
		m.podsPass(t, "ip other pre")
	})
}
