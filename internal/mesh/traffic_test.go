package mesh_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/mesh"
)

func TestTrafficAdd(t *testing.T) {
	early, late := time.Unix(100, 0), time.Unix(200, 0)
	for _, test := range []struct {
		name       string
		a, b, want mesh.Traffic
	}{
		{"nothing", mesh.Traffic{}, mesh.Traffic{}, mesh.Traffic{}},
		{"all counters",
			mesh.Traffic{RxPackets: 1, RxBytes: 2, TxPackets: 3, TxBytes: 4, LastSeen: early},
			mesh.Traffic{RxPackets: 10, RxBytes: 20, TxPackets: 30, TxBytes: 40, LastSeen: late},
			mesh.Traffic{RxPackets: 11, RxBytes: 22, TxPackets: 33, TxBytes: 44, LastSeen: late}},
		{"each reason by itself",
			mesh.Traffic{Drops: [mesh.NumDrops]uint64{mesh.NoRoute: 1, mesh.Malformed: 2}},
			mesh.Traffic{Drops: [mesh.NumDrops]uint64{mesh.NoRoute: 10, mesh.TooBig: 5}},
			mesh.Traffic{Drops: [mesh.NumDrops]uint64{mesh.NoRoute: 11, mesh.TooBig: 5, mesh.Malformed: 2}}},
		{"the later time stays", mesh.Traffic{LastSeen: late}, mesh.Traffic{LastSeen: early},
			mesh.Traffic{LastSeen: late}},
		{"bytes of messages", mesh.Traffic{Messages: mesh.Messages{Rx: 1, Tx: 2}},
			mesh.Traffic{Messages: mesh.Messages{Rx: 10, Tx: 20, Known: true}},
			mesh.Traffic{Messages: mesh.Messages{Rx: 11, Tx: 22, Known: true}}},
		{"never seen", mesh.Traffic{LastSeen: early}, mesh.Traffic{}, mesh.Traffic{LastSeen: early}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.a
			if got.Add(test.b); got != test.want {
				t.Errorf("%+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestDropped(t *testing.T) {
	var all mesh.Traffic
	for i := range all.Drops {
		all.Drops[i] = 1 << i
	}
	if got := all.Dropped(); got != 1<<mesh.NumDrops-1 {
		t.Errorf("%b: a reason is missing", got)
	}
}

func TestCallsAdd(t *testing.T) {
	c := mesh.Calls{Calls: 1, Packets: 2}
	if c.Add(mesh.Calls{Calls: 10, Packets: 20}); c != (mesh.Calls{Calls: 11, Packets: 22}) {
		t.Errorf("%+v", c)
	}
}

// Names are labels of metrics: each is there, once.
func TestNames(t *testing.T) {
	for _, test := range []struct {
		name  string
		names []string
		count int
	}{
		{"drop reasons", names(mesh.Reasons()), int(mesh.NumDrops)},
		{"calls", names(mesh.CallKinds()), mesh.NumCallKinds},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := map[string]bool{"": true}
			for _, n := range test.names {
				if seen[n] {
					t.Errorf("%q is empty, or there twice", n)
				}
				seen[n] = true
			}
			if len(test.names) != test.count {
				t.Errorf("%d of %d: %q", len(test.names), test.count, test.names)
			}
		})
	}
}

func names[T interface{ String() string }](all []T) (names []string) {
	for _, one := range all {
		names = append(names, one.String())
	}
	return names
}

func TestGrowing(t *testing.T) {
	failed := errors.New("failed")
	type reading struct {
		n    uint64
		err  error
		want uint64
	}
	for _, test := range []struct {
		name     string
		from     uint64
		readings []reading
	}{
		{"it grows", 0, []reading{{5, nil, 5}, {5, nil, 5}, {9, nil, 9}}},
		{"what was there before is not ours", 100, []reading{{100, nil, 0}, {103, nil, 3}}},
		{"it begins anew", 0, []reading{{10, nil, 10}, {4, nil, 14}, {6, nil, 16}}},
		{"it begins anew at once", 100, []reading{{7, nil, 7}}},
		{"a failed reading adds nothing", 0, []reading{{5, nil, 5}, {0, failed, 5}, {7, nil, 7}}},
		{"no reading ever", 0, []reading{{9, failed, 0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var g mesh.Growing
			if test.from > 0 {
				g.From(test.from)
			}
			for i, r := range test.readings {
				if got := g.Read(r.n, r.err); got != r.want {
					t.Errorf("reading %d: %d, want %d", i, got, r.want)
				}
			}
		})
	}
}

// Whoever reads at the same time sees no sum fall.
func TestGrowingOfMany(t *testing.T) {
	var g mesh.Growing
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for before, n := uint64(0), uint64(0); n < 1000; n++ {
				now := g.Read(n, nil)
				if now < before {
					t.Errorf("from %d to %d", before, now)
				}
				before = now
			}
		})
	}
	readers.Wait()
}
