package user

import (
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// Bounds of a flight.
const (
	most  = 1 << 10              // packets of 64 KiB
	pause = 5 * time.Millisecond // without a packet that leaves
)

// A flight counts packets between the TUN, where they are read, and the socket, where they are sent.
// wireguard-go bounds its queues in reads, of up to 128 packets each: a pod that sends faster than packets
// are encrypted would fill the memory of this process, and packets of all others would wait behind its own.
// Here they wait in the TUN, whose queue is bounded.
type flight struct {
	packets atomic.Int64
	sends   atomic.Int64  // calls that have not ended: a slow uplink holds them up
	left    chan struct{} // packets were sent
	timer   *time.Timer   // belongs to wait
}

func newFlight() *flight { return &flight{left: make(chan struct{}, 1), timer: time.NewTimer(0)} }

// wait returns when fewer than most packets are on their way. Where none leaves for a pause, nor is about to,
// what is counted waits for sessions (see relieve) or was dropped, and is counted no more. It is called by
// one goroutine.
func (f *flight) wait() {
	for f.packets.Load() >= most {
		f.timer.Reset(pause)
		select {
		case <-f.left:
		case <-f.timer.C:
			if f.sends.Load() == 0 {
				f.packets.Store(0)
			}
		}
	}
}

// begin counts packets that were read.
func (f *flight) begin(n int) { f.packets.Add(int64(n)) }

// end counts packets that were sent, or could not be. Those that no TUN has given, such as handshakes, do not
// make room.
func (f *flight) end(n int) {
	if f.packets.Add(-int64(n)) < 0 {
		f.packets.Store(0)
	}
	wake(f.left)
}

// A bind is the library's sockets, and counts what leaves. The library watches routes only for its own type
// of bind, to forget the source addresses of answers; it has none to forget, since splitCoalescedMessages in
// its conn/bind_std.go does not hand them on.
type bind struct {
	conn.Bind
	flight *flight
}

// Send implements conn.Bind.
func (b *bind) Send(packets [][]byte, to conn.Endpoint) error {
	b.flight.sends.Add(1)
	err := b.Bind.Send(packets, to)
	b.flight.sends.Add(-1)
	b.flight.end(len(packets))
	return err
}
