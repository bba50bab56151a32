package e2e

import (
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// A policy of IPsec about one peer's datagrams holds for pods' data, too, whichever engine the file
// asks for, in or out. User space moves that peer's packets as long as there is one, status names
// the policy, and programs go on with all other peers.
func TestIPsecPolicyHolds(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	for _, engine := range []string{"kernel", "auto", "user"} {
		t.Run(engine, func(t *testing.T) {
			m := newWorld(t).startAll(
				demoFile(t) + "[dataplane]\nengine = \"" + engine + "\"\n[probe]\ninterval = \"200ms\"\n")
			programs := engine != "user"
			if programs {
				known(t, m.w2, "worker")
				known(t, m.w, "worker2")
			}
			pings := func(to string, want bool) {
				t.Helper()
				if out, err := m.PodW2b.Run("ping", "-c", "3", "-i", "0.1", "-W", "1", to); (err == nil) != want {
					t.Errorf("ping: %v, want %v\n%s", err, want, out)
				}
			}
			pings("10.244.1.2", true)
			for _, policy := range []string{
				"src 172.18.0.4 dst 172.18.0.3 proto udp dport 8285 dir in action block",
				"src 172.18.0.3 dst 172.18.0.4 proto udp dport 8285 dir out action block",
			} {
				run(t, m.Worker2.Namespace, "sh", "-c", "ip xfrm policy add "+policy)
				if programs {
					policed(t, m.w2, true)
				}
				pings("10.244.1.2", false)
				pings("10.244.0.2", true)
				if strings.Contains(policy, "dir in") { // the kernel drops at the socket, which has room
					s := waitStatus(t, m.w2, "the kernel refuses datagrams",
						func(s control.Status) bool { return s.Totals.Drops["socket_refused"] > 0 })
					if n := s.Totals.Drops["socket_overflow"]; n > 0 {
						t.Errorf("%d of them count as overflows", n)
					}
				}
				run(t, m.Worker2.Namespace, "ip", "xfrm", "policy", "flush")
				if programs {
					policed(t, m.w2, false)
				}
				waitStatus(t, m.w2, "worker is up",
					func(s control.Status) bool { return peer(t, s, "worker").State == control.Up })
				pings("10.244.1.2", true)
			}
		})
	}
}

// policed waits until the kernel engine of a daemon leaves some peers to user space for a policy of
// IPsec, or none any more.
func policed(t *testing.T, d *nstest.Daemon, want bool) {
	t.Helper()
	waitStatus(t, d, "policies of IPsec are known", func(s control.Status) bool {
		return s.Dataplane.Engine == "kernel" && slices.Contains(problems(s), "peers_policed") == want
	})
}
