// Package text makes text of other people harmless: text from a file, a peer or
// another program may move the cursor of a terminal, set its title, or turn the order
// of letters around. It stays what it is, but becomes visible: ESC as \u001b, as a
// JSON string writes it, so that escaped JSON means the same as before.
//
//	hidden   a rune that does something instead of being seen: controls (C0, DEL, C1),
//	         format characters (bidi marks, zero width), line and paragraph separators
//	visible  its escape: \u009b; a byte that is no UTF-8 is \x9b
//	clean    text with nothing hidden in it; it passes unchanged
//
// The package is a room of its own because both programs, the daemon's answers, its
// log and the dashboard need the same rule, and it imports nothing of ours.
package text

import (
	"fmt"
	"io"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// What of the hidden runes passes: nothing in one line, or what lays out a text.
const (
	oneLine = ""
	lines   = "\n"
	layout  = "\n\t"
)

// hidden tells whether a rune above ASCII is one that terminals obey or do not show.
func hidden(r rune) bool {
	return r < 0xa0 || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Clean returns s as one line: what is hidden in it is visible, line breaks and tabs
// too (\n, \t).
func Clean(s string) string { return clean(s, oneLine) }

// Lines is Clean for a text of several lines.
func Lines(s string) string { return clean(s, lines) }

// Bytes returns b with everything visible but line breaks and tabs. JSON stays valid
// JSON of the same value. The result is b itself if b is clean.
func Bytes(b []byte) []byte {
	if dirt(b, layout) == len(b) {
		return b
	}
	return appendVisible(nil, b, layout)
}

func clean(s, passes string) string {
	if dirt(s, passes) == len(s) {
		return s
	}
	return string(appendVisible(nil, []byte(s), passes))
}

// dirt returns where the first rune stands that must not pass, or len(s).
func dirt[T string | []byte](s T, passes string) int {
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			if !passed(c, passes) {
				return i
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		if r == utf8.RuneError && size == 1 || hidden(r) {
			return i
		}
		i += size
	}
	return len(s)
}

func passed(c byte, passes string) bool {
	for i := range len(passes) {
		if passes[i] == c {
			return true
		}
	}
	return false
}

// appendVisible appends b to out with escapes in the place of what is hidden.
func appendVisible(out, b []byte, passes string) []byte {
	for len(b) > 0 {
		n := dirt(b, passes)
		out, b = append(out, b[:n]...), b[n:]
		if len(b) > 0 {
			r, size := utf8.DecodeRune(b)
			out, b = escape(out, r, b[:size]), b[size:]
		}
	}
	return out
}

// escape appends the visible form of a rune that is written as raw.
func escape(out []byte, r rune, raw []byte) []byte {
	switch {
	case r == '\n':
		return append(out, `\n`...)
	case r == '\t':
		return append(out, `\t`...)
	case r == utf8.RuneError: // U+FFFD itself is not hidden
		return fmt.Appendf(out, `\x%02x`, raw[0])
	case r > 0xffff: // a pair of surrogates, RFC 8259 section 7
		high, low := utf16.EncodeRune(r)
		return fmt.Appendf(out, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(out, `\u%04x`, r)
}

// A Writer passes on what is written with everything visible but line breaks and tabs.
// How the text is cut into writes makes no difference. It may be used by several
// goroutines at once.
type Writer struct {
	to io.Writer

	mu   sync.Mutex
	held []byte // the beginning of a rune whose other bytes are still to come
}

// NewWriter returns a Writer to to. Flush must be called at the end.
func NewWriter(to io.Writer) *Writer { return &Writer{to: to} }

// Unwrap returns what the Writer writes to, for who has to know what that is.
func (w *Writer) Unwrap() io.Writer { return w.to }

// Write implements io.Writer. After an error it is not known how much was written.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := p
	if len(w.held) > 0 {
		b = append(w.held, p...)
	}
	whole := len(b) - partial(b)
	w.held = append([]byte(nil), b[whole:]...)
	if whole == 0 {
		return len(p), nil
	}
	if _, err := w.to.Write(Bytes(b[:whole])); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what is held back: the bytes of a rune that nobody completed.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) == 0 {
		return nil
	}
	rest := Bytes(w.held)
	w.held = nil
	_, err := w.to.Write(rest)
	return err
}

// partial returns how many bytes at the end of b begin a rune that may go on.
func partial(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		tail := b[len(b)-n:]
		if utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}
