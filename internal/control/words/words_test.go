package words

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// check compares what a function writes with what a reader has to see.
func check(t *testing.T, name, got, want string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	})
}

func TestProblem(t *testing.T) {
	check(t, "with a remedy", Problem(control.Problem{Text: "ip_forward is 0", Remedy: "set it"}),
		"ip_forward is 0; set it")
	check(t, "without one", Problem(control.Problem{Text: "ip_forward is 0"}), "ip_forward is 0")
}

// A peer's event is told by its kind; the message is what this program does not know better.
func TestEvent(t *testing.T) {
	join := func(e control.Event) string {
		subject, rest := Event(e)
		return strings.TrimPrefix(subject+" "+rest, " ")
	}
	for name, test := range map[string]struct {
		event control.Event
		want  string
	}{
		"of a peer, a kind that is known": {
			control.Event{Kind: "peer_down", Peer: "edge-14", Message: "any words",
				Fields: map[string]string{"silent": "10s"}},
			"edge-14 is down: it does not answer silent=10s"},
		"of a peer, a kind from the future": {
			control.Event{Kind: "peer_dreams", Peer: "edge-14", Message: "the peer dreams"},
			"edge-14: the peer dreams"},
		"of the node": {
			control.Event{Kind: "forwarding", Message: "forwarding", Fields: map[string]string{"peers": "2",
				"node": "a"}},
			"forwarding node=a peers=2"},
		"of a kind of peers without a peer": {control.Event{Kind: "peer_up", Message: "12 peers are up"},
			"12 peers are up"},
	} {
		check(t, name, join(test.event), test.want)
	}
}

func TestHostPort(t *testing.T) {
	for address, want := range map[string]string{
		"203.0.113.1": "203.0.113.1:8285", "2001:db8::1": "[2001:db8::1]:8285", "": "",
		"edge.example": "edge.example",
	} {
		check(t, "address "+address, HostPort(control.Network{Address: address, Port: 8285}), want)
	}
}

func TestFile(t *testing.T) {
	check(t, "not told", File(control.Peer{}), "file unknown")
	check(t, "the same", File(control.Peer{ConfigMatch: new(true)}), "same file")
	check(t, "another", File(control.Peer{ConfigMatch: new(false), ConfigSHA256: "00c0ffee77"}),
		"another file 00c0ffee")
}

func TestDrops(t *testing.T) {
	check(t, "largest first", Drops(map[string]uint64{"a": 1, "c": 7, "b": 7, "zero": 0, "big": 1234567}),
		"big 1.23M  b 7  c 7  a 1")
	check(t, "none", Drops(map[string]uint64{"zero": 0}), "")
	check(t, "reasons of zero, too", strings.Join(Reasons(map[string]uint64{"a": 0, "b": 1}), " "), "b a")
}

// The order is of what needs eyes, and the argument stays as it was.
func TestByState(t *testing.T) {
	peers := []control.Peer{
		{Name: "g", State: control.Up}, {Name: "f", State: control.Up},
		{Name: "e", State: control.Draining}, {Name: "d", State: control.Unknown},
		{Name: "c", State: control.Stale}, {Name: "b", State: control.Down}, {Name: "a", State: "from the future"},
	}
	var names string
	for _, p := range ByState(peers) {
		names += p.Name
	}
	check(t, "order", names, "abcdefg")
	check(t, "argument", peers[0].Name, "g")
}

func TestSI(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.04: "0.0", 3: "3.0", 9.94: "9.9", 9.95: "10", 41: "41", 999: "999", 999.4: "999", 999.5: "1.00k",
		1234:  "1.23k",
		99949: "99.9k", 99951: "100k", 999499: "999k", 999500: "1.00M", 88.5e6: "88.5M", 1.21e9: "1.21G",
		3e20: "300E", -1: "0",
	} {
		check(t, fmt.Sprint(v), SI(v), want)
	}
	check(t, "not known", SI(math.NaN()), Unknown)
}

// A column of rates is six cells wide, whatever they are.
func TestSIIsShort(t *testing.T) {
	for v := 0.01; v < 1e20; v *= 1.07 {
		if got := SI(v); len(got) > 5 {
			t.Fatalf("%v is %q", v, got)
		}
	}
}

func TestCounters(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 99999: "99999", 100000: "100k", 1 << 40: "1.10T"} {
		check(t, fmt.Sprint("short ", n), Short(n), want)
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1 000", 10452: "10 452",
		1234567: "1 234 567"} {
		check(t, fmt.Sprint("grouped ", n), Grouped(n), want)
	}
	check(t, "one", Count(1, "peer"), "1 peer")
	check(t, "two", Count(2, "peer"), "2 peers")
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration][2]string{
		-time.Second:                          {"0s", "0 s"},
		9 * time.Second:                       {"9s", "9 s"},
		59*time.Second + 999*time.Millisecond: {"59s", "59 s"},
		130 * time.Second:                     {"2m10", "2m 10s"},
		3*time.Hour + 4*time.Minute:           {"3h04", "3h 04m"},
		76*time.Hour + 12*time.Minute:         {"3d04", "3d 04:12"},
		300 * time.Hour:                       {"12d", "12d 12:00"},
	} {
		check(t, "age "+d.String(), Age(d), want[0])
		check(t, "span "+d.String(), Span(d), want[1])
	}
}

func TestMeasures(t *testing.T) {
	for ms, want := range map[float64]string{0.214: "0.21", 9.99: "9.99", 9.996: "10.0", 16.14: "16.1",
		99.96: "100", 1234: "1234"} {
		check(t, fmt.Sprint(ms, " ms"), Millis(&ms), want)
	}
	check(t, "no RTT", Millis(nil), Unknown)
	check(t, "loss", Percent(new(0.123)), "12%")
	check(t, "no loss known", Percent(nil), Unknown)
	at := time.Date(2026, 11, 24, 15, 7, 33, 0, time.FixedZone("CET", 3600))
	check(t, "time of day", Clock(at), "14:07:33")
	check(t, "no time", Clock(time.Time{}), Unknown)
}

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{"": "", "a\n": "a", "a\nb": "a (and 1 more)",
		"\na\nb\nc\n": "a (and 2 more)"} {
		check(t, fmt.Sprintf("%q", text), OneLine(text), want)
	}
}

// The MTU says what it follows from, where that is known and true.
func TestMTU(t *testing.T) {
	for want, test := range map[string]struct {
		mtu      int
		underlay *control.Underlay
	}{
		"mtu 1472":                  {1472, nil},
		"mtu 1472 (eth0 1500 - 28)": {1472, &control.Underlay{Device: "eth0", MTU: 1500, Headers: 28}},
		"mtu 1372 (1400 - 28)":      {1372, &control.Underlay{MTU: 1400, Headers: 28}},
		"mtu 1300 (wlan0.7 1500)":   {1300, &control.Underlay{Device: "wlan0.7", MTU: 1500, Headers: 28}},
		"mtu 1424 (enp1s0 1492)":    {1424, &control.Underlay{Device: "enp1s0", MTU: 1492, Headers: 60}},
	} {
		t.Run(want, func(t *testing.T) {
			if got := MTU(control.Network{MTU: test.mtu, Underlay: test.underlay}); got != want {
				t.Errorf("%q", got)
			}
		})
	}
}
