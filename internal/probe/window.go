package probe

import (
	"slices"
	"time"
)

// Window is the number of probes of which Figures are computed.
const Window = 60

// window is a ring of the results of the last probes.
type window struct {
	rtts  [Window]time.Duration // lost if no answer came
	count int                   // of all probes since the beginning
}

// lost stands for the round trip time of a question without an answer.
const lost time.Duration = -1

// add adds the result of one probe.
func (w *window) add(rtt time.Duration) {
	w.rtts[w.count%Window] = rtt
	w.count++
}

// figures computes the figures of the window.
func (w *window) figures() (f Figures) {
	n := min(w.count, Window)
	if n == 0 {
		return f
	}
	f.Probes = n
	var answered []time.Duration
	var differences time.Duration
	for i := w.count - n; i < w.count; i++ { // oldest first
		rtt := w.rtts[i%Window]
		if rtt == lost {
			continue
		}
		if len(answered) > 0 {
			differences += max(rtt-answered[len(answered)-1], answered[len(answered)-1]-rtt)
		}
		answered = append(answered, rtt)
	}
	f.LastAnswered = w.rtts[(w.count-1)%Window] != lost
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
