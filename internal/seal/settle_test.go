package seal

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// The engine hears within a second that a peer lags no more: because it has followed, or since ten minutes
// are over, whatever else happens meanwhile.
func TestLaggingEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var heard []string // "PEER LAGS AFTER", in tens of seconds
		began, events := time.Now(), &nstest.Events{}
		k := newKeeper(Options{Log: slog.New(events), Lags: func(peer string, lags bool) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, fmt.Sprint(peer, " ", lags, " ", time.Since(began).Truncate(10*time.Second)))
		}})
		k.rested = began.Add(time.Hour) // the interface is read later: the host is busy
		k.tellLags(k.shift.begin([]string{"follows", "late"}, never, began), true)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.Keep(ctx) }()
		time.Sleep(5 * time.Minute)
		k.shift.says("follows", true, time.Now())
		time.Sleep(lagMost)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want := []string{"follows true 0s", "late true 0s", "follows false 5m0s", "late false 10m0s"}
		if !slices.Equal(heard, want) {
			t.Errorf("the engine has heard %q, want %q", heard, want)
		}
		if told := events.Take(); !slices.Equal(told, []string{"lagging_ended", "lagging_ended"}) {
			t.Errorf("events %q", told)
		}
	})
}

// An interface that goes again and again is told, and each one once; without one there is nothing to take.
func TestWatchCountsInterfacesThatGo(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		k := newKeeper(Options{})
		now := time.Now()
		for range 20 {
			k.watch(now) // there is none
		}
		for range 11 {
			if got := k.conditions(); got != nil {
				t.Fatalf("too early: %+v", got)
			}
			if err := n.IP("tuntap add meshd-wg mode tun"); err != nil {
				t.Fatal(err)
			}
			k.watch(now)
			k.watch(now)
			if err := n.IP("link del meshd-wg"); err != nil {
				t.Fatal(err)
			}
			k.watch(now)
			k.watch(now)
		}
		if got := k.conditions(); len(got) != 1 || got[0].Kind != mesh.RepairsEndless {
			t.Errorf("%+v", got)
		}
	})
}
