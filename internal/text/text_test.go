package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/text/hostile"
)

func TestClean(t *testing.T) {
	for s, want := range map[string]string{
		"": "",
		"plain, Grüße, 世界, 🙂, é, \u00a0": "plain, Grüße, 世界, 🙂, é, \u00a0",
		"a\x1b]0;title\x07b":             `a\u001b]0;title\u0007b`,
		"\r\b\x00\x7f":                   `\u000d\u0008\u0000\u007f`,
		"\u009b31m\u0085":                `\u009b31m\u0085`,
		"\x9b31m\xff":                    `\x9b31m\xff`,
		"a\u202eb\u2066c\u200fd\u061c":   `a\u202eb\u2066c\u200fd\u061c`,
		"\u2028\u2029\ufeff\u200b":       `\u2028\u2029\ufeff\u200b`,
		"\U000e0041":                     `\udb40\udc41`,
		"\ufffd stays":                   "\ufffd stays",
		"two\nlines\tand a tab":          `two\nlines\tand a tab`,
		"cut \xe2\x80":                   `cut \xe2\x80`,
	} {
		t.Run(want, func(t *testing.T) {
			if got := Clean(s); got != want {
				t.Errorf("Clean(%q) = %q, not %q", s, got, want)
			}
		})
	}
	if got := Lines("two\nlines\tand\x1b"); got != "two\n"+`lines\tand\u001b` {
		t.Errorf("Lines: %q", got)
	}
	b := []byte("clean\n\tlayout")
	if got := Bytes(b); &got[0] != &b[0] {
		t.Error("clean bytes are copied")
	}
}

// What a terminal may see: the test's own list, by numbers.
func harmful(r rune) bool {
	return r < 0x20 && r != '\n' && r != '\t' || r >= 0x7f && r <= 0x9f ||
		r == 0x61c || r >= 0x200e && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 ||
		unicode.Is(unicode.Cf, r)
}

func checkHarmless(t *testing.T, out []byte) {
	t.Helper()
	if !utf8.Valid(out) {
		t.Errorf("not UTF-8: %q", out)
	}
	if i := bytes.IndexFunc(out, harmful); i >= 0 {
		t.Errorf("a harmful rune at %d of %q", i, out)
	}
}

// Whatever is written, however it is cut: nothing harmful comes out, always the same,
// and what is clean passes unchanged.
func FuzzWriter(f *testing.F) {
	f.Add([]byte("a\x1b]0;x\x07\xc2\x9b31m\xe2\x80\xae\n\t\r"), 3, 7)
	f.Add([]byte("\xe2\x80"), 1, 1)
	f.Add([]byte("\xf3\xa0\x81\x81\xf0\x9f\x99\x82"), 2, 5)
	f.Add([]byte("\x9b\xc2\xc2\x9b\xed\xa0\x80"), 1, 4)
	f.Fuzz(func(t *testing.T, doc []byte, first, second int) {
		defer budget.Of(t)()
		whole := Bytes(doc)
		checkHarmless(t, whole)
		if again := Bytes(whole); !bytes.Equal(again, whole) {
			t.Errorf("%q becomes %q, and then %q", doc, whole, again)
		}
		i := max(0, min(first, len(doc)))
		j := max(i, min(second, len(doc)))
		var out bytes.Buffer
		w := NewWriter(&out)
		for _, part := range [][]byte{doc[:i], doc[i:j], doc[j:]} {
			if n, err := w.Write(part); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
			checkHarmless(t, out.Bytes())
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), whole) {
			t.Errorf("cut at %d and %d: %q, not %q", i, j, out.Bytes(), whole)
		}
		if line := Clean(string(doc)); strings.ContainsAny(line, "\n\t") || Clean(line) != line {
			t.Errorf("Clean(%q) = %q", doc, line)
		}
	})
}

// Every rune that there is, in JSON: the same value as before.
func TestJSONKeepsItsValue(t *testing.T) {
	var all strings.Builder
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if utf8.ValidRune(r) {
			all.WriteRune(r)
			all.WriteByte('\\')
		}
	}
	doc, err := json.Marshal(map[string]string{all.String(): all.String()})
	if err != nil {
		t.Fatal(err)
	}
	doc = Bytes(doc)
	checkHarmless(t, doc)
	var back map[string]string
	if err := json.Unmarshal(doc, &back); err != nil || back[all.String()] != all.String() {
		t.Errorf("it is read back as another value: %v", err)
	}
}

// What package hostile knows as dangerous is dangerous in each of its forms, and harmless when it is
// clean.
func TestHostileTextBecomesHarmless(t *testing.T) {
	for name, s := range map[string]string{"text": hostile.Text, "bytes": hostile.Bytes} {
		t.Run(name, func(t *testing.T) {
			if hostile.Fault(s) == "" {
				t.Fatal("the oracle finds nothing wrong with it")
			}
			for form, clean := range map[string]string{
				"a line": Clean(s), "lines": Lines(s), "bytes": string(Bytes([]byte(s))),
			} {
				if fault := hostile.Fault(clean); fault != "" {
					t.Errorf("%s: %s", form, fault)
				}
			}
		})
	}
	var whole struct {
		Words map[string][]string
		One   *struct{ Text string }
	}
	hostile.Fill(&whole)
	Fields(&whole)
	for key, words := range whole.Words {
		if fault := hostile.Fault(key + words[0] + whole.One.Text); fault != "" {
			t.Error(fault)
		}
	}
}

// The oracle finds each dangerous rune by itself, and nothing in what is usual.
func TestHostileFault(t *testing.T) {
	for _, r := range "\x00\x07\b\r\x1b\x7f\u0085\u009b\u061c\u200e\u200f\u202a\u202e\u2066\u2069" {
		if hostile.Fault("a"+string(r)) == "" {
			t.Errorf("%U passes", r)
		}
	}
	for _, s := range []string{"", "plain\n\ttext", "Grüße, 世界, 🙂", "\ufffd"} {
		if fault := hostile.Fault(s); fault != "" {
			t.Errorf("%q: %s", s, fault)
		}
	}
}

// A rune that is cut between two writes is judged when it is whole; one that could not go on is not
// held back.
func TestPartial(t *testing.T) {
	for name, test := range map[string]struct {
		tail string
		want int
	}{
		"nothing": {"", 0}, "ASCII": {"a", 0}, "a whole rune": {"aü", 0}, "half of two": {"a\xc3", 1},
		"one of three": {"\xe2", 1}, "two of three": {"\xe2\x80", 2}, "three of four": {"\xf0\x9f\x99", 3},
		"a stray byte": {"\x80", 0}, "an end without a beginning": {"\x80\x80\x80", 0}, "never UTF-8": {"\xff", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := partial([]byte(test.tail)); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestWriterErrors(t *testing.T) {
	w := NewWriter(failing{})
	if n, err := w.Write([]byte("x")); n != 0 || err == nil {
		t.Error(n, err)
	}
	if w.Unwrap() != (failing{}) {
		t.Error("Unwrap")
	}
	if _, err := w.Write([]byte("\xe2")); err != nil {
		t.Errorf("nothing was to be written: %v", err)
	}
	if w.Flush() == nil || w.Flush() != nil {
		t.Error("the held byte must be written once")
	}
}

func TestFields(t *testing.T) {
	type inner struct {
		Name  string
		Times map[string]int
	}
	type outer struct {
		Text   string   `text:"lines"`
		Lists  []string `text:"lines"`
		Words  map[string]string
		Inner  *inner
		Many   []inner
		Array  [1]string
		Any    any
		Nested map[string]inner
		hidden string
	}
	const evil, line, both = "a\n\x1b", `a\n\u001b`, "a\n" + `\u001b`
	made := func(one, more string) outer {
		return outer{more, []string{more}, map[string]string{one: one, "b": "c"},
			&inner{one, map[string]int{one: 1}}, []inner{{Name: one}}, [1]string{one}, inner{Name: one},
			map[string]inner{"x": {Name: one}}, evil}
	}
	v, want := made(evil, evil), made(line, both)
	Fields(&v)
	got, _ := json.Marshal(v)
	wanted, _ := json.Marshal(want)
	if !bytes.Equal(got, wanted) || v.hidden != want.hidden {
		t.Errorf("%s\nnot\n%s", got, wanted)
	}
	Fields((*outer)(nil))
}
