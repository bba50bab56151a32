package link

import (
	"net/netip"
	"slices"
	"testing"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

func TestPodsInterfaces(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, tun.Create("mesh0"))
		must(t, n.IP(
			"link add eth0 type veth peer name e0", "link set eth0 up", "link set e0 up",
			"addr add 10.1.0.2/8 dev eth0",
			"route add default via 10.1.0.1", "route add 10.244.9.0/24 via 10.1.0.7",
			"link add cni0 type bridge", "link set cni0 up", "addr add 10.244.2.1/24 dev cni0",
			"link add wide type bridge", "link set wide up", "addr add 10.245.2.1/23 dev wide",
			"link add v1 type veth peer name p1", "link set v1 up", "link set p1 up", "route add 10.244.4.7/32 dev v1",
			"link add vpn type bridge", "link set vpn up", "addr add 10.8.0.2/24 dev vpn",
			"route add 10.192.0.0/10 dev vpn",
			"link add lan type bridge", "link set lan up", "addr add 192.168.7.1/24 dev lan",
			"link set mesh0 up", "route add 10.244.0.0/16 dev mesh0",
			"addr add fd00:0:0:2::1/64 dev cni0 nodad",
		))
		underlay := []int{Index("eth0")}
		for _, test := range []struct {
			name     string
			prefixes []netip.Prefix
			want     []string
		}{
			{"a bridge", prefixes("10.244.2.0/24"), []string{"cni0"}},
			{"IPv6 on it", prefixes("fd00:0:0:2::/64"), []string{"cni0"}},
			{"a bridge of two subnets", prefixes("10.245.3.0/24"), []string{"wide"}},
			{"a pod routed by itself", prefixes("10.244.4.0/24"), []string{"v1"}},
			{"several", prefixes("10.244.2.0/24", "10.244.4.0/24"), []string{"cni0", "v1"}},
			{"nothing but the underlay and the TUN", prefixes("10.244.9.0/24"), nil},
			{"nothing yet", prefixes("10.244.77.0/24"), nil},
		} {
			sub(t, n, test.name, func(t *testing.T) {
				networks := prefixes("10.244.0.0/15", "fd00::/48")
				c, err := FindCrossing("mesh0", networks, test.prefixes, nil, underlay)
				if got := c.PodNames(); err != nil || !slices.Equal(got, test.want) {
					t.Errorf("%q, %v, want %q", got, err, test.want)
				}
			})
		}
	})
}
