package push

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
)

// A Remote is the meshd of a host that a command line leads to: that of ssh, or this host's own.
type Remote struct {
	name string
	line []string // to which the words for meshd are added
}

// OverSSH returns the meshd of a host that the system's ssh leads to: keys, users and ports are what the
// user's ssh is configured for. command runs meshd there, by the shell of that host. A name that begins with
// a dash would be an option of ssh, some of which run commands.
func OverSSH(host, command string) (*Remote, error) {
	if host == "" || strings.HasPrefix(host, "-") {
		return nil, fmt.Errorf("%q is not the name of a host", host)
	}
	return &Remote{host, []string{"ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5",
		"-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=3", host, command}}, nil
}

// Here returns the meshd of this host, which a command line leads to.
func Here(name string, line ...string) *Remote { return &Remote{name, line} }

// Name implements Host.
func (r *Remote) Name() string { return r.name }

// mostSaid bounds an answer, in bytes: the status of 10,000 peers has 10 MB.
const mostSaid = 64 << 20

// Exit codes that say something of the way to meshd.
const (
	codeNotRunning = 3
	codeNoCommand  = 127 // of a shell
	codeSSH        = 255 // of ssh itself
)

// ask runs meshd there, and decodes what it says into body. stdin may be nil.
func (r *Remote) ask(ctx context.Context, body any, stdin []byte, words ...string) error {
	line := append(append([]string{}, r.line...), words...)
	cmd := exec.CommandContext(ctx, line[0], append(line[1:], "--json")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // without a terminal there is no prompt
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Second // an ssh that ignores SIGTERM, or shares its output, is left behind
	said, complained := &bounded{most: mostSaid}, &bounded{most: 4096}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), said, complained
	err := cmd.Run()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w in time", ErrUnreachable)
	case err != nil && !exited:
		return fmt.Errorf("run %s: %w", line[0], err)
	case exited && (exit.ExitCode() < 0 || exit.ExitCode() == codeSSH || exit.ExitCode() == codeNoCommand ||
		exit.ExitCode() == codeNotRunning):
		return fmt.Errorf("%w: %s", ErrUnreachable, complained.last())
	}
	if exited {
		if why := refusal(said.Bytes()); why != "" {
			return errors.New(text.Clean(why))
		}
	}
	if err := json.Unmarshal(said.Bytes(), body); err != nil {
		return fmt.Errorf("meshd there does not answer as this one would: %s",
			cmp.Or(complained.last(), err.Error()))
	}
	text.Fields(body)
	return nil
}

// refusal returns the error in what a command has said; empty if there is none. It may come after a result:
// the file is in force, and cannot be written to the disk.
func refusal(said []byte) (why string) {
	for all := json.NewDecoder(bytes.NewReader(said)); ; {
		var one struct {
			Error control.Error `json:"error"`
			control.ReloadResult
		}
		if all.Decode(&one) != nil {
			return why
		}
		why = cmp.Or(one.Error.Message, one.Reload.Error, why)
	}
}

// Status implements Host.
func (r *Remote) Status(ctx context.Context) (s control.Status, err error) {
	err = r.ask(ctx, &s, nil, "status")
	return s, err
}

// Plan implements Host. A meshd there that knows no changes that take themselves back is an error, too: those
// before 0.2.0 make a plan and could not apply it.
func (r *Remote) Plan(ctx context.Context, doc []byte) (p control.Plan, err error) {
	if err = r.ask(ctx, &p, doc, "plan", "-"); err != nil {
		return p, err
	}
	if err = r.ask(ctx, &control.Files{}, nil, "history"); err != nil && !errors.Is(err, ErrUnreachable) {
		err = fmt.Errorf("meshd there cannot take a change back (%w): is it an older one?", err)
	}
	return p, err
}

// Apply implements Host.
func (r *Remote) Apply(ctx context.Context, doc []byte, wait time.Duration) error {
	return r.ask(ctx, &control.ApplyResult{}, doc, "apply", "-", "--confirm", wait.String())
}

// Confirm implements Host.
func (r *Remote) Confirm(ctx context.Context, sha256 string) error {
	return r.ask(ctx, &control.Ready{}, nil, "confirm", "--sha256", sha256)
}

// Rollback implements Host.
func (r *Remote) Rollback(ctx context.Context, sha256 string) error {
	return r.ask(ctx, &control.ApplyResult{}, nil, "rollback", "--sha256", sha256)
}

// bounded keeps the beginning of what a program says.
type bounded struct {
	bytes.Buffer
	most int
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	_, _ = b.Buffer.Write(p[:min(len(p), max(0, b.most-b.Len()))])
	return len(p), nil
}

// last returns the last line, clean: the error that ended the program, after all banners and warnings.
func (b *bounded) last() string {
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	return text.Clean(strings.TrimPrefix(lines[len(lines)-1], "meshd: "))
}
