package nstest

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Relay joins two interfaces that have no Ethernet header, as those of WireGuard and PPP have none. Both
// are TUNs, and this process copies packets from one to the other, one by one. Close removes them.
type Relay struct {
	ends   [2]*os.File
	copies sync.WaitGroup
	copied atomic.Uint64
}

// NewRelay makes an interface of the same name in two namespaces, which have none of that name. They are
// down and have no address.
func NewRelay(a, b *Namespace, name string) (*Relay, error) {
	r := &Relay{}
	for i, n := range []*Namespace{a, b} {
		if err := n.Do(func() (err error) { r.ends[i], err = openTUN(name); return err }); err != nil {
			return nil, errors.Join(fmt.Errorf("make TUN %q in %s: %w", name, n.Name, err), r.Close())
		}
	}
	for i := range r.ends {
		r.copies.Go(func() { r.copy(r.ends[i], r.ends[1-i]) })
	}
	return r, nil
}

// openTUN makes a TUN that lives as long as the file. Reads end when the file is closed.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// copy copies packets until the file is closed, or its interface is gone. What an interface that is down does
// not take is lost.
func (r *Relay) copy(from, to *os.File) {
	for packet := make([]byte, 1<<16); ; {
		n, err := from.Read(packet)
		if err != nil {
			return
		}
		if _, err := to.Write(packet[:n]); err == nil {
			r.copied.Add(1)
		}
	}
}

// Copied returns how many packets have passed, in both directions together.
func (r *Relay) Copied() uint64 { return r.copied.Load() }

// Close removes both interfaces.
func (r *Relay) Close() (err error) {
	for _, end := range r.ends {
		if end != nil {
			err = errors.Join(err, end.Close())
		}
	}
	r.copies.Wait()
	return err
}
