// Package daemon is the spine of meshd. It reads the file, plans what every
// room has to do, has it done in an order that never leaves a half-made mesh,
// runs the packet loops, and tells the state of it all.
//
//	load -> identify -> plan -> apply (a transaction) -> packet loops
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/tun"
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

// Run joins this host to the mesh until ctx ends, then returns nil within a
// second. The TUN, its address and its routes stay, so that pods' packets do
// not leave in the clear while no meshd runs; `meshd cleanup` removes them.
//
// A bad file is an error with config.Faults or ErrConfig in it.
func Run(ctx context.Context, o Options) error {
	c, err := prepare(o)
	if err != nil {
		return err
	}
	events := control.NewEvents()
	o.Log = slog.New(&eventLog{Handler: o.Log.Handler(), events: events})
	state := newState(o, c)
	service := newManager(o.Log)
	m := newReconciler(o, state, service)
	service.summary, service.alive = state.summary, m.healthy
	server, err := control.Listen(o.Socket, control.Source{
		Status: state.status, Route: state.route, Reload: m.ask, Plan: m.plans, History: state.past, Ping: state.ping,
		Healthy: m.healthy, Ready: state.ready, Events: events,
	}, o.Log)
	if err != nil {
		return err
	}
	o.Log.Info("starting", "version", o.Version, "file", state.path, "event", "starting")
	context.AfterFunc(ctx, func() { o.Log.Info("stopping", "event", "stopping") })
	next := newSuccessor(o, state.fits)
	err = runAll(ctx, o.Log, server, m, service, next)
	if errors.Is(err, errReplaced) {
		return next.replace(ctx)
	}
	return err
}

// Check returns an error if Run would, as far as that can be known without changing
// anything. That this host has no address of a node yet is none.
func Check(o Options) error {
	c, err := prepare(o)
	if err != nil {
		return err
	}
	p, away, err := firstPlan(c, o)
	if away != nil || err != nil {
		return err
	}
	return checkKernel(p)
}

// prepare loads the file and checks what no plan is needed for.
func prepare(o Options) (*config.Config, error) {
	c, err := config.Load(o.ConfigPath)
	if err != nil {
		return nil, err
	}
	return c, errors.Join(CheckPrivileges(), tun.Available())
}

// A task is one long-lived part of the daemon.
type task interface {
	// Run blocks; it returns nil when ctx ends.
	Run(ctx context.Context) error
	fmt.Stringer
}

// taskFunc is a task of one function.
type taskFunc struct {
	name string
	run  func(ctx context.Context) error
}

func (t taskFunc) String() string                { return t.name }
func (t taskFunc) Run(ctx context.Context) error { return t.run(ctx) }

// runAll runs the tasks until ctx ends or one of them fails, which ends all.
func runAll(ctx context.Context, log *slog.Logger, tasks ...task) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		group.Go(func() error {
			if err := t.Run(ctx); err != nil {
				return fmt.Errorf("%s: %w", t, err)
			}
			log.Debug("task ended", "task", t.String())
			return nil
		})
	}
	return group.Wait()
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
