package flows

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
)

// Told returns who uses the bandwidth, as far as it was counted last. It asks nothing of the kernel.
func (k *Keeper) Told(q control.FlowQuery) control.Flows {
	t := k.told.Load()
	f := control.Flows{Schema: control.Schema, State: t.state, Cause: t.cause, By: q.By,
		IntervalSeconds: t.interval.Seconds(), Sampled: t.sampled, Rows: []control.FlowRow{}}
	if until, counts := k.lease(); counts {
		f.Until, f.Since = until.Round(time.Millisecond), t.began.Round(time.Millisecond)
		if t.state == control.FlowsOff { // the lease is new
			f.State, f.Since = control.FlowsStarting, time.Time{}
		}
	}
	if t.interval > 0 {
		f.At = t.at.Round(time.Millisecond)
		fill(&f, t, q)
	}
	return f
}

// sum is a row on its way: what was counted is summed before it becomes a rate.
type sum struct {
	row         control.FlowRow
	all, recent mesh.FlowCount
}

// fill puts the busiest rows of a reading into f.
func fill(f *control.Flows, t *told, q control.FlowQuery) {
	var total mesh.FlowCount
	sums := map[control.FlowRow]*sum{}
	for _, one := range t.flows {
		total.Add(one.recent)
		row := rowOf(one.Flow, q.By)
		s := sums[row]
		if s == nil {
			s = &sum{row: row}
			sums[row] = s
		}
		s.row.Flows++
		s.all.Add(one.all)
		s.recent.Add(one.recent)
	}
	all := make([]*sum, 0, len(sums))
	for _, s := range sums {
		all = append(all, s)
	}
	slices.SortFunc(all, busier)
	f.Total, f.Known = rates(total, t.interval), len(all)
	for _, s := range all[:min(len(all), q.Top)] {
		s.row.FlowRates = rates(s.recent, t.interval)
		s.row.Counted = control.FlowTotals(s.all)
		if total.Bytes() > 0 {
			s.row.Share = float64(s.recent.Bytes()) / float64(total.Bytes())
		}
		f.Rows = append(f.Rows, s.row)
	}
}

// busier compares two rows: first come those with most bytes of the interval, then those with most in all.
func busier(a, b *sum) int {
	return cmp.Or(cmp.Compare(b.recent.Bytes(), a.recent.Bytes()), cmp.Compare(b.all.Bytes(), a.all.Bytes()),
		cmp.Compare(a.row.Peer, b.row.Peer), cmp.Compare(a.row.Pod, b.row.Pod),
		cmp.Compare(a.row.Remote, b.row.Remote), cmp.Compare(a.row.Protocol, b.row.Protocol),
		cmp.Compare(a.row.Port, b.row.Port), cmp.Compare(a.row.PodPort, b.row.PodPort),
		cmp.Compare(a.row.RemotePort, b.row.RemotePort))
}

// rates returns counts by the second.
func rates(c mesh.FlowCount, over time.Duration) control.FlowRates {
	by := func(n uint64) float64 { return float64(n) / over.Seconds() }
	return control.FlowRates{RxPackets: by(c.RxPackets), RxBytes: by(c.RxBytes),
		TxPackets: by(c.TxPackets), TxBytes: by(c.TxBytes)}
}

// rowOf returns the row that a flow belongs to, without figures.
func rowOf(f mesh.Flow, by string) control.FlowRow {
	switch by {
	case control.ByPod:
		return control.FlowRow{Pod: f.Local.String()}
	case control.ByPeer:
		return control.FlowRow{Peer: f.Peer}
	case control.ByPort:
		return control.FlowRow{Protocol: protocol(f.Protocol), Port: servicePort(f)}
	}
	return control.FlowRow{Peer: f.Peer, Pod: f.Local.String(), Remote: f.Remote.String(),
		Protocol: protocol(f.Protocol), PodPort: f.LocalPort, RemotePort: f.RemotePort, Port: servicePort(f)}
}

// servicePort returns the lower port of a flow. Who opens a connection has a port that the kernel chose, and
// those are above the ones of services (ip_local_port_range begins at 32768).
func servicePort(f mesh.Flow) uint16 { return min(f.LocalPort, f.RemotePort) }

// protocols are those that have a name here (IANA, Protocol Numbers).
var protocols = map[uint8]string{1: "icmp", 4: "ipip", 6: "tcp", 17: "udp", 41: "ipv6", 47: "gre", 50: "esp",
	51: "ah", 58: "icmp6", 89: "ospf", 103: "pim", 112: "vrrp", 132: "sctp", 136: "udplite"}

// protocol returns the name of a protocol, or its number.
func protocol(n uint8) string {
	if name, known := protocols[n]; known {
		return name
	}
	return "ip-" + strconv.Itoa(int(n))
}
