package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/nstest"
)

// A flow is numbered packets at a steady rate from one pod to another. The
// receiver knows which are missing, and takes one that overtook another, or came
// twice, for an error, unless anyOrder is set.
type flow struct {
	anyOrder bool
	out, in  *udp.Conn
	to       netip.AddrPort
	sent     uint64 // by send
	received atomic.Uint64
	first    chan struct{} // closed when the first packet was received
	over     chan error    // the end was received, or something is wrong
	refusals sync.Map      // how often the sender's own host sent nothing (*atomic.Uint64), by the errno
}

// Refused implements udp.Watcher: a full table of neighbours ends no sender, and nothing arrives meanwhile.
func (f *flow) Refused(_ netip.AddrPort, why syscall.Errno) {
	n, _ := f.refusals.LoadOrStore(why, new(atomic.Uint64))
	n.(*atomic.Uint64).Add(1)
}

// Reported implements udp.Watcher.
func (f *flow) Reported(udp.PathError) {}

// refused tells what Refused has counted.
func (f *flow) refused() string {
	text := "nothing"
	f.refusals.Range(func(why, n any) bool {
		text += fmt.Sprintf(" but %d for %q", n.(*atomic.Uint64).Load(), why)
		return true
	})
	return text
}

// end is the number of the packet that says that no more come.
const end = math.MaxUint64

func newFlow(t testing.TB, from, to *nstest.Namespace, source, target string) *flow {
	t.Helper()
	f := &flow{to: netip.MustParseAddrPort(target), first: make(chan struct{}), over: make(chan error, 1)}
	for _, s := range []struct {
		space   *nstest.Namespace
		conn    **udp.Conn
		address string
	}{{from, &f.out, source}, {to, &f.in, target}} {
		if err := s.space.Do(func() (err error) {
			*s.conn, err = udp.Open(netip.MustParseAddrPort(s.address), false)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*s.conn).Close() })
	}
	f.out.Watch(f)
	return f
}

// send sends rate packets a second until stop is closed.
func (f *flow) send(rate int, stop <-chan struct{}) error {
	const most = 64
	sender, batch := f.out.NewSender(most), make([]packet.Burst, most)
	for i := range batch {
		batch[i].Addr = f.to
		batch[i].Add(make([]byte, 64))
	}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	began := time.Now()
	for {
		select {
		case <-stop:
			return f.finish(sender, batch[:1])
		case <-ticker.C:
		}
		// What was missed is not sent all at once, since queues have an end.
		due := min(uint64(float64(rate)*time.Since(began).Seconds()), f.sent+most)
		count := int(due - f.sent)
		for i := range count {
			binary.BigEndian.PutUint64(batch[i].Parts[0], f.sent+uint64(i))
		}
		if _, err := sender.Write(batch[:count]); err != nil {
			return err
		}
		f.sent = due
	}
}

// finish sends the end until it is received.
func (f *flow) finish(sender *udp.Sender, one []packet.Burst) error {
	binary.BigEndian.PutUint64(one[0].Parts[0], end)
	for timeout := time.After(10 * time.Second); ; {
		if _, err := sender.Write(one); err != nil {
			return err
		}
		select {
		case err := <-f.over:
			return err
		case <-time.After(10 * time.Millisecond): // it may have been lost
		case <-timeout:
			return errors.New("nothing arrives any more")
		}
	}
}

// receive counts what arrives until the end does.
func (f *flow) receive() {
	r, ds, next := f.in.NewReceiver(64), packet.NewDatagrams(64), uint64(0)
	for {
		n, err := r.Read(ds)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		for _, d := range ds[:n] {
			number := binary.BigEndian.Uint64(d.Data)
			late := number < next && !f.anyOrder
			if number == end || late || err != nil {
				if late {
					err = fmt.Errorf("packet %d came after %d", number, next-1)
				}
				f.over <- err
				return
			}
			next = max(next, number+1)
			if f.received.Add(1) == 1 {
				close(f.first)
			}
		}
	}
}

// traffic is one flow in each direction between two pods.
type traffic struct {
	t     testing.TB
	flows [2]*flow
	stop  chan struct{}
	ended chan error
}

// newTraffic starts rate packets a second each way between the second pod of
// worker2 and that of worker, and returns when both ways work. None may overtake another.
func (w *world) newTraffic(rate int) *traffic {
	w.t.Helper()
	w.settled()
	return w.newTrafficOf(rate, false)
}

// newTrafficOf is newTraffic; with anyOrder packets may pass each other, as they do
// when the count of queues becomes another one.
func (w *world) newTrafficOf(rate int, anyOrder bool) *traffic {
	w.t.Helper()
	p := &traffic{t: w.t, stop: make(chan struct{}), ended: make(chan error), flows: [2]*flow{
		newFlow(w.t, w.PodW2b, w.PodW, "10.244.2.3:7000", "10.244.1.2:7000"),
		newFlow(w.t, w.PodW, w.PodW2b, "10.244.1.2:7001", "10.244.2.3:7001"),
	}}
	for _, f := range p.flows {
		f.anyOrder = anyOrder
		go f.receive()
		go func() { p.ended <- steady(func() error { return f.send(rate, p.stop) }) }()
	}
	for i, f := range p.flows {
		select {
		case <-f.first:
		case err := <-p.ended:
			w.t.Fatal(err)
		case <-time.After(10 * time.Second):
			w.t.Fatalf("no packet of flow %d arrives; %d and %d of the flows have; their hosts refused %s, and %s\n%s",
				i, p.flows[0].received.Load(), p.flows[1].received.Load(), p.flows[0].refused(),
				p.flows[1].refused(), w.places())
		}
	}
	return p
}

// finish ends the flows and returns how many packets each lost, that from worker2
// first.
func (p *traffic) finish() (lost [2]uint64) {
	p.t.Helper()
	close(p.stop)
	for range p.flows {
		if err := <-p.ended; err != nil {
			p.t.Error(err)
		}
	}
	for i, f := range p.flows {
		f.in.Close()
		f.out.Close()
		lost[i] = f.sent - f.received.Load()
		p.t.Logf("flow %d: %d packets sent, %d lost", i, f.sent, lost[i])
	}
	return lost
}
