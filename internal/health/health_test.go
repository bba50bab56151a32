package health_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/health"
	"example.org/meshd/internal/mesh"
)

var (
	noted  = mesh.Condition{Kind: mesh.Unpinned, Severity: mesh.Info}
	slow   = mesh.Condition{Kind: mesh.OffloadRefused, Severity: mesh.Degraded, Subject: "udp_gso"}
	slower = mesh.Condition{Kind: mesh.OffloadRefused, Severity: mesh.Degraded, Subject: "tun_gro"}
	broken = mesh.Condition{Kind: mesh.RulesFailed, Severity: mesh.Failed, Cause: "no memory"}
)

func at(seconds int64) time.Time { return time.Unix(seconds, 0) }

// The worst problem decides, and stands first; equal ones stay in the order given.
func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		name  string
		given []mesh.Condition
		level string
		order []mesh.Condition
	}{
		{"nothing is wrong", nil, "ok", nil},
		{"worth knowing", []mesh.Condition{noted}, "ok", []mesh.Condition{noted}},
		{"slow", []mesh.Condition{noted, slow}, "degraded", []mesh.Condition{slow, noted}},
		{"two are slow", []mesh.Condition{slower, slow}, "degraded", []mesh.Condition{slower, slow}},
		{"the other way round", []mesh.Condition{slow, slower}, "degraded", []mesh.Condition{slow, slower}},
		{"broken", []mesh.Condition{noted, slow, broken, slower}, "failed",
			[]mesh.Condition{broken, slow, slower, noted}},
	} {
		t.Run(test.name, func(t *testing.T) {
			given := slices.Clone(test.given)
			var j health.Judge
			v := j.Verdict(test.given, at(1))
			var order []mesh.Condition
			for _, p := range v.Problems {
				order = append(order, p.Condition)
				if !p.Since.Equal(at(1)) {
					t.Errorf("%+v began at another time", p)
				}
			}
			if v.Level() != test.level || !slices.Equal(order, test.order) {
				t.Errorf("%s, %+v", v.Level(), order)
			}
			if v.Problems == nil {
				t.Error("JSON has a list, never null")
			}
			if !slices.Equal(test.given, given) {
				t.Error("the conditions were put into another order")
			}
		})
	}
}

func TestZeroVerdict(t *testing.T) {
	if got := (health.Verdict{}).Level(); got != "ok" {
		t.Errorf("%q", got)
	}
}

// A condition has a beginning. It goes on while each call names it, whatever its cause is by then,
// and begins anew after a call that does not.
func TestSince(t *testing.T) {
	otherCause, otherPeer := broken, slow
	otherCause.Cause, otherCause.Severity, otherCause.Remedy = "no permission", mesh.Degraded, "ask root"
	otherPeer.Peer = "b"
	type call struct {
		given []mesh.Condition
		since []int64 // of each, in the order of the verdict
	}
	for _, test := range []struct {
		name  string
		calls []call // one a second, from 1
	}{
		{"it goes on", []call{{[]mesh.Condition{slow}, []int64{1}}, {[]mesh.Condition{slow}, []int64{1}},
			{[]mesh.Condition{slow}, []int64{1}}}},
		{"another cause is the same condition", []call{{[]mesh.Condition{broken}, []int64{1}},
			{[]mesh.Condition{otherCause}, []int64{1}}}},
		{"it ends and begins anew", []call{{[]mesh.Condition{slow}, []int64{1}}, {nil, nil},
			{[]mesh.Condition{slow}, []int64{3}}, {[]mesh.Condition{slow}, []int64{3}}}},
		{"another subject is another one", []call{{[]mesh.Condition{slow}, []int64{1}},
			{[]mesh.Condition{slow, slower}, []int64{1, 2}}, {[]mesh.Condition{slower}, []int64{2}}}},
		{"so is another peer", []call{{[]mesh.Condition{slow}, []int64{1}},
			{[]mesh.Condition{slow, otherPeer}, []int64{1, 2}}}},
		{"a worse one comes first, and is younger", []call{{[]mesh.Condition{slow}, []int64{1}},
			{[]mesh.Condition{slow, broken}, []int64{2, 1}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var j health.Judge
			for i, c := range test.calls {
				v := j.Verdict(c.given, at(int64(i+1)))
				var since []int64
				for _, p := range v.Problems {
					since = append(since, p.Since.Unix())
				}
				if !slices.Equal(since, c.since) {
					t.Errorf("call %d: since %v, want %v", i+1, since, c.since)
				}
			}
		})
	}
}

// Several may ask at once, as `meshd status` and a scraper do.
func TestJudgeOfMany(t *testing.T) {
	var j health.Judge
	j.Verdict([]mesh.Condition{slow}, at(1))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for n := range int64(200) {
				v := j.Verdict([]mesh.Condition{slow, broken}, at(2+n))
				if len(v.Problems) != 2 || !v.Problems[1].Since.Equal(at(1)) {
					t.Errorf("%+v", v)
				}
			}
		})
	}
	all.Wait()
}
