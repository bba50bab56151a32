//go:build modules

// For `make bench-kernels`: only the kernel's WireGuard is worth a comparison, since packets pass meshd's
// rules and routes there, and nothing else of meshd's.

package e2e

import (
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// joinByHand joins worker2 and worker as wg(8) and ip(8) can: no guard, no rule, no meshd.
func (s *sealed) joinByHand() {
	s.t.Helper()
	ends := []*nstest.Host{s.Worker, s.Worker2} // of 10.244.1.0/24 and 10.244.2.0/24
	outer := []string{"172.18.0.4", "172.18.0.3"}
	for i, h := range ends {
		other, subnet := ends[1-i], fmt.Sprintf("10.244.%d.0/24", 2-i)
		s.ip(h, "link add meshd-wg type wireguard")
		for _, args := range [][]string{
			{"set", "meshd-wg", "listen-port", "51820", "private-key", filepath.Join(s.keys[h], "private.key")},
			{"set", "meshd-wg", "peer", s.public[other], "endpoint", outer[1-i] + ":51820", "allowed-ips", subnet},
		} {
			if out, err := h.WG(args...); err != nil {
				s.t.Fatalf("wg %s: %v: %s", args, err, out)
			}
		}
		s.ip(h, "link set meshd-wg mtu 1440 up")
		s.ip(h, "route add "+subnet+" dev meshd-wg")
	}
}

// stream sends by one TCP connection from a pod of worker2 to one of worker for a span, and returns bits/s.
func (s *sealed) stream(span time.Duration) float64 {
	s.t.Helper()
	stream, err := dialStream(s.PodW2b, s.PodW, "10.244.1.2:9000")
	if err != nil {
		s.t.Fatal(err)
	}
	defer stream.Close()
	end := time.Now().Add(span)
	if err := stream.deadline(span); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		for block := make([]byte, 256<<10); ; {
			if _, err := stream.Conn.Write(block); err != nil {
				return
			}
		}
	}()
	n, _ := io.Copy(io.Discard, stream.server) // up to the deadline
	return float64(n) * 8 / (span + time.Since(end)).Seconds()
}

// rtt returns the median of some pings between these pods, in milliseconds.
func (s *sealed) rtt() float64 {
	s.t.Helper()
	var all []float64
	out := run(s.t, s.PodW2b, "ping", "-c", "100", "-i", "0.01", "10.244.1.2")
	for _, line := range strings.Split(out, "\n") {
		if _, text, ok := strings.Cut(line, "time="); ok {
			ms, err := strconv.ParseFloat(strings.TrimSuffix(text, " ms"), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			all = append(all, ms)
		}
	}
	return middle(all)
}

func middle[T cmp.Ordered](all []T) (m T) {
	slices.Sort(all)
	if len(all) > 0 {
		m = all[len(all)/2]
	}
	return m
}

// What meshd's rules and routes cost beside the same interface made by hand: both are measured in turn, so
// that a machine that slows down slows both.
func BenchmarkBesideByHand(b *testing.B) {
	const rounds = 9
	if !byKernel {
		b.Fatal("MESH_WIREGUARD=kernel is not set: the process in user space has no equal by hand here")
	}
	sealed, hand := newSealed(b), newSealed(b)
	sealed.binary = shipped
	sealed.runAll(sealed.file())
	hand.joinByHand()
	var speed, delay []float64
	for b.Loop() {
		for round := range rounds {
			one, other := sealed.stream(2*time.Second), hand.stream(2*time.Second)
			ping, byHand := sealed.rtt(), hand.rtt()
			speed, delay = append(speed, one/other), append(delay, ping/byHand)
			b.Logf("round %d: %.1f and by hand %.1f Mbit/s, RTT %.3f and %.3f ms", round+1, one/1e6, other/1e6, ping,
				byHand)
		}
	}
	b.ReportMetric(middle(speed), "x-speed")
	b.ReportMetric(middle(delay), "x-rtt")
}
