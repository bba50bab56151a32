package probe

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Times and numbers of a search for the size that a path carries.
const (
	// sizePause is the time between two checks of the size in use, give or take a tenth, and up to the
	// next plain probe. It bounds how long a path may swallow large packets before this node notices.
	sizePause = 3500 * time.Millisecond
	// sizeGrow is the time between two checks whether more passes than is in use.
	sizeGrow = 20 * time.Second
	// sizeRest is the time between two checks of a path that carries nothing. It is checked at once when
	// packets begin to go there.
	sizeRest = time.Minute
	// sizeParts is how many sizes a round asks about at once. n rounds tell (sizeParts+1)^n sizes apart.
	sizeParts = 4
	// sizeRound is the most sizes of a round.
	sizeRound = sizeParts + 2
	// maxSizeRate bounds the questions about sizes per second of all peers together. sizeBurst is how many
	// of them may be asked at once.
	maxSizeRate = 300
	sizeBurst   = maxSizeRate * tick / time.Second
	// sizeLost is how many checks in a row have to be lost before a search begins. The second follows
	// the first at once; the search asks about the size once more. So a few lost datagrams change nothing.
	sizeLost = 2
	// sizeWait is how long a round waits for further answers at least, once one has come.
	sizeWait = 100 * time.Millisecond
)

// Sizes bounds the size of a peer's packets, in bytes of an echo's payload.
type Sizes struct {
	Least   int // that an underlay must carry; smaller sizes are not asked about
	Most    int // that the interface here carries; 0: the size is not measured
	Headers int // by which packets are larger than the payload
	// Meshd tells to measure only a peer whose meshd answers. A kernel that returns questions inside a tunnel
	// does so once a second (icmp_ratelimit), which plain probes use up.
	Meshd bool
}

// A Size is the size of the largest packets to a peer, in bytes, headers included.
type Size struct {
	InUse   int
	Least   int  // that is searched for
	Most    int  // that the interface here carries; 0: the size is not measured
	Proven  bool // a question of this size was answered
	Nothing bool // not even the smallest size passes, while plain probes do
}

// A search finds the largest size that the path to one peer carries, and notices when that changes
// (RFC 8899 does the same for transports). It believes answers alone: what routers say (ICMP) only makes
// it look at once, since anybody may say so. It is pure: the caller sends its questions, and passes the
// time and the results.
//
//	check   the size in use is asked about. Lost twice in a row, with plain probes passing: search
//	grow    one byte more is asked about. If it passes: search above
//	search  rounds of sizes between the largest that passes and the smallest that is lost
//	verify  the smallest that is lost is asked about once more
type search struct {
	bounds Sizes
	size   int // in use
	proven bool
	failed bool // not even the least size passes

	phase     phase
	low, high int       // of a search: low passes or is below the least, high is lost or the top
	top       int       // of a search: one more than may be found
	round     []int     // asked about, without an answer
	open      bool      // the round waits for answers
	some      bool      // some size of the round has arrived
	began     time.Time // of the round
	woken     time.Time // for when the caller was last asked to call due
	pause     time.Duration
	lost      int       // checks in a row
	grown     time.Time // of the last check for more
	hurry     bool      // check at once
	rests     bool      // the path carries nothing
}

// A phase is what a search does, see there.
type phase uint8

const (
	checking phase = iota
	growing
	searching
	verifying
)

// set gives the search other bounds. A size that is that of a path is kept while it lies within them.
func (s *search) set(b Sizes) {
	if b.Most == 0 {
		*s = search{}
		return
	}
	b.Least = min(max(b.Least, PayloadSize), b.Most)
	if s.bounds == b {
		return
	}
	most := s.size == s.bounds.Most // no path was narrower than the interface, as far as is known
	if s.bounds = b; most || s.size > b.Most || s.size < b.Least {
		s.size, s.proven = b.Most, false
	}
	s.stop()
	s.failed = false
	s.look()
}

// look has the size in use checked at once, and whether more passes: the path may have changed.
func (s *search) look() { s.hurry, s.grown = true, time.Time{} }

// stop ends what goes on: where plain probes do not pass, what is lost says nothing. What was found stays.
func (s *search) stop() { s.phase, s.round, s.open, s.lost = checking, nil, false, 0 }

// found returns what is known.
func (s *search) found() Size {
	if s.bounds.Most == 0 {
		return Size{}
	}
	headers := s.bounds.Headers
	return Size{InUse: s.size + headers, Least: s.bounds.Least + headers, Most: s.bounds.Most + headers,
		Proven: s.proven, Nothing: s.failed}
}

// report returns what is known as that of a form. counts holds the numbers of questions.
func (s *search) report(counts form) FormReport {
	return FormReport{Form: Large, Measured: s.bounds.Most > 0 && counts.sent > 0, Sent: counts.sent,
		Received: counts.received, LostInRow: s.lost, Fails: s.failed || s.size < s.bounds.Most}
}

// wake returns when due is to be called at the latest; zero if that is no matter, or was told before.
func (s *search) wake(roundTrip time.Duration) (at time.Time) {
	at = s.began.Add(s.patience(roundTrip))
	if !s.open || at.Equal(s.woken) {
		return time.Time{}
	}
	s.woken = at
	return at
}

// due returns the sizes to ask about now, none while answers are awaited, and whether what is known has
// changed. It is to be called after answers, too. roundTrip is how long answers of the peer take.
func (s *search) due(now time.Time, roundTrip time.Duration) (sizes []int, changed bool) {
	switch {
	case s.bounds.Most == 0:
		return nil, false
	case s.open && now.Sub(s.began) < s.patience(roundTrip):
		return nil, false
	case s.open:
		changed = s.timeOut()
	}
	return s.next(now), changed
}

// next returns what to ask about next.
func (s *search) next(now time.Time) []int {
	switch since := now.Sub(s.began); {
	case s.rests && s.settled() && since < sizeRest:
		return nil
	case s.phase == searching:
		return s.ask(now, s.sizes()...)
	case s.phase == verifying:
		high := s.ask(now, s.high)
		s.some = true // an answer came just now, so this one takes no longer
		return high
	case s.hurry, s.lost > 0, since >= s.pause:
		s.hurry = false
		s.pause = sizePause - sizePause/10 + rand.N(sizePause/5)
		if s.failed && s.bounds.Least < s.size {
			return s.ask(now, s.bounds.Least, s.size)
		}
		return s.ask(now, s.size)
	case s.proven && s.size < s.bounds.Most && now.Sub(s.grown) >= sizeGrow:
		s.grown, s.phase = now, growing
		return s.ask(now, s.size+1)
	}
	return nil
}

// settled tells whether the size in use is known, and nothing says that it is another one.
func (s *search) settled() bool {
	return s.proven && !s.failed && !s.hurry && s.phase == checking && s.lost == 0
}

// ask notes which sizes are asked about.
func (s *search) ask(now time.Time, sizes ...int) []int {
	s.round, s.began, s.open, s.some = sizes, now, true, false
	return slices.Clone(sizes)
}

// patience is how long a round waits. As a rule one size of a round is lost: once another has arrived, to
// wait for a whole Timeout would take seconds where answers come within milliseconds.
func (s *search) patience(roundTrip time.Duration) time.Duration {
	if !s.some {
		return Timeout
	}
	return min(Timeout, max(sizeWait, 4*roundTrip))
}

// sizes returns the sizes of the next round: spread evenly between what passes and what does not. The
// first round has the least size, too, which tells whether to search makes sense, and the one in use.
func (s *search) sizes() (all []int) {
	from := max(s.low, s.bounds.Least)
	if s.low < from {
		all = []int{from}
	}
	for i := range sizeParts {
		if at := from + (s.high-from)*(i+1)/(sizeParts+1); at > from && at < s.high && !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	if s.low < s.bounds.Least && s.size < s.high && !slices.Contains(all, s.size) {
		all = append(all, s.size)
	}
	return all
}

// passed notes that a size has arrived, and tells whether what is known has changed. Answers may be late:
// what passes, passes.
func (s *search) passed(size int) (changed bool) {
	if s.bounds.Most == 0 || size > s.bounds.Most {
		return false
	}
	s.round = slices.DeleteFunc(s.round, func(one int) bool { return one <= size })
	s.open, s.some = s.open && len(s.round) > 0, true
	switch {
	case s.phase >= searching:
		return s.above(size)
	case s.failed && size < s.size: // there is something to find again
		s.start(size, s.size)
		return false
	case size < s.size:
		return false
	}
	changed = size > s.size || !s.proven || s.failed
	grew := size > s.size
	s.stop()
	s.size, s.proven, s.failed = size, true, false
	if grew && size < s.bounds.Most {
		s.start(size, s.bounds.Most+1)
	}
	return changed
}

// start begins a search.
func (s *search) start(low, top int) {
	s.stop()
	s.phase, s.low, s.high, s.top = searching, low, top, top
}

// above takes a size that passes into a search.
func (s *search) above(size int) (changed bool) {
	s.low = max(s.low, size)
	if s.low >= s.high { // it was lost before, or asked about to verify
		s.high, s.phase = max(s.top, s.low+1), searching
	}
	return s.narrow()
}

// timeOut takes what was asked about and has no answer for lost.
func (s *search) timeOut() (changed bool) {
	lost := s.round
	s.round, s.open = nil, false
	switch {
	case s.phase == verifying:
		return s.end()
	case s.phase == searching:
		if len(lost) > 0 {
			s.high = min(s.high, slices.Min(lost))
		}
		return s.narrow()
	case s.phase == growing:
		s.phase = checking
		return false
	case s.failed:
		return false
	}
	if s.lost++; s.lost >= sizeLost {
		s.start(s.bounds.Least-1, s.size+1)
	}
	return false
}

// narrow goes on to verify once all but one size is ruled out.
func (s *search) narrow() (changed bool) {
	switch {
	case s.high > s.low+1:
		return false
	case s.low < s.bounds.Least, s.high >= s.top: // nothing passes, or all does
		return s.end()
	}
	s.phase = verifying
	return false
}

// end ends a search with what it has found.
func (s *search) end() (changed bool) {
	found := s.low >= s.bounds.Least
	changed = s.failed == found || found && (s.size != s.low || !s.proven)
	if s.failed = !found; found { // else something other than the size is at fault
		s.size, s.proven = s.low, true
	}
	s.stop()
	return changed
}

// look has the size of packets checked at once.
func (p *path) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.search.look()
}

// sizes returns the sizes that are due to be asked about, and when the peer is to be settled again for
// that; zero if that is no matter. p.mu is held.
func (p *path) sizes(now time.Time, mayAsk bool) (all []int, again time.Time) {
	if !p.passes() || p.search.bounds.Meshd && !p.told.self().isMeshd() {
		p.search.stop()
		return nil, again
	}
	roundTrip := p.window.last()
	p.search.rests = !p.active
	if mayAsk {
		var changed bool
		all, changed = p.search.due(now, roundTrip)
		p.formsNew = p.formsNew || changed
		p.form(Large).sent += uint64(len(all))
	}
	return all, p.search.wake(roundTrip)
}

// askSize notes a question of a size and returns its sequence number.
func (p *path) askSize(now time.Time, nonce uint64, size int) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.note(question{nonce: nonce, form: Large, size: size, at: now, rtt: lost})
}
