package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
)

// Successor is the program that was installed in the place of this one, as an upgrade
// does. Asked for, it takes over this very process (execve(2)): process id, capabilities
// and open descriptors stay, so that the packets of the few milliseconds between wait in
// the kernel, where a service manager that stops one and starts the other takes longer
// than a TUN's queue holds.
type Successor struct {
	log     *slog.Logger
	ask     <-chan os.Signal
	program string
	fits    func() error // whether the file is the one in force
}

// NewSuccessor returns the program of this process as it is installed now. ask asks for it; fits
// returns an error if it could not go on as this one does.
func NewSuccessor(ask <-chan os.Signal, fits func() error, log *slog.Logger) *Successor {
	program, err := os.Executable()
	if err != nil { // no /proc
		program = os.Args[0]
	}
	return &Successor{log: log, ask: ask, program: program, fits: fits}
}

// ErrReplaced ends all tasks for the successor.
var ErrReplaced = errors.New("the installed program takes over")

// Replaced tells whether ctx ended for the successor.
func Replaced(ctx context.Context) bool { return errors.Is(context.Cause(ctx), ErrReplaced) }

// String names the task in the log.
func (s *Successor) String() string { return "successor" }

// Run implements task: it ends with ErrReplaced once the successor was asked for, and has
// shown that it starts on this host and could put the file in force.
func (s *Successor) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ask:
		}
		if err := s.try(ctx); err != nil {
			s.log.Error("the installed program does not take over, this one stays",
				"program", s.program, "error", err, "event", "replace_failed")
			continue
		}
		s.log.Info("the installed program takes over", "program", s.program, "event", "replaced")
		return ErrReplaced
	}
}

// tryWithin is more than planning with a file of 10,000 nodes takes.
const tryWithin = 20 * time.Second

// try starts the installed program with the arguments of this one and --check: it must start on this
// kernel and plan with this file. What fails here fails while the old one still forwards; after
// execve there is no way back.
func (s *Successor) try(ctx context.Context) error {
	if err := s.fits(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	out, err := exec.CommandContext(ctx, s.program, append(os.Args[1:], "--check")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s run --check: %w: %s", s.program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Replace becomes the successor, with the arguments of this program, unless ctx, in which
// this one was to run, has ended meanwhile. It returns only if it cannot.
func (s *Successor) Replace(ctx context.Context) error {
	// execve resets handlers to the default, which ends the process, but keeps ignored signals ignored
	// (signal(7)). A reload or a second upgrade asked for in that moment is dropped.
	if err := errors.Join(ignore(unix.SIGHUP), ignore(unix.SIGUSR2)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("start %s in the place of this one: %w", s.program,
		unix.Exec(s.program, os.Args, os.Environ()))
}

// ignore keeps a signal that comes before the successor listens from ending it. os/signal's
// Ignore would have a moment in which one that has just come in ends this program.
func ignore(s unix.Signal) error {
	// struct sigaction of the kernel: the handler, flags, a restorer, the mask
	action := struct{ handler, flags, restorer, mask [2]uint64 }{}
	*(*uintptr)(unsafe.Pointer(&action)) = 1 // SIG_IGN
	const sizeOfMask = 8
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s),
		uintptr(unsafe.Pointer(&action)), 0, sizeOfMask, 0, 0)
	if errno != 0 {
		return fmt.Errorf("ignore %s: %w", s, errno)
	}
	return nil
}

// inheritance is the environment variable that names descriptors for the successor:
// "udp-0=9 tun-0=10".
const inheritance = "MESHD_DESCRIPTORS"

// Bequeath leaves descriptors for the successor: copies that stay open when it starts. They are those
// in use, and those that an earlier meshd left and were not used yet.
func (m *Manager) Bequeath(used map[string]dataplane.Descriptor) error {
	var words []string
	var errs []error
	add := func(name string, control func(func(fd uintptr)) error) {
		// F_DUPFD, and not F_DUPFD_CLOEXEC: the copy has to outlive execve. 3 keeps it off the standard
		// streams.
		var number int
		var err error
		controlErr := control(func(fd uintptr) { number, err = unix.FcntlInt(fd, unix.F_DUPFD, 3) })
		if err = errors.Join(err, controlErr); err != nil {
			errs = append(errs, fmt.Errorf("leave %s to the program that takes over: %w", name, err))
			return
		}
		words = append(words, name+"="+strconv.Itoa(number))
	}
	for name, one := range used {
		add(name, one.Descriptor)
	}
	for _, f := range m.left {
		conn, err := f.SyscallConn()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		add(f.Name(), conn.Control)
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
		// Bequeathed open; from here on it is as private as any other descriptor.
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files, errors.Join(err, os.Unsetenv(inheritance))
}
