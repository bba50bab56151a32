package probe

import (
	"encoding/binary"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"example.org/meshd/internal/mesh"
)

// A node in maintenance sets the flag Draining in all that it sends, and says more behind the payload of
// its plain questions:
//
//	80   magic   4 bytes
//	84   since   8 bytes: seconds since 1970
//	92   until   8 bytes: as since; 0: until somebody ends it
//	100  by      1 byte for the length, then text
//	     reason  1 byte for the length, then text
const (
	drainMagic  = "drn1"
	drainTexts  = PayloadSize + len(drainMagic) + 16 // where the texts begin
	drainByMost = 32                                 // bytes
	drainWhy    = 160                                // bytes
)

// MaxReason is the longest reason of a maintenance that other nodes are told, in bytes.
const MaxReason = drainWhy

// drainOf reads what stands behind a payload; nil if there is nothing, or what is there makes no sense.
func drainOf(b []byte) *mesh.Drain {
	if len(b) < drainTexts || string(b[PayloadSize:PayloadSize+len(drainMagic)]) != drainMagic {
		return nil
	}
	at := b[PayloadSize+len(drainMagic):]
	d := &mesh.Drain{Since: secondsOf(at), Until: secondsOf(at[8:])}
	rest, ok := b[drainTexts:], false
	if d.By, rest, ok = textOf(rest, drainByMost); !ok {
		return nil
	}
	if d.Reason, _, ok = textOf(rest, drainWhy); !ok {
		return nil
	}
	return d
}

// secondsOf reads a time; the zero time for 0 and for what no clock shows.
func secondsOf(b []byte) time.Time {
	const year10000 = 253402300800
	n := binary.BigEndian.Uint64(b)
	if n == 0 || n >= year10000 {
		return time.Time{}
	}
	return time.Unix(int64(n), 0)
}

// textOf reads a text that has its length in front, of most bytes.
func textOf(b []byte, most int) (s string, rest []byte, ok bool) {
	if len(b) == 0 || int(b[0]) > most || len(b) <= int(b[0]) {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return showable(string(b[1:n])), b[n:], true
}

// showable leaves out what is no text: it comes from another host and is shown on terminals.
func showable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// appendDrain appends what stands behind the payload of a question.
func appendDrain(b []byte, d *mesh.Drain) []byte {
	if d == nil {
		return b
	}
	b = append(b, drainMagic...)
	for _, at := range []time.Time{d.Since, d.Until} {
		n := uint64(0)
		if !at.IsZero() {
			n = uint64(max(at.Unix(), 0))
		}
		b = binary.BigEndian.AppendUint64(b, n)
	}
	for _, one := range []struct {
		text string
		most int
	}{{d.By, drainByMost}, {d.Reason, drainWhy}} {
		text := cut(showable(one.text), one.most)
		b = append(append(b, byte(len(text))), text...)
	}
	return b
}

// cut shortens a text to most bytes, between two characters.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// sameDrain compares two values of which both may be nil.
func sameDrain(a, b *mesh.Drain) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Since.Equal(b.Since) && a.Until.Equal(b.Until) && a.By == b.By && a.Reason == b.Reason
}

// Drain tells peers from now on that this node is in maintenance; nil: it is not. d must not be changed.
func (p *Prober) Drain(d *mesh.Drain) { p.drain.Store(d) }

// Send tells which peers carry a shared prefix for this node from now on. The set must not be changed.
func (p *Prober) Send(carriers map[string]bool) { p.carriers.Store(&carriers) }

// drains notes what a peer says of its maintenance, and tells whether that is news. Answers do not say
// more than that there is one; so the first waits for a question, which comes soon as a rule.
func (p *peer) drains(said payload) (news bool) {
	before, now := p.drain.Load(), said.drain
	switch {
	case !said.flags.Has(Draining):
		now = nil
		p.vague.Store(false)
	case now == nil && before != nil:
		now = before
	case now == nil:
		if !p.vague.Swap(true) {
			return false
		}
		now = &mesh.Drain{}
	}
	if sameDrain(before, now) {
		return false
	}
	p.drain.Store(now)
	one := p.inUse()
	one.mu.Lock()
	defer one.mu.Unlock()
	one.drainNew = true
	return true
}
