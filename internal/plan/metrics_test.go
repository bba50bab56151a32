package plan

import (
	"net/netip"
	"testing"

	"example.org/meshd/internal/link"
)

func TestMetrics(t *testing.T) {
	p := must(t, parse(t, `
[network]
cidr = "10.244.0.0/16"
[[node]]
name = "a"
address = "172.18.0.2"
subnets = ["10.244.1.0/24"]
routes = ["192.168.8.0/24"]
[[node]]
name = "b"
address = "172.18.0.3"
subnets = ["10.244.2.0/24"]
routes = [{ prefix = "192.168.7.0/24", metric = 0 }, "192.168.9.0/24"]
`), 0, Host{Local: []netip.Addr{netip.MustParseAddr("172.18.0.2")}, Underlay: link.Underlay{MTU: 1500}})
	of := p.Metrics()
	for _, test := range []struct {
		node, prefix string
		want         int
	}{{"a", "192.168.8.0/24", 100}, {"b", "192.168.7.0/24", 0}, {"b", "192.168.9.0/24", 100}} {
		t.Run(test.node+" "+test.prefix, func(t *testing.T) {
			if got := of(test.node, netip.MustParsePrefix(test.prefix)); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}
