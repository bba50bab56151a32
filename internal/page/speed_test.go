package page

import (
	"path/filepath"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
)

func TestSpeed(t *testing.T) {
	out := control.SpeedWay{BPS: 941e6, Segments: 81234, Retransmitted: 1412, RTTMS: new(0.84), Sent: 4310,
		Received: 4310}
	in := control.SpeedWay{BPS: 87.5e6, Segments: 900, Sent: 4310, Received: 4200, Lost: 110, Loss: 110. / 4310}
	for name, test := range map[string]struct {
		s control.Speed
		o Options
	}{
		"speed":         {control.Speed{Peer: "worker-2", LimitBPS: 1e10, Out: out, In: in}, Options{}},
		"speed-limited": {control.Speed{Peer: "worker-2", LimitBPS: 1e9, Out: out, In: in}, Options{Width: 60}},
		"speed-colour":  {control.Speed{Peer: "w\x1b[1m", LimitBPS: 1e10}, Options{Width: 80, Colour: true}},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := Speed(&b, test.s, test.o); err != nil {
				t.Fatal(err)
			}
			compare(t, filepath.Join("testdata", name+".txt"), b.String())
		})
	}
	var b strings.Builder
	if err := SpeedProgress(&b, "w\n", control.SpeedProgress{Way: control.SpeedIn, BPS: 2e6}); err != nil ||
		!strings.HasPrefix(b.String(), "from ") || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("%q, %v", b.String(), err)
	}
}
