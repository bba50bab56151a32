// Package daemon is the spine of meshd: what is wanted, what is known, what is done and what is told.
//
//	wanted   the file -> config -> plan             changes when somebody edits the file
//	known    probes, netlink -> peers.Registry      changes by itself, many times a minute
//	done     reconciler: parts bring this host to the plan, all of them or none
//	told     teller: a snapshot of all three -> control socket, metrics, service manager
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"example.org/meshd/internal/apply"
	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/capture"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/auto"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/drain"
	"example.org/meshd/internal/flows"
	"example.org/meshd/internal/handover"
	"example.org/meshd/internal/known"
	"example.org/meshd/internal/lastgood"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/rules"
	"example.org/meshd/internal/seal"
	"example.org/meshd/internal/source"
	"example.org/meshd/internal/speed"
	"example.org/meshd/internal/survey"
	"example.org/meshd/internal/task"
	"example.org/meshd/internal/wireguard"
)

// Options is what the command line decides.
type Options struct {
	ConfigPath string
	Node       string // which node this host is; empty: found by its address
	Socket     string // control socket
	State      string // folder for what has to survive the daemon
	Strict     bool   // a bad file at the start is an error, whatever was in force before
	Version    string
	Sysctl     bool             // turn forwarding on where it is off
	Reload     <-chan os.Signal // asks to read the file again; may be nil
	Replace    <-chan os.Signal // asks to start the installed program in the place of this one; may be nil
	Log        *slog.Logger
	keys       *survey.Keys
	changes    *apply.Keeper
}

// where says where the file is.
func (o Options) where() begin.Where {
	return begin.Where{Path: o.ConfigPath, State: o.State, Strict: o.Strict, See: o.changes.See}
}

// viewer says how to look at this host. names tells what names of the file stand for; nil: none is resolved.
func (o Options) viewer(r *rules.Others, names func() map[string]plan.Name) survey.Viewer {
	return survey.Viewer{Node: o.Node, State: o.State, Sysctl: o.Sysctl, Others: r, Names: names, Keys: o.keys}
}

// ErrConfig marks errors that only an edit of the file can mend.
var ErrConfig = errors.New("configuration")

// Run joins this host to the mesh until ctx ends, then returns nil within a second. The TUN, its
// address and its routes stay, so that pods' packets do not leave in the clear while no meshd runs;
// `meshd cleanup` removes them.
//
// In the place of a bad file Run takes the last good one. Without one, or with o.Strict, a bad file is
// an error with config.Faults or ErrConfig in it.
func Run(ctx context.Context, o Options) error {
	started := collectLater()
	defer started()
	events := control.NewEvents()
	o.Log = slog.New(control.NewEventLog(o.Log.Handler(), events))
	o.changes = apply.New(o.State, o.where().Full(), apply.Host(), o.Log)
	o.changes.Load()
	reader := source.NewReader(o.ConfigPath, config.MaxSize)
	first, err := o.where().Load(ctx, reader)
	if err = errors.Join(err, begin.CheckPrivileges(), tun.Available()); err != nil {
		return errors.Join(err, o.where().Bar(first.Config))
	}
	d := assemble(ctx, o, first, reader)
	d.reconciler.started = started
	server, err := control.Listen(o.Socket, control.Source{
		Status: d.tell.status, Route: d.tell.route, Reload: d.reconciler.ask, Plan: d.reconciler.plans,
		History: d.tell.past, Ping: d.tell.ping, Healthy: d.healthy, Ready: d.tell.ready, Events: events,
		Speed:   d.speed.Ask,
		Capture: d.capture.Capture,
		Drain:   func(r control.DrainRequest) error { return d.drain.For(r.ForSeconds, r.Reason, r.By) },
		Undrain: d.drain.End, Flows: d.flows.Told, CountFlows: d.flows.Ask, Changer: o.changes.Changer(),
	}, o.Log)
	if err != nil {
		return err
	}
	o.Log.Info("starting", "version", o.Version, "file", d.tell.path, "event", "starting")
	context.AfterFunc(ctx, func() { o.Log.Info("stopping", "event", "stopping") })
	next := handover.NewSuccessor(o.Replace, d.tell.current, o.Log)
	err = task.RunAll(ctx, o.Log, append(d.tasks(), server, next)...)
	replaced := errors.Is(err, handover.ErrReplaced)
	leaveErr := leave(d.engine, d.service, d.packets, replaced)
	if replaced && leaveErr == nil {
		return next.Replace(ctx)
	}
	return errors.Join(err, leaveErr)
}

// daemon is the object graph: who knows whom, from top to bottom. Nothing is tied together later.
type daemon struct {
	*host      // done: what brings this host to the plan
	reconciler *reconciler
	tell       *teller // told: to the control socket and to the service manager
	source     *source.Follower
	good       *lastgood.Keeper
	drain      *drain.Keeper
	flows      *flows.Keeper
	names      survey.Names
	keys       *survey.Keys
	reloads    <-chan os.Signal
	packets    *loops
	seal       *seal.Engine
	speed      *speed.Keeper
	capture    *capture.Keeper
	news       func() // this host may have changed
}

// assemble makes all objects of a daemon that begins with a file. None of them has done anything yet.
func assemble(ctx context.Context, o Options, first begin.File, reader *source.Reader) *daemon {
	log, view := o.Log, newPublished(first.Config)
	packets := &loops{ctx: context.WithoutCancel(ctx)}
	news := make(chan struct{}, 1)
	o.keys = survey.NewKeys(func() { wake(news) })
	d := &daemon{packets: packets, keys: o.keys, reloads: o.Reload, news: func() { wake(news) },
		source: source.NewFollower(reader, log), good: lastgood.NewKeeper(o.State, log)}
	d.names = survey.NewNames(log, o.State, d.news, nil)

	// Known: what is learned of peers. The probes travel through the engine, and it hears them.
	registry := peers.New()
	probes := known.New(log, o.Version, registry)
	d.seal = seal.Around(auto.New(dataplane.Options{
		Log: log, Hear: probes.Hear, Doubt: probes.Look, Start: packets.start, Broken: d.news,
	}), seal.Options{Log: log, Key: wireguard.ReadKey, Fails: registry.Fails,
		Guard: func(ctx context.Context) bool { return d.rules.Guard(ctx) }, Lags: func(peer string, lags bool) {
			probes.Learn(peer, func(f *peers.Facts) { f.Lagging = lags })
		}}, probes.Hear)
	probes.Engine = d.seal

	d.drain = drain.New(o.State, log, probes.Drain)
	d.drain.Load()
	d.tell = newTeller(o, view)
	d.tell.drain = d.drain
	d.host = newHostOf(o, d.seal, probes, d.tell.status)
	d.reconciler = newReconciler(o, first, view, d.host, d.names, news)
	d.reconciler.read, d.reconciler.see = d.source.Now, o.changes.See
	d.reconciler.accepted = d.accept(o)
	if d.reconciler.instead = o.where().Instead; first.Bad != nil {
		d.reconciler.useLastGood(first)
	}
	d.flows = flows.New(d.engine, log)
	d.tell.engine, d.tell.registry, d.tell.probes, d.tell.rules = d.engine, registry, probes, d.rules
	probes.Narrow = d.rules.Narrow
	inForce := func() *plan.Plan { return view.now().plan }
	d.speed = speed.New(speed.Options{Log: log, Measured: probes.Loaded, Plan: inForce})
	d.capture = capture.New(capture.Options{Log: log, Plan: inForce, Open: auto.OpenTap})
	d.tell.sources = []func() []mesh.Condition{
		d.source.Conditions, d.good.Conditions, d.switcher.Conditions, d.metricsConditions, d.files.Conditions,
		d.legacy.Conditions, d.drain.Conditions,
		registry.Conditions, o.changes.Conditions,
		d.crossing.Conditions,
		func() []mesh.Condition { return d.reconciler.repairs.Conditions(time.Now()) },
	}
	d.service.Watch(d.tell.summary, d.healthy)
	return d
}

// accept ties changes with a safety line to what carries them out. It returns what hears of each file that
// comes into force: one that may be taken back is not the last good one.
func (d *daemon) accept(o Options) func(*config.Config) {
	keep := o.where().Keep(d.good)
	o.changes.Use(apply.Daemon{Read: d.source.Now, Put: d.reconciler.put,
		Plan: func(ctx context.Context, path string, doc []byte) ([]control.Error, error) {
			_, faults, err := d.reconciler.plans(ctx, path, doc)
			return faults, err
		},
		Current: func() string { return d.tell.view.now().config.Text() },
		Settled: func(ctx context.Context) {
			keep(d.tell.view.now().config)
			d.good.Wait(ctx)
		}})
	return func(c *config.Config) {
		if o.changes.Accepted(c.Text()) {
			keep(c)
		}
	}
}

// tasks returns everything of the daemon that runs until it ends.
func (d *daemon) tasks() []task.Task {
	return append(append(hostWatches(d.engine, d.news), d.speed.Tasks()...),
		d.service, d.reconciler, d.tell.changes, d.names, d.good, d.drain, d.probes, d.legacy, d.files, d.metrics,
		d.flows,
		task.New("file", func(ctx context.Context) error { return d.source.Run(ctx, d.reconciler.take) }),
		task.New("SIGHUP", func(ctx context.Context) error { return d.reconciler.obey(ctx, d.reloads) }),
		task.EverySecond("health", d.tell.seldom(d.tell.watchHealth)), task.EverySecond("private key", d.keys.Look),
		task.EverySecond("host's word", d.probes.Heed),
		task.New("encryption", d.seal.Keep), task.New("probes in the tunnel", d.seal.Ask),
		task.New("rules", d.rules.Keep),
		task.New("rules watch", func(ctx context.Context) error { return d.rules.Watch(ctx, d.crossing.Wake) }),
		task.New("others' rules", func(ctx context.Context) error {
			return d.others.Watch(ctx, d.datagrams, d.news)
		}),
		task.New("pods' way", d.crossing.Run), task.New("forwarded probes", d.crossing.Read),
		task.EverySecond("names in doubt", func(time.Time) {
			v := d.tell.view.now()
			d.names.Doubt(v.config, v.plan, func(node string) bool {
				return d.tell.registry.Fails(node) || node == v.plan.Self.Name && mesh.Has(v.notes, mesh.HostMismatch)
			})
		}),
		task.EverySecond("history", d.tell.seldom(d.tell.remember)))
}

// datagrams returns the mesh port and where the peers of the plan in force listen; none without a plan.
func (d *daemon) datagrams() (from uint16, peers []netip.AddrPort) {
	p := d.tell.view.now().plan
	if p == nil {
		return 0, nil
	}
	for peer := range p.Engine.Mesh.Others() {
		for _, a := range peer.Addresses {
			peers = append(peers, a.AddrPort)
		}
	}
	return p.Port(), peers
}

// healthy returns nil if packets move and the reconciler does. While the daemon waits for an address,
// nothing is wrong with it.
func (d *daemon) healthy(ctx context.Context) error {
	if d.reconciler.view.now().plan == nil {
		return nil
	}
	return errors.Join(d.engine.Alive(ctx), d.reconciler.alive(ctx))
}

// leave ends the packet loops once they have forwarded what they have read. What the service manager
// or a successor gets lives on, and fills until it is adopted.
func leave(e engine, service *handover.Manager, packets *loops, successor bool) error {
	err := e.Stop()
	if successor {
		err = errors.Join(err, service.Bequeath(e.Descriptors()))
	}
	err = errors.Join(err, e.Close())
	packets.group.Wait()
	return err
}

// Check returns an error if Run with o.Strict would, as far as that can be known without changing
// anything. A host that has no address of a node yet is no error.
func Check(o Options) error {
	c, err := config.Load(o.ConfigPath)
	if err = errors.Join(err, begin.CheckPrivileges(), tun.Available()); err != nil {
		return err
	}
	self, host, err := o.viewer(rules.NewOthers(o.Log), nil).Look(c)
	switch {
	case errors.Is(err, plan.ErrNotHere):
		return nil
	case errors.Is(err, plan.ErrIdentity):
		return fmt.Errorf("%w: %w", ErrConfig, err)
	case err != nil:
		return err
	}
	p, err := plan.Make(c, self, host)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return survey.FitsOthers(p)
}

// now is the clock of everything that people see.
func now() time.Time { return time.Now().Round(time.Millisecond) }

// ContainerNote is the path of the note of what files were written, beside a control socket.
func ContainerNote(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".files" }
