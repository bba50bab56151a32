package handover

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
)

// inbox is the socket of a service manager, which hears what the daemon says.
type inbox struct {
	*testing.T
	fd int
}

// A message is one datagram: its lines, and the descriptors that came with it.
type message struct {
	lines []string
	files []*os.File
}

// newInbox plays the service manager for this process, with nothing left by earlier runs.
func newInbox(t *testing.T) *inbox {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	path := filepath.Join(dir, "s")
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	environment(t, map[string]string{"NOTIFY_SOCKET": path})
	return &inbox{t, fd}
}

// environment sets what New looks at, and unsets the rest of it, until the test ends.
func environment(t *testing.T, values map[string]string) {
	t.Helper()
	for _, name := range []string{
		"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", inheritance,
	} {
		t.Setenv(name, values[name])
		if values[name] == "" {
			os.Unsetenv(name)
		}
	}
}

// heard returns the messages since the last call. A datagram between sockets of this host is there
// when the call that sent it returns.
func (in *inbox) heard() (all []message) {
	in.Helper()
	text, rights := make([]byte, 4096), make([]byte, 1024)
	for {
		n, r, _, _, err := unix.Recvmsg(in.fd, text, rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) {
			return all
		}
		if err != nil {
			in.Fatal(err)
		}
		all = append(all, message{strings.Split(string(text[:n]), "\n"), in.files(rights[:r])})
	}
}

// files returns the descriptors of one datagram, which end with the test.
func (in *inbox) files(rights []byte) (files []*os.File) {
	controls, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		in.Fatal(err)
	}
	for _, c := range controls {
		fds, err := unix.ParseUnixRights(&c)
		if err != nil {
			in.Fatal(err)
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "received")
			in.Cleanup(func() { f.Close() })
			files = append(files, f)
		}
	}
	return files
}

// hears compares the lines of all messages since the last call.
func (in *inbox) hears(when string, want ...[]string) {
	in.Helper()
	var got [][]string
	for _, m := range in.heard() {
		got = append(got, m.lines)
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		in.Errorf("%s: heard %q, want %q", when, got, want)
	}
}

// descriptor is an open file that can be kept.
type descriptor struct{ *os.File }

func (d descriptor) Descriptor(f func(fd uintptr)) error {
	conn, err := d.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(f)
}

var errDescriptor = errors.New("closed")

// lost is a descriptor that is not there any more.
type lost struct{}

func (lost) Descriptor(func(fd uintptr)) error { return errDescriptor }

// files returns files with a content each, by name, as an engine has them.
func files(t *testing.T, names ...string) (named map[string]dataplane.Descriptor, open map[string]*os.File) {
	t.Helper()
	named, open = map[string]dataplane.Descriptor{}, map[string]*os.File{}
	for _, name := range names {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		named[name], open[name] = descriptor{f}, f
	}
	return named, open
}

// same tells whether two descriptors are of one file.
func same(t *testing.T, a, b *os.File) bool {
	t.Helper()
	one, err := a.Stat()
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(one, other)
}
