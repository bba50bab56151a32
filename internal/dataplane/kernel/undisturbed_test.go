package kernel

import (
	"os"
	"os/signal"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// Programs are loaded while signals come faster than the verifier reads them.
func TestLoadAmongSignals(t *testing.T) {
	nstest.Require(t)
	taken := make(chan os.Signal, 1)
	signal.Notify(taken, unix.SIGUSR1)
	defer signal.Stop(taken)
	runtime.LockOSThread() // which is the one that the signals are for; it ends with the test
	thread := unix.Gettid()
	loaded, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-loaded:
				stopped <- nil
				return
			default:
			}
			if err := unix.Tgkill(os.Getpid(), thread, unix.SIGUSR1); err != nil {
				stopped <- err
				return
			}
		}
	}()
	p := programsOf(t, meshOver(false))
	if _, err := p.handle().loadXDP(); err != nil {
		t.Error(err)
	}
	close(loaded)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
