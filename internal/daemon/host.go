package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"example.org/meshd/internal/container"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/crossing"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/device"
	"example.org/meshd/internal/forwarding"
	"example.org/meshd/internal/handover"
	"example.org/meshd/internal/known"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/rules"
	"example.org/meshd/internal/seal"
	"example.org/meshd/internal/survey"
)

// host is this host with everything on it that a plan brings to a state.
//
//	metrics, introduction, port -> routes -> backstops -> TUN -> interface -> rules -> files
//	  -> packets -> forwarding
//	interface -> programs -> packets, interface -> forwarded probes: beside the rules
//
// The port comes first, so that a second daemon or a flannel on the host is found while everything
// is as it was. Backstops come before the TUN, so that there is no first moment without. Packets
// come last: queues get packets from the moment they are attached, which would be lost if they had
// to be closed again.
//
// In a takeover packets wait in queues that an earlier meshd left. The interface and the rules are
// there, too, so packets move before those are looked at.
type host struct {
	log      *slog.Logger
	engine   engine
	service  *handover.Manager
	rules    *rules.Keeper
	legacy   *rules.Legacy
	others   *rules.Others
	files    *container.Keeper
	metrics  *control.TCPMetrics
	probes   *known.Probes
	crossing *crossing.Keeper
	switcher *forwarding.Switcher
	again    func() // asks for one more look at the host

	backstops desired[[]netip.Prefix]
	link      desired[link.Settings]
	device    *device.Device
	keeping   map[string]dataplane.Descriptor // what the service manager has
	takeover  bool                            // queues of an earlier meshd wait for the first plan
}

// engine is what this daemon needs of the dataplane.
type engine interface {
	seal.Inner
	Encrypt(context.Context, *seal.Wanted) (undo func())
	Told() seal.Told
}

// newHostOf returns a host on which nothing was done yet. status is what metrics are made of.
func newHostOf(o Options, e engine, p *known.Probes, status func() control.Status) *host {
	h := &host{
		log: o.Log, engine: e, service: handover.New(o.Log), probes: p,
		rules: rules.New(o.Log), legacy: rules.NewLegacy(o.Log), others: rules.NewOthers(o.Log),
		device:   device.New(o.Log),
		files:    container.NewKeeper(ContainerNote(o.Socket), o.Log),
		metrics:  control.NewTCPMetrics(status, o.Log),
		switcher: forwarding.New(o.State, o.Sysctl, o.Log),
	}
	h.crossing = crossing.New(crossing.Options{Log: o.Log, Deliver: h.engine.Deliver, Answer: p.AnswerForwarded,
		Leads: p.Forwards, Suspect: h.rules.Look, Last: h.rules.Last()})
	h.prepare()
	return h
}

// prepare says how the parts that one call brings to a state are set.
func (h *host) prepare() {
	var added []netip.Prefix
	h.backstops = desired[[]netip.Prefix]{
		set: func(prefixes []netip.Prefix) ([]mesh.Change, error) {
			changed, fresh, err := link.SetBackstops(prefixes)
			added = append(added, fresh...)
			return repaired(mesh.ChangedRoute, changed), err
		},
		clear: func() error { return link.RemoveBackstops(added) },
	}
	h.link = desired[link.Settings]{set: func(s link.Settings) ([]mesh.Change, error) {
		changed, err := link.Set(s)
		return repaired(mesh.ChangedInterface, changed), err
	}}
}

// repaired returns changes for what others had damaged.
func repaired(kind mesh.ChangeKind, what []string) (changes []mesh.Change) {
	for _, w := range what {
		changes = append(changes, mesh.Change{Op: mesh.Repaired, Kind: kind, Subject: w})
	}
	return changes
}

// A step is one way from the plan in force to the next.
type step struct {
	old    *plan.Plan // nil: none is in force
	next   *plan.Plan
	reread bool // the file was read again, so what has no news of its own is looked at, too
}

// parts returns what brings this host from one plan to the next.
func (h *host) parts(s step) []part {
	first := s.old == nil
	if left := h.service.Left(); first && len(left) > 0 {
		h.adopt(left, s.next)
	}
	parts := []part{
		// Without rules or files the mesh itself works: losing them is an error only where they were in force.
		{name: "rules", needs: []string{"interface"}, optional: first || !h.rules.Fine(), beside: true,
			apply: func(ctx context.Context, p *plan.Plan) (effect, error) {
				undo, err := h.rules.Set(ctx, p.Rules, s.reread)
				return effect{undo: undo}, err
			}},
		{name: "forwarded probes", needs: []string{"interface"}, beside: true,
			apply: func(context.Context, *plan.Plan) (effect, error) { return h.applyCrossing(s), nil }},
		{name: "metrics", optional: first || s.keepsMetrics(), apply: h.applyMetrics},
		{name: "introduction", apply: func(_ context.Context, p *plan.Plan) (e effect, err error) {
			e.undo, e.commit = h.probes.Apply(p)
			return e, nil
		}},
		{name: "port", apply: func(ctx context.Context, p *plan.Plan) (effect, error) {
			undo, err := h.engine.Prepare(ctx, p.Engine)
			return effect{undo: undo}, err
		}},
		{name: "backstops", needs: []string{"port", "routes"},
			apply: func(_ context.Context, p *plan.Plan) (effect, error) { return h.backstops.apply(p.Backstops) }},
		{name: "interface", needs: []string{"TUN", "port"},
			apply: func(_ context.Context, p *plan.Plan) (effect, error) { return h.link.apply(p.Link) }},
		{name: "programs", needs: []string{"interface"},
			apply: func(ctx context.Context, p *plan.Plan) (effect, error) { return h.load(ctx, p, first), nil }},
		// Its own state tells why it failed; the engine lets nothing pass meanwhile.
		{name: "encryption", needs: []string{"port", "interface", "rules"},
			apply: func(ctx context.Context, p *plan.Plan) (effect, error) {
				undo := h.engine.Encrypt(ctx, p.Seal)
				return effect{undo: func() error { undo(); return nil }}, nil
			}},
		{name: "legacy rules", needs: []string{"rules"},
			apply: func(ctx context.Context, p *plan.Plan) (effect, error) { return h.applyLegacy(ctx, s, p) }},
		{name: "files", needs: []string{"rules"}, optional: first || !h.files.Fine(), apply: h.applyFiles},
		{name: "packets", apply: h.applyPackets,
			needs: []string{"introduction", "port", "interface", "programs", "rules", "legacy rules", "files",
				"metrics"}},
		// While forwarding is on, a rule keeps apart what is no part of the mesh: so it comes after the rules.
		{name: "forwarding", needs: []string{"packets", "rules"}, optional: true, apply: h.applyForwarding},
	}
	if h.takeover {
		needs(parts, "packets", "introduction", "port", "backstops")
		needs(parts, "interface", "packets")
		needs(parts, "programs")
	} else {
		if !first { // only the first time has to wait for rules of its own
			needs(parts, "forwarded probes", "interface", "rules")
		}
		if s.old != nil && seal.Switches(s.old.Seal, s.next.Seal) {
			needs(parts, "encryption") // see seal.Switches
			needs(parts, "port", "encryption")
		}
		if s.keepsPlaces() { // what rules name is there: the kernel sets them while the tables are written
			needs(parts, "rules")
		}
		parts = append(parts, part{name: "TUN", needs: []string{"backstops"},
			apply: func(_ context.Context, p *plan.Plan) (e effect, err error) {
				e.changes, e.undo, err = h.device.Make(p.Link.Interface)
				return e, err
			}})
	}
	if first {
		parts = append(parts, part{name: "routes", needs: []string{"port"},
			apply: func(_ context.Context, p *plan.Plan) (effect, error) {
				fits := func() error { return survey.Fits(p) }
				return effect{}, h.device.ClearWay(p.Link.Interface, p.Engine.Sealed || p.Seal != nil, fits)
			}})
	}
	return parts
}

// load has a first plan load the programs beside the rules, which take as long.
func (h *host) load(ctx context.Context, p *plan.Plan, first bool) (e effect) {
	if first && !h.takeover {
		e.undo = h.engine.Load(ctx, p.Engine)
	}
	return e
}

// needs replaces what one of the parts needs.
func needs(parts []part, name string, others ...string) {
	for i := range parts {
		if parts[i].name == name {
			parts[i].needs = others
		}
	}
}

// keepsMetrics tells whether the address of metrics stays, so that failing to listen there is no
// fault of the file.
func (s step) keepsMetrics() bool { return s.old.Config.Metrics.Listen == s.next.Config.Metrics.Listen }

// keepsPlaces tells whether packets and datagrams come and go where they did.
func (s step) keepsPlaces() bool {
	return s.old != nil && s.old.Link.Interface == s.next.Link.Interface &&
		slices.Equal(s.old.Engine.Binds, s.next.Engine.Binds)
}

// adopt gives the engine what an earlier meshd left.
func (h *host) adopt(left []*os.File, p *plan.Plan) {
	h.device.Inherit(left)
	adopted, unfit := h.engine.Adopt(left, p.Engine)
	for _, err := range unfit {
		h.log.Info("a socket or queue that the last run left does not fit the file: closing it", "reason", err)
	}
	h.takeover = adopted.Moving()
	h.log.Info("taking over from the last run",
		"sockets", adopted.Sockets, "queues", adopted.Queues, "event", "adopted")
}

func (h *host) applyFiles(ctx context.Context, p *plan.Plan) (effect, error) {
	undo, err := h.files.Set(ctx, p.Container)
	return effect{undo: undo}, err
}

func (h *host) applyMetrics(_ context.Context, p *plan.Plan) (effect, error) {
	address := p.Config.Metrics.Listen
	l, err := h.metrics.Listen(address)
	if err != nil {
		return effect{}, fmt.Errorf("listen for metrics: %w", err)
	}
	e := effect{commit: func() { h.metrics.Use(l, address) }}
	if l != nil {
		e.undo = l.Close
	}
	return e, nil
}

// metricsConditions tells why metrics are not served.
func (h *host) metricsConditions() []mesh.Condition {
	err := h.metrics.Failure()
	if err == nil {
		return nil
	}
	return []mesh.Condition{{Kind: mesh.MetricsFailed, Severity: mesh.Degraded, Subject: "metrics.listen",
		Cause: err.Error(), Remedy: "free the address, or change metrics.listen"}}
}

func (h *host) applyPackets(ctx context.Context, p *plan.Plan) (effect, error) {
	undo, changes, err := h.engine.Apply(ctx, p.Engine)
	if err != nil {
		return effect{}, err
	}
	return effect{changes: changes, undo: undo, commit: func() {
		if h.takeover {
			h.takeover = false
			h.device.Adopted(p.Link.Interface)
		}
		h.keep()
	}}, nil
}

// legacyPatience is how long new rules in iptables-legacy are waited for. The program may need its lock
// for longer: then the rules come later, and status says so.
const legacyPatience = 2 * time.Second

// applyLegacy has new rules in iptables-legacy before packets are let in, if that is possible soon.
// Where the rules stay as they are, it waits for nothing.
func (h *host) applyLegacy(ctx context.Context, s step, p *plan.Plan) (effect, error) {
	select {
	case <-closedUnless(h.legacy.Set(p.Rules.Accept, s.reread)):
	case <-time.After(legacyPatience):
	case <-ctx.Done():
	}
	return effect{undo: func() error {
		if s.old != nil {
			h.legacy.Set(s.old.Rules.Accept, false)
		}
		return nil
	}}, nil
}

// closedUnless returns a channel, or a closed one in the place of nil.
func closedUnless(c <-chan struct{}) <-chan struct{} {
	if c != nil {
		return c
	}
	done := make(chan struct{})
	close(done)
	return done
}

// applyCrossing has packets to pods measured. The first time, that waits for rules, while packets get their
// way; what there is to measure comes once they have it.
func (h *host) applyCrossing(s step) effect {
	measure := func(p *plan.Plan) {
		h.crossing.Set(crossing.Wanted{Interfaces: p.Rules.Clamp.Interfaces, Networks: p.Config.Network.CIDR,
			Mesh: p.Engine.Mesh, Sealed: p.Engine.Sealed, Ask: p.Config.Probe.Interval > 0, Port: p.ProbePort()})
	}
	measure(s.next)
	return effect{commit: h.crossing.Wake, undo: func() error {
		if s.old != nil {
			measure(s.old)
		} else {
			h.crossing.Forget()
		}
		return nil
	}}
}

// keep leaves what packets wait in with the service manager, if that is other than it was.
func (h *host) keep() {
	now := h.engine.Descriptors()
	if maps.Equal(h.keeping, now) {
		return
	}
	h.keeping = now
	if err := h.service.Keep(now); err != nil {
		h.log.Warn("the service manager does not keep all descriptors: a restart may lose packets",
			"error", err, "event", "warning")
	}
}

// applyForwarding turns forwarding on where --sysctl asks for it, and again later while the rules
// are not in force.
func (h *host) applyForwarding(_ context.Context, p *plan.Plan) (effect, error) {
	return effect{commit: func() {
		if h.switcher.Follow(p.Forwarding, h.rules.Fine()) {
			h.again()
		}
	}}, nil
}
