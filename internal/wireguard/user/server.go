package user

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	wireguardgo "golang.zx2c4.com/wireguard/device"
)

// ErrRuns says that another process is the interface.
var ErrRuns = errors.New("another process is this interface already")

// Bounds of what one asks at the socket.
const (
	conversations = 16               // at once; others wait
	longest       = 30 * time.Second // of one conversation
	glance        = 2 * time.Second  // between two looks whether the socket is there
)

// A server answers at the socket of the interface: meshd, wg(8). Only root and this process's user can
// connect. It has one device after the other.
type server struct {
	path     string
	lock     *os.File // held as long as this process is the interface
	listener *net.UnixListener
	device   atomic.Pointer[wireguardgo.Device] // nil: there is none now
}

// listen makes the socket, in the place of one that a dead process left. A lock decides between two processes
// that start at once.
func listen(folder, name string) (s *server, err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of sockets: %w", err)
	}
	s = &server{path: filepath.Join(folder, name+".sock")}
	lock := filepath.Join(folder, name+".lock")
	if s.lock, err = os.OpenFile(lock, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return nil, fmt.Errorf("open the lock of %q: %w", name, err)
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrRuns
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", lock, err), s.lock.Close())
	}
	if err := clearSocket(s.path); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	// The mask is the process's, which does nothing else yet. The socket must not be open to others even for a
	// moment: who connects may set keys.
	before := unix.Umask(0o177)
	s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	unix.Umask(before)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen at %s: %w", s.path, err), s.lock.Close())
	}
	return s, nil
}

// clearSocket removes a socket that nothing listens at.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket: not replacing it", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if errors.Is(err, unix.ECONNREFUSED) {
		return os.Remove(path)
	}
	if err == nil {
		err = conn.Close()
	}
	return errors.Join(fmt.Errorf("%s: %w", path, ErrRuns), err)
}

// close removes the socket.
func (s *server) close() {
	_ = s.listener.Close() // unlinks it; run may have closed it before
	_ = s.lock.Close()     // the file stays: a process that waits for the lock of a removed file would get it
}

// run answers until ctx ends. It returns an error if the socket was removed: nothing could reach this
// process any more, and a new one makes another socket.
func (s *server) run(ctx context.Context) error {
	own, err := os.Lstat(s.path)
	if err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	// Not before that: closing removes the socket, at once if ctx has ended already.
	defer context.AfterFunc(ctx, func() { _ = s.listener.Close() })()
	var all sync.WaitGroup
	defer all.Wait()
	room := make(chan struct{}, conversations)
	for {
		room <- struct{}{}
		conn, err := s.accept(own)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		all.Go(func() {
			defer func() { <-room }()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			s.answer(conn)
		})
	}
}

// accept waits for the next conversation, and looks after the socket meanwhile.
func (s *server) accept(own fs.FileInfo) (net.Conn, error) {
	for {
		if err := s.listener.SetDeadline(time.Now().Add(glance)); err != nil {
			return nil, err
		}
		conn, err := s.listener.Accept()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return conn, err
		}
		if now, err := os.Lstat(s.path); err != nil || !os.SameFile(own, now) {
			return nil, fmt.Errorf("another program removed the socket %s", s.path)
		}
	}
}

// answer holds one conversation. While there is no device it ends at once, and the other side tries again.
func (s *server) answer(conn net.Conn) {
	defer conn.Close()
	d := s.device.Load()
	if d == nil || conn.SetDeadline(time.Now().Add(longest)) != nil {
		return
	}
	d.IpcHandle(conn)
}
