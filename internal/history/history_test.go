package history

import (
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"
)

func values(list []*float64) (known []float64) {
	for _, v := range list {
		if v != nil {
			known = append(known, *v)
		}
	}
	return known
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
		h.Take(now, r, map[string]Reading{"b": r})
	}
	h.Take(now, r, map[string]Reading{"b": r})
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
	if err != nil || fmt.Sprint(values(a.RxPackets), values(a.RTTMS), values(a.Loss)) != "[45 145] [4.5 14.5] [0.5 0.5]" {
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
	h.Take(now, r, nil)
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
		h.Take(now, Reading{}, peers)
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
	h.Take(now, Reading{}, peers)
	if a, _ := h.Answer("late", ""); a != nil {
		t.Error("an idle peer pushed somebody out")
	}
	peers["late"] = Reading{RxPackets: 1}
	now = now.Add(time.Second)
	h.Take(now, Reading{}, peers)
	if a, _ := h.Answer("late", ""); a == nil {
		t.Error("a busy peer found no room")
	}
	if a, _ := h.Answer("n1", ""); a != nil || len(h.peers) != historyKept {
		t.Errorf("the idle one is still there, among %d", len(h.peers))
	}
	runtime.KeepAlive(h)
}
