package user

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
	wireguardtun "golang.zx2c4.com/wireguard/tun"

	"example.org/meshd/internal/dataplane/tun"
)

// A queue is one queue of the TUN, as wireguard-go wants it. It adds news of the MTU: a device pads packets
// up to the MTU that it knows, so one that is told nothing would make packets that are too large for a path.
// The library's own watcher also ends all sessions when the interface is set down, and writes into the TUN
// each second to see whether it is up.
type queue struct {
	wireguardtun.Device

	mu     sync.Mutex
	events chan wireguardtun.Event // nil: closed
}

// openQueue attaches a queue, with offloads, to the TUN called name, which exists.
func openQueue(name string) (*queue, error) {
	attached, err := tun.Open(name, true)
	if err != nil {
		return nil, err
	}
	// The library takes a descriptor for its own. A copy of it is the same queue, which stays attached.
	fd := -1
	controlErr := attached.Descriptor(func(own uintptr) {
		fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, controlErr, attached.Close()); err != nil {
		return nil, fmt.Errorf("copy a queue of TUN %q: %w", name, err)
	}
	d, _, err := wireguardtun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		// The descriptor may be a file already, which closes it when it is collected.
		return nil, fmt.Errorf("use a queue of TUN %q: %w", name, err)
	}
	return &queue{Device: d, events: make(chan wireguardtun.Event, 1)}, nil
}

// Events implements tun.Device. It is called once, by the device that reads them.
func (q *queue) Events() <-chan wireguardtun.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.events
}

// changed tells the device that the MTU may have changed.
func (q *queue) changed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case q.events <- wireguardtun.EventMTUUpdate: // never ready where it is nil
	default: // the news before is unread and serves for this one
	}
}

// Close implements tun.Device. It ends Read and Events.
func (q *queue) Close() error {
	q.mu.Lock()
	if q.events != nil {
		close(q.events)
		q.events = nil
	}
	q.mu.Unlock()
	return q.Device.Close()
}
