//go:build modules

// For `make test-kernels`: the time that this takes cannot be shortened.

package e2e

import (
	"flag"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

var rekeyRate = flag.Int("rekey-rate", 500, "packets a second in TestRekeyLosesNothing, each way")

// Sessions get new keys after two minutes (REKEY_AFTER_TIME, section 6.1 of the WireGuard paper), and old ones
// end after three: no packet of either direction is lost meanwhile.
func TestRekeyLosesNothing(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	const lasts = 190 * time.Second
	s := newSealed(t)
	s.binary = shipped
	d := s.runAll(s.file())[2]
	handshake := func() time.Time {
		w := peer(t, status(t, d), "worker").WireGuard
		if w == nil || w.LatestHandshake == nil {
			t.Fatalf("no session: %+v", w)
		}
		return *w.LatestHandshake
	}
	before, full := handshake(), s.overflowsOf("meshd-wg")
	streams := []*timed{
		startTimed(t, s.PodW2b, s.PodW, "10.244.2.3:7000", "10.244.1.2:7000", *rekeyRate),
		startTimed(t, s.PodW, s.PodW2a, "10.244.1.2:7001", "10.244.2.2:7001", *rekeyRate),
	}
	<-time.After(lasts) // traffic has to flow all the time, and there is no event at the end
	if after := handshake(); after.Sub(before) < 100*time.Second {
		t.Errorf("the session of %v has got no new keys by %v", before, time.Now())
	}
	for i, stream := range streams {
		lost, gap, began := stream.finish()
		t.Logf("stream %d: %d packets, %d lost, the longest gap was %v", i, stream.flow.sent, lost, gap)
		if missed := s.overflowsOf("meshd-wg").since(full)[i]; lost > missed {
			t.Errorf("%d lost, and %d found a full queue; none arrived for %v from %v on", lost, missed, gap, began)
		}
	}
}
