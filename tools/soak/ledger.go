package main

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// window is how many datagrams back a receiver still tells a late one from a duplicate.
const window = 1 << 12

// tally is what became of the packets of one flow. Its ledger guards it.
type tally struct {
	sent, arrived    uint64 // datagrams, or bytes of TCP
	late, duplicates uint64
	newest           uint64               // the highest number that arrived
	seen             []uint64             // of the numbers in the window: the number plus 1
	skips            func(uint64) bool    // numbers that are never sent; nil: none
	missing          map[uint64]time.Time // numbers that others have passed, and when; mostMissing at most
}

// ledger is what is known of all flows of all meshes. Any number of goroutines may use it at the same time.
type ledger struct {
	mu       sync.Mutex
	names    []string // by flow: "user: a -> b udp4"
	meshes   []int    // by flow
	tallies  []tally
	delays   [][]time.Duration // by mesh: round trips since the last sample
	findings []finding
	altered  int // findings, also those that were not kept
	errors   []string
	tell     func(mesh int, f *finding) // adds what the daemons say, and shows it
}

// mostFindings is how many findings and errors are kept.
const mostFindings = 16

// mostMissing is how many missing numbers of a flow are kept.
const mostMissing = 64

// add makes a flow of a mesh, and returns its number.
func (l *ledger) add(mesh int, name string) uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names = append(l.names, name)
	l.meshes = append(l.meshes, mesh)
	l.tallies = append(l.tallies, tally{seen: make([]uint64, window), missing: map[uint64]time.Time{}})
	for len(l.delays) <= mesh {
		l.delays = append(l.delays, nil)
	}
	return uint16(len(l.names) - 1)
}

// skips says which numbers of a flow are never sent.
func (l *ledger) skips(flow uint16, skips func(number uint64) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tallies[flow].skips = skips
}

// name returns a flow's; empty if there is none of that number.
func (l *ledger) name(flow uint16) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(flow) >= len(l.names) {
		return ""
	}
	return l.names[flow]
}

// sends counts what is about to be sent: what answers at once is then known to have been sent.
func (l *ledger) sends(flow uint16, units int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tallies[flow].sent += uint64(units)
}

// arrives counts the datagram of a number. It is late if one of a higher number has arrived.
func (l *ledger) arrives(flow uint16, number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.tallies[flow]
	if slot := &t.seen[number%window]; *slot == number+1 {
		t.duplicates++
		return
	} else if number+window > t.newest {
		*slot = number + 1
	}
	next := t.newest + 1
	if t.arrived == 0 {
		next = 0
	}
	for ; next < number && len(t.missing) < mostMissing; next++ {
		if t.skips == nil || !t.skips(next) {
			t.missing[next] = time.Now()
		}
	}
	delete(t.missing, number)
	t.arrived++
	if number < t.newest {
		t.late++
	}
	t.newest = max(t.newest, number)
}

// A loss is when datagrams of one flow were passed by others that arrived, as far as they have not arrived
// themselves.
type loss struct {
	at    time.Time // to the second
	flow  string
	count int
}

// losses returns what is missing, the earliest first.
func (l *ledger) losses() (all []loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for flow, t := range l.tallies {
		at := map[time.Time]int{}
		for _, when := range t.missing {
			at[when.Truncate(time.Second)]++
		}
		for when, n := range at {
			all = append(all, loss{when, l.names[flow], n})
		}
	}
	slices.SortFunc(all, func(a, b loss) int {
		return cmp.Or(a.at.Compare(b.at), strings.Compare(a.flow, b.flow))
	})
	return all
}

// bytes counts bytes of a connection that arrived.
func (l *ledger) bytes(flow uint16, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tallies[flow].arrived += uint64(n)
}

// took notes a round trip.
func (l *ledger) took(flow uint16, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	mesh := l.meshes[flow]
	l.delays[mesh] = append(l.delays[mesh], d)
}

// delaysOf returns the round trips of a mesh since the last call, sorted.
func (l *ledger) delaysOf(mesh int) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.delays[mesh]
	l.delays[mesh] = nil
	slices.Sort(taken)
	return taken
}

// alters notes a finding, with what the daemons of its mesh have told lately.
func (l *ledger) alters(flow uint16, f *finding) {
	l.mu.Lock()
	l.altered++
	mesh, keep := l.meshes[flow], len(l.findings) < mostFindings
	l.mu.Unlock()
	if !keep {
		return
	}
	l.tell(mesh, f)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.findings = append(l.findings, *f)
}

// breaks notes that a flow does not go on as it should.
func (l *ledger) breaks(flow uint16, err error) {
	text := time.Now().Format(time.TimeOnly) + " " + l.name(flow) + ": " + err.Error()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errors) < mostFindings {
		l.errors = append(l.errors, text)
	}
}

// sums adds up the flows of a mesh whose names end with a kind.
func (l *ledger) sums(mesh int, of func(name string) bool) (sum tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for flow, t := range l.tallies {
		if l.meshes[flow] == mesh && of(l.names[flow]) {
			sum.sent += t.sent
			sum.arrived += t.arrived
			sum.late += t.late
			sum.duplicates += t.duplicates
		}
	}
	return sum
}
