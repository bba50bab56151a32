package probe

import (
	"slices"
	"sync"
	"time"
)

// peer is the state of one peer.
type peer struct {
	name string

	mu             sync.Mutex // guards the fields below
	state          State
	since          time.Time  // of state
	good, missed   int        // questions in a row with and without an answer
	silent         time.Time  // of the first of the missed ones
	asked          []question // without an answer, or not yet seen by settle; oldest first
	seq            uint16
	sent, received uint64
	window         window
	answeredAt     time.Time // of the last answer
	heardAt        time.Time // of the last packet of any kind, as the last settle was told
	told           Self      // what the peer said of itself last
	toldNew        bool      // told has changed since the last settle
}

// A question is an echo that was sent.
type question struct {
	nonce uint64
	at    time.Time
	rtt   time.Duration        // lost until the answer comes
	ping  chan<- time.Duration // gets rtt, and has room for it; nil for a probe
}

// ask notes a question and returns its sequence number.
func (p *peer) ask(now time.Time, nonce uint64, ping chan<- time.Duration) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, question{nonce: nonce, at: now, rtt: lost, ping: ping})
	p.seq++
	p.sent++
	return p.seq
}

// forget removes the question of a ping.
func (p *peer) forget(nonce uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = slices.DeleteFunc(p.asked, func(q question) bool { return q.ping != nil && q.nonce == nonce })
}

// answered notes an answer. look is true if settle should run at once: the state may change, or the
// peer said something new.
func (p *peer) answered(said payload, at time.Time) (look bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.asked, func(q question) bool { return q.nonce == said.nonce && q.rtt == lost })
	if i < 0 {
		return false // too late, a duplicate, or forged
	}
	p.received++
	p.answeredAt = at
	if !said.answer {
		said.Self = Self{} // a kernel returned the question: the words are this node's own
	}
	if p.told != said.Self {
		p.told, p.toldNew = said.Self, true
	}
	q := &p.asked[i]
	q.rtt = max(at.Sub(q.at), 0)
	if q.ping != nil {
		q.ping <- q.rtt // has room for one
		p.asked = slices.Delete(p.asked, i, i+1)
	}
	return p.state != Up || p.toldNew
}

// settle evaluates the questions that were answered or have timed out, and appends the changes to
// changes. heard is the time of the last packet: it is reported, but the state does not depend on
// it.
func (p *peer) settle(now, heard time.Time, changes []Change) []Change {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.state
	p.heardAt = heard
	p.asked = slices.DeleteFunc(p.asked, func(q question) bool {
		over := q.rtt != lost || now.Sub(q.at) >= Timeout
		if q.ping != nil || !over {
			return false
		}
		p.window.add(q.rtt)
		p.conclude(q.rtt != lost, q.at)
		return true
	})
	if p.state != old {
		p.since = now
		change := Change{Peer: p.name, Old: old, New: p.state, Figures: p.window.figures()}
		if p.missed > 0 {
			change.Silent = now.Sub(p.silent)
		}
		changes = append(changes, change)
	}
	if p.toldNew {
		p.toldNew = false
		told := p.told
		changes = append(changes, Change{Peer: p.name, Old: p.state, New: p.state, Told: &told})
	}
	return changes
}

// conclude updates the state by one more question: whether it was answered, and when it was sent.
func (p *peer) conclude(good bool, at time.Time) {
	if good {
		p.missed = 0
		if p.good++; p.good >= upAfter {
			p.state = Up
		}
		return
	}
	if p.missed == 0 {
		p.silent = at
	}
	p.good = 0
	p.missed++
	switch {
	case p.missed >= downAfter:
		p.state = Down
	case p.missed >= staleAfter && p.state == Up:
		p.state = Stale
	}
}

// report returns what is known of the peer.
func (p *peer) report() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Report{
		State: p.state, Since: p.since, Answered: p.answeredAt, Heard: p.heardAt,
		Figures: p.window.figures(), Sent: p.sent, Received: p.received, Told: p.told,
	}
}
