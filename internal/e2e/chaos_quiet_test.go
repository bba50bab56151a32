package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"example.org/meshd/internal/control"
)

const (
	// recovery is the longest time from the end of trouble until no daemon has a problem. Loss counts for
	// half a minute.
	recovery = 2 * time.Minute
	// settled is how long no daemon has a problem before that counts: the last trouble may only begin to show.
	settled = 5 * time.Second
	// glance is how often daemons tell meanwhile. They judge whenever they tell.
	glance = 200 * time.Millisecond
)

// beQuiet waits until no daemon has a problem, and fails the test for each problem that one has after that
// within a time: nothing happens, so it is a false alarm.
func (c *chaos) beQuiet(how time.Duration) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	var hunger hunger
	var pids []int
	for _, d := range c.daemons {
		pids = append(pids, d.PID())
	}
	defer hunger.watch(pids)()
	news := c.watchAlarms(ctx)
	c.becomeQuiet(news)
	seen := map[string]bool{}
	end := time.Now().Add(how)
	for over := time.After(how); ; {
		select {
		case <-over:
			return
		case said := <-news:
			for what, a := range c.alarmsOf(said) {
				left := time.Until(end).Round(time.Second)
				switch starved := hunger.longest(); {
				case seen[what]:
				case starved > 0 && (a.kind == "peer_loss" || a.kind == "drops_growing"):
					c.t.Logf("%v left: a daemon had no CPU for %v in a second, so %s: %s", left, starved, what, a.text)
				default:
					c.t.Errorf("a false alarm, %v left: %s: %s", left, what, a.text)
				}
				seen[what] = true
			}
		}
	}
}

// becomeQuiet waits until no daemon has had a problem for a while.
func (c *chaos) becomeQuiet(news <-chan said) {
	c.t.Helper()
	began, late := time.Now(), time.After(recovery+settled)
	alarms := map[int]map[string]alarm{} // by the daemon's index
	var quiet <-chan time.Time           // nil while a daemon has a problem, or has not spoken yet
	for {
		select {
		case s := <-news:
			alarms[s.daemon] = c.alarmsOf(s)
			loud := len(alarms) < len(c.daemons)
			for _, some := range alarms {
				loud = loud || len(some) > 0
			}
			switch {
			case loud:
				quiet = nil
			case quiet == nil:
				quiet = time.After(settled)
			}
		case <-quiet:
			c.t.Logf("well after %v", time.Since(began).Round(time.Second))
			return
		case <-late:
			c.t.Fatalf("not well %v after the end of trouble: %v", recovery, alarms)
		}
	}
}

// said is what a daemon says of itself, or why it does not any more.
type said struct {
	daemon int // its index
	health control.Health
	err    error
}

// watchAlarms follows all daemons until ctx ends.
func (c *chaos) watchAlarms(ctx context.Context) <-chan said {
	news := make(chan said)
	tell := func(s said) error {
		select {
		case news <- s:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i, d := range c.daemons {
		watcher := client(c.t, d)
		go func() {
			err := watcher.Watch(ctx, glance, false, func(w control.Watched) error {
				if w.Status == nil {
					return nil
				}
				return tell(said{daemon: i, health: w.Status.Health})
			})
			_ = tell(said{daemon: i, err: fmt.Errorf("the stream ended: %w", err)})
		}()
	}
	return news
}

// An alarm is a problem that is more than a hint.
type alarm struct{ kind, text string }

// alarmsOf returns the alarms of a daemon, by what each is about.
func (c *chaos) alarmsOf(s said) map[string]alarm {
	c.t.Helper()
	host := c.hosts[s.daemon].Name
	if s.err != nil {
		c.t.Fatalf("%s: %v", host, s.err)
	}
	found := map[string]alarm{}
	for _, p := range s.health.Problems {
		if p.Level != "info" {
			found[fmt.Sprintf("%s: %s %s", host, p.Kind, p.Peer)] = alarm{p.Kind, p.Level + ": " + p.Text}
		}
	}
	if level := s.health.Level; level != control.OK && len(found) == 0 {
		found[host+": "+level] = alarm{text: "without a problem"}
	}
	return found
}

// hunger is when a daemon last had no CPU for long. Packets that it does not take in time are lost then,
// which is no false alarm. Its zero value is ready.
type hunger struct {
	mu    sync.Mutex
	at    time.Time
	spell time.Duration
}

const (
	// sampling is how often threads are looked at.
	sampling = time.Second
	// starving is how long a thread waits for a CPU in that time: the kernel keeps packets for less than that.
	starving = 400 * time.Millisecond
	// remembered is how long loss of that moment is told.
	remembered = 45 * time.Second
)

// watch looks at the threads of processes until stop is called.
func (h *hunger) watch(pids []int) (stop func()) {
	done := make(chan struct{})
	go func() {
		before := waited(pids)
		for {
			select {
			case <-done:
				return
			case <-time.After(sampling):
			}
			now := waited(pids)
			for thread, sum := range now {
				if spell := sum - before[thread]; before[thread] > 0 && spell > starving {
					h.mu.Lock()
					h.at, h.spell = time.Now(), max(spell, h.lately())
					h.mu.Unlock()
				}
			}
			before = now
		}
	}()
	return func() { close(done) }
}

// lately returns how long a thread was without CPU lately, 0 if none was. h.mu is held.
func (h *hunger) lately() time.Duration {
	if time.Since(h.at) > remembered {
		return 0
	}
	return h.spell
}

// longest is lately for those who do not hold h.mu.
func (h *hunger) longest() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lately().Round(time.Millisecond)
}

// waited returns how long each thread of some processes has waited for a CPU so far, though it had work.
func waited(pids []int) map[string]time.Duration {
	all := map[string]time.Duration{}
	for _, pid := range pids {
		paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, path := range paths {
			var ran, wait int64 // ns; see Documentation/scheduler/sched-stats.rst of the kernel
			b, err := os.ReadFile(path)
			if _, scanErr := fmt.Sscan(string(b), &ran, &wait); err == nil && scanErr == nil {
				all[path] = time.Duration(wait)
			}
		}
	}
	return all
}
