// Package flows tells who uses the bandwidth: it has an engine count flows while somebody asks for it, and
// makes rates of what was counted.
//
//	lease     for how long flows are counted after a request; nobody has to say that they need them no more
//	reading   of the engine's table, each second
//	rate      what moved between two readings
//	row       a flow, or the sum of those with the same pod, peer or port
//
// Nothing is counted without a lease, and the table is given up with the last one.
package flows

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// interval is the time between two readings.
const interval = time.Second

// A Keeper counts flows while there is a lease. Ask and Told may be called from any goroutine.
type Keeper struct {
	engine dataplane.FlowCounter
	log    *slog.Logger
	wake   chan struct{} // there is a lease

	mu    sync.Mutex // for arithmetic alone
	until time.Time  // of the lease; past: there is none

	told atomic.Pointer[told]

	// Of Run alone.
	before map[mesh.Flow]mesh.FlowCount // as read last
	failed bool                         // and it was logged
}

// told is what was found out last. It is never changed.
type told struct {
	state, cause string
	began, at    time.Time
	interval     time.Duration
	sampled      bool
	flows        []flow
}

// A flow is one, with what was counted in all and in the last interval.
type flow struct {
	mesh.Flow
	all, recent mesh.FlowCount
}

// New returns a keeper of an engine's flows.
func New(engine dataplane.FlowCounter, log *slog.Logger) *Keeper {
	k := &Keeper{engine: engine, log: log, wake: make(chan struct{}, 1)}
	k.told.Store(&told{state: control.FlowsOff})
	return k
}

// String returns the keeper's name as a task.
func (k *Keeper) String() string { return "flows" }

// Ask has flows counted for a time from now on, which does not shorten an earlier lease. by is who asks. It
// does not wait.
func (k *Keeper) Ask(lease time.Duration, by string) {
	now := time.Now()
	k.mu.Lock()
	begins := now.After(k.until)
	if until := now.Add(lease); until.After(k.until) {
		k.until = until
	}
	k.mu.Unlock()
	if begins {
		k.log.Info("flows are counted", "by", by, "event", "flows_on")
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// lease returns when counting ends, and whether that is to come.
func (k *Keeper) lease() (until time.Time, counts bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.until, time.Now().Before(k.until)
}

// Run counts flows whenever there is a lease, until ctx ends. It leaves nothing that counts.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
			if _, counts := k.lease(); counts {
				k.count(ctx)
			}
		}
	}
}

// count counts flows until the lease ends, or ctx.
func (k *Keeper) count(ctx context.Context) {
	defer k.end()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	k.told.Store(&told{state: control.FlowsStarting, began: time.Now(), at: time.Now()})
	k.begin()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, counts := k.lease(); !counts {
			return
		}
		if k.begin() { // again, for what has come new
			k.read()
		}
	}
}

// begin has the engine count, and tells if it cannot.
func (k *Keeper) begin() (counts bool) {
	err := k.engine.CountFlows(true)
	k.note(err)
	return err == nil
}

// end gives up the table.
func (k *Keeper) end() {
	if err := k.engine.CountFlows(false); err != nil {
		k.log.Warn("flows are counted still: the next `meshd top`, or a restart, ends it",
			"error", err, "event", "flows_failed")
	}
	k.before, k.failed = nil, false
	k.told.Store(&told{state: control.FlowsOff})
	k.log.Info("flows are not counted any more", "event", "flows_off")
}

// note tells of what went wrong, and logs it once.
func (k *Keeper) note(err error) {
	if err == nil {
		return
	}
	next := *k.told.Load()
	next.state, next.cause, next.flows = control.FlowsFailed, err.Error(), nil
	k.told.Store(&next)
	if !k.failed {
		k.failed = true
		k.log.Warn("cannot count flows", "error", err, "event", "flows_failed")
	}
}

// read makes rates of a reading and the one before.
func (k *Keeper) read() {
	last := k.told.Load()
	now := time.Now()
	r, err := k.engine.Flows()
	if err != nil {
		k.note(err)
		return
	}
	next := &told{state: control.FlowsCounted, began: last.began, at: now, interval: now.Sub(last.at),
		sampled: r.Sampled}
	if r.Sealed {
		next.state, k.before = control.FlowsSealed, nil
		k.told.Store(next)
		return
	}
	next.flows = make([]flow, 0, len(r.Counts))
	for f, count := range r.Counts {
		next.flows = append(next.flows, flow{Flow: f, all: count, recent: count.Since(k.before[f])})
	}
	k.before = r.Counts
	k.told.Store(next)
}
