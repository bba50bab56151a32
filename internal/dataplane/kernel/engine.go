package kernel

import (
	"log/slog"
	"maps"
	"sync"
	"time"

	"example.org/meshd/internal/dataplane"
)

// Engine is the user engine with programs around it, or without: it may change while
// packets flow. Its methods may be called at any time from any goroutine.
type Engine struct {
	*dataplane.User
	log *slog.Logger

	mu       sync.Mutex
	finishes map[string]bool              // peers that are meshd
	mesh     *dataplane.Mesh              // the last one; nil before
	programs *Programs                    // nil: user space does it all
	receive  string                       // where the programs take packets
	past     dataplane.Traffic            // of programs that were taken away
	parts    map[string]dataplane.Traffic // of them, by peer
}

// New returns an engine that has no programs.
func New(user *dataplane.User, log *slog.Logger) *Engine {
	return &Engine{User: user, log: log, parts: map[string]dataplane.Traffic{}, finishes: map[string]bool{}}
}

// Use has programs forward what is plain, as settings say; nil takes them away. On error
// user space does it all.
func (e *Engine) Use(s *Settings) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s == nil {
		return e.leave()
	}
	if e.programs == nil {
		programs, err := Load()
		if err != nil {
			return err
		}
		e.programs = programs
		maps.Copy(programs.finishes, e.finishes)
		if e.mesh != nil {
			if err := programs.SetMesh(*e.mesh); err != nil {
				_ = e.leave()
				return err
			}
		}
	}
	if err := e.programs.Attach(*s); err != nil {
		_ = e.leave()
		return err
	}
	e.receive = s.Receive
	return nil
}

// leave takes the programs away, and keeps what they have counted.
func (e *Engine) leave() error {
	if e.programs == nil {
		return nil
	}
	p := e.programs
	e.programs = nil
	if err := p.detach(); err != nil {
		return err
	}
	peers, total, err := p.Counters()
	if err == nil {
		e.past.Add(total)
		for name, t := range peers {
			sum := e.parts[name]
			sum.Add(t)
			e.parts[name] = sum
		}
	}
	return p.Close()
}

// Finishes says whether a peer is meshd: see Programs.Finishes.
func (e *Engine) Finishes(peer string, yes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.finishes[peer] = yes
	if e.programs == nil {
		return
	}
	if err := e.programs.Finishes(peer, yes); err != nil {
		e.log.Error("a peer is served by user space", "peer", peer, "error", err, "event", "tables_failed")
	}
}

// SetMesh implements dataplane.Engine.
func (e *Engine) SetMesh(m dataplane.Mesh) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.User.SetMesh(m); err != nil {
		return err
	}
	e.mesh = &m
	if e.programs == nil {
		return nil
	}
	return e.programs.SetMesh(m)
}

// Counters implements dataplane.Engine.
func (e *Engine) Counters() dataplane.Counters {
	c := e.User.Counters()
	e.mu.Lock()
	defer e.mu.Unlock()
	c.Totals.Add(e.past)
	peers := map[string]dataplane.Traffic{}
	if e.programs != nil {
		now, total, err := e.programs.Counters()
		if err != nil {
			e.log.Error("the kernel's counters cannot be read", "error", err, "event", "counters_failed")
		}
		c.Totals.Add(total)
		peers = now
	}
	for name, t := range c.Peers {
		t.Add(peers[name])
		t.Add(e.parts[name])
		c.Peers[name] = t
	}
	return c
}

// LastSeen implements dataplane.Engine.
func (e *Engine) LastSeen(peer string) time.Time {
	seen := e.User.LastSeen(peer)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.programs == nil {
		return seen
	}
	if at := e.programs.LastSeen(peer); at.After(seen) {
		return at
	}
	return seen
}

// Info implements dataplane.Engine.
func (e *Engine) Info() dataplane.Info {
	info := e.User.Info()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.programs != nil {
		info.Engine, info.Receive = "kernel", e.receive
	}
	return info
}
