package probe

import (
	"math/bits"
	"slices"
	"sync"
	"time"
)

// peer is the state of one peer.
type peer struct {
	name string

	mu             sync.Mutex    // guards the fields below
	interval       time.Duration // between two plain probes
	bounds         Bounds
	state          State
	since          time.Time  // of state
	good, missed   int        // questions in a row with and without an answer
	silent         time.Time  // of the first of the missed ones
	missedAt       time.Time  // of the last of the missed ones
	asked          []question // without an answer, or not yet seen by settle; oldest first
	seq            uint16
	sent, received uint64
	window         window
	recent         recent
	forms          [numForms]form   // but for Plain
	search         search           // what becomes of Large
	answeredAt     time.Time        // of the last answer
	heardAt        time.Time        // of the last packet of any kind, as the last settle was told
	strayAt        time.Time        // of the last answer that came too late or to no question
	gone           [lateKept]uint64 // nonces of questions that were missed last
	lateAt         time.Time        // of the last answer to one of them
	asksAt         time.Time        // of the last question that came from the peer
	asksSince      time.Time        // of the first one that came after missed questions; zero: none did
	unheard        time.Time        // since when the peer tells that it does not hear us; zero: it does
	told           Self             // what the peer said of itself last
	shown          Self             // what the last Change told of that
	flags          Flags            // of the peer's last answer
	toldNew        bool             // told has changed since the last settle
	formsNew       bool             // a form fails or passes since the last settle
}

// lateKept is how many missed questions are remembered: an answer that comes late is no forged one.
const lateKept = 8

// set gives a peer other settings, and tells whether packets to it have another size from now on.
func (p *peer) set(interval time.Duration, b Bounds) (resized bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.interval != interval {
		p.interval, p.recent = interval, newRecent(interval)
	}
	p.bounds = b
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
}

// ask notes a question and returns its sequence number.
func (p *peer) ask(now time.Time, nonce uint64, ping chan<- time.Duration) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.note(question{nonce: nonce, at: now, rtt: lost, ping: ping})
}

// note notes a question. p.mu is held.
func (p *peer) note(q question) uint16 {
	p.asked = append(p.asked, q)
	p.seq++
	p.sent++
	return p.seq
}

// nextForm returns a form that is due, with its DSCP value; ok is false if none is. A form is measured
// while plain probes pass; what was found before stays meanwhile.
func (p *peer) nextForm(now time.Time, t Trait) (f Form, dscp uint8, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range regular {
		if one := &p.forms[f]; !p.measures(f, t) && (one.fails || one.lost > 0) {
			p.formsNew = p.formsNew || one.fails
			one.forget()
		}
	}
	if !p.passes() {
		return 0, 0, false
	}
	for i := range regular {
		f := regular[(int(p.seq)+i)%len(regular)] // the next one, so that none is left out
		if !p.measures(f, t) || !p.forms[f].due(now, p.waits(f, now)) {
			continue
		}
		if f == Marked {
			dscp = p.forms[f].nextDSCP(t.DSCP)
		}
		return f, dscp, true
	}
	return 0, 0, false
}

// measures tells whether a form says something about the peer. p.mu is held.
func (p *peer) measures(f Form, t Trait) bool {
	isMeshd := p.told.Hash != [32]byte{}
	switch f {
	case Data:
		return t.Data && isMeshd // to others, programs send nothing
	case Large:
		return p.bounds.Sizes.Most > 0
	case Marked:
		return t.DSCP&^1 != 0 // plain probes have DSCP 0
	default:
		return p.bounds.Forwarded && p.told.Meaning != (Meaning{}) && !p.flags.Has(Unmeasured)
	}
}

// nextDSCP returns the DSCP value to ask about: the same one until it is clear what becomes of it, then
// the next of those that pods' packets have.
func (f *form) nextDSCP(seen uint64) uint8 {
	if bit := uint64(1) << f.dscp; (f.fails || f.lost > 0) && seen&bit != 0 {
		return f.dscp
	}
	seen &^= 1
	above := seen &^ (2<<f.dscp - 1)
	if above == 0 {
		above = seen
	}
	next := uint8(bits.TrailingZeros64(above))
	if next != f.dscp { // what is known is of another value
		f.lost, f.passed = 0, 0
	}
	return next
}

// waits tells whether a question of a form has waited for formHurry. p.mu is held.
func (p *peer) waits(f Form, now time.Time) bool {
	return slices.ContainsFunc(p.asked, func(q question) bool {
		return q.form == f && q.rtt == lost && now.Sub(q.at) >= formHurry
	})
}

// askForm notes a question of a form and returns its sequence number.
func (p *peer) askForm(now time.Time, nonce uint64, f Form, dscp uint8) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forms[f].ask(now)
	p.forms[f].dscp = dscp
	return p.note(question{nonce: nonce, form: f, at: now, rtt: lost})
}

// forget removes a question.
func (p *peer) forget(nonce uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = slices.DeleteFunc(p.asked, func(q question) bool { return q.nonce == nonce })
}

// asks notes a question that came from the peer.
func (p *peer) asks(flags Flags, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asksAt = at
	if p.asksSince.IsZero() && p.missed > 0 && at.Sub(p.silent) > Timeout {
		p.asksSince = at
	}
	p.hearing(flags, at)
}

// hearing notes whether the peer tells that it hears this node. p.mu is held.
func (p *peer) hearing(flags Flags, at time.Time) {
	switch {
	case !flags.Has(Unheard):
		p.unheard = time.Time{}
	case p.unheard.IsZero():
		p.unheard = at
	}
}

// tells returns the flags that are for this peer alone.
func (p *peer) tells() (f Flags) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.missed >= staleAfter && !p.answersLate() {
		f |= Unheard
	}
	return f
}

// answersLate tells whether answers come since questions are missed, but after their time: the peer, or
// this host, is slow. p.mu is held.
func (p *peer) answersLate() bool { return p.lateAt.After(p.silent) }

// answered notes an answer. look is true if settle should run at once: the state may change, or the
// peer said something new.
func (p *peer) answered(said payload, at time.Time) (look bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.asked, func(q question) bool { return q.nonce == said.nonce && q.rtt == lost })
	if i < 0 {
		p.strayAt = at
		// Places that no question has filled hold 0, which anybody can guess.
		if said.nonce != 0 && slices.Contains(p.gone[:], said.nonce) {
			p.lateAt = at
		}
		return false // too late, a duplicate, or forged
	}
	p.received++
	p.answeredAt = at
	if said.answer {
		p.hearing(said.flags, at)
	} else { // a kernel returned the question: the words are this node's own
		said.Self, said.flags = Self{}, 0
	}
	p.flags = said.flags
	if p.told != said.Self {
		p.told, p.toldNew = said.Self, true
	}
	q := &p.asked[i]
	q.rtt = max(at.Sub(q.at), 0)
	narrows := q.form == Large && p.search.phase >= searching
	if q.form == Large {
		p.forms[Large].received++
		p.formsNew = p.search.passed(q.size) || p.formsNew
	}
	if q.ping != nil {
		q.ping <- q.rtt // has room for one
		p.asked = slices.Delete(p.asked, i, i+1)
	}
	return p.state != Up || p.toldNew || p.formsNew || narrows
}

// passes tells whether plain probes pass, so that the loss of another form says something about the
// form. p.mu is held.
func (p *peer) passes() bool { return p.state == Up && p.good >= plainPasses }

// look has the size of packets checked at once.
func (p *peer) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.search.look()
}

// sizes returns the sizes that are due to be asked about, and when the peer is to be settled again for
// that; zero if that is no matter. p.mu is held.
func (p *peer) sizes(now time.Time, mayAsk bool) (all []int, again time.Time) {
	if !p.passes() {
		p.search.stop()
		return nil, again
	}
	roundTrip := p.window.figures().Last
	if mayAsk {
		var changed bool
		all, changed = p.search.due(now, roundTrip)
		p.formsNew = p.formsNew || changed
		p.forms[Large].sent += uint64(len(all))
	}
	return all, p.search.wake(roundTrip)
}

// askSize notes a question of a size and returns its sequence number.
func (p *peer) askSize(now time.Time, nonce uint64, size int) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.note(question{nonce: nonce, form: Large, size: size, at: now, rtt: lost})
}

// settle evaluates the questions that were answered or have timed out, and appends the changes to
// changes. heard is the time of the last packet of any kind. It returns the sizes that are to be asked
// about now, none without mayAsk, and when it is to be called again for their sake; zero: no matter.
func (p *peer) settle(now, heard time.Time, mayAsk bool, changes []Change) (
	_ []Change, sizes []int, again time.Time) {
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
	sizes, again = p.sizes(now, mayAsk)
	if p.state != old {
		p.since = now
		if p.state == Up && old != Stale {
			p.recent = newRecent(p.interval) // what was lost before is over, and was told
			p.search.look()                  // the path may be another one now
		}
		change := Change{Peer: p.name, Old: old, New: p.state, Figures: p.window.figures()}
		if p.missed > 0 {
			change.Silent = now.Sub(p.silent)
		}
		changes = append(changes, change)
	}
	if p.toldNew {
		p.toldNew = false
		told := p.told
		changes = append(changes, Change{Peer: p.name, Old: p.state, New: p.state, Told: &told, Before: p.shown})
		p.shown = told
	}
	if p.formsNew {
		p.formsNew = false
		changes = append(changes, Change{Peer: p.name, Old: p.state, New: p.state, Forms: true})
	}
	return changes, sizes, again
}

// conclude takes the result of one question. p.mu is held.
func (p *peer) conclude(q question) {
	good := q.rtt != lost
	switch {
	case q.form == Large: // the search has been told
		return
	case q.form != Plain:
		if good || p.passes() {
			p.formsNew = p.forms[q.form].conclude(good) || p.formsNew
		}
		return
	}
	p.window.add(q.rtt)
	p.recent.add(q.at, !good)
	if good {
		p.missed, p.asksSince = 0, time.Time{}
		p.good++
		return
	}
	p.missedAt = q.at
	p.gone[p.missed%lateKept] = q.nonce
	if p.missed == 0 {
		p.silent = q.at
	}
	p.good = 0
	p.missed++
}

// lately is how long after it was noticed a sign of life counts.
const lately = 10 * time.Second

// stateAt returns the state that follows from what is known. p.mu is held.
func (p *peer) stateAt(now time.Time) State {
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
func (p *peer) isRecent(sign, now time.Time) bool { return now.Sub(sign) < max(lately, 3*p.interval) }

// report returns what is known of the peer. t is how what pods send differs from plain probes.
func (p *peer) report(t Trait) Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := Report{
		State: p.state, Since: p.since, Answered: p.answeredAt, Heard: p.heardAt,
		Figures: p.window.figures(), Recent: p.recent.sum(), Sent: p.sent, Received: p.received, Told: p.told,
		NotHeard: !p.unheard.IsZero(),
	}
	for i, f := range forms {
		one := p.forms[f]
		if f == Large {
			r.Forms[i] = p.search.report(one)
			continue
		}
		r.Forms[i] = FormReport{
			Form: f, Measured: p.measures(f, t) && one.sent > 0, Sent: one.sent, Received: one.received,
			LostInRow: one.lost, Loss: one.loss(), Fails: one.fails, DSCP: one.dscp}
	}
	r.Size = p.search.found()
	return r
}
