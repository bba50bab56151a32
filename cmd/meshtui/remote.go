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
// there. Keys, users and ports are what the ssh of this user is configured for, so there is
// nothing to configure here, and no port to open there.
//
// What crosses the network is a snapshot, and from then on what has changed (control.Follower): snapshots of
// 1,000 peers would be 1 MB a second.
type remote struct {
	host  string
	mute  bool // ssh must not ask for anything: the terminal is taken
	whole bool // the meshtui there is one that only knows whole snapshots
}

// newRemote returns a watcher of a host. A name that begins with a dash would be an option
// of ssh, some of which run commands.
func newRemote(host string, mute bool) (*remote, error) {
	if strings.HasPrefix(host, "-") {
		return nil, fmt.Errorf("%w: --host needs the name of a host, not %q", errUsage, host)
	}
	return &remote{host: host, mute: mute}, nil
}

// Watch implements tui.Watcher. Events of the past are always sent. Lines are tidy where a terminal shows
// them.
func (r *remote) Watch(ctx context.Context, interval time.Duration, _ bool,
	each func(control.Watched) error) error {
	args := []string{"--stream", "--interval", interval.String()}
	if !r.whole {
		err := r.watch(ctx, append(args, "--changes"), each)
		if !errors.Is(err, errOlder) {
			return err
		}
		r.whole = true
	}
	return r.watch(ctx, args, each)
}

// watch reads the output of the meshtui there. The error wraps errOlder if that does not know its arguments.
func (r *remote) watch(ctx context.Context, args []string, each func(control.Watched) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", append([]string{r.host, "meshtui"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: r.mute} // without a terminal there is no prompt
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Second // an ssh that ignores SIGTERM, or shares its output, is left behind
	said := &tail{}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run ssh: %w", err)
	}
	read := readStream(out, r.mute, each)
	if read != nil {
		cancel() // ssh would go on for as long as the daemon there does
	}
	if err := cmd.Wait(); read == nil { // its end is the only error there is
		return r.explain(err, said.lastLine())
	}
	return read
}

// readStream reads until each returns an error or the stream ends, for which the exit code
// says why.
func readStream(in io.Reader, tidy bool, each func(control.Watched) error) error {
	var ended error // by us
	follower := control.Follower{Tidy: tidy}
	err := control.ReadLines(in, func(line control.Watched) error {
		if ended = line.Check(); ended == nil {
			line, ended = follower.Follow(line)
		}
		if ended == nil {
			ended = each(line)
		}
		return ended
	})
	if err != nil && ended == nil {
		return fmt.Errorf("the output is not that of `meshtui --stream`: %w", err)
	}
	return err
}

// tail keeps the end of what ssh and the other host say on their standard errors. The rest
// is let go of: another host may say as much as it likes.
type tail struct{ said []byte }

const tailKept = 4096 // bytes: more than one message has

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.said = append(t.said, b[max(0, len(b)-tailKept):]...)
	t.said = append([]byte(nil), t.said[max(0, len(t.said)-tailKept):]...)
	return len(b), nil
}

// lastLine returns the last line, clean. It is the error that ended the other program, after
// whatever banners and warnings ssh has.
func (t *tail) lastLine() string {
	said := strings.TrimSpace(string(t.said))
	last := said[strings.LastIndex(said, "\n")+1:]
	return text.Clean(strings.TrimPrefix(last, "meshtui: "))
}

// errOlder is in the error of a meshtui on another host that does not know what it is called with.
var errOlder = errors.New("the meshtui there is another version")

// explain turns the end of ssh into what the user can do about it. last is what was
// said last.
func (r *remote) explain(err error, last string) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok { // it ended without an error, or was not to be waited for
		return fmt.Errorf("%s: the connection has ended", r.host)
	}
	switch code := exit.ExitCode(); code {
	case exitUsage: // of the meshtui there
		return fmt.Errorf("%s: %w: %s", r.host, errOlder, last)
	case 127: // of the shell there: no such command
		return fmt.Errorf("%s: meshtui is not installed on that host", r.host)
	case 255: // of ssh itself
		return fmt.Errorf("ssh %s: %s: ssh must log in without a password: see `ssh -v %s true`", r.host, last,
			r.host)
	default:
		if err := control.ErrorOf(code); err != nil {
			return fmt.Errorf("%s: %w", r.host, quoted{last, err})
		}
		return fmt.Errorf("%s: %s", r.host, last)
	}
}

// quoted is an error that another program has put into words already. Its kind is from the
// exit code of that program and never read out of the words.
type quoted struct {
	text string
	kind error
}

// Error implements error: the words of the other program.
func (q quoted) Error() string { return q.text }

// Unwrap returns the kind, for errors.Is.
func (q quoted) Unwrap() error { return q.kind }
