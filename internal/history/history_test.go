package history

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
)

func values(list []*float64) (known []float64) {
	for _, v := range list {
		if v != nil {
			known = append(known, *v)
		}
	}
	return known
}

// of returns readings by name as Take wants them.
func of(readings map[string]Reading) (all []Peer) {
	for _, name := range slices.Sorted(maps.Keys(readings)) {
		all = append(all, Peer{name, readings[name]})
	}
	return all
}

func TestHistory(t *testing.T) {
	h, now := &History{}, time.Unix(1e9, 0)
	if a, err := h.Answer("", "5m"); a != nil || err != nil {
		t.Errorf("before the first reading: %+v, %v", a, err)
	}
	r := Reading{RxPackets: 1000, RTT: math.NaN(), Loss: math.NaN()}
	step := func(packets uint64, rtt float64) {
		now = now.Add(time.Second)
		r.RxPackets += packets
		r.RTT, r.Loss = rtt, 0.5
		h.Take(now, Node{Reading: r}, of(map[string]Reading{"b": r}))
	}
	h.Take(now, Node{Reading: r}, of(map[string]Reading{"b": r}))
	for i := range 25 {
		step(uint64(i), float64(i))
	}
	a, err := h.Answer("b", "5m")
	if err != nil || len(a.RxPackets) != 300 || a.StepSeconds != 1 || !a.End.Equal(now) {
		t.Fatalf("%v: %+v", err, a)
	}
	if got := values(a.RxPackets); len(got) != 25 || got[0] != 0 || got[24] != 24 || a.RxPackets[0] != nil {
		t.Errorf("packets, each second: %v", got)
	}
	a, err = h.Answer("", "1h")
	each := fmt.Sprint(values(a.RxPackets), values(a.RTTMS), values(a.Loss))
	if err != nil || each != "[45 145] [4.5 14.5] [0.5 0.5]" {
		t.Errorf("each 10 s: %v %v %v, %v", values(a.RxPackets), values(a.RTTMS), values(a.Loss), err)
	}
	if !a.End.Equal(time.Unix(1e9+20, 0)) {
		t.Errorf("end %v", a.End)
	}
	// The daemon did not get to it for 5 s: no spike.
	now = now.Add(4 * time.Second)
	step(500, math.NaN())
	a, _ = h.Answer("b", "5m")
	if got := values(a.RxPackets); len(got) != 30 || got[29] != 100 || got[25] != 100 || a.RTTMS[299] != nil {
		t.Errorf("after a pause: %v", got)
	}
	for range 400 {
		step(7, 1)
	}
	a, _ = h.Answer("b", "5m")
	if got := values(a.RxPackets); len(got) != 300 || got[0] != 7 || got[299] != 7 {
		t.Errorf("full: %v", got)
	}
	if a, err := h.Answer("c", "5m"); a != nil || err != nil {
		t.Errorf("nobody: %+v, %v", a, err)
	}
	if _, err := h.Answer("b", "7d"); err == nil {
		t.Error("a span that is not kept")
	}
	h.Take(now, Node{Reading: r}, nil)
	if a, _ := h.Answer("b", ""); a != nil {
		t.Error("b is gone, and remembered")
	}
}

// A peer takes less than 100 kB, and in a large mesh those that are busy are
// remembered.
func TestHistoryIsBounded(t *testing.T) {
	h, now := &History{}, time.Unix(1e9, 0)
	peers := map[string]Reading{}
	for i := range historyKept {
		peers[fmt.Sprint("n", i)] = Reading{}
	}
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := memory()
	for range 24 * 30 { // steps of the longest span
		now = now.Add(2 * time.Minute)
		h.Take(now, Node{}, of(peers))
	}
	if each := (memory() - before) / historyKept; each > 45_000 {
		t.Errorf("%d bytes a peer", each)
	}
	for i := range historyKept { // 1 is idle
		if i != 1 {
			peers[fmt.Sprint("n", i)] = Reading{RxPackets: 1}
		}
	}
	peers["late"] = Reading{}
	now = now.Add(time.Second)
	h.Take(now, Node{}, of(peers))
	if a, _ := h.Answer("late", ""); a != nil {
		t.Error("an idle peer pushed somebody out")
	}
	peers["late"] = Reading{RxPackets: 1}
	now = now.Add(time.Second)
	h.Take(now, Node{}, of(peers))
	if a, _ := h.Answer("late", ""); a == nil {
		t.Error("a busy peer found no room")
	}
	if a, _ := h.Answer("n1", ""); a != nil || h.kept != historyKept {
		t.Errorf("the idle one is still there, among %d", h.kept)
	}
	runtime.KeepAlive(h)
}

var unknown = math.NaN()

// taken returns a History of one peer, "b", that was read at the given times, in seconds.
func taken(readings map[int]Reading) *History {
	h := &History{}
	for _, at := range slices.Sorted(maps.Keys(readings)) {
		h.Take(time.Unix(int64(at), 0), Node{}, of(map[string]Reading{"b": readings[at]}))
	}
	return h
}

// answer returns what is remembered of a peer in a span.
func answer(t *testing.T, h *History, peer, span string) *control.History {
	t.Helper()
	a, err := h.Answer(peer, span)
	if err != nil || a == nil {
		t.Fatalf("%+v, %v", a, err)
	}
	return a
}

func TestReadingOf(t *testing.T) {
	traffic := mesh.Traffic{RxPackets: 1, RxBytes: 2, TxPackets: 3, TxBytes: 4,
		Drops: [mesh.NumDrops]uint64{mesh.NoRoute: 5, mesh.Malformed: 6}}
	got := Of(traffic, false)
	if !math.IsNaN(got.RTT) || !math.IsNaN(got.Loss) {
		t.Errorf("round trip time %v, loss %v", got.RTT, got.Loss)
	}
	got.RTT, got.Loss = 0, 0
	if want := (Reading{RxPackets: 1, RxBytes: 2, TxPackets: 3, TxBytes: 4, Drops: 11}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// While packets are encrypted their number is unknown and not 0, and bytes are those of messages. A step in
// which that changes, or in which counters begin anew, has neither.
func TestEncrypted(t *testing.T) {
	bare := func(n uint64) mesh.Traffic {
		return mesh.Traffic{RxPackets: n, TxPackets: n, RxBytes: n, TxBytes: n}
	}
	messages := func(rx, tx uint64, known bool) mesh.Traffic {
		all := bare(7) // of the engine, which gets nothing now
		all.Messages, all.Drops[mesh.NotEncrypted] = mesh.Messages{Rx: rx, Tx: tx, Known: known}, rx
		return all
	}
	var h History
	for second, reading := range []Reading{
		Of(bare(5), false), Of(bare(7), false), // 2 packets
		Of(messages(100, 200, true), true), // the switch
		Of(messages(110, 220, true), true),
		Of(messages(3, 4, true), true), // the interface was made anew
		Of(messages(4, 6, true), true),
		Of(messages(9, 9, false), true), // another node forwards for the peer
		Of(messages(9, 9, false), true),
		Of(bare(8), false), Of(bare(9), false), // the way back
	} {
		h.Take(time.Unix(int64(second), 0), Node{Reading: reading}, []Peer{{"b", reading}})
	}
	for _, peer := range []string{"", "b"} {
		a := answer(t, &h, peer, "5m")
		for _, test := range []struct {
			name string
			got  []*float64
			want string
		}{
			{"received packets", a.RxPackets, "2 - - - - - - - 1"}, {"sent packets", a.TxPackets, "2 - - - - - - - 1"},
			{"received bytes", a.RxBytes, "2 - 10 - 1 - - - 1"}, {"sent bytes", a.TxBytes, "2 - 20 - 2 - - - 1"},
			{"drops", a.Drops, "0 100 10 - 1 5 0 - 0"},
		} {
			t.Run(test.name+" of "+cmp.Or(peer, "all"), func(t *testing.T) {
				var got []string
				for _, v := range test.got[len(test.got)-9:] {
					if v == nil {
						got = append(got, "-")
					} else {
						got = append(got, fmt.Sprint(*v))
					}
				}
				if text := strings.Join(got, " "); text != test.want {
					t.Errorf("%s, want %s", text, test.want)
				}
			})
		}
	}
}

// Each counter is told in the place of its name, and an unknown value is null.
func TestAnswerOfEachCounter(t *testing.T) {
	first := Reading{RxPackets: 1, RxBytes: 1, TxPackets: 1, TxBytes: 1, Drops: 1, RTT: unknown, Loss: unknown}
	a := answer(t, taken(map[int]Reading{
		0: first,
		1: {RxPackets: 11, RxBytes: 21, TxPackets: 31, TxBytes: 41, Drops: 51, RTT: 6.5, Loss: 0.25},
		2: {RxPackets: 11, RxBytes: 21, TxPackets: 31, TxBytes: 41, Drops: 51, RTT: unknown, Loss: unknown},
	}), "b", "5m")
	for _, test := range []struct {
		name string
		got  []*float64
		want []float64
	}{
		{"received packets", a.RxPackets, []float64{10, 0}}, {"received bytes", a.RxBytes, []float64{20, 0}},
		{"sent packets", a.TxPackets, []float64{30, 0}}, {"sent bytes", a.TxBytes, []float64{40, 0}},
		{"drops", a.Drops, []float64{50, 0}}, {"round trip time", a.RTTMS, []float64{6.5}},
		{"loss", a.Loss, []float64{0.25}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := values(test.got); !slices.Equal(got, test.want) || len(test.got) != 300 {
				t.Errorf("%v of %d, want %v", got, len(test.got), test.want)
			}
		})
	}
	if a.RTTMS[298] == nil || a.RTTMS[299] != nil || a.RTTMS[297] != nil {
		t.Error("what is unknown is not null in its place")
	}
	if a.Schema != control.Schema || a.Peer != "b" || a.Span != "5m" {
		t.Errorf("%+v", a)
	}
}

// Every span has its step and its length, and "" is the shortest.
func TestSpans(t *testing.T) {
	readings := map[int]Reading{}
	for second := range 361 {
		readings[second] = Reading{RxPackets: uint64(second), RTT: unknown, Loss: unknown}
	}
	h := taken(readings)
	for _, test := range []struct {
		span, name      string
		step, length    int
		points, packets int // known ones, and how many packets each counted
	}{
		{"", "5m", 1, 300, 300, 1},
		{"5m", "5m", 1, 300, 300, 1},
		{"1h", "1h", 10, 360, 36, 10},
		{"24h", "24h", 120, 720, 3, 120},
	} {
		t.Run(test.span, func(t *testing.T) {
			a := answer(t, h, "b", test.span)
			got := values(a.RxPackets)
			if a.Span != test.name || a.StepSeconds != test.step || len(a.RxPackets) != test.length ||
				len(got) != test.points || !a.End.Equal(time.Unix(360, 0)) {
				t.Errorf("%s, %d s, %d points, %d known, to %v", a.Span, a.StepSeconds, len(a.RxPackets), len(got), a.End)
			}
			if i := slices.IndexFunc(got, func(v float64) bool { return v != float64(test.packets) }); i >= 0 {
				t.Errorf("point %d is %v, want %d", i, got[i], test.packets)
			}
		})
	}
}

// A full series forgets its oldest point with each new one, and stays in the order of time.
func TestFullSeries(t *testing.T) {
	readings, sum := map[int]Reading{}, uint64(0)
	for second := range 1000 {
		sum += uint64(second) // so that the point at a second counts as many packets
		readings[second] = Reading{RxPackets: sum}
	}
	got := values(answer(t, taken(readings), "b", "5m").RxPackets)
	for i, v := range got {
		if v != float64(700+i) {
			t.Fatalf("point %d counts %v, want %d: %v", i, v, 700+i, got)
		}
	}
}

// A daemon that did not run for hours, as on a laptop that sleeps, spreads what came in over the time.
func TestLongPause(t *testing.T) {
	a := answer(t, taken(map[int]Reading{0: {}, 7200: {RxPackets: 72000}}), "b", "5m")
	got := values(a.RxPackets)
	if len(got) != 300 || slices.ContainsFunc(got, func(v float64) bool { return v != 10 }) {
		t.Errorf("%v", got)
	}
	if !a.End.Equal(time.Unix(7200, 0)) {
		t.Errorf("end %v", a.End)
	}
}

// A clock that is set back adds nothing, and time goes on from there.
func TestClockThatIsSetBack(t *testing.T) {
	h := taken(map[int]Reading{100: {}, 101: {RxPackets: 1}})
	for _, step := range []struct {
		at      int64
		packets uint64
	}{{50, 2}, {51, 3}, {52, 4}} {
		h.Take(time.Unix(step.at, 0), Node{}, of(map[string]Reading{"b": {RxPackets: step.packets}}))
	}
	a := answer(t, h, "b", "5m")
	if got := values(a.RxPackets); !slices.Equal(got, []float64{1, 2, 1}) || !a.End.Equal(time.Unix(52, 0)) {
		t.Errorf("%v, to %v", got, a.End)
	}
}

// A peer that leaves and comes back begins anew: what was counted before is not one huge step.
func TestPeerThatComesBack(t *testing.T) {
	h := taken(map[int]Reading{0: {}, 1: {RxPackets: 1000}})
	h.Take(time.Unix(2, 0), Node{}, nil)
	for second := range int64(3) {
		reading := Reading{RxPackets: 1_000_000 + uint64(second)}
		h.Take(time.Unix(3+second, 0), Node{}, []Peer{{"b", reading}})
	}
	if got := values(answer(t, h, "b", "5m").RxPackets); !slices.Equal(got, []float64{0, 1, 1}) {
		t.Errorf("%v", got)
	}
}

// The owner reads counters while others ask.
func TestHistoryOfMany(t *testing.T) {
	h := taken(map[int]Reading{0: {}, 1: {RxPackets: 1}})
	var all sync.WaitGroup
	all.Go(func() {
		for second := range int64(500) {
			reading := Reading{RxPackets: uint64(second)}
			h.Take(time.Unix(2+second, 0), Node{Reading: reading}, of(map[string]Reading{"b": reading}))
		}
	})
	for range 4 {
		all.Go(func() {
			var end time.Time
			for range 200 {
				a, err := h.Answer("b", "5m")
				if err != nil || a == nil || a.End.Before(end) {
					t.Errorf("%+v, %v", a, err)
					return
				}
				end = a.End
			}
		})
	}
	all.Wait()
}

// Names of peers for which there is no room are forgotten when the peers leave.
func TestOthersAreForgotten(t *testing.T) {
	var h History
	for second := range 5 {
		all := map[string]Reading{}
		for i := range historyKept + 500 {
			all[fmt.Sprintf("generation %d, peer %d", second, i)] = Reading{}
		}
		h.Take(time.Unix(int64(second), 0), Node{}, of(all))
		if h.kept != historyKept || len(h.places) != historyKept+500 {
			t.Fatalf("second %d: %d of %d peers are remembered", second, h.kept, len(h.places))
		}
	}
}

// The node's losses are told by reason, in the steps in which they were, also to somebody who comes later.
func TestLostByReason(t *testing.T) {
	h, start := &History{}, time.Unix(1e9, 0)
	take := func(second int, lost map[string]uint64) {
		h.Take(start.Add(time.Duration(second)*time.Second), Node{Lost: lost}, nil)
	}
	take(0, map[string]uint64{"before": 7, "no_route": 3}) // of a meshd before this one
	for second := 1; second <= 400; second++ {
		lost := map[string]uint64{"before": 7, "no_route": 3, "never": 0}
		if second >= 150 {
			lost["no_route"] += 5
		}
		if second >= 395 {
			lost["too_big"] = uint64(second - 394)
		}
		if second == 398 {
			delete(lost, "no_route") // what reads it failed
		}
		take(second, lost)
	}
	for _, test := range []struct {
		span, reason string
		sum          float64
		last         int // second
		known, at    int // elements that are known, and the first one that is not zero
	}{
		{"5m", "no_route", 5, 150, 300, 49}, {"5m", "too_big", 6, 400, 300, 294},
		{"1h", "no_route", 5, 150, 40, 334}, {"1h", "too_big", 6, 400, 40, 359},
		{"24h", "no_route", 5, 150, 3, 718},
	} {
		t.Run(test.span+" "+test.reason, func(t *testing.T) {
			a, err := h.Answer("", test.span)
			if err != nil || len(a.Reasons) != 2 {
				t.Fatalf("%v, %+v", err, a.Reasons)
			}
			one := a.Reasons[test.reason]
			sum, at := 0.0, -1
			for i, n := range one.Drops {
				if n != nil && *n > 0 {
					if sum += *n; at < 0 {
						at = i
					}
				}
			}
			if len(one.Drops) != len(a.Drops) || len(values(one.Drops)) != test.known || sum != test.sum ||
				at != test.at || !one.Last.Equal(start.Add(time.Duration(test.last)*time.Second)) {
				t.Errorf("%d elements of %d, %d known, the sum is %v, begins at %d, last %v", len(one.Drops),
					len(a.Drops), len(values(one.Drops)), sum, at, one.Last)
			}
		})
	}
	h.Take(start.Add(401*time.Second), Node{}, []Peer{{"b", Reading{}}})
	if a, err := h.Answer("b", "5m"); err != nil || a.Reasons != nil {
		t.Errorf("a peer's: %v, %+v", err, a.Reasons)
	}
}

// The memory of reasons is bounded, and a counter that fell is a gap.
func TestLostBounds(t *testing.T) {
	h, lost := &History{}, map[string]uint64{}
	h.Take(time.Unix(0, 0), Node{}, nil)
	for i := range 2 * reasonsKept {
		lost[fmt.Sprint("reason", i)] = 1
	}
	h.Take(time.Unix(1, 0), Node{Lost: lost}, nil)
	a, err := h.Answer("", "5m")
	if err != nil || len(a.Reasons) != reasonsKept {
		t.Fatalf("%v, %d reasons", err, len(a.Reasons))
	}
	for name := range a.Reasons {
		lost[name] = 0
	}
	h.Take(time.Unix(2, 0), Node{Lost: lost}, nil)
	if a, err = h.Answer("", "5m"); err != nil {
		t.Fatal(err)
	}
	for name, one := range a.Reasons {
		if last := one.Drops[len(one.Drops)-1]; last != nil || one.Drops[len(one.Drops)-2] == nil {
			t.Errorf("%s: %v", name, last)
		}
	}
}
