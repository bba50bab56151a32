package dataplane

import (
	"net/netip"
	"time"
)

// Taps is how many taps there may be at a time.
const Taps = 2

// TapOptions says what a tap copies.
type TapOptions struct {
	Place int            // which of the Taps it is, from 0: no other one may have it
	Snap  int            // bytes that are kept of a packet, 1 to 65535
	Peer  []netip.Prefix // only packets that come from there, or go there; empty: all
	Host  netip.Addr     // only packets from or to an address; the zero value: all
	Port  uint16         // only packets of TCP and UDP from or to a port; 0: all
}

// A Tap has copies of the packets that an interface of the mesh gets from peers, and that it sends to them,
// whichever engine moves them, and sealed or not: outer headers are off. It never delays a packet: what its
// reader does not take in time is lost to it, and counted. One goroutine uses it.
type Tap interface {
	// Next waits for a copy until a time; the error is os.ErrDeadlineExceeded then. The copy is the caller's
	// until the next call.
	Next(until time.Time) (Copy, error)
	// Waiting tells whether Next would return at once.
	Waiting() bool
	// Counts returns how many copies were made, and how many there was no room for.
	Counts() (kept, lost uint64, err error)
	// Close ends it. Packets cost nothing any more.
	Close() error
}

// A Copy is that of a packet.
type Copy struct {
	At       time.Time
	Length   int    // of the packet, bytes
	Bytes    []byte // the beginning of it, from the IP header on
	Incoming bool   // from a peer
}
