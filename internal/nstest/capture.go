package nstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Capture sees every frame that passes an interface, both ways, as tcpdump
// does. Frames begin with the Ethernet header, if the interface has one.
type Capture struct {
	file *os.File // a bare number would be somebody else's after Close
	buf  []byte
}

// captureBuffer is how many bytes of frames wait for Next.
const captureBuffer = 64 << 20

// Capture starts to listen on an interface of the namespace.
func (n *Namespace) Capture(dev string) (*Capture, error) {
	c := &Capture{buf: make([]byte, 1<<16)}
	err := n.Do(func() error {
		i, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			return err
		}
		c.file = os.NewFile(uintptr(fd), "frames of "+dev)
		// What a flood has left on its way must not hide the frame that is waited for.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
		}
		if err != nil {
			return errors.Join(err, c.Close())
		}
		return nil
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
	if err := c.control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}); err != nil {
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

// Next returns the next frame that match accepts; [ErrNoFrame] without one in that time. It is good until
// the next call.
func (c *Capture) Next(within time.Duration, match func(frame []byte) bool) ([]byte, error) {
	if err := c.file.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, err
	}
	for {
		size, err := c.file.Read(c.buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, ErrNoFrame
		case errors.Is(err, unix.ENETDOWN): // said once; it goes on when the interface is up again
		case err != nil:
			return nil, err
		case match(c.buf[:size]):
			return c.buf[:size], nil
		}
	}
}

// incoming leaves out what this machine itself sends through the interface.
func (c *Capture) incoming() error {
	return c.control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	})
}

// Send puts a frame on the interface. One that has no room there waits.
func (c *Capture) Send(frame []byte) error {
	_, err := c.file.Write(frame)
	return err
}

// control does something with the socket, unless it is closed.
func (c *Capture) control(do func(fd int) error) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	closed := raw.Control(func(fd uintptr) { err = do(int(fd)) })
	return errors.Join(err, closed)
}

// Close ends the capture, and a Next or Send that waits: they return [os.ErrClosed]. Each later call fails,
// of Close as well.
func (c *Capture) Close() error { return c.file.Close() }
