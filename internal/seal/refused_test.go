package seal

import (
	"testing"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
)

// Drops before the start do not count, and those of an interface that was made anew all do.
func TestRefused(t *testing.T) {
	for name, test := range map[string]struct {
		faces              []link.Face
		foreign, malformed uint64
	}{
		"nothing seen":  {nil, 0, 0},
		"before meshd":  {[]link.Face{{Index: 3, Foreign: 7, Malformed: 5}}, 0, 0},
		"they grow":     {[]link.Face{{Index: 3, Foreign: 7}, {Index: 3, Foreign: 9, Malformed: 1}}, 2, 1},
		"gone":          {[]link.Face{{Index: 3, Foreign: 7}, {Index: -1}}, 0, 0},
		"made anew":     {[]link.Face{{Index: 3, Foreign: 7}, {Index: 4, Foreign: 2, Malformed: 3}}, 2, 3},
		"gone and anew": {[]link.Face{{Index: 3, Foreign: 7}, {Index: -1}, {Index: 4, Foreign: 1}}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var r refused
			for _, f := range test.faces {
				r.note(f)
			}
			traffic := mesh.Traffic{}
			r.add(&traffic)
			if got := traffic.Drops; got[mesh.SpoofedSource] != test.foreign || got[mesh.Malformed] != test.malformed {
				t.Errorf("%d and %d, want %d and %d", got[mesh.SpoofedSource], got[mesh.Malformed], test.foreign,
					test.malformed)
			}
		})
	}
}
