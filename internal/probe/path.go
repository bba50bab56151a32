package probe

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// path is what is known of one address of a peer.
type path struct {
	name string         // of the peer
	via  netip.AddrPort // see peer; written with both locks held
	ring uint8          // in which it is asked; guarded by Prober.mu

	mu             sync.Mutex    // guards the fields below
	active         bool          // packets to the peer go this way
	quick          bool          // its silence has to be noticed within seconds
	doubt          doubt         // of a quick one
	forwarded      bool          // it can get forwarded probes
	interval       time.Duration // between two plain probes
	state          State
	since          time.Time  // of state
	good, missed   int32      // questions in a row with and without an answer
	goodAt         time.Time  // of the first of the answered ones; zero: the last was missed
	silent         time.Time  // of the first of the missed ones
	missedAt       time.Time  // of the last of the missed ones
	asked          []question // without an answer, or not yet seen by settle; oldest first
	seq            uint16
	sent, received uint64
	window         window
	recent         recent
	forms          [numForms - 1]form // see form
	search         search             // what becomes of Large
	answeredAt     time.Time          // of the last answer
	heardAt        time.Time          // of the last packet of any kind, as the last settle was told
	strayAt        time.Time          // of the last answer that came too late or to no question
	gone           [lateKept]uint64   // nonces of questions that were missed last
	lateAt         time.Time          // of the last answer to one of them
	asksAt         time.Time          // of the last question that came from the peer
	asksSince      time.Time          // of the first one that came after missed questions; zero: none did
	unheard        time.Time          // since when the peer tells that it does not hear us; zero: it does
	told           word               // what the peer said of itself last
	shown          word               // what the last Change told of that
	shownState     State              // which state the last Change told of
	flags          Flags              // of the peer's last answer
	toldNew        bool               // told has changed since the last settle
	drainNew       bool               // the peer's maintenance began or ended since the last settle
	formsNew       bool               // a form fails or passes since the last settle
	unrest         unrest             // at the last glance
	loaded         time.Time          // until when the link is full on purpose, see Prober.Loaded
	pathsNew       bool               // it has fallen silent, or answers again, or its state changed unused
}

// lateKept is how many missed questions are remembered: an answer that comes late is no forged one.
const lateKept = 8

// set gives a path other settings, and tells whether packets on it have another size from now on.
func (p *path) set(via netip.AddrPort, interval time.Duration, b Bounds, quick, active bool) (resized bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.via, p.quick, p.active = via, quick, active
	if !quick {
		p.doubt = doubt{}
	}
	if p.interval != interval {
		p.interval, p.recent, p.unrest = interval, newRecent(interval), unrest{}
	}
	p.forwarded = b.Forwarded
	before := p.search.found()
	p.search.set(b.Sizes)
	return p.search.found() != before
}

// A question is an echo that was sent.
type question struct {
	nonce uint64
	form  Form
	size  int // of the payload; of Large alone
	at    time.Time
	rtt   time.Duration        // lost until the answer comes
	ping  chan<- time.Duration // gets rtt, and has room for it; nil for a probe
	doubt bool                 // out of turn, since an earlier one is not answered
}

// use has packets take this path, in the place of another one.
func (p *path) use(before *path) {
	before.mu.Lock()
	before.active = false
	told, flags, shown, state := before.told, before.flags, before.shown, before.shownState
	before.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active, p.shown, p.shownState = true, shown, state
	if p.told == (word{}) { // it has not answered yet
		p.told, p.flags = told, flags
	}
	p.toldNew = p.told != shown
	p.unrest = unrest{} // loss and size are those of this path from now on
	p.search.look()
}

// ask notes a plain question, or one of a doubt, and returns its sequence number. doubt is when settle is
// to be called if no answer came; zero: no matter.
func (p *path) ask(now time.Time, nonce uint64, outOfTurn bool) (seq uint16, doubt time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quick {
		p.doubt.asked(now)
		if !outOfTurn && !p.doubt.silent {
			doubt = now.Add(patience(p.window.high()))
		}
	}
	return p.note(question{nonce: nonce, at: now, rtt: lost, doubt: outOfTurn}), doubt
}

// askPing notes a question of a user and returns its sequence number.
func (p *path) askPing(now time.Time, nonce uint64, ping chan<- time.Duration) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.note(question{nonce: nonce, at: now, rtt: lost, ping: ping})
}

// note notes a question. p.mu is held.
func (p *path) note(q question) uint16 {
	p.asked = append(p.asked, q)
	p.seq++
	p.sent++
	return p.seq
}

// forget removes a question.
func (p *path) forget(nonce uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = slices.DeleteFunc(p.asked, func(q question) bool { return q.nonce == nonce })
}

// asks notes a question that came from the peer.
func (p *path) asks(flags Flags, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asksAt = at
	if p.asksSince.IsZero() && p.missed > 0 && at.Sub(p.silent) > Timeout {
		p.asksSince = at
	}
	p.hearing(flags, at)
}

// hearing notes whether the peer tells that it hears this node. p.mu is held.
func (p *path) hearing(flags Flags, at time.Time) {
	switch {
	case !flags.Has(Unheard):
		p.unheard = time.Time{}
	case p.unheard.IsZero():
		p.unheard = at
	}
}

// hears tells whether the last questions were answered.
func (p *path) hears() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missed < staleAfter || p.answersLate()
}

// waitsLong tells whether a question is open that there may be doubt about.
func (p *path) waitsLong() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.doubt.open) > 0
}

// isSilent tells whether the path was found silent.
func (p *path) isSilent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.doubt.silent
}

// rests tells whether a path that carries nothing is asked rarely: it is known how it is. One that packets
// should go back to is followed while it answers.
func (p *path) rests(preferred bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case Unknown:
		return false
	case Up:
		return p.missed == 0 && !preferred
	}
	return p.state == Down
}

// answersLate tells whether answers come since questions are missed, but after their time: the peer, or
// this host, is slow. p.mu is held.
func (p *path) answersLate() bool { return p.lateAt.After(p.silent) }

// waiting returns the index of the question with a nonce that is not answered; -1 without one. p.mu is held.
func (p *path) waiting(nonce uint64) int {
	return slices.IndexFunc(p.asked, func(q question) bool { return q.nonce == nonce && q.rtt == lost })
}

// knows tells whether a question with a nonce waits for an answer.
func (p *path) knows(nonce uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting(nonce) >= 0
}

// stray notes an answer that is too late, a duplicate, or forged.
func (p *path) stray(nonce uint64, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.strayAt = at
	// Places that no question has filled hold 0, which anybody can guess.
	if nonce != 0 && slices.Contains(p.gone[:], nonce) {
		p.lateAt = at
	}
}

// answered notes an answer. look is true if settle should run at once: the state may change, or the
// peer said something new.
func (p *path) answered(said payload, at time.Time) (look bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.waiting(said.nonce)
	if i < 0 {
		return false // another answer was faster
	}
	p.received++
	p.answeredAt = at
	if said.answer {
		p.hearing(said.flags, at)
	} else { // a kernel returned the question: the words are this node's own
		said.Self, said.flags = Self{}, 0
	}
	p.flags = said.flags
	if p.told.self() != said.Self {
		p.told, p.toldNew = wordOf(said.Self), true
	}
	q := &p.asked[i]
	q.rtt = max(at.Sub(q.at), 0)
	doubts := q.doubt || p.doubt.silent
	if p.doubt.answered(q.at) {
		p.pathsNew = true
	}
	narrows := q.form == Large && p.search.phase >= searching
	if q.form == Large {
		p.form(Large).received++
		p.formsNew = p.search.passed(q.size) || p.formsNew
	}
	if q.ping != nil {
		q.ping <- q.rtt // has room for one
		p.asked = slices.Delete(p.asked, i, i+1)
	}
	return p.state != Up || p.toldNew && p.active || p.formsNew || narrows || doubts
}

// passes tells whether plain probes pass, so that the loss of another form says something about the
// form. p.mu is held.
func (p *path) passes() bool { return p.state == Up && p.good >= plainPasses }

// findings is what settle has found.
type findings struct {
	sizes  []int     // to ask about now
	again  time.Time // when settle is to be called for their sake; zero: no matter
	doubts bool      // it is to be asked now whether this path, and others, answer
	urgent time.Time // when settle is to be called for that; zero: no matter
}

// settle evaluates the questions that were answered or have timed out, and appends the changes to
// changes. heard is the time of the last packet of any kind, for the active path. Without mayAsk no size is
// to be asked about.
func (p *path) settle(now, heard time.Time, mayAsk bool, changes []Change) ([]Change, findings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.state
	p.heardAt = heard
	p.asked = slices.DeleteFunc(p.asked, func(q question) bool {
		over := q.rtt != lost || now.Sub(q.at) >= Timeout
		if q.ping != nil || !over {
			return false
		}
		p.conclude(q)
		return true
	})
	p.state = p.stateAt(now)
	var f findings
	f.sizes, f.again = p.sizes(now, mayAsk)
	if p.active && p.quick {
		var fell bool
		f.doubts, fell, f.urgent = p.doubt.due(now, patience(p.window.high()))
		p.pathsNew = p.pathsNew || fell
	}
	if p.state != old {
		p.since = now
		p.pathsNew = p.pathsNew || !p.active
		if p.state == Up && old != Stale {
			p.recent = newRecent(p.interval) // what was lost before is over, and was told
			p.search.look()                  // the path may be another one now
		}
	}
	return p.news(now, changes), f
}

// news appends what has changed to changes. What a peer says, and its state, are told of the active path.
// p.mu is held.
func (p *path) news(now time.Time, changes []Change) []Change {
	plain := Change{Peer: p.name, Old: p.state, New: p.state}
	if p.active && p.state != p.shownState {
		change := Change{Peer: p.name, Old: p.shownState, New: p.state, Figures: p.window.figures()}
		if p.missed > 0 {
			change.Silent = now.Sub(p.silent)
		}
		changes, p.shownState = append(changes, change), p.state
	}
	if p.active && p.toldNew {
		p.toldNew = false
		told, change := p.told.self(), plain
		change.Told, change.Before = &told, p.shown.self()
		changes, p.shown = append(changes, change), p.told
	}
	if p.formsNew {
		p.formsNew, plain.Forms = false, true
		changes = append(changes, plain)
		plain.Forms = false
	}
	if p.pathsNew {
		p.pathsNew, plain.Paths = false, true
		changes = append(changes, plain)
		plain.Paths = false
	}
	if p.drainNew {
		p.drainNew, plain.Drain = false, true
		changes = append(changes, plain)
	}
	return changes
}

// conclude takes the result of one question. p.mu is held.
func (p *path) conclude(q question) {
	good := q.rtt != lost
	switch {
	case q.form == Large, q.doubt: // the search, or the doubt, has been told
		return
	case !good && q.at.Before(p.loaded) && p.heardAt.After(q.at): // it waits, or fell out of a full queue
		return
	case q.form != Plain:
		if good || p.passes() {
			p.formsNew = p.form(q.form).conclude(good) || p.formsNew
		}
		return
	}
	p.window.add(q.rtt)
	p.recent.add(q.at, !good)
	if good {
		p.missed, p.asksSince = 0, time.Time{}
		if p.good++; p.goodAt.IsZero() {
			p.goodAt = q.at
		}
		return
	}
	p.missedAt = q.at
	p.gone[p.missed%lateKept] = q.nonce
	if p.missed == 0 {
		p.silent = q.at
	}
	p.good, p.goodAt = 0, time.Time{}
	p.missed++
}

// lately is how long after it was noticed a sign of life counts. WireGuard answers questions that its host
// drops once in 10 s (KEEPALIVE_TIMEOUT), and is looked at once a second.
const lately = 15 * time.Second

// stateAt returns the state that follows from what is known. p.mu is held.
func (p *path) stateAt(now time.Time) State {
	switch {
	case !p.unheard.IsZero() && now.Sub(p.unheard) >= unheardFor && p.isRecent(p.asksAt, now):
		return OneWay
	case p.good >= upAfter:
		return Up
	case p.missed < staleAfter:
		return p.state
	// Only what has come after the first missed question was over is a sign of life: what came before
	// tells nothing of now. A peer that has just started asks before it can have answered.
	case !p.asksSince.IsZero() && p.missedAt.After(p.asksSince) && p.isRecent(p.asksAt, now) &&
		!p.answersLate():
		return OneWay
	// Answers that come too late are heard, but a meshd that sends them is not silent.
	case p.heardAt.Sub(p.silent) > Timeout && p.isRecent(p.heardAt, now) && !p.isRecent(p.strayAt, now):
		return Silent
	case p.missed >= downAfter:
		return Down
	case p.state == Unknown || p.state == Down:
		return p.state
	}
	return Stale
}

// isRecent tells whether a sign of life counts still: peers that ask rarely are given more time.
func (p *path) isRecent(sign, now time.Time) bool { return now.Sub(sign) < max(lately, 3*p.interval) }

// report returns what is known of the peer. t is how what pods send differs from plain probes.
func (p *path) report(t Trait) Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := Report{
		State: p.state, Since: p.since, Answered: p.answeredAt, Heard: p.heardAt,
		Figures: p.window.figures(), Recent: p.recent.sum(), Sent: p.sent, Received: p.received,
		Told:     p.told.self(),
		NotHeard: !p.unheard.IsZero(), Silent: p.doubt.silent,
		Sends: p.flags.Has(Sending), Aware: p.flags.Has(Aware),
	}
	for i, f := range forms {
		one := *p.form(f)
		if f == Large {
			r.Forms[i] = p.search.report(one)
			continue
		}
		r.Forms[i] = FormReport{
			Form: f, Measured: p.measures(f, t) && one.sent > 0, Sent: one.sent, Received: one.received,
			LostInRow: int(one.lost), Loss: one.loss(), Fails: one.fails, DSCP: one.dscp}
	}
	r.Size = p.search.found()
	return r
}

// pathReport returns what is known of the path beside others.
func (p *path) pathReport() PathReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PathReport{Via: p.via, State: p.state, Silent: p.doubt.silent, Good: p.goodAt, Answered: p.answeredAt,
		Figures: p.window.figures(), Active: p.active}
}
