package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// Rules of a host about the mesh port hold for pods' packets, whichever engine moves them, in each
// place that the host has for them; status says so. Once they are gone all is as before.
func TestHostDecides(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) {
		m := newWorld(t).startAll(demoFile(t) + "[probe]\ninterval = \"200ms\"\n")
		for _, c := range []struct{ name, kind, table string }{
			{"input", "peer_refused",
				"inet f { chain c { type filter hook input priority 0; ip saddr 172.18.0.4 udp dport 8285 drop; }; }"},
			{"raw", "peer_refused",
				"ip f { chain c { type filter hook prerouting priority -300; " +
					"ip saddr 172.18.0.4 udp dport 8285 drop; }; }"},
			{"ingress", "peer_refused", "netdev f { chain c { type filter hook ingress device \"eth0\" priority 0; " +
				"ip saddr 172.18.0.4 udp dport 8285 drop; }; }"},
			{"output", "send_refused",
				"ip f { chain c { type filter hook output priority 0; ip daddr 172.18.0.4 udp dport 8285 drop; }; }"},
		} {
			t.Run(c.name, func(t *testing.T) {
				for _, d := range []*nstest.Daemon{m.w, m.w2} {
					waitStatus(t, d, "peers are up", func(s control.Status) bool {
						return !slices.ContainsFunc(s.Peers, func(p control.Peer) bool { return p.State != control.Up })
					})
				}
				run(t, m.PodW, "ping", "-c", "1", "-W", "2", "10.244.2.2")
				run(t, m.Worker2.Namespace, "nft", "add table "+strings.TrimSuffix(c.table, " "))
				if engineOf(t) == "user" && c.kind == "peer_refused" { // sockets cannot tell
					waitStatus(t, m.w2, "worker is not heard",
						func(s control.Status) bool { return peer(t, s, "worker").State != control.Up })
				} else {
					waitStatus(t, m.w2, c.kind,
						func(s control.Status) bool { return hasProblem(s, c.kind) })
				}
				if out, err := m.PodW.Run("ping", "-c", "3", "-i", "0.2", "-W", "1", "10.244.2.2"); err == nil {
					t.Errorf("packets pass a rule of the host:\n%s", out)
				}
				family, _, _ := strings.Cut(c.table, " ")
				run(t, m.Worker2.Namespace, "nft", "delete", "table", family, "f")
				waitStatus(t, m.w2, "all is well", func(s control.Status) bool {
					return peer(t, s, "worker").State == control.Up && !hasProblem(s, c.kind)
				})
				run(t, m.PodW, "ping", "-c", "1", "-W", "2", "10.244.2.2")
			})
		}
	})
}

// Programs of a host whose meshd is stopped send on. Its peers try whether their own rules let
// that in, and no packet is lost by the trial.
func TestSilentNeighbourIsTried(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newWorld(t).startAll(engineFile(t, "kernel", "tcx"))
	known(t, m.w2, "worker")
	known(t, m.w, "worker2")
	if _, err := m.w.Stop(); err != nil {
		t.Fatal(err)
	}
	out := run(t, m.PodW2b, "ping", "-c", "80", "-i", "0.1", "-W", "2", "10.244.1.2")
	s := status(t, m.w2)
	tried := s.Dataplane.Handed["in_by_socket"]
	if tried == 0 || tried > 60 || hasProblem(s, "peer_refused") ||
		!strings.Contains(out, " 0% packet loss") {
		t.Errorf("%d packets by the socket, problems %q\n%s", tried, problems(s), out)
	}
}

// A queueing discipline that somebody gives the TUN sees what pods send, and its end is noticed.
func TestShapedTUN(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) {
		m := newWorld(t).startAll(demoFile(t))
		known(t, m.w2, "worker")
		shaped := func(want bool) {
			t.Helper()
			if engineOf(t) == "user" {
				return
			}
			waitStatus(t, m.w2, "the queueing discipline is known", func(s control.Status) bool {
				return slices.Contains(problems(s), "tun_shaped") == want
			})
		}
		run(t, m.Worker2.Namespace, "tc", "qdisc", "add", "dev", "mesh0", "root", "pfifo", "limit", "0")
		shaped(true)
		if out, err := m.PodW2b.Run("ping", "-c", "3", "-i", "0.2", "-W", "1", "10.244.1.2"); err == nil {
			t.Errorf("packets pass the queueing discipline:\n%s", out)
		}
		run(t, m.Worker2.Namespace, "tc", "qdisc", "del", "dev", "mesh0", "root")
		shaped(false)
		run(t, m.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
	})
}

// Rules on the way out that name the mesh port see pods' packets to the peers that they are about, and
// programs go on with all others; once a rule is gone programs send again.
func TestOutgoingRulesHold(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newWorld(t).startAll(engineFile(t, "kernel", "tcx"))
	known(t, m.w2, "worker")
	known(t, m.w2, "control-plane")
	ruled := func(want bool) {
		t.Helper()
		waitStatus(t, m.w2, "rules on the way out are known", func(s control.Status) bool {
			return s.Dataplane.Engine == "kernel" && hasProblem(s, "peers_ruled") == want
		})
	}
	// byUser sends packets to a pod of a peer, and returns how many of them user space has sent.
	byUser := func(to string) uint64 {
		t.Helper()
		before := status(t, m.w2).Dataplane.Handed["out_by_user"]
		run(t, m.PodW2b, "ping", "-c", "10", "-i", "0.05", "-W", "2", to)
		return status(t, m.w2).Dataplane.Handed["out_by_user"] - before
	}
	for _, c := range []struct {
		name, begin, count, end string
	}{
		{"nft", "nft 'table inet f { chain c { type filter hook output priority 0; " +
			"ip daddr 172.18.0.4 udp dport 8285 counter meta mark set 7; }; }'",
			"nft list table inet f | grep -o 'packets [0-9]*'", "nft delete table inet f"},
		{"egress", "nft 'table netdev f { chain c { type filter hook egress device eth0 priority 0; " +
			"ip daddr 172.18.0.4 udp dport 8285 counter; }; }'",
			"nft list table netdev f | grep -o 'packets [0-9]*'", "nft delete table netdev f"},
		{"iptables", "iptables-nft -t mangle -A POSTROUTING -d 172.18.0.4 -p udp -m multiport --dports 8000:9000 " +
			"-j DSCP --set-dscp 46",
			"iptables-nft -t mangle -L POSTROUTING -nvx | awk '/multiport/ {print \"packets\", $1}'",
			"iptables-nft -t mangle -F"},
	} {
		t.Run(c.name, func(t *testing.T) {
			count := func() (n int) {
				t.Helper()
				out := run(t, m.Worker2.Namespace, "sh", "-c", c.count)
				if _, err := fmt.Sscanf(out, "packets %d", &n); err != nil {
					t.Fatal(err, out)
				}
				return n
			}
			run(t, m.Worker2.Namespace, "sh", "-ec", c.begin)
			ruled(true)
			before := count()
			if n := byUser("10.244.1.2"); n < 10 || count() < before+10 {
				t.Errorf("user space has sent %d of 10 packets, and the rule has seen %d", n, count()-before)
			}
			if n := byUser("10.244.0.2"); n > 0 {
				t.Errorf("user space has sent %d packets to a peer that the rule is not about", n)
			}
			run(t, m.Worker2.Namespace, "sh", "-ec", c.end)
			ruled(false)
			if n := byUser("10.244.1.2"); n > 0 {
				t.Errorf("user space has sent %d packets after the rule went", n)
			}
		})
	}
}
