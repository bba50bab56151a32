package user

import (
	"time"

	"example.org/meshd/internal/dataplane/gro"
	"example.org/meshd/internal/dataplane/packet"
)

// ICMP errors are limited as the kernel limits its own (icmp_msgs_per_sec,
// icmp_msgs_burst), for each loop.
const (
	answersPerSecond = 1000
	answersBurst     = 50
)

// answerer writes ICMP errors into the TUN, from where the kernel routes them
// to a local pod or back to us for a remote one. It belongs to one loop.
type answerer struct {
	write  func(parts [][]byte) error
	parts  [][]byte
	buf    []byte
	tokens float64
	last   time.Time
	now    func() time.Time
}

func newAnswerer(write func(parts [][]byte) error) *answerer {
	return &answerer{write: write, buf: make([]byte, 1280), tokens: answersBurst, now: time.Now}
}

// send answers b with the problem, if an answer is allowed by the rules and by
// the rate. mtu, in bytes, is for TooBig and may be nil otherwise; it is asked
// only if the answer will be sent.
func (a *answerer) send(f *forwarding, problem packet.Problem, b []byte, mtu func() int) {
	src := f.own.v4
	if b[0]>>4 == 6 {
		src = f.own.v6
	}
	if !src.IsValid() || !packet.Answerable(b) || !a.take() {
		return
	}
	size := 0
	if mtu != nil {
		size = mtu()
	}
	if answer := packet.Error(a.buf, src, problem, size, b); answer != nil {
		// A refusal means the TUN is down, and then the asker is cut off too.
		a.parts = gro.Plain(a.parts[:0], answer)
		_ = a.write(a.parts)
	}
}

// take is a token bucket.
func (a *answerer) take() bool {
	now := a.now()
	a.tokens = min(answersBurst, a.tokens+now.Sub(a.last).Seconds()*answersPerSecond)
	a.last = now
	if a.tokens < 1 {
		return false
	}
	a.tokens--
	return true
}

// pathMTU returns the size in bytes of packets such as b that fit the way to an
// address of a peer: what probes have found, or else what the kernel knows; the smallest of
// b's family if it does not know either. Linux itself takes no path below 552
// bytes for true (net.ipv4.route.min_pmtu).
func pathMTU(wire Wire, to *target, b []byte) int {
	const minMTU4 = 68 // RFC 791
	lowest := minMTU4
	if b[0]>>4 == 6 {
		lowest = packet.MinMTU6
	}
	if mtu := int(to.mtu.Load()); mtu != 0 {
		return max(mtu, lowest)
	}
	mtu, err := wire.PathMTU(to.addr)
	if err != nil {
		return lowest
	}
	return max(mtu-to.header, lowest)
}
