package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
)

const (
	tick    = time.Millisecond       // how often the paced sender sends
	trial   = 250 * time.Millisecond // length of one attempt
	headers = 20 + 8
)

// lossless searches the highest rate of UDP packets of a size, in bytes with
// headers, of which not one is lost on the way from pod a to pod b.
func (l *lab) lossless(ctx context.Context, size int) (float64, error) {
	// reached is the rate of a trial in which nothing was lost, 0 otherwise. A
	// loss may be another program's doing, so there are two attempts.
	reached := func(rate float64) (float64, error) {
		for range 2 {
			r, err := l.udp(ctx, 0, size, rate, trial)
			if err != nil {
				return 0, err
			}
			if r.sent == r.received {
				return r.rate, nil
			}
		}
		return 0, nil
	}
	low, high := 0.0, 10000.0
	for {
		got, err := reached(high)
		if err != nil {
			return 0, err
		}
		if got < 0.8*high { // something was lost, or the sender can do no more
			low = max(low, got)
			break
		}
		low, high = got, high*2
	}
	// Three halvings leave 1/8 of the distance between two doublings; more would be finer than rounds
	// agree.
	for range 3 {
		got, err := reached((low + high) / 2)
		if err != nil {
			return 0, err
		}
		if got > low {
			low = got
		} else {
			high = (low + high) / 2
		}
	}
	return low, nil
}

// count is the outcome of a trial; rate is what was sent, in packets/s.
type count struct {
	sent, received int
	rate           float64
}

// udp sends packets at a steady rate, a small batch each tick, and counts what
// arrives. A rate that the sender does not reach is an honest lower one: only
// what was sent can be lost.
func (l *lab) udp(ctx context.Context, sender, size int, rate float64,
	span time.Duration) (c count, err error) {
	ips := []string{podA, podB}
	from, to := l.pods[sender], l.pods[1-sender]
	target := netip.AddrPortFrom(netip.MustParseAddr(ips[1-sender]), 7000)
	var out, in *udp.Conn
	if err := from.Do(func() (err error) {
		out, err = udp.Open(netip.AddrPortFrom(netip.MustParseAddr(ips[sender]), 0), false)
		return err
	}); err != nil {
		return c, err
	}
	defer out.Close()
	if err := to.Do(func() (err error) { in, err = udp.Open(target, false); return err }); err != nil {
		return c, err
	}
	received := make(chan int)
	run := rand.Uint64() // packets of an earlier trial may still be on their way
	go func() {
		r, ds, n := in.NewReceiver(64), packet.NewDatagrams(64), 0
		for {
			got, err := r.Read(ds)
			if err != nil {
				received <- n
				return
			}
			for _, d := range ds[:got] {
				if len(d.Data) >= 8 && binary.BigEndian.Uint64(d.Data) == run {
					n++
				}
			}
		}
	}()
	began := time.Now()
	c.sent, err = pace(ctx, out, target, run, size, rate, span)
	c.rate = float64(c.sent) / time.Since(began).Seconds()
	// What is on its way arrives, or is lost, within this.
	time.Sleep(50 * time.Millisecond)
	closeErr := in.Close()
	c.received = <-received
	if err == nil && c.received > c.sent {
		err = fmt.Errorf("%d packets of %d arrived", c.received, c.sent)
	}
	return c, errors.Join(err, closeErr)
}

// pace sends packets with a run's number, and returns how many.
func pace(ctx context.Context, out *udp.Conn, target netip.AddrPort, run uint64, size int, rate float64,
	span time.Duration) (sent int, err error) {
	const most = 64
	sender, bursts := out.NewSender(most), make([]packet.Burst, most)
	for i := range bursts {
		bursts[i].Addr = target
		payload := make([]byte, size-headers)
		binary.BigEndian.PutUint64(payload, run)
		bursts[i].Add(payload)
	}
	// The Go runtime cannot sleep for less than about a millisecond reliably, so packets go in bursts:
	// a system needs queues for one of them.
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for began := time.Now(); ; {
		elapsed := min(time.Since(began), span)
		for due := int(rate * elapsed.Seconds()); sent < due; {
			if time.Since(began) > 2*span { // slower than asked for
				return sent, nil
			}
			n, err := sender.Write(bursts[:min(most, due-sent)])
			sent += n
			if err != nil && !errors.Is(err, net.ErrClosed) {
				return sent, err
			}
		}
		if elapsed == span {
			return sent, nil
		}
		select {
		case <-ctx.Done():
			return sent, ctx.Err()
		case <-ticker.C:
		}
	}
}
