package rate

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/mesh"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func TestGathering(t *testing.T) {
	type step struct {
		at   time.Duration
		add  string // "kind:news kind:news"
		want []Group[string]
		wait time.Duration // until something is due, of an hour at most
	}
	group := func(kind string, news ...string) Group[string] { return Group[string]{kind, news} }
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"nothing", []step{{0, "", nil, time.Hour}}},
		{"the first at once", []step{{0, "down:a", []Group[string]{group("down", "a")}, time.Hour}}},
		{"many at once", []step{{0, "down:a up:b down:c",
			[]Group[string]{group("down", "a", "c"), group("up", "b")}, time.Hour}}},
		{"what follows is held, and told together", []step{
			{0, "down:a", []Group[string]{group("down", "a")}, time.Hour},
			{200 * time.Millisecond, "down:b", nil, 800 * time.Millisecond},
			{700 * time.Millisecond, "up:a down:c", nil, 300 * time.Millisecond},
			{time.Second, "", []Group[string]{group("down", "b", "c"), group("up", "a")}, time.Hour},
			{1500 * time.Millisecond, "down:d", nil, 500 * time.Millisecond},
		}},
		{"a quiet window ends it", []step{
			{0, "down:a", []Group[string]{group("down", "a")}, time.Hour},
			{time.Second, "down:b", []Group[string]{group("down", "b")}, time.Hour},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := Gathering[string]{Window: time.Second}
			for _, s := range test.steps {
				for _, word := range strings.Fields(s.add) {
					kind, news, _ := strings.Cut(word, ":")
					g.Add(kind, news)
				}
				now := noon.Add(s.at)
				if got := g.Due(now); !reflect.DeepEqual(got, s.want) {
					t.Errorf("after %v: %v, want %v", s.at, got, s.want)
				}
				if got := g.Wait(now, time.Hour); got != s.wait {
					t.Errorf("after %v: wait %v, want %v", s.at, got, s.wait)
				}
			}
		})
	}
}

func TestRepairs(t *testing.T) {
	for _, test := range []struct {
		name    string
		every   time.Duration
		repairs int
		lines   int // of the log
		summed  int // repairs that the lines tell of
		endless bool
	}{
		{"one", time.Second, 1, 1, 1, false},
		{"ten in a minute", time.Second, 10, 10, 10, false},
		{"eleven in a minute", time.Second, 11, 10, 10, true},
		{"one every ten seconds", 10 * time.Second, 100, 100, 100, false},
		{"50 a minute for 5 minutes", 1200 * time.Millisecond, 250, 14, 210, true},
		{"many in no time", 0, 1000, 10, 10, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := NewRepairs("rules")
			now, lines, summed := noon, 0, 0
			for i := range test.repairs {
				if i > 0 {
					now = now.Add(test.every)
				}
				if told := r.Add(now, "address 10.1.0.0", "ip"); told > 0 {
					lines, summed = lines+1, summed+told
				}
			}
			if lines != test.lines || summed != test.summed {
				t.Errorf("%d lines of %d repairs, want %d of %d", lines, summed, test.lines, test.summed)
			}
			if got := r.Conditions(now); mesh.Has(got, mesh.RepairsEndless) != test.endless || len(got) > 1 {
				t.Errorf("%+v", got)
			}
			if got := r.Conditions(now.Add(time.Minute)); got != nil {
				t.Errorf("a minute later: %+v", got)
			}
			if n := len(r.lines.last); n > kept {
				t.Errorf("%d are remembered", n)
			}
		})
	}
}

// The condition names what is known, and the program if it is.
func TestRepairsName(t *testing.T) {
	for _, test := range []struct{ name, what, by, cause, remedy string }{
		{"nothing", "", "", "11 times in the last minute",
			"find the program that changes it, and configure that program to leave it alone"},
		{"what", "* route x", "", "11 times in the last minute, last: * route x",
			"find the program that changes it, and configure that program to leave it alone"},
		{"who", "", "nft", "11 times in the last minute, by nft", "configure nft to leave it alone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := NewRepairs("rules")
			for range 11 {
				r.Add(noon, test.what, test.by)
			}
			want := []mesh.Condition{{Kind: mesh.RepairsEndless, Severity: mesh.Degraded, Subject: "rules",
				Cause: test.cause, Remedy: test.remedy}}
			if got := r.Conditions(noon); !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}
