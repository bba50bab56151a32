package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/budget"
)

// wild returns a value of any type, made of a few bytes of chance: zero half of the time, so that
// fields come and go.
func wild(r *rand.Rand, v reflect.Value) {
	if r.IntN(2) == 0 {
		v.SetZero()
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString([]string{"a", "b", "\x1b[31mred\u202e", "two\nlines"}[r.IntN(4)])
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(r.IntN(3)))
	case reflect.Uint64, reflect.Uint8, reflect.Uint32, reflect.Uint16, reflect.Uint:
		v.SetUint(uint64(r.IntN(3)))
	case reflect.Float64:
		v.SetFloat(float64(r.IntN(3)) / 4)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		wild(r, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 3))
		for i := range v.Len() {
			wild(r, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			wild(r, key)
			wild(r, value)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		if at, ok := v.Addr().Interface().(*time.Time); ok {
			*at = time.Unix(int64(r.IntN(3)), 0).UTC()
			return
		}
		for i := range v.NumField() {
			wild(r, v.Field(i))
		}
	}
}

// next returns a status some fields and peers of which differ from those of another.
func next(r *rand.Rand, was Status) Status {
	now := was
	now.Schema, now.Peers = Schema, []Peer{}
	fields := reflect.ValueOf(&now).Elem()
	for i := range fields.NumField() {
		if statusFields[i] != peersField && statusFields[i] != "schema" && r.IntN(4) == 0 {
			wild(r, fields.Field(i))
		}
	}
	names := map[string]bool{}
	for _, p := range was.Peers {
		names[p.Name] = true
		switch r.IntN(4) {
		case 0: // it is gone
			continue
		case 1:
			one := reflect.ValueOf(&p).Elem()
			for i, field := range peerFields {
				if field != "name" && r.IntN(3) == 0 {
					wild(r, one.Field(i))
				}
			}
		}
		now.Peers = append(now.Peers, p)
	}
	for range r.IntN(4) {
		var p Peer
		wild(r, reflect.ValueOf(&p).Elem())
		if p.Name = fmt.Sprint("peer-", r.IntN(20)); !names[p.Name] {
			names[p.Name] = true
			now.Peers = append(now.Peers, p)
		}
	}
	slices.SortFunc(now.Peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	return now
}

// sent returns a value as a client gets it.
func sent[T any](t *testing.T, value T) (got T) {
	t.Helper()
	line, err := marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// walk goes some steps from one status to the next, and holds what follows from changes to a
// snapshot at each. What was handed out before must stay as it was.
func walk(t *testing.T, seed uint64, steps int, tidy bool, figured []figure) {
	r := rand.New(rand.NewPCG(seed, 1))
	f, plain := Follower{Tidy: tidy}, Follower{Tidy: tidy}
	was := next(r, Status{})
	if _, err := f.Follow(sent(t, Watched{Type: "snapshot", Seq: 7, Status: &was})); err != nil {
		t.Fatal(err)
	}
	var kept *Status
	var keptAs []byte
	for seq := uint64(8); seq < uint64(8+steps); seq++ {
		now := next(r, was)
		c, err := differences(&was, &now, seq-1, figured)
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Follow(sent(t, Watched{Type: "changes", Seq: seq, Changes: c}))
		if err != nil {
			t.Fatal(err)
		}
		want, err := plain.Follow(sent(t, Watched{Type: "snapshot", Seq: seq, Status: &now}))
		if err != nil {
			t.Fatal(err)
		}
		a, b := encoded(t, got), encoded(t, want)
		if !bytes.Equal(a, b) {
			t.Fatalf("step %d of seed %d:\n%s\nwant\n%s", seq, seed, a, b)
		}
		if kept != nil && !bytes.Equal(encoded(t, kept), keptAs) {
			t.Fatalf("step %d of seed %d changed what was read before", seq, seed)
		}
		was, kept, keptAs = now, got.Status, encoded(t, got.Status)
	}
}

func encoded(t *testing.T, value any) []byte {
	t.Helper()
	doc, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestChangesAreSnapshots(t *testing.T) {
	for seed := range uint64(200) {
		for _, tidy := range []bool{false, true} {
			walk(t, seed, 10, tidy, nil)
			walk(t, seed, 10, tidy, figures)
		}
	}
}

func FuzzChanges(f *testing.F) {
	f.Add(uint64(1), uint8(10), true)
	f.Fuzz(func(t *testing.T, seed uint64, steps uint8, tidy bool) {
		defer budget.Of(t)()
		walk(t, seed, int(steps%50), tidy, nil)
		walk(t, seed, int(steps%50), tidy, figures)
	})
}

// Whatever a daemon sends, a Follower answers, and does not panic.
func FuzzFollow(f *testing.F) {
	for _, changes := range []string{
		`{"since":1,"status":{"now":"x"}}`,
		`{"since":1,"status":{"pid":2},"peers":{"a":{"loss":null}},"gone":["b"]}`,
		`{"since":1,"peers":{"a":null}}`, `{"since":2}`, `{"since":1,"status":{"peers":[]}}`,
		`{"since":1,"figures":{"probes_sent":[1,-2],"rx_bytes":[0,1]}}`,
	} {
		f.Add(`{"type":"snapshot","seq":1,"status":{"schema":1,"peers":[{"name":"a"},{"name":"b"}]}}`,
			`{"type":"changes","seq":2,"changes":`+changes+`}`)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		defer budget.Of(t)()
		follower := Follower{Tidy: true}
		for _, doc := range []string{first, second, second} {
			var w Watched
			if json.Unmarshal([]byte(doc), &w) != nil {
				return
			}
			if got, err := follower.Follow(w); err == nil && got.Changes != nil {
				t.Errorf("%s stays one of changes", doc)
			}
		}
	})
}

func TestFollowLosesItsPlace(t *testing.T) {
	snapshot := func(seq uint64) Watched {
		return Watched{Type: "snapshot", Seq: seq, Status: &Status{Schema: Schema}}
	}
	changes := func(seq, since uint64) Watched {
		return Watched{Type: "changes", Seq: seq, Changes: &Changes{Since: since}}
	}
	for _, test := range []struct {
		name  string
		lines []Watched
		lost  bool // at the last line
	}{
		{"in order", []Watched{snapshot(2), changes(3, 2), changes(4, 3)}, false},
		{"snapshots left out", []Watched{snapshot(2), changes(9, 2), changes(11, 9)}, false},
		{"events between", []Watched{snapshot(2), {Type: "event", Seq: 3, Event: &Event{}}, changes(4, 2)}, false},
		{"a new snapshot", []Watched{snapshot(2), snapshot(5), changes(6, 5)}, false},
		{"no snapshot", []Watched{changes(2, 0)}, true},
		{"a line is missing", []Watched{snapshot(2), changes(4, 3)}, true},
		{"a line comes twice", []Watched{snapshot(2), changes(3, 2), changes(3, 2)}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var f Follower
			for i, w := range test.lines {
				_, err := f.Follow(w)
				if lost := errors.Is(err, ErrPlace); lost != (test.lost && i == len(test.lines)-1) {
					t.Errorf("line %d: %v", i, err)
				}
			}
		})
	}
}

// A client that follows changes sees whole snapshots, and what is sent is small.
func TestWatchChanges(t *testing.T) {
	const quiet = 1000
	n := 0
	status := func() Status {
		n++
		s := Status{Schema: Schema, Node: "a", UptimeSeconds: float64(n), Peers: []Peer{}}
		for i := range quiet {
			s.Peers = append(s.Peers, Peer{Name: fmt.Sprintf("peer-%04d", i), State: Up,
				Subnets: []string{"10.0.0.0/24"}})
		}
		s.Peers[7].RxPackets = new(uint64(n))
		return s
	}
	socket := serve(t, Source{Events: NewEvents(), Status: status})
	enough := errors.New("enough")
	snapshots := 0
	err := NewClient(socket).Watch(t.Context(), 100*time.Millisecond, false, func(w Watched) error {
		if w.Type == "hello" {
			return nil
		}
		if w.Type != "snapshot" || len(w.Status.Peers) != quiet || w.Status.Peers[8].State != Up ||
			float64(*w.Status.Peers[7].RxPackets) != w.Status.UptimeSeconds || w.Status.Node != "a" {
			t.Errorf("%+.300v", w)
		}
		if snapshots++; snapshots == 4 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	_, reader := raw(t, socket, "GET /v1/watch?changes=1&interval=100ms HTTP/1.0\r\n\r\n")
	var types []string
	for len(types) < 4 {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		var w Watched
		if json.Unmarshal(line, &w) != nil || w.Type == "" { // headers of HTTP
			continue
		}
		if w.Type == "changes" && len(w.Changes.Peers)+len(w.Changes.Status) == 0 {
			continue // a busy machine may come to two steps with one status
		}
		types = append(types, w.Type)
		if w.Type == "changes" && (len(line) > 300 || len(w.Changes.Peers) != 1 || len(w.Changes.Status) != 1) {
			t.Errorf("%d bytes: %s", len(line), line)
		}
	}
	if want := []string{"hello", "snapshot", "changes", "changes"}; !slices.Equal(types, want) {
		t.Errorf("%q, want %q", types, want)
	}
}

func BenchmarkDifferences10000(b *testing.B) {
	since, loss := time.Now(), 0.5
	make := func(now float64) *Status {
		s := &Status{Schema: Schema, UptimeSeconds: now}
		for i := range 10000 {
			s.Peers = append(s.Peers, Peer{Name: fmt.Sprintf("peer-%04d", i), State: Up, Since: &since, Loss: &loss,
				Subnets: []string{"10.0.0.0/24"}, Drops: map[string]uint64{}})
		}
		return s
	}
	x, y := make(1), make(2)
	for b.Loop() {
		if _, err := differences(x, y, 1, figures); err != nil {
			b.Fatal(err)
		}
	}
}
