package probe

import "time"

// recent counts the plain probes of the last time, in steps. Unlike window it covers a time and not a
// number, whatever the interval is.
type recent struct {
	step  time.Duration
	first time.Time // when the newest step began
	steps [6]few    // the newest first
	lost  bool      // the last probe
}

// few is a Loss of one step in little memory. A step has some hundred probes at most: the interval is not
// below 100 ms.
type few struct{ probes, lost, runs uint16 }

// Loss is how many plain probes were lost lately: in the last 30 s, or in the time of 20 probes if
// that is longer.
type Loss struct {
	Probes int
	Lost   int
	// Runs is how many times a probe was lost after one that was answered. A restart is one run.
	Runs int
}

// Share returns the share of lost probes, 0 to 1.
func (l Loss) Share() float64 {
	if l.Probes == 0 {
		return 0
	}
	return float64(l.Lost) / float64(l.Probes)
}

// lossTime and lossProbes are the least time and the least number of probes that Loss covers.
const (
	lossTime   = 30 * time.Second
	lossProbes = 20
)

// newRecent returns a recent for probes at an interval.
func newRecent(interval time.Duration) recent {
	return recent{step: max(lossTime, lossProbes*interval) / time.Duration(len(recent{}.steps))}
}

// add notes the result of a probe that was sent at a time.
func (r *recent) add(at time.Time, lost bool) {
	r.turn(at)
	now := &r.steps[0]
	now.probes++
	if lost {
		now.lost++
		if !r.lost {
			now.runs++
		}
	}
	r.lost = lost
}

// turn begins new steps until the newest contains a time.
func (r *recent) turn(at time.Time) {
	if r.first.IsZero() || at.Sub(r.first) >= r.step*time.Duration(len(r.steps)) {
		r.steps, r.first = [len(r.steps)]few{}, at
	}
	for at.Sub(r.first) >= r.step {
		copy(r.steps[1:], r.steps[:])
		r.steps[0] = few{}
		r.first = r.first.Add(r.step)
	}
}

// sum returns what was counted in all steps.
func (r *recent) sum() (l Loss) {
	for _, s := range r.steps {
		l.Probes, l.Lost, l.Runs = l.Probes+int(s.probes), l.Lost+int(s.lost), l.Runs+int(s.runs)
	}
	return l
}
