package probe

import (
	"slices"
	"time"
)

// Window is how many probes loss and round trip times are told of.
const Window = 60

// window holds what came of the last probes.
type window struct {
	rtts  [Window]time.Duration // lost if there was no answer
	count int                   // of all probes, ever
}

const lost time.Duration = -1

func (w *window) add(rtt time.Duration) {
	w.rtts[w.count%Window] = rtt
	w.count++
}

// figures sums up the window.
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

// Figures is what the last Window probes of a peer tell. The times are round trips;
// they are zero if none was answered.
type Figures struct {
	Probes              int     // that the figures are of; 0: nothing is known
	Loss                float64 // 0 to 1
	LastAnswered        bool    // and Last is the newest
	Last, Min, P50, P95 time.Duration
	Jitter              time.Duration // mean difference between one answer and the next
}
