package control

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counting returns a shared value that counts its calls, each of which takes a second.
func counting() *shared[int] {
	n := 0 // calls never overlap, so nothing guards it: the race detector would tell
	return &shared[int]{call: func() int {
		n++
		time.Sleep(time.Second)
		return n
	}}
}

// All who ask while a call runs share the next one, and no two calls run at once.
func TestSharedIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := counting()
		var all sync.WaitGroup
		got := make([]int, 50)
		for i := range got {
			all.Go(func() {
				time.Sleep(time.Duration(min(i, 1)) * time.Millisecond) // the first one is first
				got[i], _ = s.since(t.Context(), time.Now())
			})
		}
		all.Wait()
		if got[0] != 1 {
			t.Errorf("the first got call %d", got[0])
		}
		for i, n := range got[1:] {
			if n != 2 {
				t.Errorf("asker %d got call %d, not the one that began after it asked", i+1, n)
			}
		}
	})
}

// An answer is never older than its question, and no newer than it has to be.
func TestSharedSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := counting()
		first, _ := s.since(t.Context(), time.Now())
		time.Sleep(time.Minute)
		for name, test := range map[string]struct {
			age  time.Duration
			want int
		}{"old enough": {2 * time.Minute, first}, "exactly": {time.Minute + time.Second, first}} {
			if got, err := s.since(t.Context(), time.Now().Add(-test.age)); got != test.want || err != nil {
				t.Errorf("%s: call %d, %v", name, got, err)
			}
		}
		if got, err := s.since(t.Context(), time.Now().Add(-time.Second)); got != first+1 || err != nil {
			t.Errorf("too old: call %d, %v", got, err)
		}
	})
}

// An asker that gives up does not wait, and the call goes on for the others.
func TestSharedGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := counting()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		other := make(chan int)
		go func() {
			n, _ := s.since(t.Context(), began)
			other <- n
		}()
		_, err := s.since(ctx, began)
		if waited := time.Since(began); !errors.Is(err, context.DeadlineExceeded) ||
			waited != 300*time.Millisecond {
			t.Errorf("%v after %v of the test's clock", err, waited)
		}
		if n := <-other; n != 1 {
			t.Errorf("the other asker got call %d", n)
		}
	})
}

// A panic reaches whoever asked, and the next asker gets a value.
func TestSharedPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s := &shared[int]{call: func() int {
			if n++; n == 1 {
				panic("a fault")
			}
			return n
		}}
		ask := func() (value int, fault any) {
			defer func() { fault = recover() }()
			value, _ = s.since(t.Context(), time.Now())
			return value, nil
		}
		if _, fault := ask(); fault != "a fault" {
			t.Errorf("%v", fault)
		}
		time.Sleep(time.Second)
		if value, fault := ask(); fault != nil || value != 2 {
			t.Errorf("%d, %v", value, fault)
		}
	})
}

// Each page is handed out until it is four times as old as it took to make.
func TestYoung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := launch(func() page { time.Sleep(time.Second); return page{} }, nil)
		if _, err := f.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4*time.Second - time.Nanosecond)
		if !young(f) {
			t.Error("made anew too soon")
		}
		time.Sleep(time.Nanosecond)
		if young(f) {
			t.Error("an old page is handed out")
		}
	})
}
