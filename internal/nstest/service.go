package nstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Service plays the service manager for the daemons of one host, one after the
// other: it hears what they notify, and keeps the descriptors they leave with it
// (sd_notify(3), sd_listen_fds(3)).
type Service struct {
	conn     *net.UnixConn
	watchdog time.Duration

	mu     sync.Mutex
	heard  []string // lines of all messages
	stored []*os.File
	grew   chan struct{} // closed and replaced whenever something was heard
	failed error
}

// NewService listens in dir. A daemon is told to give a sign of life within
// watchdog, unless that is 0.
func NewService(dir, name string, watchdog time.Duration) (*Service, error) {
	conn, err := net.ListenUnixgram("unixgram",
		&net.UnixAddr{Name: filepath.Join(dir, name+".notify"), Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("play the service manager: %w", err)
	}
	s := &Service{conn: conn, watchdog: watchdog, grew: make(chan struct{})}
	go s.listen()
	return s, nil
}

// Close ends it, and drops what it keeps.
func (s *Service) Close() error {
	errs := []error{s.conn.Close()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.stored {
		errs = append(errs, f.Close())
	}
	s.stored = nil
	return errors.Join(append(errs, s.failed)...)
}

// listen takes messages until Close; the first that is not understood ends it and is what Close
// returns.
func (s *Service) listen() {
	message, rights := make([]byte, 4096), make([]byte, 256)
	for {
		n, r, _, _, err := s.conn.ReadMsgUnix(message, rights)
		if err == nil {
			err = s.take(string(message[:n]), rights[:r])
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.mu.Lock()
			s.failed = errors.Join(s.failed, err)
			s.mu.Unlock()
			return
		}
	}
}

// take does what a message asks for.
func (s *Service) take(message string, rights []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := strings.Split(message, "\n")
	s.heard = append(s.heard, lines...)
	close(s.grew)
	s.grew = make(chan struct{})
	_, name, _ := strings.Cut(message, "FDNAME=")
	name, _, _ = strings.Cut(name, "\n")
	if slices.Contains(lines, "FDSTOREREMOVE=1") {
		s.stored = slices.DeleteFunc(s.stored,
			func(f *os.File) bool { return f.Name() == name && f.Close() == nil })
	}
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			s.stored = append(s.stored, os.NewFile(uintptr(fd), name))
		}
	}
	return nil
}

// Stored returns the names of the descriptors it keeps, sorted.
func (s *Service) Stored() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.stored {
		names = append(names, f.Name())
	}
	slices.Sort(names)
	return names
}

// Heard returns all lines of all messages so far.
func (s *Service) Heard() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard)
}

// Wait waits for a line that begins with text and has all words, among those after the
// first skip, and returns how many lines there are up to it.
func (s *Service) Wait(skip int, text string, words ...string) (int, error) {
	lacks := func(line string) bool {
		return !strings.HasPrefix(line, text) ||
			slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
	}
	timeout := time.After(Patience)
	for {
		s.mu.Lock()
		for i := skip; i < len(s.heard); i++ {
			if !lacks(s.heard[i]) {
				s.mu.Unlock()
				return i + 1, nil
			}
		}
		grew := s.grew
		s.mu.Unlock()
		select {
		case <-grew:
		case <-timeout:
			return 0, fmt.Errorf("the service manager has not heard %q %q, but %q", text, words, s.Heard())
		}
	}
}

// prepare gives a command the environment and the descriptors of a service. None of
// those is closed before started was called.
func (s *Service) prepare(cmd *exec.Cmd) (started func()) {
	s.mu.Lock()
	var names []string
	for _, f := range s.stored {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		names = append(names, f.Name())
	}
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+s.conn.LocalAddr().String(),
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	if s.watchdog > 0 {
		cmd.Env = append(cmd.Env, "WATCHDOG_USEC="+strconv.FormatInt(s.watchdog.Microseconds(), 10))
	}
	return s.mu.Unlock
}

// asService is a shell's command that runs its arguments in its place, with
// descriptors for that process.
const asService = `LISTEN_PID=$$ exec "$@"`
