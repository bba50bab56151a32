package nstest

import (
	"strings"
	"testing"
)

// Frames that pass each other all arrive, and afterwards the cable is as before.
func TestReorder(t *testing.T) {
	lab := LabForTest(t)
	a, err := lab.Host("a", "192.0.2.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Host("b", "192.0.2.2/24"); err != nil {
		t.Fatal(err)
	}
	ping := func() string { // all at once: a busy machine may space them by more than the wait
		out, err := a.Run("ping", "-n", "-c", "60", "-l", "60", "-W", "2", "192.0.2.2")
		if err != nil || !strings.Contains(out, "60 received") {
			t.Errorf("%v\n%s", err, out)
		}
		return out
	}
	ping()
	end, err := a.Reorder()
	if err != nil {
		t.Fatal(err)
	}
	if out := ping(); !strings.Contains(out, "icmp_seq=2 ttl") || inOrder(out) {
		t.Errorf("no answer passed another:\n%s", out)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if out := ping(); !inOrder(out) {
		t.Errorf("answers still pass each other:\n%s", out)
	}
}

// inOrder tells whether ping printed answers in the order of its questions.
func inOrder(out string) bool {
	last := 0
	for line := range strings.Lines(out) {
		_, rest, ok := strings.Cut(line, "icmp_seq=")
		if !ok {
			continue
		}
		n := 0
		for _, digit := range rest {
			if digit < '0' || digit > '9' {
				break
			}
			n = n*10 + int(digit-'0')
		}
		if n < last {
			return false
		}
		last = n
	}
	return true
}
