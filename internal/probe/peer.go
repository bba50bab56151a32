package probe

import (
	"slices"
	"sync"
	"time"
)

// peer is one neighbour.
type peer struct {
	name string

	mu             sync.Mutex // guards what follows
	state          State
	since          time.Time
	good, missed   int // in a row
	silent         time.Time
	asked          []question // without answer or not yet looked at, oldest first
	seq            uint16
	sent, received uint64
	window         window
	answeredAt     time.Time // when the last answer came
	heardAt        time.Time // when the last packet of any kind came, as settle was told last
	told           Self
	toldNew        bool // since settle looked last
}

// question is one on its way.
type question struct {
	nonce uint64
	at    time.Time
	rtt   time.Duration        // lost until there is an answer
	ping  chan<- time.Duration // who waits for it; nil: it is one of ours
}

// ask notes a question and returns its number.
func (p *peer) ask(now time.Time, nonce uint64, ping chan<- time.Duration) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, question{nonce: nonce, at: now, rtt: lost, ping: ping})
	p.seq++
	p.sent++
	return p.seq
}

// forget gives up the question of a ping.
func (p *peer) forget(nonce uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = slices.DeleteFunc(p.asked, func(q question) bool { return q.ping != nil && q.nonce == nonce })
}

// answered notes an answer and tells whether settle should look at once.
func (p *peer) answered(said payload, at time.Time) (look bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.asked, func(q question) bool { return q.nonce == said.nonce && q.rtt == lost })
	if i < 0 {
		return false // late, twice, or forged
	}
	p.received++
	p.answeredAt = at
	if !said.answer {
		said.Self = Self{} // a kernel said our own words
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

// settle draws conclusions from questions that were answered or whose time is over,
// and appends what has changed. heard is when the last packet came: it is noted, and
// nothing is concluded from it.
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

// conclude takes one more question into account: whether it was answered.
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

func (p *peer) report() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Report{
		State: p.state, Since: p.since, Answered: p.answeredAt, Heard: p.heardAt,
		Figures: p.window.figures(), Sent: p.sent, Received: p.received, Told: p.told,
	}
}
