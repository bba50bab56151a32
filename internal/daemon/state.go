package daemon

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/link"
)

// heardLately is how long after its last packet a peer counts as up.
const heardLately = 10 * time.Second

// state is what the control socket tells. The mesh task writes it when
// something changes; counters are read at the time of asking.
type state struct {
	options Options
	path    string // of the file, absolute
	bootID  string
	started time.Time

	mu         sync.Mutex
	config     *config.Config
	plan       *plan // nil until the node has found itself
	engine     dataplane.Engine
	endpoints  *endpoints
	rules      *masqTask
	generation int
	applied    time.Time
	reload     control.Reload // the last attempt
	socket     growing        // overflows of the socket and of the TUN
	tun        growing
	repairs    uint64
	notice     string // why nothing is forwarded yet, or not as it should be
	broken     string // why the mesh could not be repaired
}

func newState(o Options, c *config.Config) *state {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	path, err := filepath.Abs(c.Path)
	if err != nil { // the working directory is gone
		path = c.Path
	}
	return &state{options: o, config: c, path: path, bootID: hex.EncodeToString(id[:]), started: now(), notice: "starting"}
}

// loaded returns the configuration that was read last and found good.
func (s *state) loaded() *config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// inForce returns the plan in force and its generation; nil if there is none yet.
func (s *state) inForce() (*plan, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plan, s.generation
}

// waiting notes why nothing is forwarded, or not as it should be; empty if all is
// well.
func (s *state) waiting(notice string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notice = notice
}

// forwarding notes that the first plan is in force.
func (s *state) forwarding(m *mesh, began time.Time) {
	before, err := link.Overflows(m.plan.link.Interface)
	if err != nil {
		before = 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopt(m)
	s.engine, s.rules, s.notice = m.engine, m.rules, ""
	s.tun.last = before // earlier runs are none of ours
	s.applied = now()
	s.generation = 1
	s.reload = outcome(began, s.applied, nil, nil)
}

// adopt takes over what is in force. The caller holds mu.
func (s *state) adopt(m *mesh) {
	s.endpoints = m.endpoints
	s.plan, s.config = m.plan, m.plan.config
}

// reloaded notes the outcome of an attempt to apply the file again.
func (s *state) reloaded(m *mesh, began time.Time, changes []string, err error) control.ReloadResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := now()
	s.reload = outcome(began, at, changes, err)
	if err == nil && s.config != m.plan.config {
		if s.config.SHA256 != m.plan.config.SHA256 || len(changes) > 0 {
			s.generation++
			s.applied = at
		}
		s.adopt(m)
	}
	result := control.ReloadResult{Schema: control.Schema, Generation: s.generation, Reload: s.reload, Faults: faultsOf(err)}
	s.reload.Changes = first(changesKept, s.reload.Changes)
	return result
}

// repaired notes what a look at the host led to.
func (s *state) repaired(m *mesh, what []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopt(m)
	s.broken = ""
	if err != nil {
		s.broken = "the mesh cannot be repaired, trying again: " + err.Error()
	} else if len(what) > 0 {
		s.repairs++
	}
}

// faultsOf returns the places in the file that an error is about.
func faultsOf(err error) []control.Error {
	faults, ok := errors.AsType[config.Faults](err)
	if !ok {
		return nil
	}
	var all []control.Error
	for _, f := range faults {
		all = append(all, control.Error{Code: "bad_configuration", Message: f.String(), File: f.Path, Line: f.Line})
	}
	return all
}

func outcome(began, at time.Time, changes []string, err error) control.Reload {
	r := control.Reload{OK: err == nil, At: at, DurationMS: float64(time.Since(began).Microseconds()) / 1000, Changes: []string{}}
	if err == nil {
		r.Changes = append(r.Changes, changes...)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// status answers GET /v1/status.
func (s *state) status() control.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	network := s.config.Network
	status := control.Status{
		Schema: control.Schema, Version: s.options.Version, BootID: s.bootID, PID: os.Getpid(),
		Started: s.started, UptimeSeconds: now().Sub(s.started).Seconds(),
		Config:     control.Config{Path: s.path, SHA256: s.config.SHA256, LastReload: control.Reload{Changes: []string{}}},
		Network:    control.Network{Name: network.Name, CIDR: texts(network.CIDR), Interface: network.Interface, Port: int(network.Port), Subnets: []string{}},
		Dataplane:  control.Dataplane{Offloads: []string{}},
		Totals:     control.Totals{Drops: map[string]uint64{}},
		Peers:      []control.Peer{},
		Masquerade: control.Masquerade{Rules: []control.Rule{}},
		Warnings:   []string{},
	}
	for _, w := range []string{s.notice, s.broken} {
		if w != "" {
			status.Warnings = append(status.Warnings, w)
		}
	}
	if s.plan != nil {
		s.fill(&status)
	}
	return status
}

// summary is the state in one line.
func (s *state) summary() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.plan == nil:
		return s.notice
	case s.reload.Error != "":
		return fmt.Sprintf("generation %d stays in force: %s", s.generation, firstLine(s.reload.Error))
	case s.notice != "" || s.broken != "":
		return cmp.Or(s.broken, s.notice)
	}
	up := 0
	for _, traffic := range s.engine.Counters().Peers {
		if time.Since(traffic.LastSeen) < heardLately {
			up++
		}
	}
	return fmt.Sprintf("forwarding as %s: %d of %d peers up", s.plan.self.Name, up, len(s.plan.mesh.Peers)-1)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// fill adds what is known once packets are forwarded.
func (s *state) fill(status *control.Status) {
	p, counters, info := s.plan, s.engine.Counters(), s.engine.Info()
	status.Node = p.self.Name
	status.Config.Generation, status.Config.Applied = s.generation, s.applied
	status.Config.LastReload, status.Config.Error = s.reload, s.reload.Error
	if s.reload.Error != "" {
		status.Warnings = append(status.Warnings, fmt.Sprintf("%s cannot be applied, generation %d stays in force: %s", s.path, s.generation, s.reload.Error))
	}
	status.Network.Repairs = s.repairs
	status.Network.MTU = p.link.MTU
	status.Network.Port = int(p.self.Address.Port())
	status.Network.Address = p.self.Address.Addr().String()
	status.Network.Subnets = texts(p.self.Subnets)
	status.Dataplane = dataplaneStatus(info, counters)
	status.Warnings = append(status.Warnings, p.warnings...)
	status.Warnings = append(status.Warnings, refusedWarnings(info)...)
	status.Warnings = append(status.Warnings, forwardingOff(p.config.Network)...)
	masquerade, warnings := s.rules.status()
	status.Masquerade = masquerade
	status.Warnings = append(status.Warnings, warnings...)

	total := counters.Totals
	status.Totals = control.Totals{
		RxPackets: total.RxPackets, RxBytes: total.RxBytes, TxPackets: total.TxPackets, TxBytes: total.TxBytes,
		Drops: s.kernelDrops(),
	}
	for _, reason := range dataplane.Reasons() {
		status.Totals.Drops[reason.String()] = total.Drops[reason]
	}
	for _, peer := range p.mesh.Peers {
		if peer.Name != p.mesh.Self {
			status.Peers = append(status.Peers, peerStatus(peer, counters.Peers[peer.Name]))
		}
	}
	slices.SortFunc(status.Peers, func(a, b control.Peer) int { return strings.Compare(a.Name, b.Name) })
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
		Engine: info.Engine, Receive: info.Receive, Offloads: info.Offloads, Refused: info.Refused, Queues: info.Queues,
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
		"socket_overflow": socket,
		"tun_overflow":    s.tun.read(link.Overflows(s.plan.link.Interface)),
	}
}

func peerStatus(p dataplane.Peer, t dataplane.Traffic) control.Peer {
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
	for _, reason := range dataplane.Reasons() {
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
