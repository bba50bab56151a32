package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Superpackets look like those of QUIC: datagrams of one size, the last of which may be smaller, that the
// kernel is given at once (UDP_SEGMENT) and gives at once (UDP_GRO), if it keeps them together.
const (
	gsoMost    = 16   // datagrams of a superpacket
	gsoSegment = 1200 // bytes of a datagram
)

// gsoSize returns the size of a datagram of a superpacket, by its number; 0: there is none of it.
func gsoSize(flow uint16, number uint64) int {
	super, i := number/gsoMost, int(number%gsoMost)
	random := word(flow, super) >> 20
	last := 1 + int(random%(gsoMost-1))
	switch {
	case i > last:
		return 0
	case i == last:
		return 16 + int(random>>8%(gsoSegment-15))
	}
	return gsoSegment
}

// gso sends superpackets.
func (f *flow) gso() (func(context.Context) error, []io.Closer, error) {
	client, server, err := f.udpPair()
	if err != nil {
		return nil, nil, err
	}
	sockets := []io.Closer{client, server}
	if err := errors.Join(set(client, unix.UDP_SEGMENT, gsoSegment), set(server, unix.UDP_GRO, 1)); err != nil {
		return nil, sockets, err
	}
	go f.segments(server)
	send := func(ctx context.Context) error {
		buf := make([]byte, 0, gsoMost*gsoSegment)
		for super := uint64(0); pause(ctx, gsoPause); super++ {
			b, many := buf, 0
			for number := super * gsoMost; number < (super+1)*gsoMost && gsoSize(f.id, number) > 0; number++ {
				at := len(b)
				b = b[:at+gsoSize(f.id, number)]
				fill(b[at:], f.id, number*datagramRoom)
				many++
			}
			f.sends(f.id, many)
			if err := f.write(func() error { _, err := client.Write(b); return err }); err != nil {
				return err
			}
		}
		return nil
	}
	return send, sockets, nil
}

// set sets an option of UDP.
func set(c *net.UDPConn, option, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, option, value) })
	return errors.Join(failed, os.NewSyscallError("setsockopt", err))
}

// segments checks the datagrams of superpackets, until the socket closes.
func (f *flow) segments(server *net.UDPConn) {
	in, ancillary := make([]byte, datagramRoom), make([]byte, 256)
	for {
		n, n2, _, _, err := server.ReadMsgUDPAddrPort(in, ancillary)
		if ended(err) {
			return
		}
		if err != nil {
			f.breaks(f.id, err)
			continue
		}
		size := segmentSize(ancillary[:n2], n)
		for b := in[:n]; len(b) > 0; b = b[min(size, len(b)):] {
			number, altered := f.checkDatagram(b[:min(size, len(b))], f.id,
				func(number uint64) int { return gsoSize(f.id, number) })
			if altered != nil {
				f.alters(f.id, altered)
				continue
			}
			f.arrives(f.id, number)
		}
	}
}

// segmentSize returns the size of the datagrams of a read, which the kernel tells if it has merged some.
func segmentSize(ancillary []byte, all int) int {
	messages, err := unix.ParseSocketControlMessage(ancillary)
	if err != nil {
		return all
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_UDP && m.Header.Type == unix.UDP_GRO && len(m.Data) >= 4 {
			return max(1, int(binary.NativeEndian.Uint32(m.Data)))
		}
	}
	return all
}

// Echo requests and replies, as a ping socket takes and gives them (RFC 792, RFC 4443).
const echoHeader = 8 // bytes: type, code, checksum and identifier, which the kernel fills in, number

var echoes = map[int]struct {
	domain, protocol int
	request, reply   byte
}{
	4: {unix.AF_INET, unix.IPPROTO_ICMP, 8, 0},
	6: {unix.AF_INET6, unix.IPPROTO_ICMPV6, 128, 129},
}

// icmp sends echo requests, which the kernel of the other pod answers.
func (f *flow) icmp() (func(context.Context) error, []io.Closer, error) {
	kind := echoes[f.family]
	var conn net.PacketConn
	err := f.from.Do(func() error {
		fd, err := unix.Socket(kind.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, kind.protocol)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		file := os.NewFile(uintptr(fd), "ping")
		defer file.Close() // conn has a descriptor of its own
		conn, err = net.FilePacketConn(file)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	go f.replies(conn, kind.reply)
	send := func(ctx context.Context) error {
		buf := make([]byte, datagramRoom)
		to := &net.UDPAddr{IP: f.target().Addr().AsSlice()}
		for number := uint64(0); pause(ctx, pingPause); number++ {
			b := buf[:echoHeader+sizeOf(f.id, number)]
			copy(b, []byte{kind.request, 0, 0, 0, 0, 0, byte(number >> 8), byte(number)})
			fill(b[echoHeader:], f.id, number*datagramRoom)
			f.sends(f.id, 1)
			f.leaves(number)
			if err := f.write(func() error { _, err := conn.WriteTo(b, to); return err }); err != nil {
				return err
			}
		}
		return nil
	}
	return send, []io.Closer{conn}, nil
}

// replies checks echo replies, until the socket closes.
func (f *flow) replies(conn net.PacketConn, reply byte) {
	in := make([]byte, datagramRoom)
	for {
		n, _, err := conn.ReadFrom(in)
		if ended(err) {
			return
		}
		if err != nil || n < echoHeader || in[0] != reply {
			f.breaks(f.id, errors.Join(errors.New("no echo reply"), err))
			continue
		}
		number, altered := f.checkDatagram(in[echoHeader:n], f.id,
			func(number uint64) int { return sizeOf(f.id, number) })
		if altered != nil {
			f.alters(f.id, altered)
			continue
		}
		f.arrives(f.id, number)
		f.returns(number)
	}
}
