package link

import (
	"strings"
	"testing"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

// waysGo checks by which device the mesh's packets leave the host, or that they are "unreachable".
func waysGo(t *testing.T, n *nstest.Namespace, when, want string) {
	t.Helper()
	for _, to := range []string{"10.244.1.2", "fd00::7", "192.168.7.9"} {
		out, err := n.Run("ip", "route", "get", to)
		refused := want == "unreachable"
		if (err != nil) != refused || !refused && !strings.Contains(out, "dev "+want) {
			t.Errorf("%s: the way to %s is %s, %v", when, to, out, err)
		}
	}
}

// backstopsChange sets backstops and checks how many of them were not as they should be.
func backstopsChange(t *testing.T, changes int, carried []string) {
	t.Helper()
	changed, _, err := SetBackstops(prefixes(carried...))
	if err != nil || len(changed) != changes {
		t.Errorf("SetBackstops: %q, %v, want %d changes", changed, err, changes)
	}
}

// With a default route, packets for what the mesh carries are refused while the TUN is down, without
// its routes, or deleted; and until cleanup.
func TestBackstops(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link add u0 type veth peer name v0", "addr add 192.0.2.1/24 dev u0",
			"addr add 2001:db8::1/64 dev u0 nodad", "link set u0 up", "link set v0 up",
			"route add default via 192.0.2.9", "route add default via 2001:db8::9"))
		before := state(t, n)
		carried := prefixes("10.244.0.0/16", "fd00::/48", "192.168.7.0/24")
		ways := func(when, want string) { t.Helper(); waysGo(t, n, when, want) }
		backstops := func(changes int, carried ...string) { t.Helper(); backstopsChange(t, changes, carried) }
		ways("before", "u0")
		backstops(3, "10.244.0.0/16", "fd00::/48", "192.168.7.0/24")
		backstops(0, "10.244.0.0/16", "fd00::/48", "192.168.7.0/24")
		ways("without a TUN", "unreachable")
		must(t, CheckRoutes("mesh0", carried))
		if shadows, err := Shadows("mesh0", carried); err != nil || len(shadows) > 0 {
			t.Errorf("shadows %v, %v", shadows, err)
		}
		s := Settings{Interface: "mesh0", MTU: 1472, Addresses: addrs("10.244.2.0"), Routes: RoutesTo(carried...)}
		must(t, tun.Create("mesh0"))
		must(t, Claim("mesh0"))
		for _, damage := range []string{
			"link set mesh0 down", "route flush proto 85", "-6 route flush proto 85", "link del mesh0",
		} {
			if Exists("mesh0") {
				must(t, set(s))
				ways("with a TUN", "mesh0")
			}
			output(t, n, "sh", "-c", "ip "+damage)
			if strings.Contains(damage, "flush") {
				output(t, n, "sh", "-c", "ip route flush proto 85; ip -6 route flush proto 85")
			}
			ways("after "+damage, "unreachable")
		}
		backstops(1, "10.244.0.0/16", "fd00::/48")
		if out := output(t, n, "ip", "route", "get", "192.168.7.9"); !strings.Contains(out, "dev u0") {
			t.Errorf("what a reload took out: %s", out)
		}
		for _, want := range []bool{true, false} {
			if removed, err := CleanUpBackstops(); err != nil || removed != want {
				t.Errorf("CleanUpBackstops: %v, %v", removed, err)
			}
		}
		if after := state(t, n); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	})
}
