package e2e

import (
	"fmt"
	"time"

	"example.org/meshd/internal/control"
)

const (
	// recovery is the longest time from the end of trouble until no daemon has a problem. Loss of probes
	// counts for half a minute.
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
		for what, text := range c.alarms() {
			if !seen[what] {
				seen[what] = true
				c.t.Errorf("a false alarm, %v before the end of a quiet phase: %s: %s",
					time.Until(end).Round(time.Second), what, text)
			}
		}
	}
}

// alarms returns the problems of all daemons that are more than a hint: what each is about, and its text.
func (c *chaos) alarms() map[string]string {
	c.t.Helper()
	found := map[string]string{}
	for i, d := range c.daemons {
		s := status(c.t, d)
		for _, p := range s.Health.Problems {
			if p.Level != "info" {
				found[fmt.Sprintf("%s: %s %s", c.hosts[i].Name, p.Kind, p.Peer)] = p.Level + ": " + p.Text
			}
		}
		if level := s.Health.Level; level != control.OK && len(found) == 0 {
			found[c.hosts[i].Name+": "+level] = "without a problem"
		}
	}
	return found
}
