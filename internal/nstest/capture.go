package nstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// A Capture sees every frame that passes an interface, both ways, as tcpdump
// does. Frames begin with the Ethernet header, if the interface has one.
type Capture struct {
	fd  int
	buf []byte
}

// captureBuffer is how many bytes of frames wait for Next.
const captureBuffer = 64 << 20

// Capture starts to listen on an interface of the namespace.
func (n *Namespace) Capture(dev string) (*Capture, error) {
	c := &Capture{fd: -1, buf: make([]byte, 1<<16)}
	err := n.Do(func() error {
		i, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		// What a flood has left on its way must not hide the frame that is waited for.
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer); err != nil {
			return err
		}
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", dev, err)
	}
	return c, nil
}

// Bare starts to listen on an Ethernet interface for IPv4 packets to a prefix that are in no tunnel,
// and to nothing else: it may be left alone for as long as one likes.
func (n *Namespace) Bare(dev string, to netip.Prefix) (*Capture, error) {
	c, err := n.Capture(dev)
	if err != nil {
		return nil, err
	}
	mask := uint32(math.MaxUint32) << (32 - to.Bits())
	filter := []unix.SockFilter{ // the classic ones of bpf(4): load half, jump, load word, and, jump, return
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IP, Jf: 4},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 14 + 16},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask},
		{
			Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
			K:    binary.BigEndian.Uint32(to.Masked().Addr().AsSlice()),
			Jf:   1,
		},
		{Code: unix.BPF_RET | unix.BPF_K, K: math.MaxUint16},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return nil, errors.Join(fmt.Errorf("capture on %s: %w", dev, err), c.Close())
	}
	// What came before the filter was there is thrown away.
	_, err = c.Next(time.Millisecond, func([]byte) bool { return false })
	if !errors.Is(err, ErrNoFrame) {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// ErrNoFrame is what Next returns when its time has passed.
var ErrNoFrame = errors.New("no such frame was seen in time")

// Next returns the next frame that match accepts. It is good until the next
// call.
func (c *Capture) Next(within time.Duration, match func(frame []byte) bool) ([]byte, error) {
	deadline := time.Now().Add(within)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return nil, ErrNoFrame
		}
		timeout := unix.NsecToTimeval(max(left.Nanoseconds(), 1000))
		if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return nil, err
		}
		size, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENETDOWN): // said once; it goes on when the interface is up again
		case err != nil:
			return nil, err
		case match(c.buf[:size]):
			return c.buf[:size], nil
		}
	}
}

// Close ends the capture.
func (c *Capture) Close() error { return unix.Close(c.fd) }
