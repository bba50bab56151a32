package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"example.org/meshd/internal/control"
)

// remote watches the meshd of another host: the system's ssh runs `meshtui --stream`
// there. Keys, users and ports are what the ssh of this user is configured for.
type remote struct {
	host string
	mute bool // ssh must not ask for anything: the terminal is taken
}

func newRemote(host string, mute bool) (*remote, error) {
	if strings.HasPrefix(host, "-") {
		return nil, fmt.Errorf("%w: --host wants the name of a host, not %q", errUsage, host)
	}
	return &remote{host, mute}, nil
}

// Watch implements tui.Watcher. Events of the past always come.
func (r *remote) Watch(ctx context.Context, interval time.Duration, _ bool, each func(control.Watched) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", r.host, "meshtui", "--stream", "--interval", interval.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: r.mute} // without a terminal there is no prompt
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run ssh: %w", err)
	}
	read := decodeLines(out, each)
	if read != nil {
		cancel()
	}
	if err := cmd.Wait(); read == nil {
		return r.explain(err, said.String())
	}
	return read
}

// decodeLines reads until each has enough or nothing more comes; then the exit code
// says why.
func decodeLines(in io.Reader, each func(control.Watched) error) error {
	for decoder := json.NewDecoder(in); ; {
		var line control.Watched
		switch err := decoder.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("what comes is not from `meshtui --stream`: %w", err)
		}
		if err := line.Check(); err != nil {
			return err
		}
		if err := each(line); err != nil {
			return err
		}
	}
}

// explain turns the end of ssh into what the user can do about it.
func (r *remote) explain(err error, said string) error {
	last := said
	if lines := strings.Split(strings.TrimSpace(said), "\n"); len(lines) > 0 {
		last = strings.TrimPrefix(lines[len(lines)-1], "meshtui: ")
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return fmt.Errorf("%s: the connection has ended", r.host)
	}
	switch code := exit.ExitCode(); code {
	case 127:
		return fmt.Errorf("%s: there is no meshtui on that host: install it there", r.host)
	case 255:
		return fmt.Errorf("ssh %s: %s: it must work without a password here: see `ssh -v %s true`", r.host, last, r.host)
	default:
		if err := control.ErrorOf(code); err != nil {
			return fmt.Errorf("%s: %w", r.host, quoted{last, err})
		}
		return fmt.Errorf("%s: %s", r.host, last)
	}
}

// quoted is an error that another program has put into words already.
type quoted struct {
	text string
	kind error
}

func (q quoted) Error() string { return q.text }
func (q quoted) Unwrap() error { return q.kind }
