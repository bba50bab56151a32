package user

import (
	"sync/atomic"
	"time"

	"example.org/meshd/internal/mesh"
)

// counters are written by the packet path and read by anybody. One direction is
// written by one goroutine, so the two stand on cache lines of their own.
type counters struct {
	rxPackets, rxBytes, lastSeen atomic.Uint64
	_                            [64]byte
	txPackets, txBytes           atomic.Uint64
	drops                        atomic.Pointer[dropCounters] // nil: nothing was dropped
}

// dropCounters are most of what is counted of a peer, and of thousands few drop anything.
type dropCounters [mesh.NumDrops]atomic.Uint64

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

func (c *counters) drop(reason mesh.Drop, packets int) {
	drops := c.drops.Load()
	if drops == nil {
		if drops = new(dropCounters); !c.drops.CompareAndSwap(nil, drops) {
			drops = c.drops.Load() // another goroutine was faster
		}
	}
	drops[reason].Add(uint64(packets))
}

func (c *counters) read() mesh.Traffic {
	t := mesh.Traffic{
		RxPackets: c.rxPackets.Load(), RxBytes: c.rxBytes.Load(),
		TxPackets: c.txPackets.Load(), TxBytes: c.txBytes.Load(), LastSeen: c.seen(),
	}
	if drops := c.drops.Load(); drops != nil {
		for i := range t.Drops {
			t.Drops[i] = drops[i].Load()
		}
	}
	return t
}

// callCounter is written by one loop.
type callCounter struct {
	calls, packets atomic.Uint64
	_              [48]byte
}

func (c *callCounter) read() mesh.Calls {
	return mesh.Calls{Calls: c.calls.Load(), Packets: c.packets.Load()}
}

func (c *callCounter) add(calls, packets int) {
	c.calls.Add(uint64(calls))
	c.packets.Add(uint64(packets))
}
