package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
)

// status answers GET /v1/status.
func (s *state) status() control.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	network := s.config.Network
	status := control.Status{
		Schema: control.Schema, Version: s.options.Version, BootID: s.bootID, PID: os.Getpid(),
		Started: s.started.Round(time.Millisecond), UptimeSeconds: time.Since(s.started).Round(time.Millisecond).Seconds(), Now: now(),
		Config:     control.Config{Path: s.path, SHA256: s.config.SHA256(), Error: s.reload.Error, LastReload: s.reload},
		Network:    control.Network{Name: network.Name, CIDR: texts(network.CIDR), Interface: network.Interface, Port: int(network.Port), Subnets: []string{}},
		Dataplane:  control.Dataplane{Offloads: []string{}},
		Totals:     control.Totals{Drops: map[string]uint64{}, Unattributed: map[string]uint64{}},
		Peers:      []control.Peer{},
		Masquerade: control.Masquerade{Rules: []control.Rule{}},
		Warnings:   []string{},
	}
	if s.reload.Error != "" {
		status.Warnings = append(status.Warnings, fmt.Sprintf("%s cannot be applied, generation %d stays in force: %s", s.path, s.generation, s.reload.Error))
	}
	for _, w := range []string{s.notice, s.broken, s.unwatched, s.buffers} {
		if w != "" {
			status.Warnings = append(status.Warnings, w)
		}
	}
	if s.plan != nil {
		s.fill(&status)
	}
	return status
}

// fill adds what is known once packets are forwarded.
func (s *state) fill(status *control.Status) {
	p, counters, info := s.plan, s.engine.Counters(), s.engine.Info()
	status.Node = p.self.Name
	status.Config.Generation, status.Config.Applied = s.generation, s.applied
	status.Network.Repairs = s.repairs
	status.Network.MTU = p.link.MTU
	status.Network.Port = int(p.self.Address.Port())
	status.Network.Address = p.self.Address.Addr().String()
	status.Network.Subnets = texts(p.self.Subnets)
	status.Dataplane = dataplaneStatus(info, counters)
	status.Warnings = append(status.Warnings, p.warnings...)
	status.Warnings = append(status.Warnings, refusedWarnings(info)...)
	status.Warnings = append(status.Warnings, engineWarnings(info)...)
	status.Warnings = append(status.Warnings, s.forward.warnings()...)
	status.Warnings = append(status.Warnings, forwardingOff(p)...)
	status.Warnings = append(status.Warnings, s.metrics.warnings()...)
	status.Warnings = append(status.Warnings, s.files.warnings()...)
	masquerade, warnings := s.rules.status()
	status.Masquerade = masquerade
	status.Warnings = append(status.Warnings, warnings...)

	total := counters.Totals
	status.Totals = control.Totals{
		RxPackets: total.RxPackets, RxBytes: total.RxBytes, TxPackets: total.TxPackets, TxBytes: total.TxBytes,
		Drops: s.kernelDrops(),
	}
	for _, reason := range mesh.Reasons() {
		status.Totals.Drops[reason.String()] = total.Drops[reason]
	}
	status.Peers = s.peers(counters)
	status.Totals.Unattributed = unattributed(status.Totals.Drops, status.Peers)
}

// peers tells about all peers, by name. The caller holds mu.
func (s *state) peers(counters dataplane.Counters) []control.Peer {
	all := make([]control.Peer, 0, len(s.plan.mesh.Peers))
	for _, peer := range s.plan.mesh.Peers {
		if peer.Name != s.plan.mesh.Self {
			all = append(all, peerStatus(peer, counters.Peers[peer.Name]))
			s.probes.report(&all[len(all)-1], s.plan.config)
		}
	}
	slices.SortFunc(all, func(a, b control.Peer) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// unattributed returns what is left of the totals when the peers have taken theirs.
func unattributed(totals map[string]uint64, peers []control.Peer) map[string]uint64 {
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

// engineWarnings tells what the kernel engine cannot do here.
func engineWarnings(info dataplane.Info) (warnings []string) {
	if info.Unpinned != "" {
		warnings = append(warnings, "packets will not flow while meshd is not running: "+info.Unpinned)
	}
	if info.Unmerged != "" {
		warnings = append(warnings, "TCP comes to pods packet by packet, which is slow: "+info.Unmerged)
	}
	return warnings
}

// refusedWarnings tells which offloads ended at run time, and what helps.
func refusedWarnings(info dataplane.Info) (warnings []string) {
	for _, name := range info.Refused {
		switch name {
		case "udp_gso":
			warnings = append(warnings, "the kernel or a network device refuses several packets in one message (udp_gso): packets are sent one by one, which is slow; "+
				"`ethtool -K DEVICE tx on` on the underlay's device and a restart may help")
		default:
			warnings = append(warnings, "the kernel refuses superpackets from us ("+name+"): packets are delivered one by one, which is slow; please report the kernel's version")
		}
	}
	return warnings
}

func dataplaneStatus(info dataplane.Info, counters dataplane.Counters) control.Dataplane {
	d := control.Dataplane{
		Engine: info.Engine, Reason: info.Reason, Receive: info.Receive, Captured: info.Captured, Handed: info.Handed, Offloads: info.Offloads, Refused: info.Refused, Queues: info.Queues,
		Calls: map[string]control.Calls{},
	}
	for kind, n := range counters.Calls {
		d.Calls[kind.String()] = control.Calls{Calls: n.Calls, Packets: n.Packets}
	}
	return d
}

// growing is a counter that never falls, read from one that starts anew when its
// owner does. A reading that fails changes nothing.
type growing struct{ last, total uint64 }

func (g *growing) read(now uint64, err error) uint64 {
	if err == nil {
		if now < g.last { // it began again
			g.last = 0
		}
		g.total += now - g.last
		g.last = now
	}
	return g.total
}

// kernelDrops counts what was lost before the engine saw it.
func (s *state) kernelDrops() map[string]uint64 {
	socket := s.socket.read(s.endpoints.overflows())
	return map[string]uint64{
		"socket_overflow":   socket,
		filter.NotFromMeshd: s.rules.refused(),
		"tun_overflow":      s.tun.read(link.Overflows(s.plan.link.Interface)) + s.merger.read(link.Overflows(link.MergerEntry)),
	}
}

func peerStatus(p mesh.Peer, t mesh.Traffic) control.Peer {
	status := control.Peer{
		Name: p.Name, Address: p.Underlay.String(), Subnets: texts(p.Subnets), Routes: texts(p.Routes),
		State:     control.Unknown,
		RxPackets: t.RxPackets, RxBytes: t.RxBytes, TxPackets: t.TxPackets, TxBytes: t.TxBytes,
		Drops: map[string]uint64{},
	}
	if !t.LastSeen.IsZero() {
		seen := t.LastSeen.Round(time.Millisecond)
		status.LastSeen = &seen
		if time.Since(seen) < heardLately {
			status.State = control.Up
		}
	}
	for _, reason := range mesh.Reasons() {
		if n := t.Drops[reason]; n > 0 {
			status.Drops[reason.String()] = n
		}
	}
	return status
}

// route answers GET /v1/route.
func (s *state) route(to netip.Addr) control.Route {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := control.Route{Schema: control.Schema, To: to.String()}
	if s.plan == nil {
		r.Reason = "nothing is forwarded yet: " + s.notice
		return r
	}
	p := s.plan
	r.MTU = p.link.MTU
	r.Masquerade = "off"
	if p.masq != nil {
		r.Masquerade = masq.Explain(*p.masq, to)
	}
	answer := s.engine.Route(to)
	switch {
	case answer.Peer == "":
		r.Reason = whyNot(p.config.Network, to)
		return r
	case answer.Self:
		r.Peer, r.Prefix = answer.Peer, answer.Prefix.String()
		r.Reason = "this node has " + r.Prefix + " itself: it does not go through the mesh"
		return r
	}
	for _, peer := range p.mesh.Peers {
		if peer.Name == answer.Peer {
			r.Address = peer.Underlay.String()
			asked := peerStatus(peer, mesh.Traffic{LastSeen: s.engine.LastSeen(peer.Name)})
			s.probes.report(&asked, p.config)
			r.State = asked.State
		}
		if peer.Name == p.mesh.Self {
			if source := peer.TUNAddress(to.Is6()); source.IsValid() {
				r.Source = source.String()
			}
		}
	}
	r.Peer, r.Prefix, r.Interface = answer.Peer, answer.Prefix.String(), p.link.Interface
	return r
}

// whyNot explains that nobody carries packets to an address.
func whyNot(network config.Network, to netip.Addr) string {
	cidr, ok := network.CIDROf(to)
	switch {
	case !ok:
		return "the mesh carries no addresses of that family: network.cidr is " + strings.Join(texts(network.CIDR), ", ")
	case cidr.Contains(to):
		return fmt.Sprintf("it is inside network.cidr %s, but no node has it in its subnets", cidr)
	}
	return fmt.Sprintf("it is outside network.cidr %s and no node's routes have it", cidr)
}

func texts(ps []netip.Prefix) []string {
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = p.String()
	}
	return words
}

// ready returns nil if packets are forwarded as the file in force says, now.
func (s *state) ready(ctx context.Context) error {
	s.mu.Lock()
	plan, engine, wrong := s.plan, s.engine, errors.New(cmp.Or(s.broken, s.notice))
	s.mu.Unlock()
	switch {
	case plan == nil || wrong.Error() != "":
		return wrong
	case !link.Up(plan.link.Interface):
		return fmt.Errorf("the interface %s is down or gone", plan.link.Interface)
	}
	return engine.Alive(ctx)
}

// ping answers POST /v1/ping.
func (s *state) ping(ctx context.Context, r control.PingRequest) (control.Ping, bool, error) {
	s.mu.Lock()
	plan, probes := s.plan, s.probes
	s.mu.Unlock()
	if plan == nil {
		return control.Ping{}, false, errors.New("nothing is forwarded yet")
	}
	return probes.ping(ctx, plan, r)
}

// remember takes a reading of all counters.
func (s *state) remember(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plan == nil {
		return
	}
	counters := s.engine.Counters()
	node := readingOf(counters.Totals)
	for _, n := range s.kernelDrops() {
		node.drops += n
	}
	peers := make(map[string]reading, len(counters.Peers))
	for name, t := range counters.Peers {
		r := readingOf(t)
		if report, ok := s.probes.Report(name); ok && report.Figures.Probes > 0 {
			r.loss = report.Figures.Loss
			if report.Figures.LastAnswered {
				r.rtt = float64(report.Figures.Last.Microseconds()) / 1000
			}
		}
		peers[name] = r
	}
	s.history.take(now, node, peers)
}

func readingOf(t mesh.Traffic) reading {
	r := reading{rxPackets: t.RxPackets, rxBytes: t.RxBytes, txPackets: t.TxPackets, txBytes: t.TxBytes, rtt: math.NaN(), loss: math.NaN()}
	for _, n := range t.Drops {
		r.drops += n
	}
	return r
}

// past answers GET /v1/history.
func (s *state) past(peer, span string) (*control.History, error) {
	if plan, _ := s.inForce(); plan == nil {
		return nil, errors.New("nothing is forwarded yet, so there is no history")
	}
	h, err := s.history.answer(peer, span)
	if h != nil {
		h.BootID = s.bootID
	}
	return h, err
}
