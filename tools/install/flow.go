package main

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// mustPort parses an address of this program's own.
func mustPort(address string) netip.AddrPort { return netip.MustParseAddrPort(address) }

// A flow is numbered packets from one machine to another.
type flow struct {
	from, to *net.UDPConn
	stop     chan struct{}
	sent     chan uint64
	seen     chan map[uint64]bool
}

// rate of a flow, in packets a second.
const rate = 5000

// startFlow sends until finish. Addresses are those of pods.
func startFlow(a, b *machine, source, target string) (*flow, error) {
	f := &flow{stop: make(chan struct{}), sent: make(chan uint64, 1), seen: make(chan map[uint64]bool, 1)}
	var err error
	if f.from, err = a.listen(source); err != nil {
		return nil, err
	}
	if f.to, err = b.listen(target); err != nil {
		f.from.Close()
		return nil, err
	}
	if err := roomy(f.to); err != nil {
		return nil, errors.Join(err, f.from.Close(), f.to.Close())
	}
	go f.receive()
	go f.send(mustPort(target))
	return f, nil
}

// roomy gives a socket room for all packets of a second in which this process is not scheduled: what it loses
// itself would look like meshd's doing. The kernel counts some 800 bytes for each (skb->truesize), and
// SO_RCVBUF would end at net.core.rmem_max, which is 0.2 MB.
func roomy(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	})
	return errors.Join(err, refused)
}

// send keeps the rate on average: after a pause of this process it sends what is due at once, so a
// sleepy machine does not make a slower flow.
func (f *flow) send(target netip.AddrPort) {
	began := time.Now()
	for n := uint64(0); ; {
		select {
		case <-f.stop:
			f.sent <- n
			return
		default:
		}
		for due := uint64(time.Since(began).Seconds() * rate); n < due; n++ {
			packet := make([]byte, 64)
			binary.BigEndian.PutUint64(packet, n)
			_, _ = f.from.WriteToUDPAddrPort(packet, target) // lost, if it fails
		}
		time.Sleep(time.Millisecond) // the pace
	}
}

// receive notes the numbers that arrive until the socket's deadline. A set, and not a count: a
// packet that came twice must not hide one that was lost.
func (f *flow) receive() {
	seen := map[uint64]bool{}
	for packet := make([]byte, 100); ; {
		n, err := f.to.Read(packet)
		if err != nil {
			f.seen <- seen
			return
		}
		if n == 64 {
			seen[binary.BigEndian.Uint64(packet)] = true
		}
	}
}

// finish ends the flow and returns how many packets were sent, and how many of them
// did not arrive.
func (f *flow) finish() (sent, lost uint64) {
	close(f.stop)
	sent = <-f.sent
	_ = f.to.SetReadDeadline(time.Now().Add(time.Second)) // what is on its way
	seen := <-f.seen
	f.from.Close()
	f.to.Close()
	return sent, sent - uint64(len(seen))
}
