package auto

import (
	"testing"

	"example.org/meshd/internal/dataplane"
)

// Packets leave without a checksum while programs forward; the DSCP values are those of both engines.
func TestLeaving(t *testing.T) {
	for _, test := range []struct {
		name string
		use  dataplane.Use
		want bool
	}{{"programs", dataplane.Always, true}, {"no programs", dataplane.Never, false}} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.apply(wanting(test.use, ""))
			if got, want := r.Leaving(), (dataplane.Leaving{NoChecksum: test.want, DSCP: 5 | 2}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}
