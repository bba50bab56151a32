package control

import (
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

// credentialsOf returns who is at the other end of a unix socket, as the kernel knew
// it when the connection was made (SO_PEERCRED); nil for other connections.
func credentialsOf(conn net.Conn) *unix.Ucred {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return nil
	}
	var credentials *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil || err != nil {
		return nil
	}
	return credentials
}

// mayWrite tells whether the asker may change something.
func mayWrite(r *http.Request) bool {
	v := visitorOf(r)
	if v == nil || v.credentials == nil {
		return false
	}
	c := v.credentials
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
