package handover

import (
	"errors"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long one message waits for room in the service manager's socket. The kernel keeps
// net.unix.max_dgram_qlen of them; a manager that hangs takes none, and must not stop reloads and repairs.
const patience = 200 * time.Millisecond

// send sends one message, with descriptors as ancillary data (unix(7)), to the service manager. It returns
// within patience, then with os.ErrDeadlineExceeded.
//
// go-systemd's SdNotify waits for ever, and cannot send descriptors along (sd_pid_notify_with_fds(3)).
func (m *Manager) send(message string, rights []byte) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	raw, err := conn.SyscallConn() // WriteMsgUnix refuses connected sockets for datagrams
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) (done bool) {
		sendErr = unix.Sendmsg(int(fd), []byte(message), rights, nil, 0)
		return !errors.Is(sendErr, unix.EAGAIN) // no room: called again when there may be some
	})
	if err != nil {
		return err
	}
	return sendErr
}

// notify sends one message. That it cannot is no reason to stop forwarding: it is logged once, until the
// manager hears of us again.
func (m *Manager) notify(lines ...string) (sent bool) {
	if m.socket == "" {
		return true
	}
	err := m.send(strings.Join(lines, "\n"), nil)
	if known := m.deaf.Swap(err != nil); err != nil && !known {
		m.log.Warn("the service manager cannot be told", "error", err)
	}
	return err == nil
}
