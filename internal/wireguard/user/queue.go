package user

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
	wireguardtun "golang.zx2c4.com/wireguard/tun"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/tun"
)

// A queue is one queue of the TUN, as wireguard-go wants it. It adds news of the MTU: a device pads packets
// up to the MTU that it knows, so one that is told nothing would make packets that are too large for a path.
// The library's own watcher also ends all sessions when the interface is set down, and writes into the TUN
// each second to see whether it is up. And it mends checksums that the library has computed, see completed.
type queue struct {
	wireguardtun.Device
	flight  *flight
	counted chan<- struct{} // woken after readings packets
	read    int             // packets since then; belongs to Read

	mu     sync.Mutex
	events chan wireguardtun.Event // nil: closed
}

// openQueue attaches a queue, with offloads, to the TUN called name, which exists.
func openQueue(name string, counted chan<- struct{}) (*queue, error) {
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
	return &queue{Device: d, flight: newFlight(), counted: counted,
		events: make(chan wireguardtun.Event, 1)}, nil
}

// Read implements tun.Device. It is called by one goroutine.
func (q *queue) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	q.flight.wait()
	n, err = q.Device.Read(bufs, sizes, offset)
	q.flight.begin(n)
	for i := range n {
		completed(bufs[i][offset:][:sizes[i]])
	}
	if q.read += n; q.read >= readings {
		q.read = 0
		wake(q.counted)
	}
	return n, err
}

// completed mends a checksum of UDP that the library has computed as zero (gsoNoneChecksum and gsoSplit in
// its tun/offload_linux.go): one packet in 65,536. By IPv6 the receiver drops such a packet; the checksum has
// to be 0xffff, which is the same number (RFC 8200 section 8.1). A packet whose sender has left the checksum
// out (RFC 6935) stays as it is, but for those of which zero is the right one.
func completed(b []byte) {
	const header, protocol, udp, udpHeader, checksum = 40, 6, 17, 8, 46
	if len(b) < header+udpHeader || b[0]>>4 != 6 || b[protocol] != udp || b[checksum]|b[checksum+1] != 0 {
		return
	}
	const right = 0xffff // the sum of what contains its checksum
	sum := packet.PseudoSum(b[header-32:header], udp, len(b)-header)
	if packet.Fold(packet.Sum(b[header:], sum)) == right {
		b[checksum], b[checksum+1] = 0xff, 0xff
	}
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
