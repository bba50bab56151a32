package e2e

import (
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// forwards waits until a daemon forwards with an engine.
func forwards(t *testing.T, d *nstest.Daemon, engine string) {
	t.Helper()
	s := waitStatus(t, d, "engine "+engine, func(s control.Status) bool { return s.Dataplane.Engine == engine })
	if (s.Dataplane.Reason == "") != (engine == "kernel") || len(problems(s)) > 0 {
		t.Errorf("engine %s, reason %q, warnings %q", s.Dataplane.Engine, s.Dataplane.Reason, s.Warnings)
	}
}

// A policy of IPsec about the mesh's datagrams holds for pods' data, too, whichever engine the file
// asks for: the kernel engine stands aside as long as there is one, in or out.
func TestIPsecPolicyHolds(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	for _, engine := range []string{"kernel", "auto", "user"} {
		t.Run(engine, func(t *testing.T) {
			m := newWorld(t).startAll(
				demoFile(t) + "[dataplane]\nengine = \"" + engine + "\"\n[probe]\ninterval = \"200ms\"\n")
			unpoliced := map[string]string{"user": "user"}[engine]
			if unpoliced == "" {
				unpoliced = "kernel"
				known(t, m.w2, "worker")
				known(t, m.w, "worker2")
				forwards(t, m.w2, unpoliced)
			}
			pings := func(want bool) {
				t.Helper()
				if out, err := m.PodW2b.Run("ping", "-c", "3", "-i", "0.1", "-W", "1",
					"10.244.1.2"); (err == nil) != want {
					t.Errorf("ping: %v, want %v\n%s", err, want, out)
				}
			}
			pings(true)
			for _, policy := range []string{
				"src 172.18.0.4 dst 172.18.0.3 proto udp dport 8285 dir in action block",
				"src 172.18.0.3 dst 172.18.0.4 proto udp dport 8285 dir out action block",
			} {
				run(t, m.Worker2.Namespace, "sh", "-c", "ip xfrm policy add "+policy)
				if engine != "user" {
					forwards(t, m.w2, "user")
				}
				pings(false)
				run(t, m.Worker2.Namespace, "ip", "xfrm", "policy", "flush")
				if engine != "user" {
					forwards(t, m.w2, unpoliced)
				}
				waitStatus(t, m.w2, "worker is up",
					func(s control.Status) bool { return peer(t, s, "worker").State == control.Up })
				pings(true)
			}
		})
	}
}
