package udp

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
)

// A Receiver reads batches from the socket. It belongs to one goroutine.
type Receiver struct {
	conn *Conn
	msgs *messages

	// The state of the Read in progress. The callback is made once: a closure for each call would
	// allocate.
	want, filled int
	err          error
	readFunc     func(fd uintptr) bool
}

// NewReceiver returns a receiver of at most n messages in one Read.
func (c *Conn) NewReceiver(n int) *Receiver {
	r := &Receiver{conn: c, msgs: newMessages(n, 1, c.v6)}
	r.readFunc = r.read
	return r
}

// Read waits for messages, stores those that have arrived into ds and returns their number, which is
// at least one; in a flood of ICMP errors it may be 0, so that the caller sees the time pass. It sets
// all fields of a datagram but Buf, into which it reads. After Wake, Read does
// not wait and returns os.ErrDeadlineExceeded once, with the number of messages that had arrived. After
// Close it returns net.ErrClosed.
func (r *Receiver) Read(ds []packet.Datagram) (int, error) {
	r.want, r.filled, r.err = min(len(ds), len(r.msgs.headers)), 0, nil
	for i := range r.want {
		r.msgs.expect(i, ds[i].Buf)
	}
	err := r.conn.raw.Read(r.readFunc)
	woken := errors.Is(err, os.ErrDeadlineExceeded)
	if woken { // the deadline has ended the wait: without it, what has arrived can be read
		err = errors.Join(r.conn.udp.SetReadDeadline(time.Time{}),
			r.conn.raw.Control(func(fd uintptr) { r.read(fd) }))
	}
	if err != nil {
		return 0, err
	}
	for i := range r.filled {
		r.msgs.received(i, &ds[i])
	}
	if woken {
		return r.filled, os.ErrDeadlineExceeded
	}
	return r.filled, r.err
}

// read is the callback: it returns false to wait until the socket is readable. An ICMP error about what
// was sent makes the call fail once and costs no message.
func (r *Receiver) read(fd uintptr) bool {
	for range errorAttempts {
		r.filled, r.err = r.msgs.call(unix.SYS_RECVMMSG, fd, 0, r.want)
		if !mayBeOfOthers(r.err) {
			return r.err != unix.EAGAIN
		}
		r.conn.readErrors(fd)
	}
	r.filled, r.err = 0, nil
	return true
}

// A Sender writes batches to the socket. It belongs to one goroutine, and only one sender of a Conn
// may be in use at a time, see WriteFragmented.
type Sender struct {
	conn *Conn
	msgs *messages

	from, to  int // messages of the Write in progress
	sent      int
	err       error
	writeFunc func(fd uintptr)
}

// NewSender returns a sender of at most n messages in one system call.
func (c *Conn) NewSender(n int) *Sender {
	s := &Sender{conn: c, msgs: newMessages(n, maxParts, c.v6)}
	s.writeFunc = s.write
	return s
}

// maxParts is the largest number of pieces of memory in a message: two for each packet, its headers
// and its payload.
const maxParts = 2 * packet.MaxBurst

// Write sends each burst to its Addr with its TOS, in order. It does not wait. It returns the number of
// bursts sent; the error, if any, is that of the next one. EAGAIN: the socket's buffer is full.
// EMSGSIZE: the packets are larger than the path. EINVAL or EIO: the kernel or the device may be unable
// to send several packets in one message, so the caller sends them one by one. A burst is sent whole or
// not at all.
//
// An error is always that of the burst itself: an ICMP error about what was sent before, to whichever
// peer, costs a further attempt and no packet. ENOBUFS counts as sent: the kernel hides what a full
// queue of the device drops from sockets without IP_RECVERR (udp_send_skb), and whoever sends has to
// slow down by itself either way. The Watcher hears of it.
func (s *Sender) Write(bs []packet.Burst) (int, error) {
	done := 0
	for done < len(bs) {
		n := min(len(bs)-done, len(s.msgs.headers))
		var refused error
		for i := range n {
			if !s.msgs.post(i, &bs[done+i]) {
				n, refused = i, unix.EAFNOSUPPORT
				break
			}
		}
		for s.from, s.to = 0, n; s.from < s.to; s.from += s.sent {
			if err := s.conn.raw.Control(s.writeFunc); err != nil {
				return done + s.from, err
			}
			if s.err == unix.ENOBUFS {
				s.sent, s.err = 1, nil
				s.conn.refused(bs[done+s.from].Addr, unix.ENOBUFS)
			}
			if s.err != nil {
				s.conn.refused(bs[done+s.from].Addr, s.err)
				return done + s.from, s.err
			}
		}
		done += n
		if refused != nil {
			return done, refused
		}
	}
	return done, nil
}

// WriteFragmented sends a burst of one packet and lets the kernel send the datagram in fragments of at
// most mtu bytes, outer headers included; 0: of what the device carries. By IPv4, a router on the way
// cuts further what is still too large; by IPv6, none does (RFC 8200 section 5). Meanwhile the socket has
// no "don't fragment", which another sender would notice: that is why only one sender of a Conn may be in
// use at a time.
func (s *Sender) WriteFragmented(b *packet.Burst, mtu int) error {
	cut := func(fd int) error { return errors.Join(s.conn.fragmentsOf(fd, mtu), s.conn.discoverPath(fd, false)) }
	if err := s.conn.control(cut); err != nil {
		return err
	}
	_, err := s.Write([]packet.Burst{*b})
	restored := s.conn.control(func(fd int) error { return s.conn.discoverPath(fd, true) })
	return errors.Join(err, restored)
}

// write is the callback. It tries again until an error can only be one of the first message: see
// mayBeOfOthers. Behind the first message, sendmmsg itself hides errors of others, since the next call
// begins with the message that failed.
func (s *Sender) write(fd uintptr) {
	quiet := 0
	for range errorAttempts {
		s.sent, s.err = s.msgs.call(unix.SYS_SENDMMSG, fd, s.from, s.to)
		if !mayBeOfOthers(s.err) {
			return
		}
		if s.conn.readErrors(fd) == 0 {
			if quiet++; quiet == quietAttempts {
				return
			}
		}
	}
}
