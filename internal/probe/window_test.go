package probe

import (
	"bytes"
	"testing"
	"time"
)

// windowOf returns a window that got probes, in milliseconds; negative ones are lost.
func windowOf(results ...int) *window {
	w := &window{}
	for _, ms := range results {
		rtt := time.Duration(ms) * time.Millisecond
		if ms < 0 {
			rtt = lost
		}
		w.add(rtt)
	}
	return w
}

// Figures of a few probes, by hand.
func TestFigures(t *testing.T) {
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		results []int
		want    Figures
	}{
		"none": {nil, Figures{}},
		"one": {[]int{5}, Figures{Probes: 1, LastAnswered: true, Last: 5 * ms, Min: 5 * ms, P50: 5 * ms,
			P95: 5 * ms}},
		"lost": {[]int{-1, -1}, Figures{Probes: 2, Loss: 1}},
		"steady": {[]int{3, 3, 3, 3}, Figures{Probes: 4, LastAnswered: true, Last: 3 * ms, Min: 3 * ms, P50: 3 * ms,
			P95: 3 * ms}},
		"the last one lost": {[]int{1, 3, 3, -1}, Figures{Probes: 4, Loss: 0.25, Last: 3 * ms, Min: 1 * ms,
			P50: 3 * ms, P95: 3 * ms, Jitter: 1 * ms}},
		"lost between": {[]int{2, -1, 6, 4}, Figures{Probes: 4, Loss: 0.25, LastAnswered: true, Last: 4 * ms,
			Min: 2 * ms, P50: 4 * ms, P95: 6 * ms, Jitter: 3 * ms}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := windowOf(test.results...).figures(); got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// Only the last probes count, however many there were.
func TestWindowForgets(t *testing.T) {
	var results []int
	for i := range 100 {
		ms := i%10 + 1
		if i%5 == 4 {
			ms = -1
		}
		results = append(results, ms)
	}
	f := windowOf(results...).figures()
	if f.Probes != Window || f.Loss < 0.1999 || f.Loss > 0.2001 || f.Min != time.Millisecond {
		t.Errorf("%+v", f)
	}
	if f.P50 != 6*time.Millisecond || f.P95 != 9*time.Millisecond || f.Jitter != 88*time.Millisecond/47 {
		t.Errorf("%+v", f)
	}
	for range Window {
		results = append(results, -1)
	}
	if f := windowOf(results...).figures(); f.Loss != 1 || f.P50 != 0 {
		t.Errorf("answers of long ago count: %+v", f)
	}
}

// A payload is read as it was written, whatever stands behind it.
func TestPayloadRoundTrip(t *testing.T) {
	for name, p := range map[string]payload{
		"a question": {nonce: 1, Self: Self{Version: "1.2.3"}},
		"an answer":  {answer: true, nonce: 1 << 63, Self: Self{Hash: [32]byte{31: 9}, Version: "v"}},
		"empty":      {},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Repeat([]byte{0xee}, PayloadSize+5)
			p.write(b)
			if got, ok := parse(b); !ok || got != p {
				t.Errorf("%+v, %v, want %+v", got, ok, p)
			}
			if !bytes.Equal(b[PayloadSize:], []byte{0xee, 0xee, 0xee, 0xee, 0xee}) {
				t.Errorf("% x behind it", b[PayloadSize:])
			}
		})
	}
}

// What is not a payload of meshd's is for the host's kernel.
func TestParseRefuses(t *testing.T) {
	good := make([]byte, PayloadSize)
	payload{nonce: 7}.write(good)
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "too short": good[:PayloadSize-1], "another magic": change(0, 'M'),
		"another version of it": change(6, 2), "another kind": change(8, 'x'), "no kind": change(8, 0),
	} {
		t.Run(name, func(t *testing.T) {
			if p, ok := parse(b); ok {
				t.Errorf("%+v", p)
			}
		})
	}
	if _, ok := parse(good); !ok {
		t.Error("the unchanged one is refused")
	}
}

// A version that is too long, or hurts terminals, is shortened to what can be shown.
func TestVersionIsPrintable(t *testing.T) {
	for given, want := range map[string]string{
		"1.2.3": "1.2.3", "a b\x1b[31m": "ab[31m", "grün": "grn", "\x00": "",
		"0123456789012345678901234567890":        "012345678901234567890123",
		"0.2.0~git20261128014255.99d6dcc":        "0.2.0~git20261128014255",
		"0.2.0~git2026112801425.99d6dcc":         "0.2.0~git2026112801425",
		"0.2.0~git20261128014255x.99d6dcc":       "0.2.0~git20261128014255x",
		"1.2.3-rc1+a.b.c.d.e.f.g.h.i.j.k.l.m.n.": "1.2.3-rc1+a.b.c.d.e.f.g",
	} {
		t.Run(want, func(t *testing.T) {
			b := make([]byte, PayloadSize)
			payload{Self: Self{Version: given}}.write(b)
			if p, ok := parse(b); !ok || p.Version != want {
				t.Errorf("%q, %v, want %q", p.Version, ok, want)
			}
		})
	}
}
