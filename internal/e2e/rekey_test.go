//go:build modules

// For `make test-kernels`: the time that this takes cannot be shortened.

package e2e

import (
	"flag"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

var rekeyRate = flag.Int("rekey-rate", emulatedRate, "packets a second and way in TestRekeyLosesNothing")

// Sessions get new keys after two minutes, and old ones end after three (section 6.1 of the WireGuard paper):
// no packet of either direction is lost meanwhile.
func TestRekeyLosesNothing(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	const lasts = 190 * time.Second
	s := newSealed(t)
	s.binary = shipped
	d := s.runAll(s.file())[2]
	before, full := handshake(t, d), s.overflowsOf("meshd-wg")
	streams := []*timed{
		startTimed(t, s.PodW2b, s.PodW, "10.244.2.3:7000", "10.244.1.2:7000", *rekeyRate),
		startTimed(t, s.PodW, s.PodW2a, "10.244.1.2:7001", "10.244.2.2:7001", *rekeyRate),
	}
	<-time.After(lasts) // traffic has to flow all the time, and there is no event at the end
	if after := handshake(t, d); after.Sub(before) < rekeyAfter {
		t.Errorf("the session of %v has got no new keys: the last handshake was at %v", before, after)
	}
	for i, stream := range streams {
		lost, gap, began := stream.finish()
		t.Logf("stream %d: %d packets, %d lost, the longest gap was %v", i, stream.flow.sent, lost, gap)
		if missed := s.overflowsOf("meshd-wg").since(full)[i]; lost > missed {
			t.Errorf("%d lost, and %d found a full queue; none arrived for %v from %v on", lost, missed, gap, began)
		}
	}
}
