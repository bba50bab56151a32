package mesh

import "time"

// Traffic is a reading of one set of counters. All of them only grow, from the start of the
// engine, and count inner packets; Messages is the exception.
type Traffic struct {
	RxPackets, RxBytes uint64 // delivered to the TUN
	TxPackets, TxBytes uint64 // handed to the underlay
	Drops              [NumDrops]uint64
	LastSeen           time.Time // when the last acceptable packet came in; zero if none did
	Messages           Messages
}

// Messages counts bytes of WireGuard's messages, which are all that is known of packets that travel
// encrypted. They begin anew with the interface of WireGuard.
type Messages struct {
	Rx, Tx uint64
	Known  bool // false: packets travel bare, or another peer forwards them
}

// Add sums other into t. The later of the two times stays.
func (t *Traffic) Add(other Traffic) {
	t.RxPackets += other.RxPackets
	t.RxBytes += other.RxBytes
	t.TxPackets += other.TxPackets
	t.TxBytes += other.TxBytes
	for i := range t.Drops {
		t.Drops[i] += other.Drops[i]
	}
	t.Messages.Rx += other.Messages.Rx
	t.Messages.Tx += other.Messages.Tx
	t.Messages.Known = t.Messages.Known || other.Messages.Known
	if other.LastSeen.After(t.LastSeen) {
		t.LastSeen = other.LastSeen
	}
}

// Dropped returns the sum of all drops.
func (t *Traffic) Dropped() (sum uint64) {
	for _, n := range t.Drops {
		sum += n
	}
	return sum
}

// Calls counts system calls of one kind and the packets that they moved. Wake-ups cost most of
// a small packet's way, so packets per call is what explains throughput.
type Calls struct{ Calls, Packets uint64 }

// Add sums other into c.
func (c *Calls) Add(other Calls) {
	c.Calls += other.Calls
	c.Packets += other.Packets
}

// A CallKind is one place where packets cross into the kernel or out of it.
type CallKind uint8

// The places, in the order of a packet's way.
const (
	TunRead CallKind = iota
	WireWrite
	WireRead
	TunWrite

	NumCallKinds = iota // how many there are
)

// String returns the name that status shows.
func (k CallKind) String() string {
	return [NumCallKinds]string{"tun_read", "wire_write", "wire_read", "tun_write"}[k]
}

// CallKinds lists all of them.
func CallKinds() []CallKind { return []CallKind{TunRead, WireWrite, WireRead, TunWrite} }
