package probe

import (
	"bytes"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A peer that asks without end is answered a bounded number of times each second, over a change of the peers
// as well; others, and strangers together, have allowances of their own.
func TestAnswersAreBounded(t *testing.T) {
	asks := New(silence)
	asks.Set(Settings{Peers: []string{"us"}})
	q, _, forget, _ := asks.Ping("us", 0, time.Now())
	forget()
	p := New(silence)
	p.Set(Settings{Peers: []string{"b", "c"}, Interval: time.Second})
	at := time.Unix(1_800_000_000, 0)
	answered := func(from string, questions int) (n int) {
		for range questions {
			reply, mine := p.Answer(from, netip.AddrPort{}, false, bytes.Clone(q.Payload), at)
			if !mine {
				t.Fatal("the question is for the kernel")
			}
			if reply != nil {
				n++
			}
		}
		return n
	}
	for _, more := range []string{"x", "y", "z"} {
		if n := answered("b", 3*answersPerSecond); n != answersPerSecond {
			t.Errorf("%d answers in a second", n)
		}
		p.Set(Settings{Peers: []string{"b", "c", more}, Interval: time.Second})
		if n := answered("b", 10); n != 0 {
			t.Errorf("%d answers more with other peers", n)
		}
		if n := answered("c", 10) + answered("d", 5) + answered("e", 5); n != 20 {
			t.Errorf("%d of 20 answers to others", n)
		}
		at = at.Add(time.Second)
	}
}

// The bound holds where questions come on several threads.
func TestAllowanceIsShared(t *testing.T) {
	var a allowance
	var taken atomic.Int64
	var all sync.WaitGroup
	at := time.Unix(1_800_000_000, 0)
	for range 8 {
		all.Go(func() {
			for range answersPerSecond {
				if a.take(at) {
					taken.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := taken.Load(); n != answersPerSecond {
		t.Errorf("%d were taken", n)
	}
}
