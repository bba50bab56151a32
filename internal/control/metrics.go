package control

import (
	"github.com/prometheus/client_golang/prometheus"

	"example.org/meshd/internal/text"
)

// collector turns a Status into metrics, so that there is one truth for both.
// Everything is read anew for each scrape.
type collector struct{ status func() Status }

func description(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The metrics. What is not known of a peer is left out, not zero.
var (
	buildInfo         = description("meshd_build_info", "Version of the running daemon.", "version")
	configGeneration  = description("meshd_config_generation", "Generation of the configuration in force.")
	configInfo        = description("meshd_config_info", "Hash of the configuration file in force.", "sha256")
	reloadSuccessful  = description("meshd_config_last_reload_successful", "Whether the last attempt to apply the file succeeded.")
	peerRxPackets     = description("meshd_peer_receive_packets_total", "Inner packets received from a peer and delivered.", "peer")
	peerRxBytes       = description("meshd_peer_receive_bytes_total", "Bytes of inner packets received from a peer and delivered.", "peer")
	peerTxPackets     = description("meshd_peer_transmit_packets_total", "Inner packets sent to a peer.", "peer")
	peerTxBytes       = description("meshd_peer_transmit_bytes_total", "Bytes of inner packets sent to a peer.", "peer")
	peerUp            = description("meshd_peer_up", "Whether the peer is up.", "peer")
	peerRTT           = description("meshd_peer_rtt_seconds", "Median round trip time of the last 60 probes.", "peer")
	peerLoss          = description("meshd_peer_loss_ratio", "Share of the last 60 probes without an answer.", "peer")
	peerConfigMatch   = description("meshd_peer_config_match", "Whether the peer runs the same configuration file.", "peer")
	probesSent        = description("meshd_peer_probes_sent_total", "Probes sent to a peer.", "peer")
	probesReceived    = description("meshd_peer_probes_answered_total", "Probes that a peer answered.", "peer")
	drops             = description("meshd_drops_total", "Packets dropped, by reason; the peer is empty where none is to blame.", "reason", "peer")
	masqueradePackets = description("meshd_masquerade_packets_total", "Packets that matched a masquerade rule.", "rule")
	calls             = description("meshd_dataplane_calls_total", "System calls that moved packets, by place.", "call")
	callPackets       = description("meshd_dataplane_packets_total", "Packets that these calls moved, with those dropped later.", "call")
	handed            = description("meshd_dataplane_handed_total", "Packets or superpackets that the kernel engine left to user space, by reason.", "reason")
	interfaceRepairs  = description("meshd_interface_repairs_total", "Times that the interface was mended or the surroundings led to a new plan.")
	masqueradeRepairs = description("meshd_masquerade_repairs_total", "Times that rules were restored after another program changed them.")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildInfo, configGeneration, configInfo, reloadSuccessful, peerRxPackets, peerRxBytes,
		peerTxPackets, peerTxBytes, peerUp, peerRTT, peerLoss, peerConfigMatch, probesSent, probesReceived, drops, calls, callPackets, handed, masqueradePackets, masqueradeRepairs, interfaceRepairs} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		text.Fields(&labels) // values may come from elsewhere
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		text.Fields(&labels)
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(buildInfo, 1, s.Version)
	gauge(configGeneration, float64(s.Config.Generation))
	gauge(configInfo, 1, s.Config.SHA256)
	gauge(reloadSuccessful, truth(s.Config.LastReload.OK))
	nobody := map[string]uint64{} // what is left of the totals when the peers have taken theirs
	for reason, n := range s.Totals.Drops {
		nobody[reason] = n
	}
	for _, p := range s.Peers {
		counter(peerRxPackets, p.RxPackets, p.Name)
		counter(peerRxBytes, p.RxBytes, p.Name)
		counter(peerTxPackets, p.TxPackets, p.Name)
		counter(peerTxBytes, p.TxBytes, p.Name)
		gauge(peerUp, truth(p.State == Up), p.Name)
		counter(probesSent, p.ProbesTx, p.Name)
		counter(probesReceived, p.ProbesRx, p.Name)
		if p.RTTMS != nil {
			gauge(peerRTT, *p.RTTMS/1000, p.Name)
		}
		if p.Loss != nil {
			gauge(peerLoss, *p.Loss, p.Name)
		}
		if p.ConfigMatch != nil {
			gauge(peerConfigMatch, truth(*p.ConfigMatch), p.Name)
		}
		for reason, n := range p.Drops {
			counter(drops, n, reason, p.Name)
			nobody[reason] -= min(n, nobody[reason])
		}
	}
	for reason, n := range nobody {
		counter(drops, n, reason, "")
	}
	for name, c := range s.Dataplane.Calls {
		counter(calls, c.Calls, name)
		counter(callPackets, c.Packets, name)
	}
	for reason, n := range s.Dataplane.Handed {
		counter(handed, n, reason)
	}
	for _, r := range s.Masquerade.Rules {
		counter(masqueradePackets, r.Packets, r.Name)
	}
	counter(masqueradeRepairs, s.Masquerade.Repairs)
	counter(interfaceRepairs, s.Network.Repairs)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
