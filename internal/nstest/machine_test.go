package nstest

import (
	"strings"
	"testing"
)

// Only what is between the marks is replaced, and a page without them is refused.
func TestBetween(t *testing.T) {
	const page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n"
	got, err := Between(page, "x", "new\n")
	if want := strings.Replace(page, "old", "new", 1); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", "<!-- x -->\n", "<!-- /x -->\n<!-- x -->\n"} {
		if got, err := Between(bad, "x", "new\n"); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

func TestMachine(t *testing.T) {
	if s := Machine(); !strings.Contains(s, " CPUs, ") || !strings.Contains(s, "Linux ") {
		t.Errorf("%q", s)
	}
}
