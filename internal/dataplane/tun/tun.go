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
	"time"
	"unsafe"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
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
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("%w: the device has as many queues as it can have: another program has some of them", err)
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
// others write through writers of their own; Close may come from anywhere and
// wakes them.
//
// Frames carry struct virtio_net_hdr in front of the packet, with offloads and
// without, so that there is one format.
type Queue struct {
	file     *os.File
	conn     syscall.RawConn
	offloads []string
	closed   atomic.Bool

	// The state of the Read in progress. The callback is made once, since a
	// closure for each call would allocate.
	memory   []byte
	frames   [][]byte
	filled   int
	readErr  error
	readFunc func(fd uintptr) bool
}

// MaxFrame is the size in bytes of the largest frame.
const MaxFrame = virtio.HeaderSize + packet.MaxSize

// Open attaches a queue to the device name, which must exist. With offload the
// kernel may leave segmentation and checksums to us, as far as it knows how to;
// that holds for the whole device.
func Open(name string, offload bool) (*Queue, error) {
	group, err := OpenGroup(name, offload, 1)
	if err != nil {
		return nil, err
	}
	return group[0], nil
}

// OpenGroup is Open for n queues: all or none. The kernel sends packets to a queue
// from the moment it is attached, and what closing it finds there is lost.
func OpenGroup(name string, offload bool, n int) (group []*Queue, err error) {
	for range n {
		q, err := attach(name, offload)
		if err != nil {
			for _, q := range group {
				err = errors.Join(err, q.Close())
			}
			return nil, err
		}
		group = append(group, q)
	}
	return group, nil
}

func attach(name string, offload bool) (*Queue, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", device, explain(name, err))
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(flags)
		err = explain(name, unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("attach to TUN %q: %w", name, err)
	}
	// Only now may Go's poller see the descriptor: before TUNSETIFF it polls as
	// failed, and edge-triggered epoll would not look again.
	return open(os.NewFile(uintptr(fd), device), name, offload)
}

// Adopt takes over a queue of the device name that another process attached, such
// as an earlier meshd: what waits in it is read as if nothing had happened. The
// file is closed on an error.
func Adopt(file *os.File, name string, offload bool) (*Queue, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	conn, err := file.SyscallConn()
	if err == nil {
		controlErr := conn.Control(func(fd uintptr) {
			if err = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, request); err == nil {
				err = unix.SetNonblock(int(fd), true)
			}
		})
		err = errors.Join(err, controlErr)
	}
	if err == nil && (request.Name() != name || request.Uint16()&flags != flags) {
		err = fmt.Errorf("it belongs to %q, and has the flags %#x", request.Name(), request.Uint16())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over a queue of TUN %q: %w", name, err), file.Close())
	}
	return open(file, name, offload)
}

// open prepares an attached queue.
func open(file *os.File, name string, offload bool) (q *Queue, err error) {
	q = &Queue{file: file}
	q.readFunc = q.read
	if q.conn, err = file.SyscallConn(); err == nil {
		controlErr := q.Descriptor(func(fd uintptr) { q.offloads, err = agree(int(fd), offload) })
		err = errors.Join(err, controlErr)
	}
	if err == nil {
		err = settle(name)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a queue of TUN %q: %w", name, err), file.Close())
	}
	return q, nil
}

// flags of a queue.
const flags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR

// An offer is a set of offloads, given to the kernel as a whole.
type offer struct {
	flags int
	names []string
}

// offers is what to ask the kernel for, the best first. USO came with Linux 6.2
// (TUN_F_USO4 and TUN_F_USO6, which it takes only together).
var offers = []offer{
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN | unix.TUN_F_USO4 | unix.TUN_F_USO6, []string{TSO4, TSO6, USO}},
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN, []string{TSO4, TSO6}},
	{0, nil},
}

// Names of offloads.
const (
	TSO4 = "tso4" // TCP over IPv4 comes and goes in superpackets
	TSO6 = "tso6" // TCP over IPv6
	USO  = "uso"  // UDP
)

// setOffload is TUNSETOFFLOAD; tests put refusals in its place.
var setOffload = func(fd, flags int) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags) }

// agree gives the kernel the best set of offloads that it knows and returns its
// names.
func agree(fd int, offload bool) ([]string, error) {
	var err error
	for _, o := range offers {
		if !offload && o.flags != 0 {
			continue
		}
		if err = setOffload(fd, o.flags); err == nil {
			return o.names, nil
		}
	}
	return nil, fmt.Errorf("set offloads: %w", err)
}

// Offloads returns the names of the offloads in use.
func (q *Queue) Offloads() []string { return q.offloads }

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

// Read waits for packets that the kernel routed into the device and stores their
// frames into memory, one behind the other, and into frames, until none is left
// or no more fits. It returns their number, at least one. memory must hold
// MaxFrame bytes. After Wake it returns os.ErrDeadlineExceeded once, without
// waiting, with what was there. It returns os.ErrClosed after Close, and EBADFD
// or another error of read(2) when the device is gone.
func (q *Queue) Read(memory []byte, frames [][]byte) (int, error) {
	q.memory, q.frames, q.filled, q.readErr = memory, frames, 0, nil
	err := q.conn.Read(q.readFunc)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if err := q.file.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
		if err := q.conn.Control(func(fd uintptr) { q.read(fd) }); err != nil {
			return 0, err
		}
		return q.filled, os.ErrDeadlineExceeded
	}
	if err != nil {
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

// read takes frames until none is left; false makes the poller wait.
func (q *Queue) read(fd uintptr) bool {
	for q.filled < len(q.frames) && len(q.memory) >= MaxFrame {
		n, err := ignoringEINTR(unix.Read, int(fd), q.memory)
		if err != nil {
			q.readErr = err
			return q.filled > 0 || err != unix.EAGAIN
		}
		q.frames[q.filled] = q.memory[:n:n]
		q.filled++
		q.memory = q.memory[(n+alignment-1)&^(alignment-1):]
	}
	return true
}

// alignment of frames in memory, in bytes: that of a cache line.
const alignment = 64

// Writer returns a function that hands one frame, given in parts, to the kernel
// as if its packet had arrived on the interface. An interface that is down
// answers EIO. The function belongs to one goroutine.
func (q *Queue) Writer() func(parts [][]byte) error {
	var vectors []unix.Iovec
	var failed error
	write := func(fd uintptr) {
		for {
			_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&vectors[0])), uintptr(len(vectors)))
			if failed = nil; errno != 0 {
				failed = errno
			}
			if errno != unix.EINTR {
				return
			}
		}
	}
	return func(parts [][]byte) error {
		vectors = vectors[:0]
		for _, p := range parts {
			v := unix.Iovec{Base: unsafe.SliceData(p)}
			v.SetLen(len(p))
			vectors = append(vectors, v)
		}
		if err := q.conn.Control(write); err != nil {
			return err
		}
		return failed
	}
}

// Descriptor calls f with the file descriptor, which stays open meanwhile.
func (q *Queue) Descriptor(f func(fd uintptr)) error { return q.conn.Control(f) }

// Wake ends the Read in progress, or the next one.
func (q *Queue) Wake() error { return q.file.SetReadDeadline(time.Unix(1, 0)) }

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
