package flows

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// table is an engine whose flows a test writes.
type table struct {
	mu      sync.Mutex // guards all
	counts  map[mesh.Flow]mesh.FlowCount
	on      bool
	begun   int // how many times counting began
	sealed  bool
	refuses error
}

func (e *table) CountFlows(on bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if on && e.refuses != nil {
		return e.refuses
	}
	if on && !e.on {
		e.begun++
		e.counts = map[mesh.Flow]mesh.FlowCount{}
	}
	e.on = on
	return nil
}

func (e *table) Flows() (dataplane.FlowReading, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	counts := map[mesh.Flow]mesh.FlowCount{}
	for f, c := range e.counts {
		counts[f] = c
	}
	return dataplane.FlowReading{Counts: counts, Sealed: e.sealed, Sampled: true}, nil
}

// with reads or writes what others use at the same time.
func (e *table) with(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// counting tells whether it is on.
func (e *table) counting() (on bool) {
	e.with(func() { on = e.on })
	return on
}

// add counts for a flow.
func (e *table) add(f mesh.Flow, c mesh.FlowCount) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sum := e.counts[f]
	sum.Add(c)
	e.counts[f] = sum
}

// keeping runs a test with a keeper, whose time passes at once.
func keeping(t *testing.T, f func(k *Keeper, e *table)) {
	synctest.Test(t, func(t *testing.T) {
		e := &table{counts: map[mesh.Flow]mesh.FlowCount{}}
		k := New(e, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		f(k, e)
		stop()
		if err := <-done; err != nil || e.counting() {
			t.Errorf("%v, and the engine counts: %v", err, e.counting())
		}
	})
}

// pass lets time pass, up to shortly after a tick.
func pass(d time.Duration) { time.Sleep(d + 10*time.Millisecond); synctest.Wait() }

// tcp returns a flow from a pod to a port of peer b's.
func tcp(pod, remote string, from, to uint16) mesh.Flow {
	return mesh.Flow{Peer: "b", Local: netip.MustParseAddr(pod), Remote: netip.MustParseAddr(remote),
		LocalPort: from, RemotePort: to, Protocol: 6}
}

// Nothing is counted until somebody asks, nor after the lease, which each request renews and none shortens.
func TestLease(t *testing.T) {
	keeping(t, func(k *Keeper, e *table) {
		expect := func(on bool, state string) {
			t.Helper()
			if told := k.Told(control.FlowQuery{Top: 1}); e.counting() != on || told.State != state ||
				told.Until.IsZero() == on {
				t.Errorf("the engine counts: %v, told %+v", e.counting(), told)
			}
		}
		pass(time.Minute)
		expect(false, control.FlowsOff)
		k.Ask(10*time.Second, "ada")
		synctest.Wait()
		expect(true, control.FlowsStarting)
		pass(time.Second)
		expect(true, control.FlowsCounted)
		pass(8 * time.Second)
		k.Ask(10*time.Second, "ada")
		k.Ask(time.Second, "bert")
		pass(9 * time.Second)
		expect(true, control.FlowsCounted)
		pass(2 * time.Second)
		expect(false, control.FlowsOff)
		k.Ask(5*time.Second, "ada")
		pass(time.Second)
		expect(true, control.FlowsCounted)
		e.with(func() {
			if e.begun != 2 {
				t.Errorf("counting began %d times", e.begun)
			}
		})
	})
}

// Rates are those of the last interval, and a flow that left the table and came again counts from then on.
func TestRates(t *testing.T) {
	keeping(t, func(k *Keeper, e *table) {
		web := tcp("10.0.0.1", "10.0.1.1", 40000, 80)
		k.Ask(time.Minute, "")
		synctest.Wait()
		e.add(web, mesh.FlowCount{TxPackets: 10, TxBytes: 1000, RxPackets: 1, RxBytes: 50})
		pass(time.Second)
		e.add(web, mesh.FlowCount{TxPackets: 2, TxBytes: 300})
		pass(time.Second)
		got := k.Told(control.FlowQuery{By: control.ByFlow, Top: 5})
		want := control.FlowRow{Peer: "b", Pod: "10.0.0.1", Remote: "10.0.1.1", Protocol: "tcp", PodPort: 40000,
			RemotePort: 80, Port: 80, Flows: 1, Share: 1, FlowRates: control.FlowRates{TxPackets: 2, TxBytes: 300},
			Counted: control.FlowTotals{TxPackets: 12, TxBytes: 1300, RxPackets: 1, RxBytes: 50}}
		if len(got.Rows) != 1 || got.Rows[0] != want || got.IntervalSeconds != 1 || got.Total != want.FlowRates ||
			!got.Sampled || got.Known != 1 {
			t.Errorf("%+v", got)
		}
		e.with(func() { e.counts[web] = mesh.FlowCount{TxPackets: 1, TxBytes: 70} })
		pass(time.Second)
		if got := k.Told(control.FlowQuery{Top: 1}); got.Total.TxBytes != 70 {
			t.Errorf("of a flow that has come again: %+v", got)
		}
	})
}

// Rows are summed by what is asked for, the busiest first, and no more of them than wanted.
func TestRows(t *testing.T) {
	ping := mesh.Flow{Peer: "c", Local: netip.MustParseAddr("10.0.0.2"), Remote: netip.MustParseAddr("10.0.2.1"),
		Protocol: 1}
	counts := map[mesh.Flow]mesh.FlowCount{
		tcp("10.0.0.1", "10.0.1.1", 40000, 80):   {TxBytes: 100, TxPackets: 1},
		tcp("10.0.0.1", "10.0.1.2", 40001, 80):   {RxBytes: 300, RxPackets: 1},
		tcp("10.0.0.2", "10.0.1.1", 5432, 41000): {RxBytes: 500, RxPackets: 1},
		ping:                                     {TxBytes: 100, TxPackets: 1},
	}
	for _, c := range []struct {
		by    string
		names []string
	}{
		{control.ByFlow, []string{"b 10.0.0.2 10.0.1.1 tcp 5432 1 0.50", "b 10.0.0.1 10.0.1.2 tcp 80 1 0.30",
			"b 10.0.0.1 10.0.1.1 tcp 80 1 0.10", "c 10.0.0.2 10.0.2.1 icmp 0 1 0.10"}},
		{control.ByPod, []string{" 10.0.0.2   0 2 0.60", " 10.0.0.1   0 2 0.40"}},
		{control.ByPeer, []string{"b    0 3 0.90", "c    0 1 0.10"}},
		{control.ByPort, []string{"   tcp 5432 1 0.50", "   tcp 80 2 0.40", "   icmp 0 1 0.10"}},
	} {
		t.Run(c.by, func(t *testing.T) {
			keeping(t, func(k *Keeper, e *table) {
				k.Ask(time.Minute, "")
				synctest.Wait()
				e.with(func() { e.counts = counts })
				pass(time.Second)
				got := k.Told(control.FlowQuery{By: c.by, Top: 10})
				var names []string
				for _, r := range got.Rows {
					names = append(names, fmt.Sprintf("%s %s %s %s %d %d %.2f", r.Peer, r.Pod, r.Remote, r.Protocol,
						r.Port, r.Flows, r.Share))
				}
				if !slices.Equal(names, c.names) {
					t.Errorf("%q\nwant %q", names, c.names)
				}
				one := k.Told(control.FlowQuery{By: c.by, Top: 1})
				if len(one.Rows) != 1 || one.Rows[0] != got.Rows[0] || one.Known != len(names) {
					t.Errorf("the first of all: %+v", one)
				}
			})
		})
	}
}

// What cannot be counted is told by a kind, and tried again.
func TestUncounted(t *testing.T) {
	keeping(t, func(k *Keeper, e *table) {
		e.with(func() { e.sealed = true })
		k.Ask(time.Minute, "")
		synctest.Wait()
		e.add(tcp("10.0.0.1", "10.0.1.1", 40000, 80), mesh.FlowCount{TxBytes: 1})
		pass(time.Second)
		if got := k.Told(control.FlowQuery{Top: 1}); got.State != control.FlowsSealed || len(got.Rows) != 0 {
			t.Errorf("sealed: %+v", got)
		}
		e.with(func() { e.sealed, e.refuses = false, errors.New("no memory") })
		pass(time.Second)
		if got := k.Told(control.FlowQuery{Top: 1}); got.State != control.FlowsFailed || got.Cause != "no memory" ||
			len(got.Rows) != 0 {
			t.Errorf("refused: %+v", got)
		}
		e.with(func() { e.refuses = nil })
		pass(time.Second)
		if got := k.Told(control.FlowQuery{Top: 1}); got.State != control.FlowsCounted || got.Cause != "" {
			t.Errorf("again: %+v", got)
		}
	})
}
