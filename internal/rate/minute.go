package rate

import (
	"sync"
	"time"
)

// minute is how far a Minute looks back, in seconds.
const minute = 60

// A Minute tells by how much a counter grew in the last minute. The zero value knows nothing. It may be used
// from any goroutine.
type Minute struct {
	mu       sync.Mutex
	readings [minute + 1]reading // the newest one of each second, at its number modulo the length
}

// A reading is what a counter said.
type reading struct {
	second int64 // since 1970; 0: none
	total  uint64
}

// Note enters a reading of the counter, which only grows, and returns by how much it grew since the oldest
// reading that is at most a minute old: 0 if there is no older one.
func (m *Minute) Note(now time.Time, total uint64) (grown uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	second := now.Unix()
	m.readings[second%int64(len(m.readings))] = reading{second, total}
	oldest := reading{second, total}
	for _, r := range m.readings {
		if r.second >= second-minute && r.second < oldest.second {
			oldest = r
		}
	}
	return total - min(total, oldest.total)
}
