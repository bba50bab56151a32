// Package probe knows how the other nodes are. It says when to ask whom with an
// ICMP echo, hears the answers, and makes of them a state, round trip times, loss,
// and which file a neighbour runs. How echoes travel is none of its business, nor
// what time it is: a room of its own, because it can be tested without either.
//
//	asked     a question was sent; an answer within Timeout is good
//	missed    there was none
//	heard     any packet of the peer: known beside, and no sign of life, since
//	          pods of a dead host may still send, also in its name
//	up        after 2 good ones
//	stale     up, and 3 missed in a row
//	down      10 missed in a row
//	unknown   none of these yet
package probe

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What is asked of probing.
const (
	Timeout = time.Second // for an answer

	upAfter    = 2
	staleAfter = 3
	downAfter  = 10

	// maxRate bounds the cost in a mesh of thousands: so many questions a second,
	// however many peers there are. With 10,000 each is asked every 5 s.
	maxRate = 2000
	// tick is how long questions are collected, at most: many that are sent together,
	// and whose answers come together, cost less than half.
	tick = 250 * time.Millisecond
	// Batch is how many questions Work returns at most: the time of asking is that of
	// all of them, and has to be true.
	Batch = 16
)

// A State is what is known of a peer.
type State uint8

// States of a peer, see the package comment.
const (
	Unknown State = iota
	Up
	Stale
	Down
)

func (s State) String() string { return [...]string{"unknown", "up", "stale", "down"}[s] }

// Self is what a node tells its neighbours of itself.
type Self struct {
	Hash    [32]byte // SHA-256 of the file in force
	Version string   // of meshd; at most 24 bytes travel
}

// Settings is who is asked, and how often.
type Settings struct {
	Peers    []string
	Interval time.Duration // from one question to a peer to the next; 0: nobody is asked
}

// A Question is to be sent to a peer in an ICMP echo request.
type Question struct {
	Peer    string
	ID, Seq uint16
	Payload []byte
}

// A Change is news of one peer.
type Change struct {
	Peer     string
	Old, New State
	Silent   time.Duration // since the first of the questions that were missed
	Figures  Figures
	Told     *Self // if it is this that changed: it runs another file, or another version
}

// A Prober follows the peers of a mesh. Its methods may be called at any time from
// any goroutine; Answer never waits for the others for longer than they look at a
// single peer.
type Prober struct {
	id    uint16
	heard func(peer string) time.Time
	self  atomic.Pointer[Self]
	peers atomic.Pointer[map[string]*peer] // never changed, replaced
	news  chan *peer                       // that have something to be looked at
	woken chan struct{}                    // there are news

	mu       sync.Mutex // guards what follows
	interval time.Duration
	order    []*peer // in which they are asked
	next     int     // in order
	credit   float64 // questions that may be asked
	last     time.Time
	pending  []pending // questions on their way, oldest first
}

// pending is a question whose time is over at some time.
type pending struct {
	to   *peer
	over time.Time
}

// New returns a Prober that follows nobody yet. heard tells when the last packet of
// any kind came from a peer, the zero time if none did; a State never follows from it.
func New(heard func(peer string) time.Time) *Prober {
	p := &Prober{id: uint16(rand.Uint32()), heard: heard, news: make(chan *peer, 64), woken: make(chan struct{}, 1)}
	p.self.Store(&Self{})
	p.peers.Store(&map[string]*peer{})
	return p
}

// Introduce sets what neighbours are told.
func (p *Prober) Introduce(s Self) { p.self.Store(&s) }

// Set replaces the settings. What is known of peers that stay is kept, unless
// nobody is asked any more.
func (p *Prober) Set(s Settings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.peers.Load()
	if s.Interval == 0 || p.interval == 0 {
		old = nil
	}
	peers, fresh, kept := make(map[string]*peer, len(s.Peers)), []*peer{}, []*peer{}
	for _, name := range s.Peers {
		if peers[name] = old[name]; peers[name] == nil {
			peers[name] = &peer{name: name}
			fresh = append(fresh, peers[name])
		}
	}
	for i := range p.order {
		was := p.order[(p.next+i)%len(p.order)]
		if peers[was.name] == was {
			kept = append(kept, was)
		}
	}
	p.peers.Store(&peers)
	p.order, p.next, p.interval = append(fresh, kept...), 0, s.Interval
}

// Self returns what neighbours are told.
func (p *Prober) Self() Self { return *p.self.Load() }

// rate returns how many questions are asked each second.
func (p *Prober) rate() float64 {
	if p.interval == 0 {
		return 0
	}
	return min(maxRate, float64(len(p.order))/p.interval.Seconds())
}

// Wait returns how long nothing has to be done; Work is called then, or when Woken
// says so.
func (p *Prober) Wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := time.Hour
	if rate := p.rate(); rate > 0 {
		wait = time.Duration((1 - p.credit) / rate * float64(time.Second))
	}
	if len(p.pending) > 0 {
		wait = min(wait, p.pending[0].over.Sub(p.last))
	}
	return max(wait, p.tick())
}

// tick is short where each peer is asked often.
func (p *Prober) tick() time.Duration {
	if p.interval == 0 {
		return tick
	}
	return min(tick, p.interval/2)
}

// Woken has something when a peer answered that is not up, or said something new.
func (p *Prober) Woken() <-chan struct{} { return p.woken }

// Work returns the questions to be sent now, and what has changed. The payloads
// are the caller's. If there is a whole Batch of questions, there are more.
func (p *Prober) Work(now time.Time) (questions []Question, changes []Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changes = p.conclude(now)
	// What was not asked in time, for instance while the host slept, is not made
	// up for.
	burst := max(1, p.rate()*4*p.tick().Seconds())
	if p.last.IsZero() {
		p.last, p.credit = now, 1
	}
	p.credit = min(p.credit+now.Sub(p.last).Seconds()*p.rate(), burst)
	p.last = now
	for ; p.credit >= 1 && len(p.order) > 0 && p.interval > 0 && len(questions) < Batch; p.credit-- {
		to := p.order[p.next]
		p.next = (p.next + 1) % len(p.order)
		q := Question{Peer: to.name, ID: p.id, Payload: make([]byte, PayloadSize)}
		q.Seq = to.ask(now, p.question(q.Payload), nil)
		questions = append(questions, q)
		p.pending = append(p.pending, pending{to, now.Add(Timeout)})
	}
	return questions, changes
}

// conclude looks at peers that have news and at questions whose time is over.
func (p *Prober) conclude(now time.Time) (changes []Change) {
	for range len(p.news) {
		changes = p.settle(<-p.news, now, changes)
	}
	over := 0
	for ; over < len(p.pending) && !p.pending[over].over.After(now); over++ {
		changes = p.settle(p.pending[over].to, now, changes)
	}
	p.pending = slices.Delete(p.pending, 0, over)
	return changes
}

// question writes a payload and returns its nonce.
func (p *Prober) question(b []byte) uint64 {
	nonce := rand.Uint64() // ChaCha8 with a random seed: not to be guessed
	payload{nonce: nonce, Self: *p.self.Load()}.write(b)
	return nonce
}

// settle looks at a peer if it is still followed.
func (p *Prober) settle(one *peer, now time.Time, changes []Change) []Change {
	if (*p.peers.Load())[one.name] != one {
		return changes
	}
	return one.settle(now, p.heard(one.name), changes)
}

// Ping returns a question out of turn, with a payload of size bytes, which is
// PayloadSize at least. The channel gets the round trip time if an answer comes
// before forget is called; that must be. ok is false if there is no such peer.
func (p *Prober) Ping(name string, size int, now time.Time) (q Question, answer <-chan time.Duration, forget func(), ok bool) {
	to := (*p.peers.Load())[name]
	if to == nil {
		return q, nil, nil, false
	}
	rtt := make(chan time.Duration, 1)
	q = Question{Peer: name, ID: p.id, Payload: make([]byte, max(size, PayloadSize))}
	nonce := p.question(q.Payload)
	q.Seq = to.ask(now, nonce, rtt)
	return q, rtt, func() { to.forget(nonce) }, true
}

// Answer takes an echo that came from a peer at a time. mine is false if it is none
// of ours and concerns only the host's kernel. A question is turned into its
// answer, of the same length, in place; reply is returned for it, nil otherwise.
func (p *Prober) Answer(from string, isReply bool, b []byte, at time.Time) (reply []byte, mine bool) {
	said, ok := parse(b)
	if !ok {
		return nil, false
	}
	if !isReply {
		if said.answer {
			return nil, true // nonsense, and not for the kernel to repeat
		}
		payload{answer: true, nonce: said.nonce, Self: *p.self.Load()}.write(b)
		return b, true
	}
	if one := (*p.peers.Load())[from]; one != nil && one.answered(said, at) {
		select {
		case p.news <- one:
		default: // it is looked at when its time is over
		}
		select {
		case p.woken <- struct{}{}:
		default: // somebody has been woken already
		}
	}
	return nil, true
}

// Report is what is known of a peer.
type Report struct {
	State          State
	Since          time.Time // of the state; zero if that is Unknown
	Answered       time.Time // when the last answer came; zero if none did
	Heard          time.Time // when the last packet came, as known when State was looked at last
	Figures        Figures
	Sent, Received uint64 // questions and their answers
	Told           Self   // what it said last; without a Version if it is no meshd
}

// Report tells about a peer; ok is false if it is not followed, or nobody is.
func (p *Prober) Report(name string) (r Report, ok bool) {
	one := (*p.peers.Load())[name]
	if one == nil {
		return r, false
	}
	return one.report(), true
}
