package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/page"
	"example.org/meshd/internal/tui"
)

// answerTimeout bounds the wait for a first snapshot. meshd answers in milliseconds; ssh to
// another host may take seconds.
const answerTimeout = 10 * time.Second

// errEnough ends a watch whose first snapshot is all that is wanted.
var errEnough = errors.New("enough")

// once prints the first snapshot.
func once(ctx context.Context, w tui.Watcher, f *flags, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var status *control.Status
	err := w.Watch(ctx, maxInterval, false, func(line control.Watched) error {
		if status = line.Status; status != nil {
			return errEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("meshd did not answer within %v: it hangs or was stopped: %w",
			answerTimeout, context.DeadlineExceeded)
	case !errors.Is(err, errEnough) && err != nil:
		return err
	case status == nil:
		return errors.New("meshd closed the connection before it sent its state: try again")
	case f.json:
		return json.NewEncoder(out).Encode(status)
	}
	screen, o := page.On(out)
	o.ASCII, o.Now = f.ascii, time.Now()
	return page.Status(screen, *status, o)
}

// stream prints each line as it comes, those of the past first.
func stream(ctx context.Context, w tui.Watcher, interval time.Duration, out io.Writer) error {
	encoder := json.NewEncoder(out)
	err := w.Watch(ctx, interval, true, func(line control.Watched) error { return encoder.Encode(line) })
	if ctx.Err() != nil || errors.Is(err, syscall.EPIPE) {
		return nil // the reader has enough
	}
	if err == nil { // the program at the other end of ssh learns from the exit code what happened
		return fmt.Errorf("%w any more: the stream has ended", control.ErrNotRunning)
	}
	return err
}

// changing is a meshd whose lines are passed on as they come, without a whole snapshot in each.
type changing struct{ client *control.Client }

// Watch implements tui.Watcher.
func (c changing) Watch(ctx context.Context, interval time.Duration, past bool,
	each func(control.Watched) error) error {
	return c.client.WatchChanges(ctx, interval, past, each)
}
