package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/budget"
)

// busyAt returns a status of peers all of whose figures have grown n times.
func busyAt(peers, n int) *Status {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC).Add(time.Duration(n) * 1_000_000_007)
	s := &Status{Schema: Schema, Node: "a", Now: at, Peers: []Peer{}}
	for i := range peers {
		count, ms := uint64(n*(i+1)), float64(353_123+n*i%977)/1e6
		s.Peers = append(s.Peers, Peer{Name: fmt.Sprintf("peer-%05d", i), State: Up, LastSeen: &at,
			RTTMS: &ms, RTTMinMS: &ms, RTTP95MS: &ms, RTTLastMS: &ms, JitterMS: &ms, ProbesTx: count, ProbesRx: count,
			RxPackets: &count, RxBytes: &count, TxPackets: &count, TxBytes: &count,
			Probes:    []ProbeForm{{Form: "data", Sent: count}, {Form: "large", Sent: count}},
			Addresses: []PeerAddress{{Address: "192.0.2.1:8285", State: Up, RTTMS: &ms, Active: true}},
			WireGuard: &PeerWireGuard{PublicKey: "k", RxBytes: count, TxBytes: count}, Drops: map[string]uint64{}})
	}
	return s
}

// What changes all the time is told in a few bytes of each peer, and of no peer by its name.
func TestFigures(t *testing.T) {
	const peers = 500
	was, now := busyAt(peers, 1), busyAt(peers, 2)
	now.Peers[7].State, now.Peers[8].RxBytes = Down, nil
	c, err := differences(was, now, 1, figures)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Peers) != 2 || len(c.Peers[now.Peers[7].Name]) != 1 || len(c.Peers[now.Peers[8].Name]) != 1 {
		t.Errorf("by their names: %s", encoded(t, c.Peers))
	}
	if line := encoded(t, c); len(line) > 150*peers {
		t.Errorf("%d bytes for %d peers", len(line), peers)
	}
	var missing []string
	for _, f := range figures {
		if _, told := c.Figures[f.name]; !told && !slices.Contains(
			[]string{"probes.2.sent", "probes.3.sent", "addresses.1.rtt_ms"}, f.name) { // which no peer has
			missing = append(missing, f.name)
		}
	}
	if len(missing) > 0 {
		t.Errorf("not told as figures: %q", missing)
	}
	var f Follower
	if _, err := f.Follow(sent(t, Watched{Type: "snapshot", Seq: 1, Status: was})); err != nil {
		t.Fatal(err)
	}
	got, err := f.Follow(sent(t, Watched{Type: "changes", Seq: 2, Changes: c}))
	if err != nil || !bytes.Equal(encoded(t, got.Status), encoded(t, now)) {
		t.Errorf("%v\n%.2000s\nwant\n%.2000s", err, encoded(t, got.Status), encoded(t, now))
	}
}

// Figures have no names of peers with them. Where the order is not beyond doubt, there are none.
func TestFiguresNeedOrder(t *testing.T) {
	for name, mix := range map[string]func(peers []Peer){
		"another order": func(p []Peer) { p[0], p[1] = p[1], p[0] },
		"a name twice":  func(p []Peer) { p[1].Name = p[0].Name },
	} {
		t.Run(name, func(t *testing.T) {
			was, now := busyAt(3, 1), busyAt(3, 2)
			mix(was.Peers)
			mix(now.Peers)
			if c, err := differences(was, now, 1, figures); err != nil || len(c.Figures) != 0 || len(c.Peers) == 0 {
				t.Errorf("%v, %s", err, encoded(t, c))
			}
		})
	}
}

// Figures that do not fit what was read before are an error, and no guess.
func TestFiguresDoNotFit(t *testing.T) {
	for name, all := range map[string]map[string]Growth{
		"too few":        {"rx_bytes": {1}},
		"too many":       {"rx_bytes": {1, 2, 3}},
		"of a null":      {"jitter_ms": {0, 1}},
		"of no address":  {"addresses.0.rtt_ms": {1, 0}},
		"of no form":     {"probes.3.sent": {1, 0}},
		"of no session":  {"wireguard.rx_bytes": {1, 0}},
		"of a time null": {"last_seen": {1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			var f Follower
			s := &Status{Schema: Schema, Peers: []Peer{{Name: "a", RxBytes: new(uint64(1))}, {Name: "b"}}}
			if _, err := f.Follow(Watched{Type: "snapshot", Seq: 1, Status: s}); err != nil {
				t.Fatal(err)
			}
			_, err := f.Follow(Watched{Type: "changes", Seq: 2, Changes: &Changes{Since: 1, Figures: all}})
			if !errors.Is(err, ErrPlace) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A reader gets the figures that it asked for: one that knows fewer than the daemon has the others in
// Peers.
func TestFiguresAreAskedFor(t *testing.T) {
	n := 0
	socket := serve(t, Source{Events: NewEvents(), Status: func() Status { n++; return *busyAt(20, n) }})
	for query, want := range map[string]bool{"changes=1": false,
		"changes=1&figures=rx_bytes,of_tomorrow": true} {
		t.Run(query, func(t *testing.T) {
			_, reader := raw(t, socket, "GET /v1/watch?interval=100ms&"+query+" HTTP/1.0\r\n\r\n")
			for {
				line, err := reader.ReadBytes('\n')
				if err != nil {
					t.Fatal(err)
				}
				var w Watched
				if json.Unmarshal(line, &w) != nil || w.Changes == nil {
					continue
				}
				if got := len(w.Changes.Figures["rx_bytes"]) > 0; got != want || len(w.Changes.Figures) > 1 ||
					len(w.Changes.Peers) == 0 {
					t.Errorf("%.300s", line)
				}
				return
			}
		})
	}
}

// Growth reads what encoding/json reads of lists of whole numbers, and nothing else.
func FuzzGrowth(f *testing.F) {
	for _, doc := range []string{"[]", "[ ]", "[1,-2, 3 ]", "[1,]", "[1.5]", "[1e3]", "[null]", `["1"]`, "[[1]]",
		"{}", "null", "[9223372036854775807,-9223372036854775808]", "[9223372036854775808]", "[-]", "[- 1]", "[-0]",
		"[1 2]"} {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		defer budget.Of(t)()
		var want []int64
		wrong := json.Unmarshal([]byte(doc), &want)
		var got Growth
		err := json.Unmarshal([]byte(doc), &got)
		if strings.TrimSpace(doc) == "null" || strings.Contains(doc, "null") {
			return // encoding/json takes it for a zero; no daemon sends it
		}
		switch {
		case wrong == nil && (err != nil || len(want)+len(got) > 0 && !reflect.DeepEqual([]int64(got), want)):
			t.Errorf("%q: %v, %v; want %v", doc, got, err, want)
		case wrong != nil && err == nil:
			t.Errorf("%q: %v, though %v", doc, got, wrong)
		}
		if again, _ := json.Marshal(got); err == nil && len(got) > 0 && !bytes.Equal(again, encoded(t, want)) {
			t.Errorf("%q became %s", doc, again)
		}
	})
}

// A second of a mesh of which all is busy: what the daemon has to tell of it, and what a reader has to read.
func BenchmarkFigures10000(b *testing.B) {
	was, now := busyAt(10000, 1), busyAt(10000, 2)
	b.Run("tell", func(b *testing.B) {
		for b.Loop() {
			c, err := differences(was, now, 1, figures)
			if err == nil {
				_, err = marshal(Watched{Type: "changes", Seq: 2, Changes: c})
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		var f Follower
		first, err := f.Follow(Watched{Type: "snapshot", Seq: 1, Status: was})
		c, differ := differences(first.Status, now, 0, figures)
		if err = errors.Join(err, differ); err != nil {
			b.Fatal(err)
		}
		for seq := uint64(1); b.Loop(); seq++ {
			b.StopTimer()
			c.Since = seq
			line, err := marshal(Watched{Type: "changes", Seq: seq + 1, Changes: c})
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			var w Watched
			if err = json.Unmarshal(line, &w); err == nil {
				_, err = f.Follow(w)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
