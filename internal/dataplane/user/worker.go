package user

import (
	"net/netip"

	"example.org/meshd/internal/dataplane/packet"
)

// A Worker is one queue of the TUN and some sockets, with what the loops between
// them read and write through.
type Worker struct {
	Tun     Tun
	Sockets []Socket // one for each of our own addresses, at least one
}

// A Socket is bound to one of our own addresses.
type Socket struct {
	Bind     netip.AddrPort // as wanted; unspecified: all addresses of its family
	Wire     Wire
	Receiver Receiver
	Sender   Sender
	Echoes   func() Sender // makes one for echoes, which any goroutine may send
	// SpreadEchoes is Echoes for the socket that Sender uses, which with dataplane.spread has a port of
	// its own.
	SpreadEchoes func() Sender
}

// Tun is one queue of the TUN device. One goroutine reads while others write.
// Memory belongs to the caller; the queue keeps nothing after it returns. A frame
// is a packet behind its virtio.Header.
type Tun interface {
	// Read waits for at least one frame from the kernel and stores as many as
	// are there and fit into memory, and into frames. After Wake it returns
	// os.ErrDeadlineExceeded once, without waiting, with what was there.
	Read(memory []byte, frames [][]byte) (int, error)
	// Writer returns a function for one goroutine that delivers a frame, given
	// in parts.
	Writer() func(parts [][]byte) error
	// Offloads returns which of tso4, tso6 and uso are in use: the frames read
	// may then be superpackets, and those written too.
	Offloads() []string
	// Wake ends the Read in progress, or the next one.
	Wake() error
}

// Wire is one socket towards the other nodes.
type Wire interface {
	// PathMTU returns the MTU in bytes of the way to a peer, outer headers
	// included, as the kernel knows it now.
	PathMTU(to netip.AddrPort) (int, error)
	// Offloads returns which of udp_gso and udp_gro are in use: a burst may
	// then be more than one packet, and a datagram too.
	Offloads() []string
	// Wake ends the Read in progress of its Receiver, or the next one.
	Wake() error
}

// Receiver reads datagrams from the wire, for one goroutine.
type Receiver interface {
	// Read waits for at least one datagram and fills ds, each Data within its
	// own Buf. After Wake of the Wire it returns os.ErrDeadlineExceeded once,
	// without waiting, with what was there.
	Read(ds []packet.Datagram) (int, error)
}

// Sender writes datagrams to the wire, for one goroutine.
type Sender interface {
	// Write sends the bursts in order and never waits. It returns how many were
	// sent; the error is about the next one, of which nothing was sent:
	// EMSGSIZE if its packets are larger than the path, EIO or EINVAL if the
	// kernel or a device cannot send several at once.
	Write(bs []packet.Burst) (int, error)
	// WriteFragmented sends a burst of one packet in as many pieces as its path
	// needs, each of mtu bytes at most, outer headers included; 0: as the kernel
	// thinks fit. It costs more than Write, and never waits either.
	WriteFragmented(b *packet.Burst, mtu int) error
}
