//go:build modules

// For `make test-kernels`, where a wait of minutes takes a moment: elsewhere it cannot be shortened.

package e2e

import (
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// Sessions get new keys after two minutes, and old ones end after three (section 6.1 of the WireGuard paper):
// no packet of either direction is lost meanwhile.
func TestRekeyLosesNothing(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	const lasts, rate = 190 * time.Second, 500
	s := newSealed(t)
	s.binary = shipped
	d := s.runAll(s.file())[2]
	before := lasting(t, d)
	streams := []*timed{
		startTimed(t, s.PodW2b, s.PodW, "10.244.2.3:7000", "10.244.1.2:7000", rate),
		startTimed(t, s.PodW, s.PodW2a, "10.244.1.2:7001", "10.244.2.2:7001", rate),
	}
	<-time.After(lasts) // traffic has to flow all the time, and there is no event at the end
	if after := handshake(t, d); after.Sub(before) < rekeyAfter {
		t.Errorf("the session of %v has got no new keys: the last handshake was at %v", before, after)
	}
	for i, stream := range streams {
		lost, gap, began := stream.finish()
		t.Logf("stream %d: %d packets, %d lost, the longest gap was %v", i, stream.flow.sent, lost, gap)
		if lost > 0 {
			t.Errorf("%d lost; none arrived for %v from %v on", lost, gap, began)
		}
	}
}
