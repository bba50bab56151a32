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

// writers is the group whose members may change something through the socket, besides root and
// the daemon's own user. Whoever can open the socket may read.
const writers = "mesh-admin"

// credentialsOf returns which process is at the other end of a unix socket; nil for other
// connections. The kernel noted it at connect (SO_PEERCRED, unix(7)), so a process that has
// dropped its rights since still counts by the old ones.
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

// mayWrite tells whether a request may change something. It looks the groups up for each request,
// so that adding a user to the group takes effect without a restart.
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
	if err != nil { // without the group only root and we may write
		return false
	}
	// SO_PEERCRED has no supplementary groups: the primary one first, then the database.
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
