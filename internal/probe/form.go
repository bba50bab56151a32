package probe

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"
)

// A Form is what a probe looks like on its way. Packets of pods may be lost where plain probes pass:
// each form has one property of theirs.
type Form uint8

// The forms.
const (
	Plain     Form = iota // small, with a UDP checksum, DSCP 0, from the port of the mesh
	Data                  // sent as programs send: no UDP checksum, or another source port
	Large                 // as large as packets may be; see search
	Marked                // with a DSCP value that pods' packets have
	Forwarded             // to an address that the peer has to forward to, see mesh.Peer.ForwardedProbe
	numForms
)

// String returns the form's name in the API.
func (f Form) String() string { return [...]string{"plain", "data", "large", "dscp", "forwarded"}[f] }

// forms are the forms besides Plain.
var forms = [...]Form{Data, Large, Marked, Forwarded}

// regular are the forms that are asked about in turn, and pass or do not.
var regular = [...]Form{Data, Marked, Forwarded}

// Forms returns the forms besides Plain.
func Forms() []Form { return slices.Clone(forms[:]) }

// Times and rates of forms. A form of a peer is asked about together with a plain probe, which shows
// whether the form or the whole path loses it.
const (
	formPause   = 8 * time.Second // between two questions of a form, give or take formSpread
	formSpread  = time.Second     // so that peers do not stay in step
	formRecheck = 4 * time.Second // while the form is known to be lost
	formHurry   = Timeout / 2     // while the last questions of the form disagree
	// maxFormRate bounds the questions per second of all forms and peers together. formBurst is how many
	// of them may be asked at once.
	maxFormRate = 400
	formBurst   = maxFormRate * tick / time.Second
	// lostAfter is how many questions in a row have to be lost, while plain ones pass, before the form
	// counts as lost; passAfter is how many have to pass before it counts as passing again.
	lostAfter = 3
	passAfter = 2
	// plainPasses is how many plain probes in a row must have passed, so that the loss of a form says
	// something about the form.
	plainPasses = 3
)

// A Trait is how what pods send differs from plain probes, now.
type Trait struct {
	Data bool // packets leave without a UDP checksum, or from another port
	// DSCP has bit n set if packets with DSCP value n (RFC 2474) have left lately.
	DSCP uint64
}

// Bounds is what forms of probes a peer can get.
type Bounds struct {
	Sizes     Sizes
	Forwarded bool // the peer's first subnet has an address for forwarded probes
}

// form is what is known of one form at one peer.
type form struct {
	sent, received uint64
	asked          time.Time     // of the last question
	pause          time.Duration // after it
	lost, passed   int32         // questions in a row
	results        uint32        // of the last questions, the newest in bit 0; 1: lost
	fails          bool
	dscp           uint8 // of the last question, or the value that fails
}

// form returns what is known of a form besides Plain. p.mu is held.
func (p *path) form(f Form) *form { return &p.forms[f-1] }

// formWindow is the number of questions of which the loss of a form is computed.
const formWindow = 16

// due tells whether the form should be asked about. open tells that a question of the form has waited
// for an answer for formHurry.
func (f *form) due(now time.Time, open bool) bool {
	pause := f.pause
	switch {
	case f.fails && f.passed == 0:
		pause = formRecheck
	case f.fails || f.lost > 0 || open:
		pause = formHurry
	}
	return now.Sub(f.asked) >= pause
}

// ask notes a question.
func (f *form) ask(now time.Time) {
	f.sent++
	f.asked = now
	f.pause = formPause - formSpread + rand.N(2*formSpread)
}

// conclude notes the result of a question, and tells whether the verdict about the form has changed.
func (f *form) conclude(passed bool) (changed bool) {
	f.results <<= 1
	before := f.fails
	if passed {
		f.received++
		f.lost, f.passed = 0, f.passed+1
		f.fails = f.fails && f.passed < passAfter
		return f.fails != before
	}
	f.results |= 1
	f.passed, f.lost = 0, f.lost+1
	f.fails = f.fails || f.lost >= lostAfter
	return f.fails != before
}

// forget forgets what was found out, since the form says nothing any more.
func (f *form) forget() { *f = form{sent: f.sent, received: f.received} }

// loss returns the share of lost ones among the last questions, 0 to 1.
func (f *form) loss() float64 {
	n := min(f.sent, formWindow)
	if n == 0 {
		return 0
	}
	lost := 0
	for i := range n {
		lost += int(f.results >> i & 1)
	}
	return float64(lost) / float64(n)
}

// nextForm returns a form that is due, with its DSCP value; ok is false if none is. A form is measured
// while plain probes pass; what was found before stays meanwhile.
func (p *path) nextForm(now time.Time, t Trait) (f Form, dscp uint8, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range regular {
		if one := p.form(f); !p.measures(f, t) && (one.fails || one.lost > 0) {
			p.formsNew = p.formsNew || one.fails
			one.forget()
		}
	}
	if !p.active || !p.passes() {
		return 0, 0, false
	}
	for i := range regular {
		f := regular[(int(p.seq)+i)%len(regular)] // the next one, so that none is left out
		if !p.measures(f, t) || !p.form(f).due(now, p.waits(f, now)) {
			continue
		}
		if f == Marked {
			dscp = p.form(f).nextDSCP(t.DSCP)
		}
		return f, dscp, true
	}
	return 0, 0, false
}

// measures tells whether a form says something about the peer. p.mu is held.
func (p *path) measures(f Form, t Trait) bool {
	told := p.told.self()
	switch f {
	case Data:
		return t.Data && told.isMeshd() // to others, programs send nothing
	case Large:
		return p.search.bounds.Most > 0
	case Marked:
		return t.DSCP&^1 != 0 // plain probes have DSCP 0
	default:
		return p.forwarded && told.Meaning != (Meaning{}) && !p.flags.Has(Unmeasured)
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
func (p *path) waits(f Form, now time.Time) bool {
	return slices.ContainsFunc(p.asked, func(q question) bool {
		return q.form == f && q.rtt == lost && now.Sub(q.at) >= formHurry
	})
}

// askForm notes a question of a form and returns its sequence number.
func (p *path) askForm(now time.Time, nonce uint64, f Form, dscp uint8) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.form(f)
	one.ask(now)
	one.dscp = dscp
	return p.note(question{nonce: nonce, form: f, at: now, rtt: lost})
}

// A FormReport is what is known of one form at one peer.
type FormReport struct {
	Form      Form
	Measured  bool // the form is asked about; if not, Lost, Fails and Loss mean nothing
	Sent      uint64
	Received  uint64
	LostInRow int
	Loss      float64 // of the last formWindow questions, 0 to 1
	Fails     bool    // lostAfter in a row were lost while plain ones passed; passAfter end it
	DSCP      uint8   // of the last question, or the value that fails; of Marked alone
}
