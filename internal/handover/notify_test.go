package handover

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

// full fills the socket of a service manager that does not read.
func (in *inbox) full(m *Manager) {
	in.Helper()
	for range 1 << 16 { // net.unix.max_dgram_qlen is 10 or 512 mostly
		if err := m.send("filler", nil); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		} else if err != nil {
			in.Fatal(err)
		}
	}
	in.Fatal("the socket has no end")
}

// A service manager that stopped reading delays a message, and does not hang who sends it: the reconciler is
// one of them. It is logged once.
func TestServiceManagerThatHangs(t *testing.T) {
	in := newInbox(t)
	d := newDaemon()
	in.full(d.Manager)
	named, _ := files(t, "tun-0", "udp-0")
	done := make(chan error, 1)
	go func() {
		d.Reloading("reading")
		d.Ready()
		done <- d.Keep(named)
	}()
	select {
	case err := <-done:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("keep: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the caller hangs with the service manager")
	}
	if got := d.log.Take(); !slices.Equal(got, []string{"WARN"}) {
		t.Errorf("logged %q", got)
	}

	// It would end a service that has just started, so it is told again once it reads.
	d.report(t.Context(), time.Second)
	in.heard()
	d.report(t.Context(), time.Second)
	in.hears("it reads again", []string{"READY=1", "STATUS=one"})
	d.report(t.Context(), time.Second)
	in.hears("it knows all")
}

// A reload that begins meanwhile tells of its own end: READY=1 before that would be wrong.
func TestReloadAfterAReadyThatWasLost(t *testing.T) {
	in := newInbox(t)
	d := newDaemon()
	in.full(d.Manager)
	d.Ready()
	in.heard()
	d.Reloading("reading")
	in.heard()
	d.report(t.Context(), time.Second)
	in.hears("while it reloads", []string{"STATUS=one"})
}
