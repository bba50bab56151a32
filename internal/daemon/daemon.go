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
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/auto"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/forwarding"
	"example.org/meshd/internal/handover"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/rules"
)

// Options is what the command line decides.
type Options struct {
	ConfigPath string
	Node       string // which node this host is; empty: found by its address
	Socket     string // control socket
	State      string // folder for what has to survive the daemon, see StateFolder
	Version    string
	Sysctl     bool             // turn forwarding on where it is off
	Reload     <-chan os.Signal // asks to read the file again; may be nil
	Replace    <-chan os.Signal // asks to start the installed program in the place of this one; may be nil
	Log        *slog.Logger
}

// ErrConfig marks errors that only an edit of the file can mend.
var ErrConfig = errors.New("configuration")

// ErrPrivilege marks errors for want of a capability.
var ErrPrivilege = errors.New("privilege")

// Run joins this host to the mesh until ctx ends, then returns nil within a second. The TUN, its
// address and its routes stay, so that pods' packets do not leave in the clear while no meshd runs;
// `meshd cleanup` removes them.
//
// A bad file is an error with config.Faults or ErrConfig in it.
func Run(ctx context.Context, o Options) error {
	c, err := prepare(o)
	if err != nil {
		return err
	}
	events := control.NewEvents()
	o.Log = slog.New(control.NewEventLog(o.Log.Handler(), events))
	log := o.Log

	// Known: what is learned of peers and of this host.
	registry := peers.New()
	probes := newProbes(log, o.Version, registry)
	packets := &loops{ctx: context.WithoutCancel(ctx)}
	news := make(chan struct{}, 1)
	engine := auto.New(dataplane.Options{Log: log, Hear: probes.hear, Start: packets.start, Broken: func() { wake(news) }})
	probes.engine = engine

	// Done: what brings this host to the plan.
	service := handover.New(log)
	view := newPublished(c)
	tell := newTeller(o, c, view)
	h := &host{
		log: log, engine: engine, service: service, probes: probes, rules: rules.New(log), legacy: rules.NewLegacy(log),
		files: newContainerTask(o), metrics: control.NewTCPMetrics(tell.status, log), switcher: forwarding.New(o.State, o.Sysctl, log),
	}
	h.prepare()
	r := newReconciler(o, c, view, h, service)
	r.news = news
	h.again = r.soon
	watch := &fileWatch{log: log, path: o.ConfigPath, changed: func() { wake(r.file) }}

	// Told: to the control socket and to the service manager.
	tell.engine, tell.registry, tell.probes, tell.rules = engine, registry, probes, h.rules
	tell.sources = []func() []mesh.Condition{watch.conditions, h.switcher.Conditions, h.metricsConditions, h.files.conditions, h.legacy.Conditions}
	healthy := func(ctx context.Context) error {
		if view.now().plan == nil { // while it waits for an address, nothing is wrong with this daemon
			return nil
		}
		return errors.Join(engine.Alive(ctx), r.alive(ctx))
	}
	service.Watch(tell.summary, healthy)
	server, err := control.Listen(o.Socket, control.Source{
		Status: tell.status, Route: tell.route, Reload: r.ask, Plan: r.plans, History: tell.past, Ping: tell.ping,
		Healthy: healthy, Ready: tell.ready, Events: events,
	}, log)
	if err != nil {
		return err
	}
	next := handover.NewSuccessor(o.Replace, tell.current, log)

	log.Info("starting", "version", o.Version, "file", tell.path, "event", "starting")
	context.AfterFunc(ctx, func() { log.Info("stopping", "event", "stopping") })
	tasks := []task{server, service, next, r, watch, probes, h.legacy, h.files, h.metrics,
		taskFunc{"rules", h.rules.Keep}, taskFunc{"rules watch", h.rules.Watch},
		taskFunc{"history", func(ctx context.Context) error { return everySecond(ctx, tell.remember) }}}
	err = runAll(ctx, log, append(tasks, hostWatches(engine, func() { wake(news) })...)...)
	replaced := errors.Is(err, handover.ErrReplaced)
	leaveErr := leave(engine, service, packets, replaced)
	if replaced && leaveErr == nil {
		return next.Replace(ctx)
	}
	return errors.Join(err, leaveErr)
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

// Check returns an error if Run would, as far as that can be known without changing anything. A host
// that has no address of a node yet is no error.
func Check(o Options) error {
	c, err := prepare(o)
	if err != nil {
		return err
	}
	self, host, err := observe(c, o)
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
	return fits(p)
}

// prepare loads the file and checks what no plan is needed for.
func prepare(o Options) (*config.Config, error) {
	c, err := config.Load(o.ConfigPath)
	if err != nil {
		return nil, err
	}
	return c, errors.Join(CheckPrivileges(), tun.Available())
}

// CheckPrivileges returns an error with ErrPrivilege in it, one line that says
// what to do, if this process may not change the network.
func CheckPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return fmt.Errorf("%w: this needs the capability CAP_NET_ADMIN: run it as root (`sudo meshd ...`), or the daemon as the service (`systemctl start meshd`)", ErrPrivilege)
	}
	return nil
}

// now is the clock of everything that people see.
func now() time.Time { return time.Now().Round(time.Millisecond) }

// StateFolder returns where meshd keeps what has to survive it: the folder that was asked for, or
// the service's, or one beside a control socket of another place.
func StateFolder(asked, socket string) string {
	switch {
	case asked != "":
		return asked
	case socket != control.DefaultSocket:
		return socket + ".state"
	}
	if first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); first != "" { // systemd.exec(5)
		return first
	}
	return "/var/lib/meshd"
}

// AcceptLegacy puts the rules that accept pods' packets into iptables-legacy, where that is in use,
// as the file at a path asks for. The service may not do it: those tables are for root alone. The
// warning, if not empty, is for people. node is as for Run.
func AcceptLegacy(path, node string) (warning string, err error) {
	c, err := config.Load(path)
	if err != nil {
		return "", err
	}
	local, err := link.LocalAddresses()
	if err != nil {
		return "", err
	}
	// A host that has no address yet is some node of the mesh: all that pods send is accepted then.
	self := config.Node{Subnets: c.Network.CIDR}
	if i, err := plan.Identify(c, node, local); err == nil {
		self = c.Nodes[i]
	}
	accept := plan.RulesOf(c, self, nil).Accept
	if accept == nil {
		_, err := filter.CleanUpLegacy()
		return "", err
	}
	return filter.SetLegacy(*accept)
}
