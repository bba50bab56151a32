package foreign

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// nogroup is the group that a thread gets together with a user's rights. A folder must be
// the user's own: rights of a group do not count.
const nogroup = 65534

// as calls f with the rights that a user has on files, without groups and capabilities.
// setfsuid(2) and capset(2) change one thread, so f must not start goroutines. If this
// process does not run as root, it has no rights to drop, and as just calls f.
func as(user uint32, f func() error) error {
	if os.Geteuid() != 0 || user == 0 {
		return f()
	}
	runtime.LockOSThread()
	was, err := rightsOfThread()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = rights{user: int(user), group: nogroup, able: was.able.none()}.assume()
	if err == nil {
		err = f()
	}
	if back := was.assume(); back != nil {
		// The thread stays locked, so it ends with this goroutine and takes the user's rights with
		// it: no other goroutine ever runs with them.
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// rights are the properties of a thread that decide what it may do to files.
type rights struct {
	user, group int   // of files: fsuid and fsgid
	groups      []int // supplementary
	able        capabilities
}

// capabilities are those of a thread, bits 0 to 31 and 32 to 63 (capget(2), version 3).
type capabilities [2]unix.CapUserData

// none returns the same capabilities with an empty effective set.
func (c capabilities) none() capabilities {
	c[0].Effective, c[1].Effective = 0, 0
	return c
}

// rightsOfThread returns the rights of the calling thread.
func rightsOfThread() (r rights, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &r.able[0]); err != nil {
		return r, fmt.Errorf("read capabilities: %w", err)
	}
	r.user, r.group = os.Geteuid(), os.Getegid()
	r.groups, err = unix.Getgroups()
	return r, err
}

// assume gives the calling thread these rights. The change of ids needs capabilities, so all
// permitted ones become effective first, and only then the wanted ones.
func (r rights) assume() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	able := unix.Capset(&header, &(&capabilities{
		{Effective: r.able[0].Permitted, Permitted: r.able[0].Permitted, Inheritable: r.able[0].Inheritable},
		{Effective: r.able[1].Permitted, Permitted: r.able[1].Permitted, Inheritable: r.able[1].Inheritable},
	})[0])
	// unix.Setgroups changes this thread alone, unlike syscall.Setgroups. setfsgid(2) and
	// setfsuid(2) do not report failures: a second call with -1 returns the id in force.
	err := errors.Join(able, unix.Setgroups(r.groups), unix.Setfsgid(r.group), unix.Setfsuid(r.user))
	group, _ := unix.SetfsgidRetGid(-1)
	user, _ := unix.SetfsuidRetUid(-1)
	if err == nil && (group != r.group || user != r.user) {
		err = unix.EPERM
	}
	if err == nil {
		err = unix.Capset(&header, &r.able[0])
	}
	if err != nil {
		return fmt.Errorf("act as user %d: %w", r.user, err)
	}
	return nil
}
