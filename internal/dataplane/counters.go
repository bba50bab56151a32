package dataplane

import (
	"sync/atomic"
	"time"
)

// Traffic is a reading of one set of counters. All of them only grow, from the
// start of the engine, and count inner packets.
type Traffic struct {
	RxPackets, RxBytes uint64 // delivered to the TUN
	TxPackets, TxBytes uint64 // handed to the socket
	Drops              [reasons]uint64
	LastSeen           time.Time // when the last acceptable packet came in; zero if none did
}

// Add sums other into t.
func (t *Traffic) Add(other Traffic) {
	t.RxPackets += other.RxPackets
	t.RxBytes += other.RxBytes
	t.TxPackets += other.TxPackets
	t.TxBytes += other.TxBytes
	for i := range t.Drops {
		t.Drops[i] += other.Drops[i]
	}
	if other.LastSeen.After(t.LastSeen) {
		t.LastSeen = other.LastSeen
	}
}

// counters are written by the packet path and read by anybody. One direction is
// written by one goroutine, so the two stand on cache lines of their own.
type counters struct {
	rxPackets, rxBytes, lastSeen atomic.Uint64
	_                            [64]byte
	txPackets, txBytes           atomic.Uint64
	_                            [64]byte
	drops                        [reasons]atomic.Uint64
}

func (c *counters) received(packets, bytes uint64, now time.Time) {
	c.rxPackets.Add(packets)
	c.rxBytes.Add(bytes)
	c.heard(now)
}

func (c *counters) heard(now time.Time) { c.lastSeen.Store(uint64(now.UnixNano())) }

func (c *counters) seen() (at time.Time) {
	if ns := c.lastSeen.Load(); ns != 0 {
		at = time.Unix(0, int64(ns))
	}
	return at
}

func (c *counters) sent(packets, bytes uint64) {
	c.txPackets.Add(packets)
	c.txBytes.Add(bytes)
}

func (c *counters) drop(reason Drop, packets int) { c.drops[reason].Add(uint64(packets)) }

func (c *counters) read() Traffic {
	t := Traffic{
		RxPackets: c.rxPackets.Load(), RxBytes: c.rxBytes.Load(),
		TxPackets: c.txPackets.Load(), TxBytes: c.txBytes.Load(), LastSeen: c.seen(),
	}
	for i := range t.Drops {
		t.Drops[i] = c.drops[i].Load()
	}
	return t
}

// Calls counts system calls of one kind and the packets they moved: wake-ups cost
// most of a small packet's way.
type Calls struct{ Calls, Packets uint64 }

// A CallKind is one place where packets cross into the kernel or out of it.
type CallKind uint8

// The places, in the order of a packet's way.
const (
	TunRead CallKind = iota
	WireWrite
	WireRead
	TunWrite

	callKinds = iota
)

func (k CallKind) String() string {
	return [callKinds]string{"tun_read", "wire_write", "wire_read", "tun_write"}[k]
}

// CallKinds lists all of them.
func CallKinds() []CallKind { return []CallKind{TunRead, WireWrite, WireRead, TunWrite} }

// callCounter is written by one loop.
type callCounter struct {
	calls, packets atomic.Uint64
	_              [48]byte
}

func (c *Calls) add(other Calls) {
	c.Calls += other.Calls
	c.Packets += other.Packets
}

func (c *callCounter) read() Calls { return Calls{Calls: c.calls.Load(), Packets: c.packets.Load()} }

func (c *callCounter) add(calls, packets int) {
	c.calls.Add(uint64(calls))
	c.packets.Add(uint64(packets))
}
