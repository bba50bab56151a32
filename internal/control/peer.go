package control

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// writers may change something through the socket, besides root and the daemon's
// own user; whoever can open the socket may read.
const writers = "mesh-admin"

type credentialsKey struct{}

// withCredentials remembers who is at the other end of a connection, as the
// kernel knew it when the connection was made (SO_PEERCRED).
func withCredentials(ctx context.Context, conn net.Conn) context.Context {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return ctx
	}
	var credentials *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, credentialsKey{}, credentials)
}

// mayWrite tells whether the asker may change something.
func mayWrite(r *http.Request) bool {
	c, ok := r.Context().Value(credentialsKey{}).(*unix.Ucred)
	if !ok {
		return false
	}
	if c.Uid == 0 || int(c.Uid) == os.Geteuid() {
		return true
	}
	group, err := user.LookupGroup(writers)
	if err != nil {
		return false
	}
	if strconv.Itoa(int(c.Gid)) == group.Gid {
		return true
	}
	asker, err := user.LookupId(strconv.Itoa(int(c.Uid)))
	if err != nil {
		return false
	}
	groups, err := asker.GroupIds()
	return err == nil && slices.Contains(groups, group.Gid)
}
