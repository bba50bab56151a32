package nstest

import (
	"errors"
	"os"
	"testing"
	"time"
)

// A capture that is closed ends who waits in it, and touches no descriptor from then on: the next file or
// connection of the process has its number.
func TestClosedCapture(t *testing.T) {
	host, err := LabForTest(t).Host("a", "192.0.2.1/24")
	if err != nil {
		t.Fatal(err)
	}
	c, err := host.Capture("lo")
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan error)
	go func() {
		waits <- nil // it is about to wait, or has begun to: both must end
		_, err := c.Next(time.Hour, func([]byte) bool { return false })
		waits <- err
	}()
	<-waits
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waits; !errors.Is(err, os.ErrClosed) {
		t.Errorf("who waited got %v", err)
	}
	for name, call := range map[string]func() error{
		"Close": c.Close,
		"Send":  func() error { return c.Send(make([]byte, 60)) },
		"Next": func() error {
			_, err := c.Next(time.Millisecond, func([]byte) bool { return true })
			return err
		},
	} {
		if call() == nil {
			t.Errorf("%s of a closed capture did something", name)
		}
	}
}
