package probe

import (
	"math/rand/v2"
	"time"
)

// This file decides which questions are sent when, and settles those that are over.

// share returns which part of the questions may be asked that the rings want.
func (p *Prober) share() float64 {
	sum := 0.0
	for i := range p.rings {
		sum += p.rings[i].rate()
	}
	return min(1, maxRate/max(sum, 1))
}

// doubtTick is the shortest time for which questions of doubts are collected.
const doubtTick = 50 * time.Millisecond

// Wait returns the time until Work should be called next, counted from the last Work. Work should also
// be called when Woken has a value.
func (p *Prober) Wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait, share := time.Hour, p.share()
	for i := range p.rings {
		if r := &p.rings[i]; r.rate() > 0 {
			wait = min(wait, time.Duration((1-r.credit)/(r.rate()*share)*float64(time.Second)))
		}
	}
	if at, ok := p.pending.first(); ok {
		wait = min(wait, at.Sub(p.last))
	}
	least := p.tick()
	if at, ok := p.urgent.first(); ok {
		wait = min(wait, at.Sub(p.last))
		least = min(least, max(at.Sub(p.last), doubtTick))
	}
	return max(wait, least)
}

// tick returns how long questions are collected: less than tick if each peer is asked often.
func (p *Prober) tick() time.Duration {
	if p.interval == 0 {
		return tick
	}
	return min(tick, p.interval/2)
}

// Woken returns a channel that gets a value when a peer has answered that is not up, or said
// something new: Work would return a change.
func (p *Prober) Woken() <-chan struct{} { return p.woken }

// Work returns the questions to send now and the changes since the last call. The caller owns the
// payloads. If Work returns a whole Batch, more questions may be due: call it again.
func (p *Prober) Work(now time.Time) (questions []Question, changes []Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.IsZero() {
		p.last = now
		for i := range p.rings {
			p.rings[i].credit = 1
		}
	}
	elapsed, share := now.Sub(p.last).Seconds(), p.share()
	for i := range p.rings {
		// Questions that were due while nobody called, such as while the host was suspended, are not
		// asked later.
		r := &p.rings[i]
		rate := r.rate() * share
		r.credit = min(r.credit+elapsed*rate, max(1, rate*4*p.tick().Seconds()))
	}
	p.formed = min(p.formed+elapsed*maxFormRate, float64(formBurst))
	p.sized = min(p.sized+elapsed*maxSizeRate, float64(sizeBurst))
	p.doubted = min(p.doubted+elapsed*maxDoubtRate, doubtBurst)
	p.last = now
	questions, changes = p.conclude(now)
	for i := range p.rings {
		for r := &p.rings[i]; r.credit >= 1 && len(r.order) > 0 && r.period > 0 &&
			len(questions) < Batch; r.credit-- {
			if questions == nil {
				questions = make([]Question, 0, Batch) // what grows leaves as much garbage again
			}
			to := r.turn()
			questions = append(questions, p.ask(now, to, false))
			questions = p.askForms(now, to, questions)
			p.pending.add(pending{to: to, over: now.Add(Timeout)}) // for all of them
		}
	}
	return questions, changes
}

// ask returns a plain question on a path. outOfTurn is for a doubt.
func (p *Prober) ask(now time.Time, to *path, outOfTurn bool) Question {
	q := Question{Peer: to.name, Via: to.via, ID: p.id, Payload: make([]byte, PayloadSize)}
	var doubt time.Time
	q.Seq, doubt = to.ask(now, p.question(to.name, q.Payload), outOfTurn)
	q.Payload = appendDrain(q.Payload, p.drain.Load())
	if !doubt.IsZero() {
		p.pending.add(pending{to: to, over: doubt, doubt: true})
	}
	return q
}

// askForms appends the questions of forms that are due at a peer. Where more are due than may be asked,
// chance decides: in a fixed order the same peers would be left out round by round.
func (p *Prober) askForms(now time.Time, to *path, questions []Question) []Question {
	trait := *p.trait.Load()
	// One at a time, but where plain probes are so rare that this would take too long.
	most := min(len(regular), 1+int(p.interval*time.Duration(len(regular))/formPause))
	for range most {
		if p.formed < 1 || rand.Float64() > p.formed/float64(formBurst) {
			break
		}
		form, dscp, ok := to.nextForm(now, trait)
		if !ok {
			break
		}
		p.formed--
		q := Question{Peer: to.name, Via: to.via, Form: form, DSCP: dscp, ID: p.id,
			Payload: make([]byte, PayloadSize)}
		q.Seq = to.askForm(now, p.question(to.name, q.Payload), form, dscp)
		questions = append(questions, q)
	}
	return questions
}

// conclude settles the peers that have news, and those whose questions have timed out. It returns the
// questions about sizes that are due there.
func (p *Prober) conclude(now time.Time) (questions []Question, changes []Change) {
	var due []*path
	for range len(p.news) {
		due = append(due, <-p.news)
	}
	for _, list := range []*agenda{&p.urgent, &p.pending} {
		for one, ok := list.next(now); ok; one, ok = list.next(now) {
			if !one.doubt || one.to.waitsLong() {
				due = append(due, one.to)
			}
		}
	}
	heard := p.heardOn(due)
	for i, one := range due {
		questions, changes = p.settle(one, now, heard[i], questions, changes)
	}
	return questions, changes
}

// heardOn returns when the last packet of any kind came from the peer of each path that packets take; the
// zero time of the other paths. All are asked for at once: one by one, reading what programs count costs as
// much as sending the questions.
func (p *Prober) heardOn(all []*path) []time.Time {
	peers, times := *p.peers.Load(), make([]time.Time, len(all))
	var names []string
	var places []int
	for i, one := range all {
		if of := peers[one.name]; of != nil && of.inUse() == one {
			names, places = append(names, one.name), append(places, i)
		}
	}
	if len(names) == 0 {
		return times
	}
	for i, at := range p.heard(names) {
		times[places[i]] = at
	}
	return times
}

// question writes a payload for a peer and returns its nonce.
func (p *Prober) question(peer string, b []byte) uint64 {
	nonce := rand.Uint64() // ChaCha8 with a random seed: answers cannot be forged by guessing
	payload{nonce: nonce, flags: p.flags((*p.peers.Load())[peer]), Self: *p.self.Load()}.write(b)
	return nonce
}

// settle settles a path if it is still followed. heard is when the last packet of its peer came.
func (p *Prober) settle(
	one *path, now, heard time.Time, questions []Question, changes []Change,
) ([]Question, []Change) {
	of := (*p.peers.Load())[one.name]
	if !of.has(one) {
		return questions, changes
	}
	// Where more are due than may be asked, chance decides, as in askForms.
	mayAsk := p.sized >= sizeRound && rand.Float64() <= p.sized/float64(sizeBurst)
	told := len(changes)
	changes, found := one.settle(now, heard, mayAsk, changes)
	for i := range changes[told:] {
		changes[told+i].Maintenance = of.drain.Load()
	}
	p.sized -= float64(len(found.sizes))
	for _, size := range found.sizes {
		q := Question{Peer: one.name, Via: one.via, Form: Large, ID: p.id, Payload: make([]byte, size)}
		q.Seq = one.askSize(now, p.question(one.name, q.Payload), size)
		q.Payload[flagsAt] |= byte(Brief)
		questions = append(questions, q)
	}
	if !found.again.IsZero() {
		p.pending.add(pending{to: one, over: found.again})
	}
	if !found.urgent.IsZero() {
		p.urgent.add(pending{to: one, over: found.urgent})
	}
	if found.doubts && p.doubted >= float64(len(of.paths)) {
		for _, to := range of.paths {
			p.doubted--
			questions = append(questions, p.ask(now, to, true))
		}
	}
	if of.quick {
		for _, to := range of.paths {
			p.place(of, to)
		}
	}
	return questions, changes
}
