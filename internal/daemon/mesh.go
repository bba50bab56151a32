package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/link"
)

// meshTask brings the mesh up and runs the packet loops.
type meshTask struct {
	options Options
	log     *slog.Logger
	config  *config.Config
	state   *state
}

func (m *meshTask) String() string { return "mesh" }

// Run implements task.
func (m *meshTask) Run(ctx context.Context) error {
	p, err := m.waitForPlan(ctx)
	if err != nil || p == nil {
		return err
	}
	started := now()
	if m.options.Sysctl {
		if err := turnForwardingOn(m.config.Network, m.log); err != nil {
			return err
		}
	}
	engine, conns, err := m.start(p)
	if err != nil {
		return err
	}
	rules := newMasqTask(m.log)
	rules.follow(p)
	m.state.forwarding(p, engine, conns, rules, started)
	for _, w := range slices.Concat(p.warnings, forwardingOff(m.config.Network)) {
		m.log.Warn(w)
	}
	m.log.Info("forwarding", "node", p.self.Name, "network", m.config.Network.Name, "peers", len(p.mesh.Peers)-1,
		"interface", p.link.Interface, "mtu", p.link.MTU, "engine", engine.Info().Engine)

	tasks := []task{closer{engine}, rules, &running{meshTask: m, plan: p, engine: engine, sockets: conns, rules: rules}}
	for _, loop := range engine.Loops() {
		tasks = append(tasks, loop)
	}
	return runAll(ctx, m.log, tasks...)
}

// closer is the task that wakes the packet loops out of their reads at the end.
type closer struct{ engine dataplane.Engine }

func (c closer) String() string { return "closer" }

func (c closer) Run(ctx context.Context) error {
	<-ctx.Done()
	return c.engine.Close()
}

// waitForPlan finds out who this host is. An edge box may not have its address
// yet: then it waits for one, and says so. The plan is nil when ctx ended.
func (m *meshTask) waitForPlan(ctx context.Context) (*plan, error) {
	var p *plan
	var failed error
	waiting := false
	err := link.WatchAddresses(ctx, func() bool {
		host, err := surroundingsOf(m.config, m.options.Node)
		if err != nil {
			failed = err
			return false
		}
		self, notHere, err := identify(m.config, m.options.Node, host.local)
		if notHere {
			if !waiting { // addresses come and go: say it once
				waiting = true
				m.log.Warn("waiting for an address of this node", "reason", err)
			}
			m.state.waiting("waiting for an address: " + err.Error())
			return true
		}
		if err == nil {
			p, err = makePlan(m.config, self, host)
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

// start makes everything the plan asks for. On an error, what this run made is
// gone again.
func (m *meshTask) start(p *plan) (_ dataplane.Engine, _ *sockets, err error) {
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range slices.Backward(undo) {
				f()
			}
		}
	}()

	conns, err := openSockets(p.queues)
	if err != nil {
		return nil, nil, err
	}
	undo = append(undo, func() { _ = conns.close() })
	receive, send := checkBuffers(p, conns)
	m.log.Info("listening", "address", p.bind.String(), "receive_buffer", receive, "send_buffer", send)

	if err := checkKernel(p); err != nil {
		return nil, nil, err
	}
	fresh, err := link.CheckInterface(p.link.Interface)
	if err != nil {
		return nil, nil, err
	}
	if err := tun.Create(p.link.Interface); err != nil {
		return nil, nil, err
	}
	if fresh {
		// The error that led here matters more than one of cleaning up.
		undo = append(undo, func() { _, _ = link.CleanUp(p.link.Interface) })
		if err := link.Claim(p.link.Interface); err != nil {
			return nil, nil, err
		}
	}
	workers, err := conns.workers(p.link.Interface, p.queues)
	if err != nil {
		return nil, nil, err
	}
	user := dataplane.NewUser(workers, m.log)
	undo = append(undo, func() { user.Close() })
	if err := user.SetMesh(p.mesh); err != nil {
		return nil, nil, err
	}
	if err := link.Set(p.link); err != nil {
		return nil, nil, err
	}
	return user, conns, nil
}

// checkKernel refuses what would make a mesh that looks well and is not, and
// warns of what takes a part of it away.
func checkKernel(p *plan) error {
	var peers []netip.Addr
	var prefixes []netip.Prefix
	for _, peer := range p.mesh.Peers {
		if peer.Name != p.mesh.Self {
			peers = append(peers, peer.Underlay.Addr())
			prefixes = append(prefixes, slices.Concat(peer.Subnets, peer.Routes)...)
		}
	}
	if err := errors.Join(link.CheckRoutes(p.link.Interface, p.link.Routes), link.CheckUnderlay(p.config.Network.CIDR, peers)); err != nil {
		return err
	}
	shadows, err := link.Shadows(p.link.Interface, prefixes)
	for _, route := range shadows {
		p.warn("the route %s takes packets for a peer away from the mesh: delete it with `ip route del`", route)
	}
	return err
}

// checkBuffers warns of socket buffers that the kernel did not grant; too little
// shows as socket_overflow when bursts come.
func checkBuffers(p *plan, conns *sockets) (receive, send int) {
	receive, send, err := conns.receive[0].Buffers()
	switch {
	case err != nil:
		p.warn("the sizes of the socket's buffers are unknown: %v", err)
	case receive < udp.BuffersWanted || send < udp.BuffersWanted:
		p.warn("the UDP socket got buffers of %d and %d bytes instead of %d: bursts may be lost; run `sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d`",
			receive, send, udp.BuffersWanted, udp.BuffersWanted/2, udp.BuffersWanted/2)
	}
	return receive, send
}
