package mesh

import "sync"

// Growing turns a counter of the kernel that begins anew with its owner, such as a socket or an
// interface, into one that never falls. Its zero value is ready; it may be used by several
// goroutines at once.
type Growing struct {
	mu          sync.Mutex
	last, total uint64
}

// From makes n the reading that counts as nothing: what was counted before is not ours.
func (g *Growing) From(n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = n
}

// Read adds what was counted since the last reading, and returns the sum. A reading that failed
// adds nothing.
func (g *Growing) Read(now uint64, err error) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		if now < g.last { // it began anew
			g.last = 0
		}
		g.total += now - g.last
		g.last = now
	}
	return g.total
}
