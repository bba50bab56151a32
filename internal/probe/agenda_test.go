package probe

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// An agenda gives out what a sorted list would, whatever comes and goes between.
func TestAgenda(t *testing.T) {
	var a agenda
	var oracle []time.Time
	now := time.Unix(1e9, 0)
	for range 20000 {
		if rand.IntN(3) > 0 {
			at := now.Add(rand.N(time.Second)).Truncate(time.Millisecond) // some at the same time
			a.add(pending{over: at, to: &path{}})
			oracle = append(oracle, at)
			slices.SortFunc(oracle, time.Time.Compare)
		}
		if first, ok := a.first(); ok != (len(oracle) > 0) || ok && !first.Equal(oracle[0]) {
			t.Fatalf("first %v, %v, want the first of %v", first, ok, oracle)
		}
		now = now.Add(rand.N(2 * time.Millisecond))
		for {
			one, ok := a.next(now)
			if due := len(oracle) > 0 && !oracle[0].After(now); ok != due || ok && !one.over.Equal(oracle[0]) {
				t.Fatalf("at %v: %v, %v, want the first of %v", now, one.over, ok, oracle)
			}
			if !ok {
				break
			}
			if one.to == nil {
				t.Fatal("the path is lost")
			}
			oracle = oracle[1:]
		}
		holds := func(p pending) bool { return p.to != nil }
		if len(a) != len(oracle) || slices.ContainsFunc(a[len(a):cap(a)], holds) {
			t.Fatalf("%d are left, want %d; or paths of others are held", len(a), len(oracle))
		}
	}
}
