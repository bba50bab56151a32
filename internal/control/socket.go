package control

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// group owns the socket, so that its members can read the daemon's state.
const group = "mesh"

// makeSocket makes the socket at path, as Listen says. own is what it is then.
func makeSocket(path string, log *slog.Logger) (l net.Listener, own fs.FileInfo, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, nil, fmt.Errorf("make control socket: %s exists and is not a socket: not replacing it", path)
	}
	// The kernel answers for a process that lives, even if it hangs; a socket without one refuses
	// (ECONNREFUSED).
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, nil, fmt.Errorf(
			"make control socket %s: another meshd is running there; `meshd status` shows it", path)
	}
	// Made under another name and renamed, so that it appears complete or not at all. The name
	// is short, since a socket's path has at most 107 bytes (sockaddr_un, unix(7)).
	temporary := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%d", os.Getpid()))
	listener, err := net.Listen("unix", temporary)
	if err != nil {
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // it would unlink the temporary name
	if err = share(temporary, log); err == nil {
		own, err = os.Lstat(temporary)
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		listener.Close()
		os.Remove(temporary)
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	return listener, own, nil
}

// errExchanged tells that the socket is not what was made.
var errExchanged = errors.New("another program has replaced the socket")

// share gives the socket to the group. The folder may belong to the service's user while root's
// meshd listens in it, so whatever stands there may be a link to any file. Therefore the socket is
// opened without following links, and only what was opened is changed.
func share(path string, log *slog.Logger) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return errors.Join(errExchanged, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		log.Warn("group not found: only root can use the control socket; "+
			"run `groupadd --system mesh` and restart meshd", "group", group, "event", "no_group")
		return nil
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("read number of group %q: %w", group, err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Gid) == gid {
		return nil // the daemon's own group: it needs no capability for that
	}
	if err := os.Chown(path, -1, gid); err != nil { // status still works, for fewer users
		log.Warn("cannot give the control socket to the group: its members cannot use it",
			"group", group, "error", err)
	}
	return nil
}
