// Package probe measures the other nodes. It decides when to send an ICMP echo to which peer, takes
// the answers, and derives a state, round trip times, loss, and the hash of the file that the peer
// uses. It has no sockets and no clock: callers send the echoes and pass the time, which is why it
// is a room of its own and can be tested with any times.
//
//	question  an echo request; the peer answers it within Timeout, or it counts as missed
//	probe     a question that the Prober asks by itself; ping: one that a user asks for
//	heard     the time of any packet from the peer. It never makes a peer up: pods of a host whose
//	          meshd is dead may still send, and others may forge its address
//	form      what a probe looks like; forms other than plain ones tell what pods' packets meet
//
// States, by plain questions in a row:
//
//	up        2 answered
//	stale     3 missed, after up
//	silent    3 missed while packets of the peer arrive: its meshd does not answer
//	one-way   3 missed while questions of the peer arrive and no answer, not even a late one; or the peer
//	          tells that it does not hear us
//	down      10 missed, and nothing arrives
//	unknown   none of these yet
package probe

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/mesh"
)

// Parameters.
const (
	Timeout = time.Second // for an answer

	upAfter    = 2 // see the package comment
	staleAfter = 3
	downAfter  = 10
	// unheardFor is how long a peer has to tell that it does not hear this node. It is longer than the
	// difference between both sides after a failure that has ended.
	unheardFor = 5 * time.Second

	// maxRate bounds the cost of probing: questions per second, however many peers there are. Each
	// of 10,000 peers is then asked every 5 s.
	maxRate = 2000
	// tick is the longest time for which due questions are collected. Sent together, and answered
	// together, they cost less than half.
	tick = 250 * time.Millisecond
	// Batch is how many plain questions Work returns at most. One of each form, and those about sizes,
	// may be added. They all get the time of that call as their send time, so it must not take long to
	// send them.
	Batch = 16
)

// A State is the reachability of a peer.
type State uint8

// States of a peer, see the package comment.
const (
	Unknown State = iota
	Up
	Stale
	Silent
	OneWay
	Down
)

// String returns the state's name in status, events and metrics.
func (s State) String() string {
	return [...]string{"unknown", "up", "stale", "silent", "one-way", "down"}[s]
}

// A Question is to be sent to a peer in an ICMP echo request.
type Question struct {
	Peer    string
	Via     netip.AddrPort // to this address of the peer; the zero value: the way that packets go
	Form    Form
	DSCP    uint8  // for the outer header, 0 to 63
	ID, Seq uint16 // of the echo
	Payload []byte // of the echo; the receiver of the Question owns it
}

// A Change is a change of one peer: of its state, of what it says of itself if Told is not nil, of which
// forms it gets if Forms is true, or of which of its addresses answer if Paths is true.
type Change struct {
	Peer     string
	Old, New State
	Silent   time.Duration // since the first of the missed questions; 0: the last one was answered
	Figures  Figures
	Told     *Self // the peer's new file or version
	Before   Self  // then: what the last Change told
	Forms    bool  // a form fails or passes now
	Paths    bool  // see PathReport
	Drain    bool  // the peer's maintenance began, changed or ended
	// Maintenance is what the peer says of it; nil: it is in none. It is never changed.
	Maintenance *mesh.Drain
}

// A Prober follows the peers of a mesh. Its methods may be called from any goroutine at any time.
// Answer, which runs in a packet loop, waits for other calls only while they use the same peer.
type Prober struct {
	id    uint16 // of the echoes
	heard func(names []string) []time.Time
	self  atomic.Pointer[Self]
	leads atomic.Bool                // see Forwards
	seals atomic.Bool                // see Seals
	trait atomic.Pointer[Trait]      // see Differ
	drain atomic.Pointer[mesh.Drain] // see Drain
	// carriers are those of Send.
	carriers atomic.Pointer[map[string]bool]
	peers    atomic.Pointer[map[string]*peer] // replaced as a whole, never changed
	given    allowance                        // of answers to those who are none of peers
	news     chan *path                       // paths that settle should look at
	woken    chan struct{}                    // news is not empty

	mu       sync.Mutex // guards the fields below
	interval time.Duration
	settings Settings       // of the last Set
	rings    [numRings]ring // how often which path is asked
	formed   float64        // the number of questions of other forms that may be asked now
	sized    float64        // the number of questions about sizes that may be asked now
	doubted  float64        // the number of questions of doubts that may be asked now
	last     time.Time      // of the last Work
	pending  agenda         // what waits for answers, or for a tick
	urgent   agenda         // what is not to wait for the tick
}

// New returns a Prober without peers. heard returns the time of the last packet of any kind from each of
// some peers, the zero time if none came; it is called with locks held and must not call the Prober.
func New(heard func(names []string) []time.Time) *Prober {
	p := &Prober{
		id: uint16(rand.Uint32()), heard: heard, news: make(chan *path, 64), woken: make(chan struct{}, 1),
	}
	p.self.Store(&Self{})
	p.trait.Store(&Trait{})
	p.carriers.Store(&map[string]bool{})
	p.peers.Store(&map[string]*peer{})
	return p
}

// Introduce sets what the other nodes are told.
func (p *Prober) Introduce(s Self) { p.self.Store(&s) }

// Forwards tells whether this node answers forwarded probes: packets to mesh.Peer.ForwardedProbe are
// taken behind its firewall, and a route leads to pods. Until it says so, other nodes are told that
// forwarding is not measured here.
func (p *Prober) Forwards(answers bool) { p.leads.Store(answers) }

// Seals tells whether all that this node sends is encrypted, from now on.
func (p *Prober) Seals(all bool) { p.seals.Store(all) }

// Differ tells how what pods send differs from plain probes, from now on.
func (p *Prober) Differ(t Trait) { p.trait.Store(&t) }

// flags returns what a peer is told.
func (p *Prober) flags(to *peer) (f Flags) {
	if to != nil {
		f = to.tells()
		if (*p.carriers.Load())[to.name] {
			f |= Sending
		}
	}
	if p.drain.Load() != nil {
		f |= Draining
	}
	if !p.leads.Load() {
		f |= Unmeasured
	}
	if p.seals.Load() {
		f |= Sealed
	}
	return f
}

// Self returns what the other nodes are told.
func (p *Prober) Self() Self { return *p.self.Load() }

// tell has a path settled soon.
func (p *Prober) tell(one *path) {
	select {
	case p.news <- one:
	default: // full: the path is settled when its next question's time is over
	}
	select {
	case p.woken <- struct{}{}:
	default: // has a value already
	}
}

// Look has the size of a peer's packets checked at once: somebody says that it has changed.
func (p *Prober) Look(peer string) {
	if one := (*p.peers.Load())[peer]; one != nil {
		one.inUse().look()
	}
}

// Loaded tells that the link to a peer is full until a time, since somebody measures its speed. What is asked
// until then and not answered says nothing of the path, as long as other packets of the peer arrive. Without
// any, it counts as always: a measurement hides no failure.
func (p *Prober) Loaded(peer string, until time.Time) {
	to := (*p.peers.Load())[peer]
	if to == nil {
		return
	}
	for _, one := range to.paths {
		one.mu.Lock()
		one.loaded = until
		one.mu.Unlock()
	}
}

// Unsent forgets a question that says nothing: it was not sent for a reason that pods are told of.
func (p *Prober) Unsent(q Question) {
	said, ok := parse(q.Payload)
	if to := (*p.peers.Load())[q.Peer]; to != nil && ok {
		to.at(q.Via).forget(said.nonce)
	}
}

// Ping returns a question out of turn, with a payload of size bytes, but at least PayloadSize. The
// channel gets the round trip time if the answer comes before forget is called. The caller must call
// forget. ok is false if no peer has the name.
func (p *Prober) Ping(name string, size int, now time.Time) (
	q Question, answer <-chan time.Duration, forget func(), ok bool) {
	to := (*p.peers.Load())[name]
	if to == nil {
		return q, nil, nil, false
	}
	rtt := make(chan time.Duration, 1)
	q = Question{Peer: name, ID: p.id, Payload: make([]byte, max(size, PayloadSize))}
	one := to.inUse()
	nonce := p.question(name, q.Payload)
	q.Seq = one.askPing(now, nonce, rtt)
	return q, rtt, func() { one.forget(nonce) }, true
}

// Answer takes the payload of an echo that was received from an address of a peer, the zero value being
// an unknown one. mine is false if the echo is not
// one of meshd's: it is for the host's kernel. If the echo is a question, Answer turns b into the
// answer, in place, and returns it as reply, for the caller to send; otherwise, and beyond what one peer is
// answered in a second, reply is nil.
func (p *Prober) Answer(
	from string, via netip.AddrPort, isReply bool, b []byte, at time.Time,
) (reply []byte, mine bool) {
	said, ok := parse(b)
	if !ok {
		return nil, false
	}
	if !isReply {
		if said.answer {
			return nil, true // an answer in a request: invalid, and the kernel must not return it
		}
		one, given := (*p.peers.Load())[from], &p.given
		if one != nil {
			given = one.given
		}
		if !given.take(at) {
			return nil, true
		}
		if one != nil {
			one.at(via).asks(said.flags, at)
			if one.drains(said) {
				p.tell(one.inUse())
			}
		}
		payload{answer: true, nonce: said.nonce, flags: p.flags(one), Self: *p.self.Load()}.write(b)
		if said.flags.Has(Brief) {
			b = b[:PayloadSize]
		}
		return b, true
	}
	if one := (*p.peers.Load())[from]; one != nil {
		to, look := one.answered(said, at)
		if to != nil && said.answer && one.drains(said) || look {
			p.tell(to)
		}
	}
	return nil, true
}

// Report is what is known of a peer.
type Report struct {
	State          State
	Since          time.Time // of the state; zero if it is Unknown
	Answered       time.Time // of the last answer; zero if none came
	Heard          time.Time // of the last packet, as of the last question that was evaluated
	Figures        Figures
	Recent         Loss                     // of plain probes
	Sent, Received uint64                   // numbers of questions and answers, of all forms
	Told           Self                     // what the peer said last; no Version if it does not run meshd
	NotHeard       bool                     // the peer tells that it does not hear this node
	Forms          [numForms - 1]FormReport // in the order of Forms
	Size           Size                     // of the largest packets that reach the peer
	Paths          []PathReport             // of each of its addresses, in order; nil if it has one
	Silent         bool                     // as of PathReport, for the path in use
	Drain          *mesh.Drain              // the peer is in maintenance; nil: it is not. Never changed
	Sends          bool                     // a shared prefix of this node goes by it: the peer says so
	Aware          bool                     // the peer knows that this node is in maintenance
}

// Report returns what is known of a peer, by the path in use; ok is false if it is not followed.
func (p *Prober) Report(name string) (r Report, ok bool) {
	one := (*p.peers.Load())[name]
	if one == nil {
		return r, false
	}
	r = one.inUse().report(*p.trait.Load())
	r.Paths, r.Drain = one.reports(), one.drain.Load()
	return r, true
}
