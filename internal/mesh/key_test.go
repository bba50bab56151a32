package mesh

import (
	"errors"
	"strings"
	"testing"
)

func TestParseKey(t *testing.T) {
	const good = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	for name, one := range map[string]struct {
		text string
		err  error
	}{
		"good":           {good, nil},
		"short":          {good[1:], ErrKeyLength},
		"long":           {good + "=", ErrKeyLength},
		"empty":          {"", ErrKeyLength},
		"no base64":      {strings.Replace(good, "x", "-", 1), ErrKeyText},
		"33 bytes":       {strings.Replace(good, "=", "A", 1), ErrKeyText},
		"stray bits":     {strings.Replace(good, "g=", "h=", 1), ErrKeyText},
		"all zero":       {strings.Repeat("A", 43) + "=", ErrKeyZero},
		"with a newline": {good[:43] + "\n", ErrKeyText},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := ParseKey(one.text)
			if !errors.Is(err, one.err) {
				t.Fatalf("%q: %v, want %v", one.text, err, one.err)
			}
			if err == nil && (k.String() != one.text || !k.IsValid()) {
				t.Errorf("%q became %q", one.text, k)
			}
		})
	}
	var none Key
	if none.String() != "" || none.IsValid() {
		t.Errorf("the zero value is %q", none)
	}
	a, _ := ParseKey(good)
	b := a
	if b[31] ^= 0x80; !a.Same(b) || a == b {
		t.Error("the highest bit makes another key")
	}
}
