package main

import (
	"context"
	"fmt"
	"time"
)

// A step is one change of a mesh while traffic flows, as docs/encryption.md has operators make it.
type step struct {
	name    string
	change  func(s *settings)
	between func(step time.Duration) time.Duration // of two hosts
}

// Hosts may go over to encryption minutes apart, but not back.
func apart(step time.Duration) time.Duration { return step / 8 }
func together(time.Duration) time.Duration   { return 0 }

// engines are the ways to move bare packets between which a mesh switches.
var engines = []string{"engine = \"kernel\"\nreceive = \"xdp\"", `engine = "user"`, `engine = "auto"`,
	"engine = \"kernel\"\nreceive = \"tcx\""}

// steps returns a round of all switches: with each engine to encryption and back.
func steps() (all []step) {
	for _, engine := range engines {
		all = append(all,
			step{engine, func(s *settings) { s.engine = engine }, apart},
			step{"keys are listed", func(s *settings) { s.keys = true }, apart},
			step{`transport = "wireguard"`, func(s *settings) { s.sealed = true }, apart},
			step{`transport = "udp"`, func(s *settings) { s.sealed = false }, together},
			step{"no keys are listed", func(s *settings) { s.keys = false }, apart})
	}
	return all
}

// edit puts files into force on a mesh until ctx ends: an edit of an unrelated key each minute, and the steps
// of a switch if there are any. Meshes switch at the same times, each at another step.
func (s *soak) edit(ctx context.Context, r *result, m *mesh) {
	reload, next := time.NewTicker(s.reloads), make(<-chan time.Time)
	defer reload.Stop()
	if s.switches > 0 {
		ticker := time.NewTicker(s.switches)
		defer ticker.Stop()
		next = ticker.C
	}
	round := steps()
	for i := 0; ; {
		between, to := time.Duration(0), m.state
		select {
		case <-ctx.Done():
			return
		case <-reload.C:
			to.edits++
		case <-next:
			one := round[i%len(round)]
			i++
			one.change(&to)
			between = one.between(s.switches)
			r.mu.Lock()
			r.changes = append(r.changes, change{time.Since(r.began), m.name, one.name})
			r.mu.Unlock()
		}
		if err := m.applyAll(ctx, to, between); err != nil && ctx.Err() == nil {
			r.fails(fmt.Errorf("edit: %w", err))
		}
		r.mu.Lock()
		r.edits++
		r.mu.Unlock()
	}
}
