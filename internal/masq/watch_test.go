package masq

import (
	"context"
	"errors"
	"testing"
	"time"

	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/nstest"
)

// What others do to our tables is told with their name; what they do to their
// own is not.
func TestWatch(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		m := New()
		if _, err := m.Set(one); err != nil {
			t.Fatal(err)
		}
		damages := []string{"flush ruleset", "delete table ip meshd", "flush set ip meshd mesh"}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		done := errors.New("done")
		step := 0
		err := nft.Watch(ctx, func(string, string) bool { return false }, func(by string) error {
			changed, err := m.Set(one)
			if err != nil {
				return err
			}
			switch {
			case step > 0 && (!changed || by != "nft"):
				t.Errorf("damage %d was done by %q, changed %v", step, by, changed)
			case step == len(damages):
				return done
			}
			run(t, n, "add table ip foreign { chain c { counter; }; }; flush table ip foreign")
			run(t, n, damages[step])
			step++
			return nil
		})
		if !errors.Is(err, done) {
			t.Errorf("Watch: %v after %d steps", err, step)
		}
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		ctx, cancel := context.WithCancel(t.Context())
		none := func(string, string) bool { return false }
		if err := nft.Watch(ctx, none, func(string) error { cancel(); return nil }); err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
}
