package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/apply"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/drain"
	"example.org/meshd/internal/health"
	"example.org/meshd/internal/history"
	"example.org/meshd/internal/known"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/lookup"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/ping"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/rules"
	"example.org/meshd/internal/words"
)

// A teller answers questions about this daemon. It reads what others have published and asks the
// kernel for counters; it holds no lock meanwhile, so a question never delays packets, the watchdog
// or a reload. Its methods may be called at any time from any goroutine.
type teller struct {
	version string
	path    string // of the file, absolute
	bootID  string
	started time.Time // with the reading of a clock that never jumps

	view     *published
	engine   engine
	registry *peers.Registry
	probes   *known.Probes
	drain    *drain.Keeper
	rules    *rules.Keeper
	// sources tell what is not as it should be, besides the view and the rules.
	sources []func() []mesh.Condition

	log     *slog.Logger
	changes *apply.Keeper
	history history.History
	judge   health.Judge
	trouble health.Watch
	level   atomic.Pointer[mesh.Severity] // that was judged last; nil: none yet
	tun     mesh.Growing                  // what the TUN has dropped
	based   atomic.Bool                   // what was dropped before this run is known
}

func newTeller(o Options, v *published) *teller {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return &teller{log: o.Log, version: o.Version, path: o.where().Full(), bootID: hex.EncodeToString(id[:]),
		started: time.Now(), view: v, changes: o.changes}
}

// status answers GET /v1/status.
func (t *teller) status() control.Status {
	v := t.view.now()
	network := v.config.Network
	s := control.Status{
		Schema: control.Schema, Version: t.version, BootID: t.bootID, PID: os.Getpid(),
		Started: t.started.Round(time.Millisecond), Now: now(),
		UptimeSeconds: time.Since(t.started).Round(time.Millisecond).Seconds(),
		Config: control.Config{
			Path: t.path, Source: control.SourceFile, SHA256: v.config.SHA256(), Error: v.reload.Error,
			LastReload: v.reload},
		Network: control.Network{Name: network.Name, CIDR: words.Texts(network.CIDR),
			Interface: network.Interface, Port: int(network.Port), Addresses: []string{},
			Subnets: []string{}},
		Dataplane:  control.Dataplane{Offloads: []string{}},
		Totals:     control.Totals{Drops: map[string]uint64{}, Unattributed: map[string]uint64{}},
		Peers:      []control.Peer{},
		Strangers:  []control.Stranger{},
		Masquerade: control.Masquerade{Rules: []control.Rule{}},
		Allow:      control.Allow{Rules: []control.Rule{}},
	}
	s.Config.Pending = t.changes.Told()
	if t.changes.Stands() {
		s.Config.Source = control.SourceApplied
	}
	if !v.lastGood.IsZero() {
		s.Config.Source, s.Config.LastGood = control.SourceLastGood, v.lastGood
	}
	if v.plan != nil {
		t.fill(&s, v)
	}
	s.Health, s.Warnings = words.Health(t.verdict(v))
	return s
}

// verdict judges how well this node is. It asks nothing of the kernel.
func (t *teller) verdict(v view) health.Verdict {
	conditions := slices.Clone(v.notes)
	if v.rejected != nil {
		conditions = append(conditions, *v.rejected)
	}
	var found []mesh.Condition
	for _, source := range t.sources {
		found = append(found, source()...)
	}
	if v.plan != nil {
		conditions = slices.Concat(conditions, v.plan.Conditions, v.plan.Forwarding.Conditions(),
			t.engine.Conditions(), t.rules.Conditions())
		found = t.probes.Causes(v.plan, append(found, t.trouble.Conditions()...))
	}
	conditions = append(conditions, found...)
	return t.judge.Verdict(conditions, now())
}

// watchHealth logs how well this node is when that changes, from the first plan on: what happens
// before has events of its own. The first time there is no level of before.
func (t *teller) watchHealth(time.Time) {
	v := t.view.now()
	if v.plan == nil {
		return
	}
	now := t.verdict(v)
	was, before := "", t.level.Swap(&now.Severity)
	switch {
	case before != nil && *before == now.Severity, before == nil && now.Severity == mesh.Info:
		return
	case before != nil:
		was = health.Verdict{Severity: *before}.Level()
	}
	level, why := slog.LevelInfo, ""
	if now.Severity > mesh.Info {
		level, why = slog.LevelWarn, words.Sentence(now.Problems[0].Condition)
	}
	t.log.Log(context.Background(), level, "health is "+now.Level(), "event", "health",
		"was", was, "now", now.Level(), "worst", why)
}

// fill adds what is known once packets are forwarded.
func (t *teller) fill(s *control.Status, v view) {
	p, r := v.plan, t.engine.Read()
	s.Node = p.Self.Name
	s.Config.Generation, s.Config.Applied = v.generation, v.applied
	s.Network.Repairs = v.repairs
	device, mtu, headers := p.Underlay()
	s.Network.MTU, s.Network.Underlay = p.Link.MTU, &control.Underlay{Device: device, MTU: mtu, Headers: headers}
	s.Network.Port, s.Network.Address = int(p.Port()), words.Address(p.Peer)
	s.Network.Addresses = words.Endpoints(p.Peer.Addresses)
	s.Network.Subnets = words.Texts(p.Self.Subnets)
	s.Dataplane = words.Dataplane(r)
	s.Allow = lookup.Allow(p, t.rules)
	s.Masquerade, s.WireGuard = words.Masquerade(t.rules.Read()), words.WireGuard(t.engine.Told())

	s.Totals = words.Totals(r, t.kernelDrops(p, r))
	if d := t.drain.Now(); d != nil {
		s.Drain = words.Drain(*d)
		s.Drain.Waiting = t.probes.Waiting(p.Engine.Mesh)
	}
	s.Peers, s.Strangers = t.peersOf(p, r), words.Strangers(r.Strangers)
	s.Totals.Unattributed = words.Unattributed(s.Totals.Drops, s.Peers)
}

// peersOf tells about all peers, by name.
func (t *teller) peersOf(p *plan.Plan, r dataplane.Reading) []control.Peer {
	all := []control.Peer{}
	at, metrics, carriers, told := time.Now(), p.Metrics(), t.registry.Carriers(), t.engine.Told()
	for peer := range p.Engine.Mesh.Others() {
		one := words.Peer(peer, r)
		words.Troubles(&one, r.Troubles[peer.Name])
		one.MTU = p.MTUTo(peer)
		one.MTUSource = words.MTUSource(one.MTU, p.Config.Network.MTU)
		known := t.probes.Fill(&one, p)
		if p.Config.Probe.Interval == 0 {
			one.State = string(peers.Facts{Heard: r.Peers[peer.Name].LastSeen}.StateAt(at))
		}
		words.Addresses(&one, peer, known.Paths, t.registry.Of(peer.Name).Via(), p.Engine.Reachable(peer), p.Origin)
		words.Routes(&one, peer, carriers, metrics)
		words.Maintained(&one, known.Drain, at)
		one.WireGuard = words.PeerWireGuard(told, peer.Name, at)
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b control.Peer) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// kernelDrops counts what was lost before the engine saw it.
func (t *teller) kernelDrops(p *plan.Plan, r dataplane.Reading) map[string]uint64 {
	tun, err := link.Overflows(p.Link.Interface)
	if err == nil && t.based.CompareAndSwap(false, true) {
		t.tun.From(tun) // earlier runs are none of ours
	}
	drops := t.rules.Drops()
	drops["socket_overflow"], drops["socket_refused"] = r.Lost.Socket, r.Lost.Refused
	drops["tun_overflow"] = t.tun.Read(tun, err) + r.Lost.Merger
	return drops
}

// route answers GET /v1/route.
func (t *teller) route(to netip.Addr) control.Route {
	v := t.view.now()
	if v.plan == nil {
		r := lookup.None(to)
		r.Reason = firstOf(v.notes)
		return r
	}
	return lookup.Route(v.plan, to, t.registry.Carriers(),
		func() []control.Peer { return t.peersOf(v.plan, t.engine.Read()) })
}

// firstOf returns the first of some conditions as a sentence; empty if there are none.
func firstOf(notes []mesh.Condition) string {
	if len(notes) == 0 {
		return ""
	}
	return words.Sentence(notes[0])
}

// ready returns nil if packets are forwarded as the file in force says, now, and nothing of this node
// itself has failed. A peer that is down is no reason.
func (t *teller) ready(ctx context.Context) error {
	v := t.view.now()
	switch {
	case len(v.notes) > 0:
		return errors.New(firstOf(v.notes))
	case !link.Up(v.plan.Link.Interface):
		return fmt.Errorf("the interface %s is down or gone", v.plan.Link.Interface)
	}
	if c, failed := t.verdict(v).Failure(); failed {
		return errors.New(words.Warning(c))
	}
	return t.engine.Alive(ctx)
}

// ping answers POST /v1/ping.
func (t *teller) ping(ctx context.Context, r control.PingRequest) (control.Ping, bool, error) {
	v := t.view.now()
	if v.plan == nil {
		return control.Ping{}, false, errNothingYet
	}
	return ping.Ask(ctx, v.plan, t.probes.Prober, t.engine, r)
}

// peersAtOnce is how many peers are looked at each second at most, as many as probes ask: what a node does
// while nothing happens stops growing with the mesh.
const peersAtOnce = 2000

// seldom returns a function to be called every second, by one goroutine, that calls look as often as the mesh
// in force allows: every second, and where there are more peers every few.
func (t *teller) seldom(look func(at time.Time)) func(at time.Time) {
	var last time.Time
	return func(at time.Time) {
		seconds := 1
		if p := t.view.now().plan; p != nil {
			seconds += (len(p.Engine.Mesh.Peers) - 1) / peersAtOnce
		}
		if at.Sub(last) >= time.Duration(seconds)*time.Second-time.Second/2 {
			last = at
			look(at)
		}
	}
}

// remember takes a reading of all counters.
func (t *teller) remember(at time.Time) {
	v := t.view.now()
	if v.plan == nil {
		return
	}
	r := t.engine.Read()
	node, lost := history.Of(r.Totals, r.Sealed()), t.kernelDrops(v.plan, r)
	for _, n := range lost {
		node.Drops += n
	}
	t.watchTrouble(v.plan.Engine.Mesh, r, lost, at)
	all := make([]history.Peer, 0, len(r.Peers))
	for i := range v.plan.Engine.Mesh.Peers { // in an order that stays
		name := v.plan.Engine.Mesh.Peers[i].Name
		if traffic, counted := r.Peers[name]; counted {
			one := history.Of(traffic, r.Sealed())
			one.Probed(t.probes.Glance(name, traffic.LastSeen, at))
			all = append(all, history.Peer{Name: name, Reading: one})
		}
	}
	t.history.Take(at, history.Node{Reading: node, Lost: words.Totals(r, maps.Clone(lost)).Drops}, all)
}

// past answers GET /v1/history.
func (t *teller) past(peer, span string) (*control.History, error) {
	if t.view.now().plan == nil {
		return nil, fmt.Errorf("%w, so there is no history", errNothingYet)
	}
	h, err := t.history.Answer(peer, span)
	if h == nil && err == nil { // nothing was read yet, or not since the peer came
		t.remember(time.Now())
		h, err = t.history.Answer(peer, span)
	}
	if h != nil {
		h.BootID = t.bootID
	}
	return h, err
}

// current returns an error if the file, as it was read last, is not in force: another program, which
// knows nothing else, could not go on as this one does.
func (t *teller) current() error {
	if v := t.view.now(); v.reload.Error != "" {
		return fmt.Errorf("the file was rejected, and generation %d stays in force: %s",
			v.generation, v.reload.Error)
	}
	return nil
}

// summary is the state in one line. It reads published state only, because the watchdog waits for the answer.
func (t *teller) summary() string {
	v := t.view.now()
	switch {
	case v.plan == nil:
		return firstOf(v.notes)
	case v.rejected != nil && !v.lastGood.IsZero():
		line, _, _ := strings.Cut(words.Sentence(*v.rejected), "\n")
		return line
	case v.reload.Error != "":
		line, _, _ := strings.Cut(v.reload.Error, "\n")
		return fmt.Sprintf("generation %d stays in force: %s", v.generation, line)
	case len(v.notes) > 0:
		return firstOf(v.notes)
	}
	return fmt.Sprintf("forwarding as %s: %d of %d peers up", v.plan.Self.Name,
		t.registry.Count(peers.Up, time.Now()), len(v.plan.Engine.Mesh.Peers)-1)
}
