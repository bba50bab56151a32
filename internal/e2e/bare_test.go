package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// A bareWatch looks at all uplinks for what must not be there: inner packets between pods, in whatever they
// are wrapped, packets to the pod network, and datagrams of the bare wire.
type bareWatch struct {
	mu    sync.Mutex
	found []string
	stop  chan struct{}
	done  sync.WaitGroup
}

// watchBare begins to look.
func (s *sealed) watchBare(pods ...string) *bareWatch {
	s.t.Helper()
	b := &bareWatch{stop: make(chan struct{})}
	var marks [][]byte
	for _, from := range pods {
		for _, to := range pods {
			if from != to {
				marks = append(marks, append(netip.MustParseAddr(from).AsSlice(), netip.MustParseAddr(to).AsSlice()...))
			}
		}
	}
	inside := netip.MustParsePrefix("10.244.0.0/16")
	for _, h := range s.Hosts() {
		c := capture(s.t, h.Namespace, "eth0")
		b.done.Go(func() {
			for {
				frame, err := c.Next(100*time.Millisecond, func(f []byte) bool { return bare(f, inside, marks) })
				select {
				case <-b.stop:
					return
				default:
				}
				if err == nil {
					b.mu.Lock()
					b.found = append(b.found, fmt.Sprintf("on %s: %x", h.Name, frame[:min(len(frame), 80)]))
					b.mu.Unlock()
				} else if !errors.Is(err, nstest.ErrNoFrame) {
					return
				}
			}
		})
	}
	return b
}

// bare tells whether a frame is one of those.
func bare(f []byte, inside netip.Prefix, marks [][]byte) bool {
	const ethernet, ip, udp = 14, 20, 17
	if slices.ContainsFunc(marks, func(m []byte) bool { return bytes.Contains(f, m) }) {
		return true
	}
	if len(f) < ethernet+ip+8 || binary.BigEndian.Uint16(f[12:]) != 0x0800 {
		return false
	}
	if to := netip.AddrFrom4([4]byte(f[ethernet+16:])); inside.Contains(to) {
		return true
	}
	header := int(f[ethernet]&15) * 4
	return f[ethernet+9] == udp && len(f) >= ethernet+header+4 &&
		binary.BigEndian.Uint16(f[ethernet+header+2:]) == 8285
}

// end ends the watch, and fails the test if something was seen.
func (b *bareWatch) end(t *testing.T) {
	t.Helper()
	close(b.stop)
	b.done.Wait()
	if len(b.found) > 0 {
		t.Errorf("%d packets left bare, the first %s", len(b.found), b.found[0])
	}
}
