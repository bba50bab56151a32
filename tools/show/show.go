// Package show is what the demo and the screenshots share: both start a mesh in a lab,
// show it, and remove everything again, whether the show ends well, badly or by a signal.
package show

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"example.org/meshd/internal/nstest"
)

// A Stage is what a show works with.
type Stage struct {
	Ctx     context.Context // ends by SIGINT, SIGTERM and with the show
	Bin     string          // absolute folder with meshd and meshtui
	Dir     string          // temporary folder for files and sockets, removed after the show
	Lab     *nstest.Lab     // empty, closed after the show
	Daemons []*nstest.Daemon
}

// Start starts a daemon and waits until it forwards. The stage stops it after the show.
func (s *Stage) Start(h *nstest.Host, config string) (*nstest.Daemon, error) {
	d, err := h.Meshd(filepath.Join(s.Bin, "meshd"), config, s.Dir)
	if err != nil {
		return nil, err
	}
	s.Daemons = append(s.Daemons, d)
	return d, d.WaitReady()
}

// Interrupted returns the context's error: nil until a signal or the end of the show.
func (s *Stage) Interrupted() error { return s.Ctx.Err() }

// Run sets the stage with the binaries of a folder, plays, and clears up. prefix begins
// the names of namespaces and folders; what an earlier process with the same prefix left
// when it was killed is removed first. The error is that of play, joined with what could
// not be removed; it is context.Canceled after a signal.
func Run(prefix, bin string, play func(*Stage) error) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := nstest.Available(); err != nil {
		return err
	}
	s := &Stage{}
	if s.Bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if s.Dir, err = os.MkdirTemp("", prefix); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.Dir)) }()
	nstest.Sweep(prefix)
	if s.Lab, err = nstest.NewLab(fmt.Sprintf("%s%d", prefix, os.Getpid())); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nstest.StopAll(s.Daemons...), s.Lab.Close()) }()
	// Background processes end with this context, which has to be before the lab is closed.
	var cancel context.CancelFunc
	s.Ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	return play(s)
}
