package probe

import (
	"slices"
	"time"
)

// Times and numbers of a doubt.
const (
	// quickPeriod is the longest time between two plain questions on a path whose silence has to be noticed
	// within seconds.
	quickPeriod = time.Second
	// rarePeriod is the least time between two plain questions on a path that carries nothing.
	rarePeriod = 10 * time.Second
	// doubtWait is how long an answer is waited for at least before there is doubt.
	doubtWait = 200 * time.Millisecond
	// doubtPause is the time between two questions of a doubt.
	doubtPause = 150 * time.Millisecond
	// doubtLost is how many questions in a row have to stay unanswered until a path is silent, and
	// doubtTime how long ago the first of them was sent. A path that loses one of 20 datagrams is silent
	// by chance once in days.
	doubtLost = 4
	doubtTime = time.Second
	// doubtMost is how many unanswered questions matter.
	doubtMost = 10
	// maxDoubtRate bounds the questions of doubts per second, and doubtBurst how many may be sent at once:
	// the uplink of a node may fail, and with it the paths to all peers.
	maxDoubtRate = 2000
	doubtBurst   = 500
)

// A doubt finds out within seconds whether a path still answers, where packets could go another way. It
// begins with a question that takes too long to be answered, and asks more often then. It is pure: the
// caller sends its questions, and passes the time and the results.
type doubt struct {
	open    []time.Time // when the questions were sent that no answer has followed; oldest first
	hurried time.Time   // when due asked for a question last
	silent  bool
}

// asked notes that a question was sent.
func (d *doubt) asked(at time.Time) {
	if len(d.open) < doubtMost {
		d.open = append(d.open, at)
	}
}

// answered notes the answer to a question that was sent at a time, and tells whether it ends a silence.
// Questions before it are lost, and the path is well.
func (d *doubt) answered(at time.Time) (changed bool) {
	d.open = slices.DeleteFunc(d.open, func(one time.Time) bool { return !one.After(at) })
	changed, d.silent = d.silent, false
	return changed
}

// patience is how long a question may be unanswered before there is doubt, by how long answers took lately.
func patience(roundTrip time.Duration) time.Duration {
	if roundTrip == 0 {
		return Timeout
	}
	return min(Timeout, max(doubtWait, 3*roundTrip))
}

// due tells whether a further question is to be sent now, and whether the path has just fallen silent. It
// is to be called again at a time; the zero value: no matter.
func (d *doubt) due(now time.Time, wait time.Duration) (ask, fell bool, again time.Time) {
	late := 0
	for late < len(d.open) && now.Sub(d.open[late]) >= wait {
		late++
	}
	switch {
	case d.silent || len(d.open) == 0:
		return false, false, again
	case late == 0:
		return false, false, d.open[0].Add(wait)
	case late >= doubtLost && now.Sub(d.open[0]) >= doubtTime:
		d.silent = true
		return false, true, again
	}
	if ask = now.Sub(d.hurried) >= doubtPause; ask {
		d.hurried = now
	}
	return ask, false, d.hurried.Add(doubtPause)
}
