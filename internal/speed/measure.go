package speed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"time"
)

// This file has one direction of a measurement. Both sides know who sends; the one that sends has send run,
// the other one receive, and both return the same figures.
//
//	sender                                receiver
//	data frames, for request.load    ->
//	receipt (empty: the end)         ->
//	                                 <-   receipt of the bytes
//	train                            ->
//	datagrams, for request.loss      ->
//	                                 <-   receipt of the datagrams

// A way is what was measured in one direction.
type way struct {
	bytes                   uint64        // of TCP that came in
	time                    time.Duration // in which they did
	segments, retransmitted uint64        // as the sender's kernel counts them
	rtt                     time.Duration // as that smoothed it, under load
	sent, received          int           // datagrams
}

// A line is a connection to the other side, with a socket for datagrams. One goroutine uses it.
type line struct {
	tcp   *net.TCPConn
	udp   *net.UDPConn
	to    *net.UDPAddr // where the other side takes datagrams
	token []byte
	size  int // of the payload of a datagram
	request
	// each is told, once a second, how many bytes have moved in how long a time since the last call; it may
	// be nil.
	each func(bytes uint64, took time.Duration)
}

const (
	// graceTime is how long datagrams that were sent may be on their way: queues of slow links hold as much.
	graceTime = 500 * time.Millisecond
	// lossShare is the part of what TCP has reached at which datagrams are sent: a rate that the path
	// carries, so that what is lost is not lost for the measurement.
	lossShare = 2
	// lossRate is the most of it, bit/s. More would overflow queues by the bursts of a timer.
	lossRate = 50e6
	// lossTick is the time between two bursts.
	lossTick    = 2 * time.Millisecond
	reportEvery = time.Second
)

// bits returns a rate in bit/s.
func bits(bytes uint64, took time.Duration) float64 {
	if took <= 0 {
		return 0
	}
	return 8 * float64(bytes) / took.Seconds()
}

// A pacer tells what moved, once a second, and keeps a sender to its rate.
type pacer struct {
	began, told   time.Time
	moved, before uint64
	each          func(uint64, time.Duration)
}

func (l *line) pacer() *pacer {
	now := time.Now()
	return &pacer{began: now, told: now, each: l.each}
}

// add notes bytes that moved.
func (p *pacer) add(bytes int) {
	p.moved += uint64(bytes)
	if since := time.Since(p.told); since >= reportEvery && p.each != nil {
		p.each(p.moved-p.before, since)
		p.told, p.before = time.Now(), p.moved
	}
}

// wait waits as long as what moved is more than a rate allows.
func (p *pacer) wait(rate uint64) {
	due := time.Duration(8 * float64(p.moved) / float64(rate) * float64(time.Second))
	time.Sleep(due - time.Since(p.began))
}

// send is the sender's half.
func (l *line) send(ctx context.Context) (w way, err error) {
	if err := l.load(ctx); err != nil {
		return w, fmt.Errorf("send: %w", err)
	}
	var got receipt
	if err := errors.Join(writeMessage(l.tcp, receipt{}), readMessage(l.tcp, &got)); err != nil {
		return w, fmt.Errorf("end the load: %w", err)
	}
	t, err := l.known()
	if err != nil {
		return w, err
	}
	w = way{bytes: got.Bytes, time: time.Duration(got.Micros) * time.Microsecond, segments: t.Segments,
		retransmitted: t.Retransmitted, rtt: time.Duration(t.RTTMicros) * time.Microsecond}
	rate := min(bits(w.bytes, w.time)/lossShare, float64(l.Rate), lossRate)
	t.Datagrams = min(max(1, int(rate*l.loss().Seconds()/float64(8*l.size))), maxDatagrams)
	w.sent = t.Datagrams
	if err := writeMessage(l.tcp, t); err != nil {
		return w, err
	}
	if err := l.datagrams(ctx, t.Datagrams); err != nil {
		return w, fmt.Errorf("send datagrams: %w", err)
	}
	err = readMessage(l.tcp, &got)
	w.received = min(got.Datagrams, w.sent)
	return w, err
}

// load sends data for as long as was asked for. A slow receiver makes Write wait; the deadline of the
// connection ends that.
func (l *line) load(ctx context.Context) error {
	// At a low rate small frames, so that it is even; and random bytes, as links may compress.
	size := min(maxData, max(1<<10, int(l.Rate/8/50)))
	h := header(kindData, size)
	frame := append(h[:], make([]byte, size)...)
	_, _ = rand.NewChaCha8([32]byte(slices.Concat(l.token, l.token))).Read(frame[frameHeader:]) // never fails
	p := l.pacer()
	for ctx.Err() == nil && time.Since(p.began) < l.request.load() {
		if _, err := l.tcp.Write(frame); err != nil {
			return err
		}
		p.add(len(frame))
		p.wait(l.Rate)
	}
	return ctx.Err()
}

// datagrams sends so many datagrams, evenly over the time for them. One that cannot be sent is lost, as one
// of a pod is.
func (l *line) datagrams(ctx context.Context, count int) error {
	b := make([]byte, l.size)
	copy(b, l.token)
	tick := time.NewTicker(lossTick)
	defer tick.Stop()
	began := time.Now()
	for sent := 0; sent < count; {
		due := int(float64(count) * min(1, float64(time.Since(began)+lossTick)/float64(l.loss())))
		for ; sent < due; sent++ {
			binary.BigEndian.PutUint32(b[tokenSize:], uint32(sent))
			_, _ = l.udp.WriteToUDP(b, l.to)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// receive is the receiver's half.
func (l *line) receive(ctx context.Context) (w way, err error) {
	if err := l.take(&w); err != nil {
		return w, fmt.Errorf("receive: %w", errors.Join(ctx.Err(), err))
	}
	var t train
	err = writeMessage(l.tcp, receipt{Bytes: w.bytes, Micros: w.time.Microseconds()})
	if err = errors.Join(err, readMessage(l.tcp, &t)); err != nil {
		return w, fmt.Errorf("confirm the load: %w", err)
	}
	w.segments, w.retransmitted = t.Segments, t.Retransmitted
	w.rtt, w.sent = time.Duration(t.RTTMicros)*time.Microsecond, t.Datagrams
	if w.received, err = l.count(ctx, t.Datagrams); err != nil {
		return w, fmt.Errorf("receive datagrams: %w", err)
	}
	return w, writeMessage(l.tcp, receipt{Datagrams: w.received})
}

// take reads data until a message ends it.
func (l *line) take(w *way) error {
	b := make([]byte, maxData)
	p, began := l.pacer(), time.Time{}
	for {
		kind, length, err := readHeader(l.tcp)
		if err != nil {
			return err
		}
		if began.IsZero() {
			began = time.Now()
		}
		if kind == kindMessage {
			w.time = time.Since(began)
			return decode(l.tcp, length, &receipt{})
		}
		if _, err := io.ReadFull(l.tcp, b[:length]); err != nil {
			return err
		}
		w.bytes += uint64(length)
		p.add(length)
	}
}

// count counts datagrams, each once, until all have come or the time for them is over.
func (l *line) count(ctx context.Context, announced int) (received int, err error) {
	b := make([]byte, datagramSize+1)
	seen := make([]uint64, (announced+63)/64)
	if err := l.udp.SetReadDeadline(time.Now().Add(l.loss() + graceTime)); err != nil {
		return 0, err
	}
	for received < announced && ctx.Err() == nil {
		n, from, err := l.udp.ReadFromUDP(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return received, nil
		case errors.Is(err, net.ErrClosed):
			return received, err
		case err != nil: // an ICMP error about one that was sent
			continue
		}
		number, ok := numberOf(b[:n], l.token, announced)
		if !ok || !from.IP.Equal(l.to.IP) || seen[number/64]>>(number%64)&1 != 0 {
			continue
		}
		seen[number/64] |= 1 << (number % 64)
		received++
	}
	return received, ctx.Err()
}
