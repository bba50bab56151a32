package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/link"
)

// mesh is the mesh in operation: the plan in force and the rooms that carry it
// out. One goroutine, Run, changes it, whatever asks for a change:
//
//	file      it may have another content; again: look once more
//	asked     SIGHUP or the control socket wants it read again
//	kernel    interfaces, addresses or routes of this host have changed
//	broken    a packet loop has ended, for instance because the TUN was deleted
//	retry     the last repair failed, and it is time to try again
type mesh struct {
	options Options
	log     *slog.Logger
	state   *state

	plan    *plan // in force; nil before the first
	engine  *dataplane.User
	probes  *probes
	rules   *masqTask
	metrics *metricsTask
	manager *manager

	endpoints *endpoints           // open; nil before the first plan
	made      bool                 // the TUN was made by this run
	start     func(dataplane.Loop) // runs a packet loop
	tried     string               // hash of the file that was tried last

	file   chan struct{}
	kernel chan struct{}
	asked  chan reloadRequest
	pulse  chan struct{} // somebody wants to know that Run is well
	broken chan error
	retry  <-chan time.Time
	again  <-chan time.Time // for a file that was empty or missing
	pause  time.Duration    // before the next retry
}

// reloadRequest asks for the file to be read now.
type reloadRequest struct {
	cause string
	reply chan control.ReloadResult // may be nil
}

func newMesh(o Options, s *state, service *manager) *mesh {
	engine, probes := newEngine(o.Version, o.Log)
	return &mesh{
		options: o, log: o.Log, state: s, manager: service, engine: engine, probes: probes, rules: newMasqTask(o.Log), metrics: newMetricsTask(s.status, o.Log),
		file: make(chan struct{}, 1), kernel: make(chan struct{}, 1), asked: make(chan reloadRequest), pulse: make(chan struct{}), broken: make(chan error, 1),
	}
}

func (m *mesh) String() string { return "mesh" }

// Run implements task.
func (m *mesh) Run(ctx context.Context) error {
	p, err := m.waitForPlan(ctx)
	if err != nil || p == nil {
		return err
	}
	if m.options.Sysctl {
		if err := turnForwardingOn(p.config.Network, m.log); err != nil {
			return err
		}
	}
	loops, ctx := newLoopGroup(ctx, m.broken)
	m.start = loops.start
	err = m.bringUp(p)
	if err == nil {
		err = runAll(ctx, m.log, m.rules, m.probes, m.metrics,
			taskFunc{"history", func(ctx context.Context) error { return everySecond(ctx, m.state.remember) }},
			taskFunc{"file watch", func(ctx context.Context) error {
				return config.Watch(ctx, m.options.ConfigPath, func() { signal(m.file) })
			}},
			taskFunc{"kernel watch", func(ctx context.Context) error {
				return link.Watch(ctx, func() bool { signal(m.kernel); return true })
			}},
			taskFunc{"reload", m.follow})
	}
	return errors.Join(err, m.leave(), loops.wait())
}

// everySecond calls f until ctx ends.
func everySecond(ctx context.Context, f func(now time.Time)) error {
	for tick := time.NewTicker(time.Second); ; {
		f(time.Now())
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
		}
	}
}

// leave ends the packet loops once they have forwarded what they have read. What
// the service manager keeps lives on, and fills until the next run adopts it.
func (m *mesh) leave() error {
	return errors.Join(m.engine.Stop(), m.endpoints.closeAllBut(nil))
}

// bringUp puts the first plan in force.
func (m *mesh) bringUp(p *plan) error {
	began := now()
	m.endpoints = m.manager.adopt(p.queues)
	if _, err := m.apply(p, false); err != nil {
		return err
	}
	receive, send := checkBuffers(p, m.endpoints)
	m.tried = p.config.SHA256()
	m.state.forwarding(m, began)
	for _, w := range slices.Concat(p.warnings, forwardingOff(p.config.Network)) {
		m.log.Warn(w, "event", "warning")
	}
	m.log.Info("forwarding", "node", p.self.Name, "network", p.config.Network.Name, "peers", len(p.mesh.Peers)-1,
		"listening", p.bind.String(), "receive_buffer", receive, "send_buffer", send,
		"interface", p.link.Interface, "mtu", p.link.MTU, "engine", m.engine.Info().Engine, "event", "forwarding")
	m.manager.ready()
	return nil
}

// signal wakes whoever waits for a channel of one element, once.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}

// waitForPlan finds out who this host is. An edge box may not have its address
// yet: then it waits for one, and says so. The plan is nil when ctx ended.
func (m *mesh) waitForPlan(ctx context.Context) (*plan, error) {
	var p *plan
	var failed error
	waiting := false
	c := m.state.loaded()
	err := link.Watch(ctx, func() bool {
		host, err := surroundingsOf(c, m.options.Node)
		if err != nil {
			failed = err
			return false
		}
		self, notHere, err := identify(c, m.options.Node, host.local)
		if notHere {
			if !waiting { // addresses come and go: say it once
				waiting = true
				m.log.Warn("waiting for an address of this node", "reason", err, "event", "waiting")
			}
			m.state.waiting("waiting for an address: " + err.Error())
			return true
		}
		if err == nil {
			p, err = makePlan(c, self, host)
		}
		if err != nil {
			failed = fmt.Errorf("%w: %w", ErrConfig, err)
		}
		return false
	})
	return p, errors.Join(err, failed)
}

// surroundingsOf looks at the host with a file in mind.
func surroundingsOf(c *config.Config, node string) (host surroundings, err error) {
	if host.local, err = link.LocalAddresses(); err != nil {
		return host, err
	}
	var peers []netip.Addr
	var own netip.Addr
	for _, n := range c.Nodes {
		peers = append(peers, n.Address.Addr())
	}
	if i, _, err := identify(c, node, host.local); err == nil {
		own = peers[i]
	}
	host.cpus = runtime.NumCPU()
	host.underlayMTU, err = link.UnderlayMTU(own, peers)
	return host, err
}

// checkBuffers warns of socket buffers that the kernel did not grant; too little
// shows as socket_overflow when bursts come.
func checkBuffers(p *plan, e *endpoints) (receive, send int) {
	receive, send, err := e.receive[0].Buffers()
	switch {
	case err != nil:
		p.warn("the sizes of the socket's buffers are unknown: %v", err)
	case receive < udp.BuffersWanted || send < udp.BuffersWanted:
		p.warn("the UDP socket got buffers of %d and %d bytes instead of %d: bursts may be lost; run `sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d`",
			receive, send, udp.BuffersWanted, udp.BuffersWanted/2, udp.BuffersWanted/2)
	}
	return receive, send
}
