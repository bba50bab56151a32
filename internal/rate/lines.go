package rate

import "time"

// So often within a span each time is one by itself; more is the same again and again.
const (
	span = time.Minute
	most = 10
)

// Lines bounds how many lines of the log tell of one thing that happens again and again: each of the first
// ten times in a minute is worth one, then one a minute is, with a sum. The zero Lines is ready. One
// goroutine may use it.
type Lines struct {
	last   []time.Time // of the last times, at most kept
	said   time.Time   // when the last line was due
	unsaid int         // times since then
}

// kept bounds what is remembered. Up to so many times are counted exactly.
const kept = 120

// Add notes that it has happened. It returns how many times a line of the log has to tell of, this one
// included; 0: no line is due.
func (l *Lines) Add(now time.Time) (told int) {
	l.last = append(l.last, now)
	l.last = l.last[max(0, len(l.last)-kept):]
	l.unsaid++
	if l.lately(now) > most && now.Before(l.said.Add(span)) {
		return 0
	}
	told, l.said, l.unsaid = l.unsaid, now, 0
	return told
}

// lately returns how many times there were in the last minute.
func (l *Lines) lately(now time.Time) (n int) {
	for _, at := range l.last {
		if now.Sub(at) < span {
			n++
		}
	}
	return n
}
