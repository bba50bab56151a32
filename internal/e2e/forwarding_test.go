package e2e

import (
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// With --sysctl pods reach other hosts and the outside, though ip_forward stays off. What somebody
// turns off is told and stays off, and cleanup puts back what was found.
func TestForwardingPerInterface(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	host := w.Worker2
	for _, key := range []string{"ipv4.ip_forward", "ipv6.conf.all.forwarding"} {
		if err := host.Sysctl(key, "0"); err != nil {
			t.Fatal(err)
		}
	}
	values := func() string {
		return run(t, host.Namespace, "sh", "-c",
			"cd /proc/sys/net && grep . ipv[46]/conf/*/forwarding ipv6/conf/*/accept_ra")
	}
	before := values()
	file := w.write(dualStack("172.18.0.%d"))
	m := &mesh{world: w, cp: w.start(w.ControlPlane, file), w: w.start(w.Worker, file)}
	m.w2 = w.start(host, file, "--sysctl")
	for _, d := range w.daemons {
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
	}
	if s := status(t, m.w2); len(problems(s)) != 0 {
		t.Errorf("warnings %q", s.Warnings)
	}
	for _, to := range []string{"10.244.1.2", "fd00:10:244:1::2"} {
		contains(t, run(t, m.PodW2b, "ping", "-c", "1", "-W", "5", to), "ttl=60")
	}
	run(t, m.PodW2b, "ping", "-c", "1", "-W", "5", "172.18.0.2") // by the underlay, masqueraded
	got := values()
	contains(t, got, "ipv4/conf/all/forwarding:0", "ipv4/conf/eth0/forwarding:1", "ipv6/conf/all/forwarding:1",
		"ipv6/conf/default/forwarding:0", "ipv6/conf/eth0/accept_ra:1")

	// The kernel tells of what other programs turn off.
	if err := host.Sysctl("ipv4.conf.eth0.forwarding", "0"); err != nil {
		t.Fatal(err)
	}
	if s := status(t, m.w2); !only(s, "outside_off") || !strings.Contains(s.Health.Problems[0].Text, "eth0") {
		t.Errorf("warnings %q", s.Warnings)
	}
	run(t, m.PodW2b, "ping", "-c", "1", "-W", "5", "10.244.1.2") // the mesh does not need it
	if err := m.PodW2b.Command("ping", "-c", "1", "-W", "1", "172.18.0.2").Run(); err == nil {
		t.Error("an answer from outside the mesh came to a pod")
	}
	if err := host.IP("route del 10.244.0.0/16 dev mesh0"); err != nil { // the daemon looks at everything
		t.Fatal(err)
	}
	if err := m.w2.WaitEvent("repaired"); err != nil {
		t.Fatal(err)
	}
	contains(t, values(), "ipv4/conf/eth0/forwarding:0")

	if _, err := m.w2.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.w2.Ask("cleanup"); err != nil {
		t.Fatal(err)
	}
	if after := values(); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}
