package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What follows speaks to the kernel by system calls that block, one thread each: packages net and runtime
// would ask epoll before each of them.
//
// A request is its kind and a number: of bytes that follow (a byte answers when all have arrived), or of
// round trips of a byte.
const (
	bulk  = 't'
	trips = 'r'

	requestSize = 9
)

// loads has what each load is. A load returns nanoseconds, which are instructions here: for each byte, round
// trip or packet.
var loads = map[string]func(address string) (float64, error){
	"tcp1":    func(address string) (float64, error) { return streams(address, 1) },
	"tcp4":    func(address string) (float64, error) { return streams(address, 4) },
	"rr":      roundTrips,
	"udp64":   func(address string) (float64, error) { return datagrams(address, 64) },
	"udp1400": func(address string) (float64, error) { return datagrams(address, 1400) },
}

// busy returns for how long the only CPU has worked since the boot: what has passed without what it was idle,
// both in nanoseconds. A byte of /proc/uptime or /proc/stat is 10 ms.
func busy() (ns int64, err error) {
	timers, err := os.ReadFile("/proc/timer_list")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(timers), ".idle_sleeptime : ")
	text, _, _ := strings.Cut(rest, " nsecs")
	idle, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the time that the CPU was idle: %w", err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, err
	}
	return now.Nano() - idle, nil
}

// spent returns for how long the CPU works while f runs.
func spent(f func() error) (ns float64, err error) {
	before, err := busy()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := busy()
	return float64(after - before), err
}

// dial connects to a port of IPv4.
func dial(address string) (fd int, err error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return -1, err
	}
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	return fd, errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}))
}

// ask sends a request.
func ask(fd int, kind byte, number uint64) error {
	return writeAll(fd, binary.BigEndian.AppendUint64([]byte{kind}, number))
}

// writeAll writes all of b.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR { // the runtime's signal for goroutines that run for long
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// readAll fills b.
func readAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = errors.New("the connection has ended")
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		b = b[n:]
	}
	return nil
}

const (
	block  = 256 << 10 // that one call writes
	warmUp = 8         // blocks of all connections together, in which windows and buffers grow
	blocks = 64        // that are measured
)

// send sends some blocks, and waits until they have arrived.
func send(fd, count int) error {
	if err := ask(fd, bulk, uint64(count*block)); err != nil {
		return err
	}
	b := make([]byte, block)
	for range count {
		if err := writeAll(fd, b); err != nil {
			return err
		}
	}
	return readAll(fd, b[:1])
}

// streams sends over some connections at once.
func streams(address string, count int) (float64, error) {
	all := make([]int, count)
	for i := range all {
		fd, err := dial(address)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		all[i] = fd
	}
	together := func(blocks int) error {
		var group sync.WaitGroup
		errs := make([]error, count)
		for i, fd := range all {
			group.Go(func() { errs[i] = send(fd, blocks/count) })
		}
		group.Wait()
		return errors.Join(errs...)
	}
	if err := together(warmUp); err != nil {
		return 0, err
	}
	ns, err := spent(func() error { return together(blocks) })
	return ns / (blocks * block), err
}

// roundTrips has a byte go there and back.
func roundTrips(address string) (float64, error) {
	fd, err := dial(address)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	const first, count = 50, 500
	trip := func(n int) error {
		b := make([]byte, 1)
		err := ask(fd, trips, uint64(n))
		for range n {
			err = errors.Join(err, writeAll(fd, b), readAll(fd, b))
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := trip(first); err != nil {
		return 0, err
	}
	ns, err := spent(func() error { return trip(count) })
	return ns / count, err
}

// arrived returns the count of datagrams that have arrived: the sender and the receiver map one file, since a
// message for it would be measured, too.
func arrived() (*atomic.Uint64, error) {
	fd, err := unix.Open("/run/measure.datagrams", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 8); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(fd, 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*atomic.Uint64)(unsafe.Pointer(&b[0])), nil
}

// datagrams sends packets of a size on the pods' link, in bursts that queues hold. All have to arrive.
func datagrams(address string, size int) (float64, error) {
	const headers, burst, ahead, first, count = 28, 32, 64, 320, 3200
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return 0, err
	}
	n, err := arrived()
	if err != nil {
		return 0, err
	}
	// Sends so many, and lets all that works for them run until no more than some are on their way.
	b, pause := make([]byte, size-headers), unix.NsecToTimespec(20_000)
	emit := func(count uint64) error {
		end := n.Load() + count
		for sent := end - count; sent < end || n.Load() < end; {
			for range min(burst, end-sent) {
				if err := writeAll(fd, b); err != nil {
					return err
				}
				sent++
			}
			for tries := 0; n.Load()+ahead < sent || sent == end && n.Load() < end; tries++ {
				if tries == 100_000 { // seconds
					return fmt.Errorf("%d of %d packets have not arrived", sent-n.Load(), count)
				}
				_ = unix.Nanosleep(&pause, nil) // a signal may end it
			}
		}
		return nil
	}
	if err := emit(first); err != nil {
		return 0, err
	}
	ns, err := spent(func() error { return emit(count) })
	return ns / count, err
}

// serve answers loads on port 9000 until this process is killed.
func serve() error {
	at := &unix.SockaddrInet4{Port: 9000}
	in, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20), unix.Bind(in, at),
		unix.Bind(listener, at), unix.Listen(listener, 16)); err != nil {
		return err
	}
	datagrams, err := arrived()
	if err != nil {
		return err
	}
	go func() {
		for b := make([]byte, 64<<10); ; {
			if _, err := unix.Read(in, b); err == nil {
				datagrams.Add(1)
			}
		}
	}()
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil && err != unix.EINTR {
			return err
		}
		if err == nil {
			go answer(fd)
		}
	}
}

// answer answers the requests of one connection until it ends.
func answer(fd int) {
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // only speed depends on it
	request, b := make([]byte, requestSize), make([]byte, block)
	for readAll(fd, request) == nil {
		number := binary.BigEndian.Uint64(request[1:])
		var err error
		switch request[0] {
		case bulk:
			for err == nil && number > 0 {
				var n int
				n, err = unix.Read(fd, b[:min(number, block)])
				if err == unix.EINTR {
					n, err = 0, nil
				} else if err == nil && n == 0 {
					return
				}
				number -= uint64(max(n, 0))
			}
			err = errors.Join(err, writeAll(fd, b[:1]))
		case trips:
			for ; err == nil && number > 0; number-- {
				err = errors.Join(readAll(fd, b[:1]), writeAll(fd, b[:1]))
			}
		}
		if err != nil {
			return
		}
	}
}
