// Package tun makes the TUN interface and moves packets through its queues. It
// knows nothing of addresses and routes; internal/link gives it those.
//
//	device   lives in the kernel until somebody deletes it, also without meshd:
//	         pods' packets are dropped there meanwhile and not sent in the clear
//	queue    one file descriptor on the device; flows are spread over queues
package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
)

const device = "/dev/net/tun"

// Available returns an error that says what to do if there is no TUN driver.
func Available() error {
	if _, err := os.Stat(device); err != nil {
		return fmt.Errorf("find the TUN driver: %w", explain("", err))
	}
	return nil
}

// Create makes the persistent multi-queue TUN device name, or takes over the
// one that an earlier run left. It needs CAP_NET_ADMIN. The device starts
// without queues, address and link state.
func Create(name string) error {
	// The multi-queue flag is fixed when the device is made (tun_set_iff in
	// drivers/net/tun.c answers EINVAL to a mismatch), so it is always asked for.
	dev, err := water.New(water.Config{
		DeviceType:             water.TUN,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name, Persist: true, MultiQueue: true},
	})
	if err != nil {
		return fmt.Errorf("create TUN %q: %w", name, explain(name, err))
	}
	return dev.Close()
}

// explain adds what to do about the usual refusals of TUNSETIFF.
func explain(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: load the driver with `modprobe tun`, or give the container %s", err, device)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: meshd needs CAP_NET_ADMIN and read and write access to %s", err, device)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: an interface of that name exists that meshd did not make: `ip link del %s`, or choose another network.interface", err, name)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: another program has it open", err)
	}
	return err
}

// A Queue is one attached queue of the device. One goroutine may Read while
// others Write; Close may come from anywhere and wakes them.
type Queue struct {
	file   *os.File
	conn   syscall.RawConn
	closed atomic.Bool

	// The state of the Read in progress. The callback is made once, since a
	// closure for each call would allocate.
	batch    []packet.Packet
	filled   int
	readErr  error
	readFunc func(fd uintptr) bool
}

// Open attaches a queue to the device name, which must exist.
func Open(name string) (*Queue, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", device, explain(name, err))
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("attach to TUN %q: %w", name, err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("attach to TUN %q: %w", name, explain(name, err))
	}
	if err := settle(name); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("attach to TUN %q: %w", name, err)
	}
	// Only now may Go's poller see the descriptor: before TUNSETIFF it polls
	// as failed, and edge-triggered epoll would not look again.
	q := &Queue{file: os.NewFile(uintptr(fd), device)}
	if q.conn, err = q.file.SyscallConn(); err != nil {
		q.file.Close()
		return nil, fmt.Errorf("poll TUN %q: %w", name, err)
	}
	q.readFunc = q.read
	return q, nil
}

// settle returns when the kernel has noticed that the device has a queue. Until
// then, a moment later in a work queue, an interface that is up drops what is
// sent to it. Asking for the link state does that work at once (ethtool_op_get_link,
// linkwatch_sync_dev in net/core/link_watch.c).
func settle(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{command: unix.ETHTOOL_GLINK}
	request := struct { // struct ifreq, at least
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return fmt.Errorf("ask for the link state: %w", errno)
	}
	return nil
}

// Read waits for packets that the kernel routed into the device, stores as many
// as are there into ps and returns their number, at least one. Each packet's
// Data lies in its own Buf. It returns os.ErrClosed after Close, and EBADFD or
// another error of read(2) when the device is gone.
func (q *Queue) Read(ps []packet.Packet) (int, error) {
	q.batch, q.filled, q.readErr = ps, 0, nil
	if err := q.conn.Read(q.readFunc); err != nil {
		if q.closed.Load() {
			err = os.ErrClosed // os.File does not say so itself for a raw read
		}
		return 0, err
	}
	if q.filled == 0 && q.readErr == unix.EBADFD { // tun_do_read after the device went
		return 0, fmt.Errorf("the interface was deleted: %w", q.readErr)
	}
	if q.filled == 0 {
		return 0, q.readErr
	}
	return q.filled, nil // an error that cut the batch short comes again
}

// read takes packets until none is left; false makes the poller wait.
func (q *Queue) read(fd uintptr) bool {
	for q.filled < len(q.batch) {
		p := &q.batch[q.filled]
		n, err := ignoringEINTR(unix.Read, int(fd), p.Buf)
		if err != nil {
			q.readErr = err
			return q.filled > 0 || err != unix.EAGAIN
		}
		p.Data = p.Buf[:n]
		q.filled++
	}
	return true
}

// Write hands packets to the kernel as if they had arrived on the interface. It
// returns how many were taken; the error, if any, is about the next one. An
// interface that is down answers EIO.
func (q *Queue) Write(ps []packet.Packet) (int, error) {
	for i := range ps {
		if err := q.WriteOne(ps[i].Data); err != nil {
			return i, err
		}
	}
	return len(ps), nil
}

// WriteOne is Write for a single packet.
func (q *Queue) WriteOne(b []byte) error {
	// os.File retries EINTR and keeps the descriptor open meanwhile; a TUN
	// takes a packet whole or not at all.
	_, err := q.file.Write(b)
	return err
}

// Close detaches the queue and wakes a Read in progress. The device stays.
func (q *Queue) Close() error {
	q.closed.Store(true)
	return q.file.Close()
}

func ignoringEINTR(call func(int, []byte) (int, error), fd int, b []byte) (int, error) {
	for {
		n, err := call(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}
