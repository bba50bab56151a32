package words

import (
	"fmt"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/probe"
	"example.org/meshd/internal/rules"
)

// Unattributed returns what is left of the totals when the peers have taken theirs.
func Unattributed(totals map[string]uint64, peers []control.Peer) map[string]uint64 {
	rest := map[string]uint64{}
	for reason, n := range totals {
		for i := range peers {
			n -= peers[i].Drops[reason]
		}
		if n > 0 {
			rest[reason] = n
		}
	}
	return rest
}

// Dataplane tells how packets move.
func Dataplane(r dataplane.Reading) control.Dataplane {
	w := r.Works
	d := control.Dataplane{
		Engine: w.Engine, Reason: w.Reason, Receive: w.Receive.String(), Captured: w.Captured, Handed: r.Handed,
		NoFOU: w.NoFOU, Offloads: w.Offloads, Refused: w.Refused, Queues: w.Queues,
		Calls: map[string]control.Calls{},
	}
	for kind, n := range r.Calls {
		d.Calls[kind.String()] = control.Calls{Calls: n.Calls, Packets: n.Packets}
	}
	return d
}

// Totals tells what was counted in all. kernel are the packets that were lost before the engine saw them, by
// reason; Totals takes it over.
func Totals(r dataplane.Reading, kernel map[string]uint64) control.Totals {
	t := control.Totals{Drops: kernel}
	for _, reason := range mesh.Reasons() {
		t.Drops[reason.String()] += r.Totals.Drops[reason] // the rules drop for one reason, too
	}
	t.RxPackets, t.RxBytes, t.TxPackets, t.TxBytes = moved(r, r.Totals)
	return t
}

// moved returns the counters of packets that were forwarded; nil while WireGuard forwards them, which counts
// its own messages alone.
func moved(r dataplane.Reading, t mesh.Traffic) (rxPackets, rxBytes, txPackets, txBytes *uint64) {
	if r.Sealed() {
		return nil, nil, nil, nil
	}
	return &t.RxPackets, &t.RxBytes, &t.TxPackets, &t.TxBytes
}

// Peer tells what the file says of a peer and what was counted. Its state is not known here.
func Peer(p mesh.Peer, r dataplane.Reading) control.Peer {
	t := r.Peers[p.Name]
	status := control.Peer{
		Name: p.Name, Address: endpointOrNone(p.Underlay().AddrPort),
		Subnets: Texts(p.Subnets), Routes: Texts(p.Routes),
		State: control.Unknown, Probes: []control.ProbeForm{}, Addresses: []control.PeerAddress{},
		RouteStates: []control.RouteState{},
		Drops:       map[string]uint64{},
	}
	status.RxPackets, status.RxBytes, status.TxPackets, status.TxBytes = moved(r, t)
	if !t.LastSeen.IsZero() {
		seen := t.LastSeen.Round(time.Millisecond)
		status.LastSeen = &seen
	}
	for _, reason := range mesh.Reasons() {
		if n := t.Drops[reason]; n > 0 {
			status.Drops[reason.String()] = n
		}
	}
	return status
}

// Probed adds what probes know of a peer to its status. self is what this node tells of itself, and asked
// tells whether the peer is asked at all.
func Probed(status *control.Peer, r probe.Report, self probe.Self, asked bool) {
	if asked {
		status.State = r.State.String()
		if !r.Since.IsZero() {
			status.Since = &r.Since
		}
	}
	status.ProbesTx, status.ProbesRx, status.Probes = r.Sent, r.Received, Probes(r)
	if f := r.Figures; f.Probes > 0 {
		status.Loss = &f.Loss
		status.RTTMS, status.RTTMinMS = Milliseconds(f.P50), Milliseconds(f.Min)
		status.RTTP95MS, status.RTTLastMS = Milliseconds(f.P95), Milliseconds(f.Last)
		status.JitterMS = Milliseconds(f.Jitter)
	}
	if r.Size.InUse < r.Size.Most {
		status.MTU, status.MTUSource = r.Size.InUse, "probed"
	}
	if r.Told.Hash != ([32]byte{}) {
		match := r.Told.SameFile(self)
		status.ConfigMatch, status.ConfigSHA256 = &match, fmt.Sprintf("%x", r.Told.Hash)
		status.Version = r.Told.Version
	}
}

// Milliseconds returns nil for what was not measured.
func Milliseconds(d time.Duration) *float64 {
	if d == 0 {
		return nil
	}
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

// Probes tells how probes that look like pods' packets fare at a peer.
func Probes(r probe.Report) []control.ProbeForm {
	all := []control.ProbeForm{}
	for _, f := range r.Forms {
		one := control.ProbeForm{Form: f.Form.String(), Measured: f.Measured, Sent: f.Sent, LostInRow: f.LostInRow,
			Fails: f.Fails}
		if f.Measured {
			one.Loss = &f.Loss
		}
		if value := int(f.DSCP); f.Form == probe.Marked && f.Measured {
			one.DSCP = &value
		}
		all = append(all, one)
	}
	return all
}

// Texts writes prefixes for the API, which has no list that is null.
func Texts(ps []mesh.Prefix) []string {
	all := make([]string, len(ps))
	for i, p := range ps {
		all[i] = p.String()
	}
	return all
}

// KernelRoute tells what the kernel does with packets of a sender that the mesh would take by the
// interface tun.
func KernelRoute(sender, tun string, w link.Way) control.KernelRoute {
	r := control.KernelRoute{Sender: sender, Agrees: w.Device == tun && tun != "", Device: w.Device,
		Table: w.Table, Rule: w.Rule, MTU: w.MTU}
	if w.Source.IsValid() {
		r.Source = w.Source.String()
	}
	if w.Refusal != nil {
		r.Error = w.Refusal.Error()
	}
	return r
}

// MTUSource tells what limits packets to a size where no probe has found less. inFile is network.mtu; 0:
// it is automatic.
func MTUSource(size, inFile int) string {
	if size == inFile {
		return "file"
	}
	return "underlay"
}

// Masquerade tells about the rules in force.
func Masquerade(s rules.Status) control.Masquerade {
	m := control.Masquerade{Enabled: s.Masquerade, Rules: []control.Rule{}, Repairs: s.Repairs}
	for _, c := range s.Counters {
		m.Rules = append(m.Rules, control.Rule{Name: c.Rule, Packets: c.Packets, Bytes: c.Bytes})
	}
	return m
}
