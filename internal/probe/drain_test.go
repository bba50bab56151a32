package probe

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/mesh"
)

// talk has two nodes ask and answer each other for a time.
func talk(a, b *Prober, now *time.Time, span time.Duration) (changes map[string][]Change) {
	changes = map[string][]Change{}
	for end := now.Add(span); now.Before(end); *now = now.Add(250 * time.Millisecond) {
		for name, one := range map[string]*Prober{"a": a, "b": b} {
			other, from := b, "a"
			if name == "b" {
				other, from = a, "b"
			}
			questions, news := one.Work(*now)
			changes[name] = append(changes[name], news...)
			for _, q := range questions {
				reply, _ := other.Answer(from, q.Via, false, q.Payload, *now)
				one.Answer(q.Peer, q.Via, true, reply, now.Add(time.Millisecond))
			}
		}
	}
	return changes
}

// A node in maintenance tells its neighbours who, since when and why; they tell that they know, and
// whether they still send there.
func TestMaintenanceIsTold(t *testing.T) {
	now := time.Unix(1e9, 0)
	never := silence
	a, b := New(never), New(never)
	a.Set(Settings{Peers: []string{"b"}, Interval: time.Second})
	b.Set(Settings{Peers: []string{"a"}, Interval: time.Second})
	for _, one := range []*Prober{a, b} {
		one.Introduce(Self{Hash: [32]byte{1}})
	}
	talk(a, b, &now, 5*time.Second)
	news := func(changes []Change) (n int) {
		for _, c := range changes {
			if c.Drain {
				n++
			}
		}
		return n
	}
	b.Send(map[string]bool{"a": true})
	for _, test := range []struct {
		name  string
		drain *mesh.Drain
	}{
		{"begins", &mesh.Drain{Since: now, By: "ada", Reason: "neue Platte für den Wächter"}},
		{"has an end now", &mesh.Drain{Since: now, Until: now.Add(time.Hour), By: "ada", Reason: "new disk"}},
		{"ends", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			a.Drain(test.drain)
			changes := talk(a, b, &now, 3*time.Second)
			at, _ := b.Report("a")
			here, _ := a.Report("b")
			if !sameDrain(at.Drain, test.drain) || news(changes["b"]) != 1 || news(changes["a"]) != 0 {
				t.Errorf("told %+v, %d times", at.Drain, news(changes["b"]))
			}
			if here.Aware != (test.drain != nil) || !here.Sends || here.Drain != nil {
				t.Errorf("%+v", here)
			}
		})
	}
	b.Send(nil)
	talk(a, b, &now, 3*time.Second)
	if here, _ := a.Report("b"); here.Sends {
		t.Error("it says that it sends still")
	}
}

// Texts of others are cut and made fit for a terminal.
func TestTextsOfMaintenance(t *testing.T) {
	for _, test := range []struct{ name, reason, want string }{
		{"short", "new disk", "new disk"},
		{"empty", "", ""},
		{"long", strings.Repeat("ü", 200), strings.Repeat("ü", 80)},
		{"control characters", "\x1b[31mred\x07\n", "[31mred"},
		{"no UTF-8", "a\xffb", "ab"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := appendDrain(make([]byte, PayloadSize), &mesh.Drain{Since: time.Unix(5, 0), Reason: test.reason})
			if d := drainOf(b); d == nil || d.Reason != test.want || d.Since.Unix() != 5 || !d.Until.IsZero() {
				t.Errorf("%+v", d)
			}
		})
	}
}

// Whatever stands behind a question, what is read of it has bounds and is fit for a terminal.
func FuzzDrain(f *testing.F) {
	f.Add(appendDrain(make([]byte, PayloadSize), &mesh.Drain{Since: time.Now(), By: "ada", Reason: "disk"}))
	f.Add(make([]byte, 300))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer budget.Of(t)()
		d := drainOf(b)
		if d == nil {
			return
		}
		for _, s := range []string{d.By, d.Reason} {
			if len(s) > drainWhy || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q", s)
			}
		}
		again := drainOf(appendDrain(make([]byte, PayloadSize), d))
		if again == nil || !sameDrain(again, d) {
			t.Errorf("%+v becomes %+v", d, again)
		}
	})
}
