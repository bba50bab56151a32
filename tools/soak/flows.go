package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"example.org/meshd/internal/nstest"
)

// A pod is one end of flows.
type pod struct {
	*nstest.Namespace
	name      string
	addresses map[int]netip.Addr // by family, 4 and 6
}

// How much the flows send: little, so that nothing is lost for want of CPU on two that others use.
const (
	udpPause  = 100 * time.Millisecond // between two requests of a flow
	pingPause = 500 * time.Millisecond
	gsoPause  = 500 * time.Millisecond // between two superpackets
	tcpPause  = 250 * time.Millisecond // between two writes
	tcpLife   = 30 * time.Second       // of a connection
	stalled   = 3 * time.Minute        // a connection that has moved no byte for so long is broken
	drainTime = 3 * time.Second        // what is still on its way at the end arrives within this
)

// A flow is one kind of traffic from one pod to another.
type flow struct {
	*ledger
	id, answers uint16 // answers are a flow of their own, where there are any
	from, to    *pod
	family      int // 4 or 6
	port        uint16
	chunk       int // bytes of most writes of TCP

	mu   sync.Mutex
	left [window]time.Time // when requests were sent
}

// The kinds of flows. begin opens their sockets and starts what receives, which ends when they close; send
// sends until ctx ends.
var kinds = []struct {
	name  string
	begin func(f *flow) (send func(ctx context.Context) error, sockets []io.Closer, err error)
}{
	{"udp", (*flow).udp}, {"tcp", (*flow).tcp}, {"icmp", (*flow).icmp}, {"gso", (*flow).gso},
}

// traffic is all flows of a mesh, and their sockets.
type traffic struct {
	senders sync.WaitGroup
	sockets []io.Closer
}

// start begins traffic of each kind between all ordered pairs of pods, by both families.
func (tr *traffic) start(ctx context.Context, l *ledger, number int, m *mesh, chunk int) error {
	for _, from := range m.pods {
		for _, to := range m.pods {
			for _, family := range []int{4, 6} {
				for _, kind := range kinds {
					if from == to {
						continue
					}
					way := fmt.Sprintf("%s: %s to %s %s%d", m.name, from.name, to.name, kind.name, family)
					f := &flow{ledger: l, id: l.add(number, way), from: from, to: to, family: family, chunk: chunk}
					f.port = 7000 + f.id
					switch kind.name {
					case "udp":
						f.answers = l.add(number, way+" answer")
					case "gso":
						l.skips(f.id, func(number uint64) bool { return gsoSize(f.id, number) == 0 })
					}
					send, sockets, err := kind.begin(f)
					tr.sockets = append(tr.sockets, sockets...)
					if err != nil {
						return fmt.Errorf("begin %s: %w", way, err)
					}
					tr.senders.Go(func() {
						if err := send(ctx); err != nil && ctx.Err() == nil {
							l.breaks(f.id, err)
						}
					})
				}
			}
		}
	}
	return nil
}

// stop waits for the senders, whose context has ended, and for what is on its way, and closes the sockets.
func (tr *traffic) stop() error {
	tr.senders.Wait()
	time.Sleep(drainTime)
	var errs []error
	for _, s := range tr.sockets {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// pause waits about d, so that flows do not beat in time; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d/2 + rand.N(d)):
		return true
	}
}

// target is where the flow goes.
func (f *flow) target() netip.AddrPort {
	return netip.AddrPortFrom(f.to.addresses[f.family], f.port)
}

// leaves remembers when a request was sent.
func (f *flow) leaves(number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left[number%window] = time.Now()
}

// returns notes how long an answer took.
func (f *flow) returns(number uint64) {
	f.mu.Lock()
	left := f.left[number%window]
	f.mu.Unlock()
	f.took(f.id, time.Since(left))
}

// write writes a datagram. An ICMP error that has arrived for an earlier one is reported by the next write,
// which does not send: the second does.
func (f *flow) write(write func() error) error {
	err := write()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		f.breaks(f.id, err)
		err = write()
	}
	return err
}

// ended tells whether a read has ended because the socket was closed.
func ended(err error) bool { return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) }

// udpPair opens a connected socket at each end.
func (f *flow) udpPair() (client, server *net.UDPConn, err error) {
	err = f.to.Do(func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(f.target()))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = f.from.Do(func() (err error) {
		client, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(f.target()))
		return err
	})
	if err != nil {
		return nil, nil, errors.Join(err, server.Close())
	}
	return client, server, nil
}

// udp sends requests of any size, each of which is answered by a datagram of any size.
func (f *flow) udp() (func(context.Context) error, []io.Closer, error) {
	client, server, err := f.udpPair()
	if err != nil {
		return nil, nil, err
	}
	go f.serve(server)
	go f.collect(client)
	send := func(ctx context.Context) error {
		buf := make([]byte, datagramRoom)
		for number := uint64(0); pause(ctx, udpPause); number++ {
			b := buf[:sizeOf(f.id, number)]
			fill(b, f.id, number*datagramRoom)
			f.sends(f.id, 1)
			f.leaves(number)
			if err := f.write(func() error { _, err := client.Write(b); return err }); err != nil {
				return err
			}
		}
		return nil
	}
	return send, []io.Closer{client, server}, nil
}

// serve checks requests and answers them, until the socket closes.
func (f *flow) serve(server *net.UDPConn) {
	in, out := make([]byte, datagramRoom), make([]byte, datagramRoom)
	for {
		n, from, err := server.ReadFromUDPAddrPort(in)
		if ended(err) {
			return
		}
		if err != nil {
			f.breaks(f.id, err)
			continue
		}
		number, altered := f.checkDatagram(in[:n], f.id, func(number uint64) int { return sizeOf(f.id, number) })
		if altered != nil {
			f.alters(f.id, altered)
			continue
		}
		f.arrives(f.id, number)
		b := out[:sizeOf(f.answers, number)]
		fill(b, f.answers, number*datagramRoom)
		f.sends(f.answers, 1)
		if err := f.write(func() error { _, err := server.WriteToUDPAddrPort(b, from); return err }); ended(err) {
			return
		}
	}
}

// collect checks answers, until the socket closes.
func (f *flow) collect(client *net.UDPConn) {
	in := make([]byte, datagramRoom)
	for {
		n, err := client.Read(in)
		if ended(err) {
			return
		}
		if err != nil {
			f.breaks(f.id, err)
			continue
		}
		number, altered := f.checkDatagram(in[:n], f.answers,
			func(number uint64) int { return sizeOf(f.answers, number) })
		if altered != nil {
			f.alters(f.answers, altered)
			continue
		}
		f.arrives(f.answers, number)
		f.returns(number)
	}
}
