package state_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/state"
)

// Whoever waits gets what was read, or hears that nothing comes.
func TestTimely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		doc, err := state.Timely(func() ([]byte, error) { return []byte("x"), nil })
		if string(doc) != "x" || err != nil || time.Since(began) > 0 {
			t.Errorf("%q, %v", doc, err)
		}
		goOn := make(chan struct{})
		_, err = state.Timely(func() ([]byte, error) { <-goOn; return nil, nil })
		if !errors.Is(err, state.ErrHangs) || time.Since(began) > time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		close(goOn)
	})
}
