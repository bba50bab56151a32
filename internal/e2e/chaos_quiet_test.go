package e2e

import (
	"fmt"
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
	// glance is how often daemons are asked meanwhile. They judge whenever they are asked.
	glance = 200 * time.Millisecond
)

// beQuiet waits until no daemon has a problem, and fails the test for each problem that one has after that
// within a time: nothing happens, so it is a false alarm.
func (c *chaos) beQuiet(how time.Duration) {
	c.t.Helper()
	var hunger hunger
	defer hunger.watch()()
	began := time.Now()
	for well := began; time.Since(well) < settled; time.Sleep(glance) {
		if alarms := c.alarms(); len(alarms) > 0 {
			well = time.Now()
			if well.Sub(began) > recovery {
				c.t.Fatalf("not well %v after the end of trouble: %v", recovery, alarms)
			}
		}
	}
	c.t.Logf("well after %v", time.Since(began).Round(time.Second))
	seen := map[string]bool{}
	for end := time.Now().Add(how); time.Now().Before(end); time.Sleep(glance) {
		for what, a := range c.alarms() {
			left := time.Until(end).Round(time.Second)
			switch starved := hunger.lately(); {
			case seen[what]:
			case starved > 0 && (a.kind == "peer_loss" || a.kind == "drops_growing"):
				c.t.Logf("%v left: this machine had no CPU for %v, so %s: %s", left, starved, what, a.text)
			default:
				c.t.Errorf("a false alarm, %v left: %s: %s", left, what, a.text)
			}
			seen[what] = true
		}
	}
}

// An alarm is a problem that is more than a hint.
type alarm struct{ kind, text string }

// alarms returns the alarms of all daemons, by what each is about.
func (c *chaos) alarms() map[string]alarm {
	c.t.Helper()
	found := map[string]alarm{}
	for i, d := range c.daemons {
		s := status(c.t, d)
		for _, p := range s.Health.Problems {
			if p.Level != "info" {
				found[fmt.Sprintf("%s: %s %s", c.hosts[i].Name, p.Kind, p.Peer)] = alarm{p.Kind, p.Level + ": " + p.Text}
			}
		}
		if level := s.Health.Level; level != control.OK && len(found) == 0 {
			found[c.hosts[i].Name+": "+level] = alarm{text: "without a problem"}
		}
	}
	return found
}

// hunger is when this process last had no CPU for long. Daemons have none then either: packets that they do
// not take in time are lost, which is no false alarm. Its zero value is ready.
type hunger struct {
	mu    sync.Mutex
	at    time.Time
	spell time.Duration
}

const (
	// starving is how late a timer is then: the kernel keeps packets for less than that.
	starving = 300 * time.Millisecond
	// remembered is how long loss of that moment is told.
	remembered = 45 * time.Second
)

// watch sets timers until stop is called.
func (h *hunger) watch() (stop func()) {
	done := make(chan struct{})
	go func() {
		const pause = 20 * time.Millisecond
		for before := time.Now(); ; before = time.Now() {
			select {
			case <-done:
				return
			case <-time.After(pause):
			}
			if late := time.Since(before) - pause; late > starving {
				h.mu.Lock()
				h.at, h.spell = time.Now(), late
				h.mu.Unlock()
			}
		}
	}()
	return func() { close(done) }
}

// lately returns how long there was no CPU the last time, 0 if that is long ago.
func (h *hunger) lately() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) > remembered {
		return 0
	}
	return h.spell.Round(time.Millisecond)
}
