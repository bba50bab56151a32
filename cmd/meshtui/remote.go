package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
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
	said := &tail{}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run ssh: %w", err)
	}
	read := readStream(out, each)
	if read != nil {
		cancel()
	}
	if err := cmd.Wait(); read == nil {
		return r.explain(err, said.lastLine())
	}
	return read
}

// readStream reads until each has enough or nothing more comes; then the exit code
// says why.
func readStream(in io.Reader, each func(control.Watched) error) error {
	var ended error // by us
	err := control.ReadLines(in, func(line control.Watched) error {
		if ended = line.Check(); ended == nil {
			ended = each(line)
		}
		return ended
	})
	if err != nil && ended == nil {
		return fmt.Errorf("what comes is not from `meshtui --stream`: %w", err)
	}
	return err
}

// tail keeps the end of what ssh and the other host say.
type tail struct{ said []byte }

const tailKept = 4096 // bytes: more than one message has

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.said = append(t.said, b[max(0, len(b)-tailKept):]...)
	t.said = append([]byte(nil), t.said[max(0, len(t.said)-tailKept):]...)
	return len(b), nil
}

// lastLine returns the last line, clean.
func (t *tail) lastLine() string {
	said := strings.TrimSpace(string(t.said))
	last := said[strings.LastIndex(said, "\n")+1:]
	return text.Clean(strings.TrimPrefix(last, "meshtui: "))
}

// explain turns the end of ssh into what the user can do about it. last is what was
// said last.
func (r *remote) explain(err error, last string) error {
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
