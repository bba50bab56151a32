package seal

import (
	"fmt"
	"testing"
	"time"

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
				r.note(f, time.Now())
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

// Some packets with a foreign source at one moment are noise: a prefix that moves costs as many.
func TestLies(t *testing.T) {
	for _, test := range []struct {
		name string
		grew []uint64 // each second
		then int      // seconds later
		want uint64
	}{
		{"none", nil, 0, 0},
		{"at one moment", []uint64{1000, 0, 0}, 0, 0},
		{"at two", []uint64{1000, 0, 5}, 0, 0},
		{"few", []uint64{3, 3, 3}, 0, 0},
		{"again and again", []uint64{4, 0, 4, 0, 4}, 0, 12},
		{"half of them long ago", []uint64{9, 9, 9, 9}, 29, 0},
		{"all long ago", []uint64{4, 4, 4, 4}, 60, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r refused
			begin, face := time.Now(), link.Face{Index: 3, Foreign: 7}
			r.note(face, begin)
			last := begin
			for second, by := range test.grew {
				face.Foreign, last = face.Foreign+by, begin.Add(time.Duration(1+second)*time.Second)
				r.note(face, last)
			}
			r.note(face, last.Add(time.Duration(test.then)*time.Second))
			if got := r.lies(); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}

// Suspects are the standbys of shared prefixes, if there are some; else the files are.
func TestSuspect(t *testing.T) {
	share := func(prefix string, names ...string) mesh.Share {
		s := mesh.Share{Prefix: prefixes(prefix)[0]}
		for _, name := range names {
			s.Carriers = append(s.Carriers, mesh.Carrier{Peer: name})
		}
		return s
	}
	const a, b = "192.168.1.0/24", "192.168.2.0/24"
	moved := learned{carriers: map[mesh.Prefix]string{prefixes(a)[0]: "van"}}
	for _, test := range []struct {
		name   string
		shares []mesh.Share
		l      learned
		lies   uint64
		want   string // kind, peer, group, subject
	}{
		{"no packets", []mesh.Share{share(a, "hub", "van")}, learned{}, 0, "none"},
		{"nothing is shared", nil, learned{}, 10, "drops_growing||spoofed_source"},
		{"one standby", []mesh.Share{share(a, "hub", "van")}, learned{}, 10, "standby_sends|van||" + a},
		{"the other one carries it", []mesh.Share{share(a, "hub", "van")}, moved, 10, "standby_sends|hub||" + a},
		{"shared with this node", []mesh.Share{share(a, "self", "van"), share(b, "self", "van")}, moved, 10,
			"standby_sends|van||" + b},
		{"this node is the standby", []mesh.Share{share(a, "van", "self")}, moved, 10,
			"drops_growing||spoofed_source"},
		{"several", []mesh.Share{share(a, "hub", "van", "box"), share(b, "hub", "van")}, learned{}, 10,
			"standby_sends||one of the peers box, van|" + a + ", " + b},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, got := &Wanted{Self: mesh.Peer{Name: "self"}, Shares: test.shares}, "none"
			if c := w.suspect(test.l, test.lies); c != nil && c.Kind == mesh.StandbySends {
				got = fmt.Sprintf("%s|%s|%s|%s", c.Kind, c.Peer, c.Group, c.Subject)
			} else if c != nil {
				got = fmt.Sprintf("%s|%s|%s", c.Kind, c.Peer, c.Subject)
			}
			if got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}
