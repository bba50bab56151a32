package user

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

// A datagram whose checksum is zero has 0xffff there: alone, and as a segment of a superpacket.
func TestChecksumIsNeverZero(t *testing.T) {
	const device, size = "tun0", 100
	lab := nstest.LabForTest(t)
	h, err := lab.Host("a", "192.0.2.1/24")
	must(t, err)
	var q *queue
	must(t, h.Do(func() (err error) {
		if err = tun.Create(device); err == nil {
			q, err = openQueue(device, nil)
		}
		return err
	}))
	defer q.Close()
	must(t, h.IP("addr add fd00::1/64 dev tun0 nodad", "link set tun0 up"))
	var conn *net.UDPConn
	must(t, h.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP("fd00::2"), Port: 7000})
		return err
	}))
	defer conn.Close()
	raw, err := conn.SyscallConn()
	must(t, err)

	for _, segments := range []int{1, 3} {
		// checksums returns those of datagrams that begin with a number.
		checksums := func(number uint16) (all []uint16) {
			var optionErr error
			must(t, raw.Control(func(fd uintptr) {
				optionErr = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size)
			}))
			must(t, optionErr)
			one := binary.BigEndian.AppendUint16(nil, number)
			one = append(one, make([]byte, size-len(one))...)
			if _, err := conn.Write(bytes.Repeat(one, segments)); err != nil {
				t.Fatal(err)
			}
			bufs, sizes := make([][]byte, q.BatchSize()), make([]int, q.BatchSize())
			for i := range bufs {
				bufs[i] = make([]byte, 1<<16)
			}
			for len(all) < segments {
				const offset, checksum = 16, 46
				n, err := q.Read(bufs, sizes, offset)
				must(t, err)
				for i := range n { // the kernel itself greets the link (MLD)
					if b := bufs[i][offset:][:sizes[i]]; b[6] == unix.IPPROTO_UDP {
						all = append(all, binary.BigEndian.Uint16(b[checksum:]))
					}
				}
			}
			return all
		}
		for _, sum := range checksums(checksums(0)[0]) { // what is missing to zero
			if sum != 0xffff {
				t.Errorf("%d segments: checksum %#04x", segments, sum)
			}
		}
	}
}

// A sender that leaves checksums out is left alone.
func TestNoChecksumStaysNone(t *testing.T) {
	b := make([]byte, 48)
	b[0], b[6], b[8] = 0x60, unix.IPPROTO_UDP, 0xfd
	completed(b)
	if b[46]|b[47] != 0 {
		t.Errorf("%x", b)
	}
}
