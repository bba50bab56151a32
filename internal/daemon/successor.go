package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// successor is the program that was installed in the place of this one, as an upgrade
// does. Asked for, it takes over this very process (execve(2)): process id, capabilities
// and open descriptors stay, so that the packets of the few milliseconds between wait in
// the kernel, where a service manager that stops one and starts the other takes longer
// than a TUN's queue holds.
type successor struct {
	log     *slog.Logger
	ask     <-chan os.Signal
	program string
	config  string
}

func newSuccessor(o Options) *successor {
	program, err := os.Executable()
	if err != nil { // no /proc
		program = os.Args[0]
	}
	return &successor{log: o.Log, ask: o.Replace, program: program, config: o.ConfigPath}
}

// errReplaced ends all tasks for the successor.
var errReplaced = errors.New("the installed program takes over")

// replaced tells whether ctx ended for the successor.
func replaced(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errReplaced) }

func (s *successor) String() string { return "successor" }

// Run implements task: it ends with errReplaced once the successor was asked for, and has
// shown that it starts on this machine and accepts the file.
func (s *successor) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ask:
		}
		if err := s.try(ctx); err != nil {
			s.log.Error("the installed program does not take over, this one stays", "program", s.program, "error", err, "event", "replace_failed")
			continue
		}
		s.log.Info("the installed program takes over", "program", s.program, "event", "replaced")
		return errReplaced
	}
}

// tryWithin is more than checking a file of 10,000 nodes takes.
const tryWithin = 20 * time.Second

func (s *successor) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	out, err := exec.CommandContext(ctx, s.program, "check", "--config", s.config).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s check: %w: %s", s.program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// replace becomes the successor, with the arguments of this program. It returns only if it
// cannot.
func (s *successor) replace() error {
	signal.Ignore(unix.SIGUSR2) // asked once more, it shall not die of it before it listens
	return fmt.Errorf("start %s in the place of this one: %w", s.program, unix.Exec(s.program, os.Args, os.Environ()))
}

// inheritance is the environment variable that names descriptors for the successor:
// "udp-0=9 tun-0=10".
const inheritance = "MESHD_DESCRIPTORS"

// bequeath leaves e's descriptors for the successor: copies that stay open when it starts.
func bequeath(e *endpoints) error {
	var words []string
	var errs []error
	for name, one := range e.lasting() {
		var number int
		var err error
		controlErr := one.Descriptor(func(fd uintptr) { number, err = unix.FcntlInt(fd, unix.F_DUPFD, 3) })
		if err = errors.Join(err, controlErr); err != nil {
			errs = append(errs, fmt.Errorf("leave %s to the program that takes over: %w", name, err))
			continue
		}
		words = append(words, name+"="+strconv.Itoa(number))
	}
	return errors.Join(append(errs, os.Setenv(inheritance, strings.Join(words, " ")))...)
}

// inherited returns the descriptors that a predecessor bequeathed, if there is one.
func inherited() (files []*os.File, err error) {
	for word := range strings.FieldsSeq(os.Getenv(inheritance)) {
		name, number, _ := strings.Cut(word, "=")
		fd, parseErr := strconv.Atoi(number)
		if parseErr != nil {
			err = fmt.Errorf("%s in the environment: %q is not NAME=NUMBER", inheritance, word)
			continue
		}
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files, errors.Join(err, os.Unsetenv(inheritance))
}
