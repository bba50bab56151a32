package control

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"example.org/meshd/internal/text"
)

// collector turns a Status into metrics: nothing is counted twice, so metrics and status cannot
// disagree. A scrape reads everything anew.
type collector struct{ status func() Status }

// descriptions are all of the metrics, as Describe has to list them: a registry checks by it that no
// two collectors have one name.
var descriptions []*prometheus.Desc

// description makes a metric and lists it, so that none can be forgotten.
func description(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(name, help, labels, nil)
	descriptions = append(descriptions, d)
	return d
}

// Metrics of the node and its file.
var (
	buildInfo = description("meshd_build_info",
		"Version of the running daemon.", "version")
	configGeneration = description("meshd_config_generation",
		"Generation of the configuration in force.")
	configInfo = description("meshd_config_info",
		"Hash of the configuration file in force.", "sha256")
	reloadSuccessful = description("meshd_config_last_reload_successful",
		"Whether the last attempt to apply the file succeeded.")
	healthLevel = description("meshd_health",
		"How well the node is: 0 ok, 1 degraded, 2 failed.")
	condition = description("meshd_condition",
		"Number of problems of a kind that last at this time.", "kind")
	draining = description("meshd_draining",
		"Whether this node is in maintenance.")
	routeActive = description("meshd_route_active",
		"Whether a peer carries packets for a prefix that several nodes have.", "prefix", "peer")
	interfaceRepairs = description("meshd_interface_repairs_total",
		"Times that the interface was repaired or a change of the host led to a new plan.")
)

// Metrics of peers. A figure that is not known is left out: a zero would be a false measurement.
var (
	peerRxPackets = description("meshd_peer_receive_packets_total",
		"Inner packets received from a peer and delivered.", "peer")
	peerRxBytes = description("meshd_peer_receive_bytes_total",
		"Bytes of inner packets received from a peer and delivered.", "peer")
	peerTxPackets = description("meshd_peer_transmit_packets_total",
		"Inner packets sent to a peer.", "peer")
	peerTxBytes = description("meshd_peer_transmit_bytes_total",
		"Bytes of inner packets sent to a peer.", "peer")
	peerUp = description("meshd_peer_up",
		"Whether the peer is up, in maintenance or not.", "peer")
	peerRTT = description("meshd_peer_rtt_seconds",
		"Median round trip time of the last 60 probes.", "peer")
	peerLoss = description("meshd_peer_loss_ratio",
		"Share of the last 60 probes without an answer.", "peer")
	peerMTU = description("meshd_peer_mtu_bytes",
		"Size of the largest packets that reach a peer.", "peer")
	peerConfigMatch = description("meshd_peer_config_match",
		"Whether the peer runs the same configuration file.", "peer")
	peerDraining = description("meshd_peer_draining",
		"Whether the peer is in maintenance.", "peer")
	peerAddressUp = description("meshd_peer_address_up",
		"Whether a peer that has several addresses answers at one of them.", "peer", "address")
	peerAddressActive = description("meshd_peer_address_active",
		"Whether packets to a peer that has several addresses go to one of them.", "peer", "address")
	peerEncrypted = description("meshd_peer_encrypted",
		"Whether packets can pass encrypted to and from a peer now; absent if packets are not encrypted.",
		"peer")
	peerHandshake = description("meshd_peer_handshake_seconds",
		"Time since the last handshake of WireGuard with a peer; absent before the first.", "peer")
	probesSent = description("meshd_peer_probes_sent_total",
		"Probes sent to a peer.", "peer")
	probesReceived = description("meshd_peer_probes_answered_total",
		"Probes that a peer answered.", "peer")
)

// Metrics of packets and rules.
var (
	drops = description("meshd_drops_total",
		"Packets dropped, by reason and peer; the peer is empty for drops that belong to no current peer.",
		"reason", "peer")
	dataplaneInfo = description("meshd_dataplane_info",
		"What moves packets: the engine, and where it receives them.", "engine", "receive")
	calls = description("meshd_dataplane_calls_total",
		"System calls that moved packets, by place.", "call")
	callPackets = description("meshd_dataplane_packets_total",
		"Packets that these calls moved, including packets dropped later.", "call")
	handed = description("meshd_dataplane_handed_total",
		"Packets or superpackets that the kernel engine left to user space, by reason.", "reason")
	masqueradePackets = description("meshd_masquerade_packets_total",
		"Packets that matched a masquerade rule.", "rule")
	allowPackets = description("meshd_allow_packets_total",
		"Packets for what is behind this node that a rule of the file allowed.", "rule")
	masqueradeRepairs = description("meshd_masquerade_repairs_total",
		"Times that rules were restored after another program changed them.")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s, m := c.status(), metrics(out)
	m.gauge(buildInfo, 1, s.Version)
	m.gauge(configGeneration, float64(s.Config.Generation))
	m.gauge(configInfo, 1, s.Config.SHA256)
	m.gauge(reloadSuccessful, oneIf(s.Config.LastReload.OK))
	m.health(s.Health)
	m.counter(interfaceRepairs, s.Network.Repairs)
	m.gauge(draining, oneIf(s.Drain != nil))
	for i := range s.Peers {
		m.peer(&s.Peers[i], s.Now)
	}
	m.shared(s.Peers)
	// All reasons, also those at zero: a series that appears with its first drop has no rate
	// for that drop.
	for reason := range s.Totals.Drops {
		m.counter(drops, s.Totals.Unattributed[reason], reason, "")
	}
	if d := s.Dataplane; d.Engine != "" { // before the start there is none
		m.gauge(dataplaneInfo, 1, d.Engine, d.Receive)
	}
	for name, c := range s.Dataplane.Calls {
		m.counter(calls, c.Calls, name)
		m.counter(callPackets, c.Packets, name)
	}
	for reason, n := range s.Dataplane.Handed {
		m.counter(handed, n, reason)
	}
	for _, r := range s.Masquerade.Rules {
		m.counter(masqueradePackets, r.Packets, r.Name)
	}
	for _, r := range s.Allow.Rules {
		m.counter(allowPackets, r.Packets, r.Name)
	}
	m.counter(masqueradeRepairs, s.Masquerade.Repairs)
}

// metrics is where Collect sends what it finds.
type metrics chan<- prometheus.Metric

// health sends the level, and how many problems there are of each kind.
func (m metrics) health(h Health) {
	m.gauge(healthLevel, float64(max(0, slices.Index([]string{OK, Degraded, Failed}, h.Level))))
	count := map[string]int{}
	for _, p := range h.Problems {
		count[p.Kind]++
	}
	for kind, n := range count {
		m.gauge(condition, float64(n), kind)
	}
}

// peer sends what is known of a peer at a time of the daemon's clock.
func (m metrics) peer(p *Peer, now time.Time) {
	m.known(peerRxPackets, p.RxPackets, p.Name)
	m.known(peerRxBytes, p.RxBytes, p.Name)
	m.known(peerTxPackets, p.TxPackets, p.Name)
	m.known(peerTxBytes, p.TxBytes, p.Name)
	m.gauge(peerUp, oneIf(p.IsUp()), p.Name)
	m.counter(probesSent, p.ProbesTx, p.Name)
	m.counter(probesReceived, p.ProbesRx, p.Name)
	if p.RTTMS != nil {
		m.gauge(peerRTT, *p.RTTMS/1000, p.Name)
	}
	if p.Loss != nil {
		m.gauge(peerLoss, *p.Loss, p.Name)
	}
	if p.MTU > 0 {
		m.gauge(peerMTU, float64(p.MTU), p.Name)
	}
	if p.ConfigMatch != nil {
		m.gauge(peerConfigMatch, oneIf(*p.ConfigMatch), p.Name)
	}
	if w := p.WireGuard; w != nil {
		m.gauge(peerEncrypted, oneIf(w.State == WireGuardSealed && w.InSession(now)), p.Name)
		if w.LatestHandshake != nil {
			m.gauge(peerHandshake, max(0, now.Sub(*w.LatestHandshake).Seconds()), p.Name)
		}
	}
	for reason, n := range p.Drops {
		m.counter(drops, n, reason, p.Name)
	}
	m.gauge(peerDraining, oneIf(p.Drain != nil), p.Name)
	if len(p.Addresses) > 1 { // of the only one, the peer's metrics tell all
		m.addresses(p)
	}
}

// addresses sends which of its addresses a peer answers at. Two with the same text would be one series
// twice, which fails the whole scrape.
func (m metrics) addresses(p *Peer) {
	sent := make(map[string]bool, len(p.Addresses))
	for _, a := range p.Addresses {
		if sent[a.Address] {
			continue
		}
		sent[a.Address] = true
		m.gauge(peerAddressUp, oneIf(a.State == Up), p.Name, a.Address)
		m.gauge(peerAddressActive, oneIf(a.Active), p.Name, a.Address)
	}
}

// shared sends who carries the prefixes that several peers have, or that a peer stands by for: then this
// node has the prefix, too.
func (m metrics) shared(peers []Peer) {
	with, waits := map[string]int{}, map[string]bool{}
	for i := range peers {
		for _, r := range peers[i].RouteStates {
			with[r.Prefix]++
			waits[r.Prefix] = waits[r.Prefix] || !r.Active
		}
	}
	for i := range peers {
		for _, r := range peers[i].RouteStates {
			if with[r.Prefix] > 1 || waits[r.Prefix] {
				m.gauge(routeActive, oneIf(r.Active), r.Prefix, peers[i].Name)
			}
		}
	}
}

// gauge sends a value that may go down.
func (m metrics) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m.send(d, prometheus.GaugeValue, v, labels)
}

// counter sends a value that only grows while the daemon runs.
func (m metrics) counter(d *prometheus.Desc, v uint64, labels ...string) {
	m.send(d, prometheus.CounterValue, float64(v), labels)
}

// known sends a counter if there is one.
func (m metrics) known(d *prometheus.Desc, v *uint64, labels ...string) {
	if v != nil {
		m.counter(d, *v, labels...)
	}
}

// send makes the labels harmless. A wrong number of them panics: a test scrapes all metrics.
func (m metrics) send(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels []string) {
	text.Fields(&labels) // versions, for one, are text of other hosts
	m <- prometheus.MustNewConstMetric(d, kind, v, labels...)
}

// oneIf is how Prometheus writes a truth.
func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
