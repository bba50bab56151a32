package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// samplesOf makes a sample every 10 s of one process, by a figure's value at each.
func samplesOf(n int, figure string, value func(i int) float64) (all []sample) {
	for i := range n {
		r := reading{"a", map[string]float64{figure: value(i)}}
		all = append(all, sample{At: time.Duration(i+1) * 10 * time.Second,
			Meshes: []meshSample{{Processes: []reading{r}}}})
	}
	return all
}

// What grows or leaks is told from what begins high, jumps, or comes and goes.
func TestTrends(t *testing.T) {
	for _, test := range []struct {
		name, figure string
		value        func(i int) float64
		grows        bool
	}{
		{"memory rests", figureRSS, func(int) float64 { return 50 }, false},
		{"memory settles in the warm-up", figureRSS, func(i int) float64 { return min(50, float64(5*i)) }, false},
		{"memory grows", figureRSS, func(i int) float64 { return 50 + float64(i) }, true},
		{"memory has a peak", figureRSS, func(i int) float64 { return 50 + float64(i/55%2*100) }, false},
		{"descriptors rest", figureFDs, func(i int) float64 { return 20 + float64(i%4) }, false},
		{"descriptors leak", figureFDs, func(i int) float64 { return 20 + float64(i/10) }, true},
		{"a leak under peaks", figureFDs, func(i int) float64 { return float64(i/10 + i%2*30) }, true},
		{"threads leak", figureThreads, func(i int) float64 { return 9 + float64(i/6) }, true},
		{"one map entry leaks", figureEntries, func(i int) float64 { return 15 + float64(i/40) }, true},
		{"map entries of a reload", figureEntries, func(i int) float64 { return 15 + float64(i%6/5) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			samples := samplesOf(60, test.figure, test.value)
			var grown []string
			for _, one := range trends([]string{"user"}, samples, warmUp(10*time.Minute)) {
				if one.grows() {
					grown = append(grown, one.figure)
				}
			}
			if want := map[bool][]string{true: {test.figure}}[test.grows]; !slices.Equal(grown, want) {
				t.Errorf("%q grew, want %q", grown, want)
			}
		})
	}
}

// While meshes switch, what each way to move packets has of its own is compared after whole rounds alone.
func TestCompares(t *testing.T) {
	for _, test := range []struct {
		name           string
		soak, switches time.Duration
		leaks          bool
	}{
		{"no switches", 10 * time.Minute, 0, true},
		{"rounds are shorter than thirds", 20 * time.Minute, 15 * time.Second, true},
		{"rounds are longer than thirds", 10 * time.Minute, 15 * time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &result{soak: test.soak, switches: test.switches}
			for _, l := range limits {
				if got, want := r.compares(l), !l.least || test.leaks; got != want {
					t.Errorf("%s is compared: %v", l.figure, got)
				}
			}
		})
	}
}

// A problem counts when two samples in a row have it, after the warm-up. Lost probes are excused while
// packets take longer than a probe waits.
func TestLasting(t *testing.T) {
	down, differs := problem{"a", "peer_down", "b"}, problem{"a", "file_differs", "b"}
	loss := problem{"b", "peer_loss", "c"}
	for _, test := range []struct {
		name         string
		slow         int  // the sample in which packets took long
		gap          bool // samples are missing
		all, excused []problem
	}{
		{"packets are fast", -1, false, []problem{loss}, nil},
		{"packets were slow before", 15, false, nil, []problem{loss}},
		{"packets are slow", 18, false, nil, []problem{loss}},
		{"samples were late", -1, true, nil, []problem{loss}},
		{"packets were slow long ago", 0, false, []problem{loss}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			samples := samplesOf(30, figureRSS, func(int) float64 { return 1 })
			for i, p := range map[int]problem{0: down, 1: down, 15: differs, 17: loss, 18: loss} {
				samples[i].Meshes[0].Problems = []problem{p}
			}
			if test.slow >= 0 {
				samples[test.slow].Meshes[0].Max = 1500
			}
			if test.gap {
				samples = slices.Delete(samples, 10, 16)
			}
			all, excused := (&result{soak: 10 * time.Minute, samples: samples}).lasting(0)
			if !slices.Equal(all, test.all) || !slices.Equal(excused, test.excused) {
				t.Errorf("%v are lasting and %v excused", all, excused)
			}
		})
	}
}

// A lost packet needs a counter that tells of one; bytes of TCP have no excuse.
func TestAccount(t *testing.T) {
	for _, test := range []struct {
		name          string
		udp, tcp, gso uint64 // that arrived, of 100
		counted       uint64
		faults        int
	}{
		{"all arrived", 100, 100, 100, 0, 0},
		{"one is lost", 99, 100, 100, 0, 1},
		{"one is lost, and counted", 99, 100, 100, 1, 0},
		{"two are lost, one is counted", 98, 100, 100, 1, 1},
		{"a superpacket is lost, and counted once", 100, 100, 100 - gsoMost, 1, 0},
		{"more than a superpacket", 100, 100, 99 - gsoMost, 1, 1},
		{"bytes are lost", 100, 99, 100, 50, 1},
		{"more arrived than was sent", 101, 100, 100, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := account{counters: counters{"pod a Udp RcvbufErrors": test.counted}}
			for name, arrived := range map[string]uint64{"udp": test.udp, "tcp": test.tcp, "gso": test.gso} {
				a.kinds = append(a.kinds, kindAccount{name, tally{sent: 100, arrived: arrived}})
			}
			if got := a.faults("user"); len(got) != test.faults {
				t.Errorf("faults are %q", got)
			}
		})
	}
}

// Goroutines are counted by who started them, without the runtime's, and a few more are no leak.
func TestCrew(t *testing.T) {
	stacks := "goroutine 1 [running]:\nmain.main()\n\n" +
		"goroutine 5 [force gc (idle)]:\ncreated by runtime.init.7\n\n" +
		"goroutine 6 [syscall]:\ncreated by os/signal.Notify.func1.1 in goroutine 1\n\n" +
		strings.Repeat("goroutine 9 [select]:\ncreated by example.org/meshd/internal/x.run in goroutine 1\n\n", 3)
	by := goroutines(stacks)
	if len(by) != 1 || by["example.org/meshd/internal/x.run"] != 3 {
		t.Errorf("%v", by)
	}
	c := crew{"user", "a", map[string]int{"x": 3 + moreGoroutines, "y": 2}, map[string]int{"x": 3, "y": 2}}
	if fault := c.fault(); fault != "" {
		t.Error(fault)
	}
	c.after["x"]++
	if fault := c.fault(); !strings.Contains(fault, fmt.Sprintf("%d of x more", moreGoroutines+1)) {
		t.Errorf("the fault is %q", fault)
	}
}

// The kernel's counters are read by name, whatever stands between them.
func TestCounters(t *testing.T) {
	c := counters{}
	c.devices("host a", "Inter-| Receive\n face |bytes\n  eth0: 1 2 3 40 5 6 7 8 9 10 11 12 13 14 15 16\n")
	c.protocols("pod a", "Ip: InDiscards ReasmFails\nIp: 1 0\nUdp: InDatagrams RcvbufErrors\nUdp: 99 7\n")
	c.protocols6("pod a", "Ip6InDiscards 2\nUdp6RcvbufErrors 3\nUdp6InDatagrams 100\nIcmp6InMsgs 5\n")
	want := counters{"host a eth0 rx": 40, "host a eth0 tx": 12, "pod a Ip InDiscards": 1,
		"pod a Ip ReasmFails": 0, "pod a Udp RcvbufErrors": 7, "pod a Ip6 InDiscards": 2,
		"pod a Udp6 RcvbufErrors": 3}
	if fmt.Sprint(c) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", c, want)
	}
	before := counters{"host a eth0 rx": 38, "pod a Udp RcvbufErrors": 7}
	if grown := c.since(before); grown["host a eth0 rx"] != 2 || grown["pod a Udp RcvbufErrors"] != 0 {
		t.Errorf("%v has grown", grown)
	}
}

// A report of anything is whole: a soak of hours must not end without one.
func TestReport(t *testing.T) {
	r := &result{soak: 10 * time.Minute, names: []string{"user"}, ledger: twoFlows(),
		samples:  samplesOf(60, figureRSS, func(i int) float64 { return 50 + float64(i) }),
		accounts: []account{{kinds: []kindAccount{{"udp", tally{sent: 5, arrived: 4}}}}}}
	r.ledger.findings = []finding{{Flow: "user: a to b tcp4", Came: make([]byte, 100), Is: "100 zeros"}}
	r.ledger.altered = 1
	faults := r.judge()
	if len(faults) != 3 {
		t.Errorf("faults are %q", faults)
	}
	page := r.markdown(faults)
	for _, want := range append(faults, "100 zeros",
		"| user | UDP, requests and answers | 5 | 4 | 1 | 0 | 0 |") {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing in\n%s", want, page)
		}
	}
	for line := range strings.Lines(page) {
		if len(line) > 111 && !strings.HasPrefix(line, "|") {
			t.Errorf("a line of %d columns: %s", len(line), line)
		}
	}
	if picture := svg(r.minutes(), r.panels()); !strings.Contains(picture, "<polyline") ||
		strings.Contains(picture, "NaN") {
		t.Error("the picture is not whole")
	}
}
