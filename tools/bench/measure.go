package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// result is one measurement of one system.
type result struct {
	tcp1, tcp4, both float64 // Gbit/s of payload: one stream, four, one each way
	cpu              float64 // CPU seconds per Gbit, of all that runs, one stream
	udp64, udp1400   float64 // packets/s of that size on a pod's link, without loss
	idle50, idle99   float64 // RTT, us
	busy99           float64 // RTT while a TCP stream runs, us
	reverse          float64 // share of b -> a that is left while a -> b is overloaded behind 1 Mbit/s
	perCall          map[string]float64
}

// eventually repeats f until it succeeds, for a few seconds.
func eventually(f func() error) error {
	for end := time.Now().Add(5 * time.Second); ; {
		err := f()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// measure takes all figures of the system that runs in a lab, in the order of result. One after
// another: each uses all CPUs that it gets, and two at once would measure each other.
func (l *lab) measure(ctx context.Context, span time.Duration, s *system) (r result, err error) {
	busy, began := cpuSeconds(), time.Now()
	moved, err := l.tcp(ctx, span, 0)
	if err != nil {
		return r, err
	}
	r.tcp1 = moved / time.Since(began).Seconds() / 1e9
	r.cpu = (cpuSeconds() - busy) / (moved / 1e9)
	// Now, since the counters are sums: after the UDP trials they would have those packets in them.
	if s.user {
		if r.perCall, err = l.perCall(ctx); err != nil {
			return r, err
		}
	}
	for _, m := range []struct {
		to   *float64
		ways []int // hosts that send
	}{{&r.tcp4, []int{0, 0, 0, 0}}, {&r.both, []int{0, 1}}} {
		moved, err := l.tcp(ctx, span, m.ways...)
		if err != nil {
			return r, err
		}
		*m.to = moved / span.Seconds() / 1e9
	}
	if r.udp64, err = l.lossless(ctx, 64); err == nil {
		r.udp1400, err = l.lossless(ctx, min(1400, s.mtu))
	}
	if err != nil {
		return r, err
	}
	if r.idle50, r.idle99, err = l.ping(300, "0.005"); err != nil {
		return r, err
	}
	done := make(chan error, 1)
	go func() { _, err := l.tcp(ctx, span, 0); done <- err }()
	_, r.busy99, err = l.ping(int(span.Seconds()*80), "0.01")
	if err = errors.Join(err, <-done); err != nil {
		return r, err
	}
	r.reverse, err = l.overload(ctx, span)
	return r, err
}

// tcp runs one stream for each sending host at the same time, for a span, and
// returns how many bits arrived.
func (l *lab) tcp(ctx context.Context, span time.Duration, senders ...int) (bits float64, err error) {
	var received atomic.Int64
	done := make(chan error, 2*len(senders))
	for i, sender := range senders {
		from, to, ip := l.pods[sender], l.pods[1-sender], []string{podB, podA}[sender]
		// Each stream has a port of its own, since its listener ends with the connection.
		client, server, err := connect(from, to, net.JoinHostPort(ip, strconv.Itoa(5001+i)))
		if err != nil {
			return 0, err
		}
		defer client.Close()
		defer server.Close()
		// A deadline ends both sides without a message between them, whatever is still queued.
		end := time.Now().Add(span)
		if err := errors.Join(client.SetDeadline(end), server.SetDeadline(end)); err != nil {
			return 0, err
		}
		go func() {
			for buf := make([]byte, 256<<10); ; {
				if _, err := client.Write(buf); err != nil {
					done <- unlessTimeout(err)
					return
				}
			}
		}()
		go func() {
			for buf := make([]byte, 256<<10); ; {
				n, err := server.Read(buf)
				received.Add(int64(n))
				if err != nil {
					done <- unlessTimeout(err)
					return
				}
			}
		}()
	}
	for range 2 * len(senders) {
		err = errors.Join(err, <-done)
	}
	return float64(received.Load()) * 8, errors.Join(err, ctx.Err())
}

// unlessTimeout returns an error that is not the end of the span.
func unlessTimeout(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// connect returns both ends of a TCP connection between pods. Sockets belong to the namespace in
// which they were made, so each is opened there and used from here.
func connect(from, to *nstest.Namespace, address string) (client, server net.Conn, err error) {
	var listener net.Listener
	if err := to.Do(func() (err error) { listener, err = net.Listen("tcp", address); return err }); err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	if err := from.Do(func() (err error) {
		client, err = net.DialTimeout("tcp", address,
			5*time.Second)
		return err
	}); err != nil {
		return nil, nil, err
	}
	server, err = listener.Accept()
	return client, server, err
}

// ping returns the median and the 99th percentile of count round trips, in us.
// Those that are lost count as the longest.
func (l *lab) ping(count int, interval string) (p50, p99 float64, err error) {
	out, err := l.pods[0].Command("ping", "-c", strconv.Itoa(count), "-i", interval, "-W", "1", podB).Output()
	if len(out) == 0 {
		return 0, 0, err
	}
	var times []float64
	for line := range strings.Lines(string(out)) {
		_, after, found := strings.Cut(line, "time=")
		value, _, _ := strings.Cut(after, " ")
		if ms, err := strconv.ParseFloat(value, 64); found && err == nil {
			times = append(times, ms*1000)
		}
	}
	if len(times) == 0 {
		return 0, 0, fmt.Errorf("no answer to %d pings", count)
	}
	slices.Sort(times)
	// count, and not those that came: a lost ping is the longest of all.
	at := func(share float64) float64 { return times[min(int(share*float64(count)), len(times)-1)] }
	return at(0.5), at(0.99), nil
}

// overload shapes the uplink of host a to 1 Mbit/s, sends far more than that from
// a to b, and returns what b to a still carries, as a share of what it carried
// alone before.
func (l *lab) overload(ctx context.Context, span time.Duration) (float64, error) {
	// TCP from b needs its acknowledgments to pass the shaped way, so UDP it is.
	const rate = 2000 // packets/s
	alone, err := l.udp(ctx, 1, 1300, rate, span)
	if err != nil {
		return 0, err
	}
	if _, err := l.hosts[0].Run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst",
		"10kb", "latency", "50ms"); err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { _, err := l.udp(ctx, 0, 1300, rate, span); done <- err }()
	loaded, err := l.udp(ctx, 1, 1300, rate, span)
	if err = errors.Join(err, <-done); err != nil {
		return 0, err
	}
	_, err = l.hosts[0].Run("tc", "qdisc", "del", "dev", "eth0", "root")
	return float64(loaded.received) / float64(max(1, alone.received)), err
}

// perCall asks both daemons how many packets each system call moved.
func (l *lab) perCall(ctx context.Context) (map[string]float64, error) {
	all := map[string]float64{}
	for host, kinds := range [][]string{{"tun_read", "wire_write"}, {"wire_read", "tun_write"}} {
		s, err := control.NewClient(l.socket(host)).Status(ctx)
		if err != nil {
			return nil, err
		}
		for _, kind := range kinds {
			c := s.Dataplane.Calls[kind]
			all[kind] = float64(c.Packets) / float64(max(1, c.Calls))
		}
	}
	return all, nil
}

// cpuSeconds returns what all CPUs have worked since boot.
func cpuSeconds() float64 {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	fields, sum := strings.Fields(line), 0.0
	for i, field := range fields {
		// cpu user nice system idle iowait irq softirq steal guest guest_nice
		// idle (4) and iowait (5) are no work; guest and guest_nice (9, 10) are in user and nice already
		// (proc_stat(5)), and steal (8) is another machine's.
		if i == 0 || i == 4 || i == 5 || i > 7 {
			continue
		}
		ticks, _ := strconv.ParseFloat(field, 64)
		sum += ticks / 100 // USER_HZ
	}
	return sum
}
