package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/link"
)

// running is a mesh in operation: the plan in force and the rooms that carry it
// out. Only the reloader changes it, one file after the other.
type running struct {
	*meshTask
	plan    *plan
	engine  dataplane.Engine
	sockets *sockets
	rules   *masqTask
}

func (r *running) String() string { return "reload" }

// Run reads the file again whenever it is asked to, until ctx ends. A file that
// cannot be applied changes nothing: the one in force stays in force, whole.
func (r *running) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.options.Reload:
			began := now()
			err := r.reload()
			generation := r.state.reloaded(r.plan, began, err)
			if err != nil {
				r.log.Error("reload rejected, the file in force stays", "generation", generation, "error", err)
				continue
			}
			r.log.Info("reloaded", "generation", generation, "peers", len(r.plan.mesh.Peers)-1)
		}
	}
}

// reload loads, plans and applies the file. Nothing is touched before it is
// known to be good.
func (r *running) reload() error {
	c, err := config.Load(r.options.ConfigPath)
	if err != nil {
		return err
	}
	if err := checkEngine(c); err != nil {
		return err
	}
	host, err := surroundingsOf(c, r.options.Node)
	if err != nil {
		return err
	}
	self, _, err := identify(c, r.options.Node, host.local)
	if err != nil {
		return err
	}
	next, err := makePlan(c, self, host)
	if err != nil {
		return err
	}
	if err := errors.Join(needsRestart(r.plan, next), checkKernel(next)); err != nil {
		return err
	}
	checkBuffers(next, r.sockets)
	if err := r.apply(next); err != nil {
		return errors.Join(err, r.undo())
	}
	r.plan = next
	return nil
}

// apply puts a plan in force, step by step.
func (r *running) apply(p *plan) error {
	if err := r.engine.SetMesh(p.mesh); err != nil {
		return err
	}
	if err := link.Set(p.link); err != nil {
		return err
	}
	r.rules.follow(p)
	return nil
}

// undo puts the old plan in force again after a step of the new one failed.
func (r *running) undo() error {
	if err := r.apply(r.plan); err != nil {
		return fmt.Errorf("go back to the file in force: %w", err)
	}
	return nil
}

// needsRestart names what a running daemon does not take over.
func needsRestart(old, next *plan) error {
	var keys []string
	if old.link.Interface != next.link.Interface {
		keys = append(keys, "network.interface")
	}
	if old.bind != next.bind {
		keys = append(keys, "this node's address or port")
	}
	if old.config.Dataplane != next.config.Dataplane {
		keys = append(keys, "[dataplane]")
	}
	if len(keys) > 0 {
		return fmt.Errorf("%w: a restart is needed to change %s", ErrConfig, slices.Sorted(slices.Values(keys)))
	}
	return nil
}
