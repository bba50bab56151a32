package probe

import (
	"math"
	"slices"
	"time"
)

// Window is the number of probes of which Figures are computed.
const Window = 60

// window is a ring of the results of the last probes.
type window struct {
	rtts  [Window]trip
	count int // of all probes since the beginning
	lost  int // of rtts
	known *known
}

// known are the figures of a window when so many probes had been added; few windows are asked for theirs.
type known struct {
	Figures
	at int
}

// A trip is a round trip time in half the memory of a time.Duration: thousands of windows are kept. It is at
// most 4.29 s, and no answer counts that came later.
type trip uint32

// noTrip stands for lost.
const noTrip trip = math.MaxUint32

func tripOf(d time.Duration) trip {
	if d == lost {
		return noTrip
	}
	return trip(min(d, time.Duration(noTrip-1)))
}

// duration returns lost for a probe without an answer.
func (t trip) duration() time.Duration {
	if t == noTrip {
		return lost
	}
	return time.Duration(t)
}

// lost stands for the round trip time of a question without an answer.
const lost time.Duration = -1

// add adds the result of one probe.
func (w *window) add(rtt time.Duration) {
	at := w.count % Window
	if w.count >= Window && w.rtts[at] == noTrip {
		w.lost--
	}
	if rtt == lost {
		w.lost++
	}
	w.rtts[at] = tripOf(rtt)
	w.count++
}

// loss returns the share of probes without an answer, 0 to 1, and of how many. It costs as little as last.
func (w *window) loss() (share float64, probes int) {
	if probes = min(w.count, Window); probes > 0 {
		// As compute does it, so that both are the same number.
		share = 1 - float64(probes-w.lost)/float64(probes)
	}
	return share, probes
}

// last returns the round trip of the newest answer; 0 without one. It costs much less than figures.
func (w *window) last() time.Duration {
	for i := w.count - 1; i >= max(0, w.count-Window); i-- {
		if rtt := w.rtts[i%Window]; rtt != noTrip {
			return rtt.duration()
		}
	}
	return 0
}

// answered tells whether the newest probe was answered.
func (w *window) answered() bool { return w.count > 0 && w.rtts[(w.count-1)%Window] != noTrip }

// high returns the longest round trip among the newest results; 0 if none of them was an answer. It costs as
// little as last.
func (w *window) high() (most time.Duration) {
	const newest = 8
	for i := w.count - 1; i >= max(0, w.count-newest); i-- {
		most = max(most, w.rtts[i%Window].duration()) // lost is below 0
	}
	return most
}

// figures returns the figures of the window. Status and history ask more often than probes end, so they are
// computed once for each.
func (w *window) figures() Figures {
	if w.count == 0 {
		return Figures{}
	}
	if w.known == nil {
		w.known = &known{}
	}
	if w.known.at != w.count {
		*w.known = known{w.compute(), w.count}
	}
	return w.known.Figures
}

// compute computes the figures.
func (w *window) compute() (f Figures) {
	n := min(w.count, Window)
	if n == 0 {
		return f
	}
	f.Probes = n
	var answered []time.Duration
	var differences time.Duration
	for i := w.count - n; i < w.count; i++ { // oldest first
		rtt := w.rtts[i%Window].duration()
		if rtt == lost {
			continue
		}
		if len(answered) > 0 {
			differences += max(rtt-answered[len(answered)-1], answered[len(answered)-1]-rtt)
		}
		answered = append(answered, rtt)
	}
	f.LastAnswered = w.answered()
	f.Loss = 1 - float64(len(answered))/float64(n)
	if len(answered) == 0 {
		return f
	}
	f.Last = answered[len(answered)-1]
	if len(answered) > 1 {
		f.Jitter = differences / time.Duration(len(answered)-1)
	}
	slices.Sort(answered)
	f.Min, f.P50, f.P95 = answered[0], answered[len(answered)/2], answered[len(answered)*95/100]
	return f
}

// Figures are those of the last Window probes of a peer. Times are round trip times; they are 0 if no
// probe was answered.
type Figures struct {
	Probes              int           // the number of probes; 0: nothing is known
	Loss                float64       // the share of probes without an answer, 0 to 1
	LastAnswered        bool          // the newest probe was answered, and Last is its time
	Last, Min, P50, P95 time.Duration // the newest answer, the lowest, the percentiles
	Jitter              time.Duration // mean difference between consecutive answers
}
