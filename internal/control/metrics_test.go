package control

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func metricsSample() Status {
	return Status{
		Version: "0.1.0",
		Config:  Config{Generation: 3, SHA256: "9f3c", LastReload: Reload{OK: true}},
		Totals: Totals{Drops: map[string]uint64{"no_route": 3, "ttl_expired": 5, "malformed": 0},
			Unattributed: map[string]uint64{"no_route": 3, "ttl_expired": 1}},
		Peers: []Peer{{Name: "edge-2", State: Up, RxPackets: new(uint64(1)), RxBytes: new(uint64(2)),
			TxPackets: new(uint64(3)), TxBytes: new(uint64(4)),
			Drops: map[string]uint64{"ttl_expired": 4}}},
		Masquerade: Masquerade{Rules: []Rule{{Name: "pods-to-outside", Packets: 7}}, Repairs: 2},
	}
}

func TestMetrics(t *testing.T) {
	c := collector{metricsSample}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) != 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	want := "# HELP meshd_drops_total Packets dropped, by reason and peer; " +
		"the peer is empty for drops that belong to no current peer." + `
# TYPE meshd_drops_total counter
meshd_drops_total{peer="",reason="malformed"} 0
meshd_drops_total{peer="",reason="no_route"} 3
meshd_drops_total{peer="",reason="ttl_expired"} 1
meshd_drops_total{peer="edge-2",reason="ttl_expired"} 4
# HELP meshd_masquerade_packets_total Packets that matched a masquerade rule.
# TYPE meshd_masquerade_packets_total counter
meshd_masquerade_packets_total{rule="pods-to-outside"} 7
# HELP meshd_peer_receive_bytes_total Bytes of inner packets received from a peer and delivered.
# TYPE meshd_peer_receive_bytes_total counter
meshd_peer_receive_bytes_total{peer="edge-2"} 2
# HELP meshd_peer_up Whether the peer is up, in maintenance or not.
# TYPE meshd_peer_up gauge
meshd_peer_up{peer="edge-2"} 1
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "meshd_drops_total",
		"meshd_masquerade_packets_total",
		"meshd_peer_receive_bytes_total", "meshd_peer_up"); err != nil {
		t.Error(err)
	}
	// Before the node has found itself there is little to tell, and that is fine.
	empty := collector{func() Status { return Status{} }}
	if _, err := testutil.CollectAndLint(prometheus.Collector(empty)); err != nil {
		t.Error(err)
	}
}

// Metrics of addresses and of carriers are there where there is a choice, and each series once.
func TestMetricsOfWays(t *testing.T) {
	two := func(first, second string) []PeerAddress {
		return []PeerAddress{{Address: first, State: Down}, {Address: second, State: Up, Active: true}}
	}
	one := func(prefix string, active bool) []RouteState {
		return []RouteState{{Prefix: prefix, Active: active}}
	}
	c := collector{func() Status {
		return Status{Drain: &Drain{}, Peers: []Peer{
			{Name: "b", State: Draining, Drain: &Drain{}, Addresses: two("192.0.2.1:1", "192.0.2.2:1"),
				RouteStates: append(one("10.1.0.0/16", false), one("10.2.0.0/16", false)...)},
			{Name: "c", State: Up, Addresses: []PeerAddress{{Address: "192.0.2.3:1", State: Up, Active: true}},
				RouteStates: append(one("10.1.0.0/16", true), one("10.3.0.0/16", true)...)},
			{Name: "d", State: Silent, Addresses: two("192.0.2.4:1", "192.0.2.4:1")},
		}}
	}}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) != 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	want := `# HELP meshd_draining Whether this node is in maintenance.
# TYPE meshd_draining gauge
meshd_draining 1
# HELP meshd_peer_address_active Whether packets to a peer that has several addresses go to one of them.
# TYPE meshd_peer_address_active gauge
meshd_peer_address_active{address="192.0.2.1:1",peer="b"} 0
meshd_peer_address_active{address="192.0.2.2:1",peer="b"} 1
meshd_peer_address_active{address="192.0.2.4:1",peer="d"} 0
# HELP meshd_peer_address_up Whether a peer that has several addresses answers at one of them.
# TYPE meshd_peer_address_up gauge
meshd_peer_address_up{address="192.0.2.1:1",peer="b"} 0
meshd_peer_address_up{address="192.0.2.2:1",peer="b"} 1
meshd_peer_address_up{address="192.0.2.4:1",peer="d"} 0
# HELP meshd_peer_draining Whether the peer is in maintenance.
# TYPE meshd_peer_draining gauge
meshd_peer_draining{peer="b"} 1
meshd_peer_draining{peer="c"} 0
meshd_peer_draining{peer="d"} 0
# HELP meshd_peer_up Whether the peer is up, in maintenance or not.
# TYPE meshd_peer_up gauge
meshd_peer_up{peer="b"} 1
meshd_peer_up{peer="c"} 1
meshd_peer_up{peer="d"} 0
# HELP meshd_route_active Whether a peer carries packets for a prefix that several nodes have.
# TYPE meshd_route_active gauge
meshd_route_active{peer="b",prefix="10.1.0.0/16"} 0
meshd_route_active{peer="c",prefix="10.1.0.0/16"} 1
meshd_route_active{peer="b",prefix="10.2.0.0/16"} 0
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "meshd_draining", "meshd_peer_draining",
		"meshd_peer_address_active", "meshd_peer_address_up", "meshd_peer_up", "meshd_route_active"); err != nil {
		t.Error(err)
	}
}

func TestMetricsOnTheSocket(t *testing.T) {
	socket := serve(t, Source{Status: metricsSample})
	c := webClient(socket)
	response, err := c.Get("http://meshd/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body),
		`meshd_masquerade_packets_total{rule="pods-to-outside"} 7`) {
		t.Errorf("%s, %v\n%s", response.Status, err, body)
	}
}
