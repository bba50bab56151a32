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
	"example.org/meshd/internal/dataplane/kernel"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/dataplane/user"
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
type reconciler struct {
	options Options
	log     *slog.Logger
	state   *state

	plan    *plan // in force; nil before the first
	engine  *kernel.Engine
	probes  *probes
	rules   *masqTask
	files   *containerTask
	metrics *metricsTask
	manager *manager
	forward *forwarder

	endpoints *endpoints                    // open; nil before the first plan
	made      bool                          // the TUN was made by this run
	start     func(user.Loop, chan<- error) // runs a packet loop
	tried     string                        // hash of the file that was tried last
	pending   bool                          // that file was good, but not for this host as it was

	waitingWith *config.Config // it was said that this one waits for an address

	file   chan struct{}
	kernel chan struct{}
	asked  chan reloadRequest
	pulse  chan struct{} // somebody wants to know that Run is well
	broken chan error    // of the packet loops that run
	failed error         // why they are to be made anew, until they are
	fault  error         // why the last repair failed; nil if it did not
	retry  <-chan time.Time
	again  <-chan time.Time // for a file that was empty or missing
	pause  time.Duration    // before the next retry
}

// reloadRequest asks for the file to be read now.
type reloadRequest struct {
	cause string
	reply chan control.ReloadResult // may be nil
}

func newReconciler(o Options, s *state, service *manager) *reconciler {
	engine, probes := newEngine(o.Log)
	return &reconciler{
		options: o, log: o.Log, state: s, manager: service, engine: engine, probes: probes, tried: s.loaded().SHA256(), rules: newMasqTask(o.Log), files: newContainerTask(o), metrics: newMetricsTask(s.status, o.Log), forward: newForwarder(o),
		file: make(chan struct{}, 1), kernel: make(chan struct{}, 1), asked: make(chan reloadRequest), pulse: make(chan struct{}),
	}
}

func (m *reconciler) String() string { return "mesh" }

// Run implements task.
func (m *reconciler) Run(ctx context.Context) error {
	loops := &loopGroup{ctx: ctx}
	m.start = loops.start
	err := runAll(ctx, m.log, m.rules, m.files, m.probes, m.metrics,
		taskFunc{"history", func(ctx context.Context) error { return everySecond(ctx, m.state.remember) }},
		taskFunc{"captures", func(ctx context.Context) error {
			return everySecond(ctx, func(time.Time) { m.engine.WatchCaptures() })
		}},
		taskFunc{"file watch", m.watchFile},
		taskFunc{"kernel watch", func(ctx context.Context) error {
			return link.Watch(ctx, func() bool {
				m.engine.WatchCaptures() // most make the interface promiscuous, which is news
				wake(m.kernel)
				return true
			})
		}},
		taskFunc{"IPsec watch", func(ctx context.Context) error {
			return link.WatchPolicies(ctx, func() { wake(m.kernel) })
		}},
		taskFunc{"forwarding watch", func(ctx context.Context) error {
			return link.WatchForwarding(ctx, func() { wake(m.kernel) })
		}},
		taskFunc{"reload", m.follow})
	return errors.Join(err, m.leave(replaced(ctx)), loops.wait())
}

// watchAgain is how long to wait after the kernel refused to watch the file, which
// is looked at instead.
const watchAgain = 2 * time.Second

// watchFile asks for a look at the file when it may have changed. Where inotify has
// no room for us, that is every watchAgain.
func (m *reconciler) watchFile(ctx context.Context) error {
	for {
		err := config.Watch(ctx, m.options.ConfigPath, func() {
			m.state.watches(nil)
			wake(m.file)
		})
		if ctx.Err() != nil {
			return nil
		}
		if m.state.watches(err) {
			m.log.Warn("the file cannot be watched, so it is read from time to time", "every", watchAgain, "error", err, "event", "watch_failed")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
			wake(m.file)
		}
	}
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
// the service manager or a successor gets lives on, and fills until it is adopted.
func (m *reconciler) leave(successor bool) error {
	err := m.engine.Stop()
	if successor {
		err = errors.Join(err, bequeath(m.endpoints, m.manager.left))
	}
	return errors.Join(err, m.endpoints.closeAllBut(nil))
}

// begin finds out who this host is, and puts the first plan in force. An edge box
// may not have its address yet: then it says so, and plan stays nil.
func (m *reconciler) begin() error {
	c := m.state.loaded()
	p, away, err := firstPlan(c, m.options)
	if err != nil {
		return err
	}
	if away != nil {
		m.state.waiting("waiting for an address: " + away.Error())
		if m.waitingWith != c { // addresses come and go: say it once
			m.waitingWith = c
			m.log.Warn("waiting for an address of this node", "reason", away, "event", "waiting")
		}
		return nil
	}
	return m.bringUp(p)
}

// firstPlan says what a file asks of this host before anything is in force. away is why it
// cannot be known yet which node the host is, which time may change; an error with
// ErrConfig in it is one that time does not change.
func firstPlan(c *config.Config, o Options) (p *plan, away, err error) {
	host, err := surroundingsOf(c, o)
	if err != nil {
		return nil, nil, err
	}
	self, notHere, err := identify(c, o.Node, host.local)
	if notHere {
		return nil, err, nil
	}
	if err == nil {
		p, err = makePlan(c, self, host)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return p, nil, nil
}

// bringUp puts the first plan in force.
func (m *reconciler) bringUp(p *plan) error {
	began := now()
	m.endpoints = m.manager.adopt(p.queues)
	if _, err := m.apply(p, false); err != nil {
		return err
	}
	receive, send := m.checkBuffers()
	m.tried = p.config.SHA256()
	m.state.forwarding(m, began)
	m.state.remember(time.Now()) // so that there is a history to ask for
	for _, w := range slices.Concat(p.warnings, forwardingOff(m.plan)) {
		m.log.Warn(w, "event", "warning")
	}
	m.log.Info("forwarding", "node", p.self.Name, "network", p.config.Network.Name, "peers", len(p.mesh.Peers)-1,
		"listening", p.bind.String(), "receive_buffer", receive, "send_buffer", send,
		"interface", p.link.Interface, "mtu", p.link.MTU, "engine", m.engine.Info().Engine, "event", "forwarding")
	m.manager.ready()
	return nil
}

// wake rouses whoever waits for a channel of one element, once.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}

// surroundingsOf looks at the host with a file in mind.
func surroundingsOf(c *config.Config, o Options) (host surroundings, err error) {
	if host.local, err = link.LocalAddresses(); err != nil {
		return host, err
	}
	var peers []netip.Addr
	var own netip.Addr
	var endpoints []netip.AddrPort
	self := -1
	for _, n := range c.Nodes {
		peers, endpoints = append(peers, n.Address.Addr()), append(endpoints, n.Address)
	}
	if i, _, err := identify(c, o.Node, host.local); err == nil {
		self, own = i, peers[i]
	}
	host.cpus = runtime.NumCPU()
	if host.underlay, err = link.FindUnderlay(own, peers); err != nil || self < 0 {
		return host, err
	}
	if host.ipsec, err = link.Policed(endpoints[self], endpoints); err != nil {
		return host, err
	}
	host.passage, err = passageOf(c.Network, c.Nodes[self], host.underlay.Devices, o)
	return host, err
}

// checkBuffers warns of socket buffers that the kernel did not grant; too little
// shows as socket_overflow when bursts come.
func (m *reconciler) checkBuffers() (receive, send int) {
	receive, send, err := m.endpoints.receive[0].Buffers()
	warning := ""
	switch {
	case err != nil:
		warning = fmt.Sprintf("the sizes of the socket's buffers are unknown: %v", err)
	case receive < udp.BuffersWanted || send < udp.BuffersWanted:
		warning = fmt.Sprintf("the UDP socket got buffers of %d and %d bytes instead of %d: bursts may be lost; run `sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d`",
			receive, send, udp.BuffersWanted, udp.BuffersWanted/2, udp.BuffersWanted/2)
	}
	if m.state.smallBuffers(warning) && warning != "" {
		m.log.Warn(warning, "event", "warning")
	}
	return receive, send
}
