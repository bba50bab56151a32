// Package text makes text from outside harmless. Text from a file, a peer or another program may
// move the cursor of a terminal, set its title, or reverse the order of letters. Such characters are
// replaced by visible escapes in the form of JSON strings, ESC by \u001b, so that escaped JSON
// means the same as before.
//
//	hidden   a rune that has an effect instead of a shape: controls (C0, DEL, C1), format
//	         characters (bidi marks, zero width), line and paragraph separators
//	visible  the escape of a hidden rune, \u009b; a byte that is not UTF-8 becomes \x9b
//	clean    text without hidden runes; it passes unchanged and is not copied
//
// The package is a room of its own because both programs, the daemon's answers, its log and the
// dashboard need the same rule. It imports no other room.
package text

import (
	"fmt"
	"io"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Hidden runes that pass nevertheless: none in a line, those that lay out a text of several lines.
const (
	oneLine = ""
	lines   = "\n"
	layout  = "\n\t"
)

// hidden reports whether terminals obey a rune above ASCII, or do not show it.
func hidden(r rune) bool {
	return r < 0xa0 || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Clean returns s as one line: every hidden rune becomes visible, line breaks and tabs as \n and \t.
func Clean(s string) string { return clean(s, oneLine) }

// Lines is Clean for a text of several lines: line breaks stay, tabs do not.
func Lines(s string) string { return clean(s, lines) }

// Bytes is Clean for bytes, in which line breaks and tabs stay. JSON stays valid JSON of the same
// value. If b is clean, the result is b itself and not a copy.
func Bytes(b []byte) []byte {
	if dirt(b, layout) == len(b) {
		return b
	}
	return appendVisible(nil, b, layout)
}

// clean is Clean with some hidden runes that pass.
func clean(s, passes string) string {
	if dirt(s, passes) == len(s) {
		return s
	}
	return string(appendVisible(nil, []byte(s), passes))
}

// dirt returns the offset of the first rune that must not pass; len(s) if s is clean.
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

// passed reports whether a control character is one of those that pass.
func passed(c byte, passes string) bool {
	for i := range len(passes) {
		if passes[i] == c {
			return true
		}
	}
	return false
}

// appendVisible appends b to out with hidden runes replaced.
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

// escape appends the visible form of a hidden rune r, whose bytes are raw.
func escape(out []byte, r rune, raw []byte) []byte {
	switch {
	case r == '\n':
		return append(out, `\n`...)
	case r == '\t':
		return append(out, `\t`...)
	case r == utf8.RuneError: // U+FFFD itself is not hidden
		return fmt.Appendf(out, `\x%02x`, raw[0])
	case r > 0xffff: // a pair of surrogates, RFC 8259, section 7
		high, low := utf16.EncodeRune(r)
		return fmt.Appendf(out, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(out, `\u%04x`, r)
}

// A Writer writes text on with hidden runes replaced, except line breaks and tabs. The result does not
// depend on how the text is cut into writes. It may be used by several goroutines at once.
type Writer struct {
	to io.Writer

	mu   sync.Mutex
	held []byte // the first bytes of a rune whose other bytes have not come yet
}

// NewWriter returns a Writer that writes to to. Flush must be called at the end.
func NewWriter(to io.Writer) *Writer { return &Writer{to: to} }

// Unwrap returns the writer behind the Writer, for callers that need its kind, such as a terminal.
func (w *Writer) Unwrap() io.Writer { return w.to }

// Write implements io.Writer. After an error it is unknown how much was written.
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

// Flush writes the bytes that are held back, of a rune that was never completed.
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

// partial returns the number of bytes at the end of b that are the beginning of a rune.
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
