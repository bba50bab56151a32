// Package tun makes the TUN device and moves packets through its queues. It knows nothing about
// addresses and routes: package link sets those.
//
//	device   exists until it is deleted, also without meshd: the kernel then drops packets that are
//	         routed into it, instead of sending them unencapsulated by another route
//	queue    one file descriptor of the device; the kernel spreads flows over the queues
//	frame    a packet with struct virtio_net_hdr in front of it
package tun

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
)

// device is the path of the driver.
const device = "/dev/net/tun"

// Available returns an error that says what to do if the TUN driver is missing.
func Available() error {
	if _, err := os.Stat(device); err != nil {
		return fmt.Errorf("find the TUN driver: %w", explain("", err))
	}
	return nil
}

// A Queue is one attached queue of the device. One goroutine may call Read while others write, each
// by a writer of its own. Close and Wake may be called from any goroutine.
//
// Every frame has a struct virtio_net_hdr, with offloads and without, so that there is one format.
type Queue struct {
	file     *os.File
	conn     syscall.RawConn
	offloads []string // in use, by name
	closed   atomic.Bool

	// The state of the Read in progress. The callback is made once: a closure for each call would
	// allocate.
	memory   []byte
	frames   [][]byte
	filled   int
	readErr  error
	readFunc func(fd uintptr) bool
}

// MaxFrame is the size of the largest frame in bytes.
const MaxFrame = virtio.HeaderSize + packet.MaxSize

// Open attaches a queue to the device called name, which must exist. With offload the kernel may
// leave segmentation and checksums to the reader, as far as it supports that. The setting is that of
// the whole device.
func Open(name string, offload bool) (*Queue, error) {
	group, err := OpenGroup(name, offload, 1)
	if err != nil {
		return nil, err
	}
	return group[0], nil
}

// OpenGroup is Open for n queues: after an error none is attached. The kernel puts packets into a
// queue from the moment it is attached, and packets that are in a queue when it is closed are lost.
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

// attach opens the driver and attaches a queue.
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
	if err == nil {
		err = persists(fd, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("attach to TUN %q: %w", name, err)
	}
	// Go's poller must not see the descriptor before TUNSETIFF: until then it polls as failed, and an
	// edge-triggered epoll would not look again.
	return open(os.NewFile(uintptr(fd), device), name, offload)
}

// persists returns an error if the device of a queue was made by attaching it: somebody has deleted the
// one that Create had made, a moment before. Such a device lacks the caller's claim, and the next start
// would take it for another program's. It goes with the queue.
func persists(fd int, request *unix.Ifreq) error {
	const persistent = 0x0800 // IFF_PERSIST of linux/if_tun.h, as tun_get_iff tells
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, request); err != nil {
		return err
	}
	if request.Uint16()&persistent == 0 {
		return errDeleted
	}
	return nil
}

// errDeleted is why a queue cannot be attached for a moment.
var errDeleted = errors.New("the interface was deleted")

// Adopt takes over a queue of the device called name that another process, such as an earlier
// meshd, has attached. Packets that wait in it will be read. After an error the file is closed.
func Adopt(file *os.File, name string, offload bool) (*Queue, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	err = control(file, func(fd int) error {
		if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, request); err != nil {
			return err
		}
		return unix.SetNonblock(fd, true)
	})
	// The kernel says what the descriptor is; the name that it was left under proves nothing. A queue
	// without IFF_VNET_HDR has frames of another form.
	switch {
	case err != nil:
	case request.Name() != name:
		err = fmt.Errorf("it belongs to the TUN %q", request.Name())
	case request.Uint16()&flags != flags:
		err = errors.New("its packets have another form than those of meshd's queues")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over a queue of TUN %q: %w", name, err), file.Close())
	}
	return open(file, name, offload)
}

// Held returns the names of the TUNs that files are queues of, each once. Other files, and queues of a
// device that was deleted, do not count. The files stay the caller's.
func Held(files []*os.File) (names []string) {
	for _, f := range files {
		request, _ := unix.NewIfreq("") // fails for long names alone
		err := control(f, func(fd int) error { return unix.IoctlIfreq(fd, unix.TUNGETIFF, request) })
		if err == nil && !slices.Contains(names, request.Name()) {
			names = append(names, request.Name())
		}
	}
	return names
}

// open prepares an attached queue. It closes the file after an error.
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

// flags are the flags of every queue.
const flags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR

// Flags of offloads. Linux 6.2 and later know USO, and accept it for both families together only.
const (
	offloadTSO = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	offloadUSO = unix.TUN_F_USO4 | unix.TUN_F_USO6
)

// An offer is a set of offloads, which the kernel accepts or refuses as a whole.
type offer struct {
	flags int
	names []string
}

// offers are the sets to try, the best first. Every kernel accepts the last one.
var offers = []offer{
	{offloadTSO | offloadUSO, []string{TSO4, TSO6, USO}},
	{offloadTSO, []string{TSO4, TSO6}},
	{0, nil},
}

// Names of offloads, as status shows them.
const (
	TSO4 = "tso4" // TCP over IPv4 is read and written in superpackets
	TSO6 = "tso6" // TCP over IPv6
	USO  = "uso"  // UDP
)

// setOffload is TUNSETOFFLOAD. Tests replace it to make the kernel refuse.
var setOffload = func(fd, flags int) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags) }

// agree sets the best set of offloads that the kernel accepts and returns its names.
func agree(fd int, offload bool) ([]string, error) {
	var err error
	for _, o := range offers {
		// The empty offer is made then, too: the device may have the offloads of an earlier run.
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

// settle returns when the kernel knows that the device has a carrier, because it has a queue. Without
// it a work queue would notice that a moment later, and an interface that is up would drop packets
// until then. A request for the link state does the work at once (ethtool_op_get_link calls
// linkwatch_sync_dev in net/core/link_watch.c).
func settle(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{command: unix.ETHTOOL_GLINK}
	request := struct { // struct ifreq, or more
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	argument := unsafe.Pointer(&request)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(argument))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return fmt.Errorf("ask for the link state: %w", errno)
	}
	return nil
}

// Read waits for packets that the kernel has routed into the device. It stores their frames into
// memory, one behind the other, and the frames' slices into frames, until none is left or no more
// fits. It returns their number, which is at least one. memory must hold MaxFrame bytes or more.
//
// After Wake, Read does not wait and returns os.ErrDeadlineExceeded once, with the number of frames
// that were there. After Close it returns os.ErrClosed. If the device was deleted, it returns EBADFD
// or another error of read(2).
func (q *Queue) Read(memory []byte, frames [][]byte) (int, error) {
	q.memory, q.frames, q.filled, q.readErr = memory, frames, 0, nil
	err := q.conn.Read(q.readFunc)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The deadline goes before the last look at the queue: a Wake that comes in between ends the next
		// Read, and is not lost.
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
			err = os.ErrClosed // os.File returns an error of its own for a raw read
		}
		return 0, err
	}
	if q.filled == 0 && q.readErr == unix.EBADFD { // of tun_chr_read_iter, without a device
		return 0, fmt.Errorf("the interface was deleted: %w", q.readErr)
	}
	if q.filled == 0 {
		return 0, q.readErr
	}
	return q.filled, nil // the next Read gets the error that ended the batch
}

// read is the callback: it reads frames until none is left, and returns false to wait for more.
func (q *Queue) read(fd uintptr) bool {
	for q.filled < len(q.frames) && len(q.memory) >= MaxFrame {
		n, err := ignoringEINTR(unix.Read, int(fd), q.memory)
		if err != nil {
			q.readErr = err
			// false has Go's poller wait. With frames in hand their reader must not wait for more.
			return q.filled > 0 || err != unix.EAGAIN
		}
		// Without capacity behind its end, so that an append to one frame cannot write into the next.
		q.frames[q.filled] = q.memory[:n:n]
		q.filled++
		q.memory = q.memory[(n+alignment-1)&^(alignment-1):]
	}
	return true
}

// alignment is that of frames in memory, in bytes: the size of a cache line.
const alignment = 64

// Writer returns a function that passes one frame, given in parts, to the kernel, as if the packet
// had arrived on the interface. If the interface is down, the error is EIO. The function belongs to
// one goroutine; it does not keep the parts.
func (q *Queue) Writer() func(parts [][]byte) error {
	var vectors []unix.Iovec
	var failed error
	write := func(fd uintptr) {
		for {
			first := unsafe.Pointer(&vectors[0])
			_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(first), uintptr(len(vectors)))
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
			// SliceData, and not &p[0]: a part may be empty.
			v := unix.Iovec{Base: unsafe.SliceData(p)}
			v.SetLen(len(p))
			vectors = append(vectors, v)
		}
		// Control, and not Write: a TUN takes a frame or refuses it at once (tun_chr_write_iter), so there
		// is nothing that a poller could wait for.
		if err := q.conn.Control(write); err != nil {
			return err
		}
		return failed
	}
}

// Descriptor calls f with the file descriptor, which stays open meanwhile.
func (q *Queue) Descriptor(f func(fd uintptr)) error { return q.conn.Control(f) }

// Wake ends the Read in progress, or else the next one. It may be called from any goroutine.
func (q *Queue) Wake() error { return q.file.SetReadDeadline(time.Unix(1, 0)) }

// Close detaches the queue and ends the Read in progress. The device stays.
func (q *Queue) Close() error {
	q.closed.Store(true)
	return q.file.Close()
}

// ignoringEINTR repeats a system call that a signal has interrupted.
func ignoringEINTR(call func(int, []byte) (int, error), fd int, b []byte) (int, error) {
	for {
		n, err := call(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}
