package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/link"
)

// A transaction puts a plan in force: first everything that can fail, growing
// beside what is there, then the switch to new packet loops, which cannot. A step
// that fails undoes those before it, and the old plan stays in force, whole.
//
//	backstops -> port -> device -> mesh into the engine -> interface -> rules -> programs -> queues -> loops
//
// Queues and further sockets come last, since the kernel gives them packets from the
// moment they are there, which would be lost if they had to be closed again. Where the daemon takes over queues that an earlier one left, interface
// and rules are there, too: then the packet loops begin before those are looked at.
//
// The UDP port comes before anything in the kernel is touched, so that a second
// daemon or a flannel on the host is found while everything is as it was.
type transaction struct {
	m         *reconciler
	old, next *plan          // old is nil at the start of the daemon
	have      *endpoints     // open, now or left by an earlier meshd; nil if there are none to use
	open      *endpoints     // to be used; nil: the packet loops stay as they are
	repaired  []string       // what of the interface was not as it should be
	backstops []netip.Prefix // that this transaction has added
	metrics   net.Listener   // new, if it is to be another one
	rereading bool           // the file was read, and with it what has no news of its own
}

// step is one part of a transaction. undo also mends a step that is half done.
type step struct {
	name     string
	do, undo func() error
}

// apply makes next the plan in force. rebuild asks for new sockets and queues
// also where the plan has the same ones. It returns in words what of the
// interface had to be changed.
func (m *reconciler) apply(next *plan, rebuild bool) (repaired []string, err error) {
	// A plan from another reading of the file may have the same words in it.
	rereading := m.plan == nil || m.plan.config != next.config
	t := &transaction{m: m, old: m.plan, next: next, have: m.endpoints, rereading: rereading}
	if rebuild {
		t.have = &endpoints{receive: m.endpoints.receive} // to stand beside, not to be used again
	}
	if rebuild || m.plan == nil || m.plan.queues != next.queues {
		t.open = &endpoints{queues: next.queues}
	}
	if err := run(t.steps()); err != nil {
		return nil, err
	}
	if m.plan != nil {
		for _, w := range without(next.warnings, m.plan.warnings) {
			m.log.Warn(w, "event", "warning")
		}
	}
	m.plan = next
	m.metrics.use(t.metrics, next.config.Metrics.Listen)
	m.probes.follow(next, m.options.Version)
	m.letForward(next)
	return t.repaired, nil
}

// letForward turns forwarding on where --sysctl asks for it. It comes after the rules, which keep
// apart what is no part of the mesh; while they are not in force it is tried again.
func (m *reconciler) letForward(p *plan) {
	if m.forward.follow(p, m.rules.fine()) && m.retry == nil {
		m.retry = time.After(retryLast)
	}
}

// steps returns what is to be done, in order.
func (t *transaction) steps() []step {
	backstops := step{"set backstop routes", t.backstop, t.oldBackstop}
	port := step{"bind the port", func() error { return t.open.bindPort(t.have) }, t.close}
	device := step{"make the TUN", t.create, t.remove}
	tables := step{"set mesh", func() error { return t.m.engine.SetMesh(t.next.mesh) }, t.oldMesh}
	host := step{"configure the interface", t.configure, t.oldLink}
	rules := step{"set rules", t.rules, t.oldRules}
	files := step{"write files for containers", t.files, t.oldFiles}
	queues := step{"attach to the TUN", func() error { return t.open.attach(t.have) }, t.close}
	loops := step{"switch the packet loops", t.switchLoops, t.stopLoops}
	metrics := step{"listen for metrics", t.listen, t.unlisten}
	programs := step{"use the kernel engine", t.programs, t.oldPrograms}
	switch takeover := t.old == nil && t.have.attached(); {
	case t.open == nil:
		return []step{metrics, backstops, tables, host, rules, files, programs}
	case takeover:
		return []step{port, backstops, queues, tables, loops, host, rules, files, metrics, programs}
	}
	return []step{metrics, port, backstops, device, tables, host, rules, files, programs, queues, loops}
}

// run does all steps, or none.
func run(steps []step) error {
	for i, s := range steps {
		err := s.do()
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: %w", s.name, err)
		// The step itself may be half done: it is undone, too.
		for _, done := range slices.Backward(steps[:i+1]) {
			if undoErr := done.undo(); undoErr != nil {
				err = errors.Join(err, fmt.Errorf("undo %q: %w", done.name, undoErr))
			}
		}
		return err
	}
	return nil
}

// close closes what the transaction opened.
func (t *transaction) close() error {
	opened := t.open
	t.open = &endpoints{}
	return opened.closeAllBut(t.have)
}

// listen has the metrics' address ready. That it cannot be had is an error of an
// edit; at the start the mesh itself is worth more.
func (t *transaction) listen() (err error) {
	t.metrics, err = t.m.metrics.listen(t.next.config.Metrics.Listen)
	if t.old == nil || t.old.config.Metrics.Listen == t.next.config.Metrics.Listen {
		return nil
	}
	return err
}

func (t *transaction) unlisten() error {
	if t.metrics == nil {
		return nil
	}
	return t.metrics.Close()
}

// create makes the device, or takes over the one that an earlier run left. Where
// queues of ours are attached, it is there; and making it would add a queue for a
// moment, which would take packets with it.
func (t *transaction) create() error {
	if t.have.attached() {
		return nil
	}
	name := t.next.link.Interface
	if t.old == nil {
		if err := checkKernel(t.next); err != nil {
			return err
		}
		if _, err := link.CheckInterface(name); err != nil {
			return err
		}
	}
	fresh := !link.Exists(name)
	if err := tun.Create(name); err != nil {
		return err
	}
	t.m.made = t.m.made || fresh
	return link.Claim(name)
}

// remove takes away a device that this run made.
func (t *transaction) remove() error {
	if t.old != nil || !t.m.made {
		return nil
	}
	_, err := link.CleanUp(t.next.link.Interface)
	return err
}

func (t *transaction) oldMesh() error {
	if t.old == nil {
		return nil
	}
	return t.m.engine.SetMesh(t.old.mesh)
}

// backstop sees to it that pods' packets find no other way while the TUN or its route is away. It
// comes before the TUN, so that there is no first moment without.
func (t *transaction) backstop() error {
	changed, added, err := link.SetBackstops(t.next.behind)
	t.repaired, t.backstops = append(t.repaired, changed...), added
	return err
}

func (t *transaction) oldBackstop() error {
	if t.old == nil {
		return link.RemoveBackstops(t.backstops)
	}
	_, _, err := link.SetBackstops(t.old.behind)
	return err
}

func (t *transaction) configure() (err error) {
	repaired, err := link.Set(t.next.link)
	t.repaired = append(t.repaired, repaired...)
	return err
}

func (t *transaction) oldLink() error {
	if t.old == nil {
		return nil
	}
	_, err := link.Set(t.old.link)
	return err
}

// rules sets them, where they become others: what somebody does to those that are
// in force is the rules' own task to mend. That they cannot be set is a warning at the start, since the
// mesh itself works without, and later an error only where they were in force.
func (t *transaction) rules() error {
	if t.old != nil && sameRules(t.old, t.next) && !t.rereading {
		return nil
	}
	fine := t.old != nil && t.m.rules.fine()
	err := t.m.rules.follow(t.next)
	if !fine {
		return nil
	}
	return err
}

func (t *transaction) oldRules() error {
	if t.old == nil {
		return nil
	}
	return t.m.rules.follow(t.old)
}

// files writes them. As with rules, that they cannot be written is an error only where
// they were before.
func (t *transaction) files() error {
	fine := t.old != nil && t.m.files.fine()
	err := t.m.files.follow(t.next)
	if !fine {
		return nil
	}
	return err
}

func (t *transaction) oldFiles() error {
	if t.old == nil {
		return nil
	}
	return t.m.files.follow(t.old)
}

// programs has the kernel engine forward what is plain, or not. Where the file insists on
// it, that it cannot is an error.
func (t *transaction) programs() error {
	repaired, err := t.m.usePrograms(t.next)
	t.repaired = append(t.repaired, repaired...)
	return err
}

func (t *transaction) oldPrograms() (err error) {
	if t.old == nil {
		_, err = t.m.engine.Use(nil, "")
	} else {
		_, err = t.m.usePrograms(t.old)
	}
	return err
}

func (m *reconciler) usePrograms(p *plan) (repaired []string, err error) {
	if p.kernel == nil {
		if asked := p.config.Dataplane.Engine != config.EngineUser; asked && (m.plan == nil || m.plan.userOnly != p.userOnly) {
			m.log.Info("the user engine forwards", "reason", p.userOnly, "event", "user_engine")
		}
		return m.engine.Use(nil, p.userOnly)
	}
	s := *p.kernel
	s.TUN = link.Index(p.link.Interface)
	return m.engine.Use(&s, "")
}

// switchLoops begins new packet loops, and cannot fail. The old ones end first, so
// that no packet passes another; what arrives meanwhile waits in the kernel.
func (t *transaction) switchLoops() error {
	t.m.probes.introduce(t.next, t.m.options.Version)
	loops, err := t.m.engine.Replace(t.open.workers())
	old := t.m.endpoints
	t.m.endpoints = t.open
	t.m.broken, t.m.failed = make(chan error, 1), nil
	for _, loop := range loops {
		t.m.start(loop, t.m.broken)
	}
	if err := errors.Join(err, old.closeAllBut(t.open), t.m.manager.keep(t.open)); err != nil {
		t.m.log.Warn("the old packet loops did not end cleanly", "error", err)
	}
	return nil
}

// stopLoops ends the packet loops of a takeover.
func (t *transaction) stopLoops() error {
	t.m.endpoints = nil // closed by the steps before
	return t.m.engine.Stop()
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

// feasible returns why a running daemon cannot go from one plan to another.
func feasible(old, next *plan) error {
	if err := needsRestart(old, next); err != nil {
		return err
	}
	return checkKernel(next)
}

// needsRestart names what a running daemon does not take over.
func needsRestart(old, next *plan) error {
	if old.link.Interface == next.link.Interface {
		return nil
	}
	return next.config.Fault("network.interface", "a running meshd cannot change it from %s to %s: run `systemctl stop meshd; meshd cleanup; systemctl start meshd`",
		old.link.Interface, next.link.Interface)
}
