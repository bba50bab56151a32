package e2e

import (
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// Packets of both families travel encrypted over an underlay of IPv6, and what is not for this host is
// dropped in both.
func TestSealedIPv6(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	doc := strings.Replace(dualStack("2001:db8::%d"), "[network]\n", "[network]\ntransport = \"wireguard\"\n", 1)
	for n, h := range s.Hosts() {
		doc = strings.Replace(doc, "subnets = [\"10.244."+string('0'+rune(n)),
			"public_key = \""+s.public[h]+"\"\nsubnets = [\"10.244."+string('0'+rune(n)), 1)
	}
	all := s.runAll(doc)
	w2 := all[2]
	if p := peer(t, status(t, w2), "worker"); p.WireGuard.Endpoint != "[2001:db8::4]:51820" || p.RTTMS == nil {
		t.Errorf("%+v, %+v", p, p.WireGuard)
	}
	if w := status(t, w2).WireGuard; w.MTU != 1408 {
		t.Errorf("%+v", w)
	}
	meet(t, podAt{s.PodW2b, "10.244.2.3"}, podAt{s.PodW, "10.244.1.2"})
	meet(t, podAt{s.PodW2b, "fd00:10:244:2::3"}, podAt{s.PodW, "fd00:10:244:1::2"})
	contains(t, run(t, s.PodW, "ping", "-c", "1", "fd00:10:244:2::3"), "ttl=62")

	s.wg(s.Worker, "set", "meshd-wg", "peer", s.public[s.Worker2], "allowed-ips", "::/0")
	s.ip(s.Worker, "route replace 2001:db8::2/128 dev meshd-wg src fd00:10:244:1::")
	before := status(t, w2).Totals.Drops["wrong_destination"]
	if out, err := s.Worker.Run("ping", "-c", "1", "-W", "1", "2001:db8::2"); err == nil {
		t.Error(out)
	}
	waitStatus(t, w2, "dropped", func(st control.Status) bool {
		return st.Totals.Drops["wrong_destination"] > before
	})
}
