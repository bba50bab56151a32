package foreign

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// nogroup is the group of nobody: folders are to be the user's own, not a group's.
const nogroup = 65534

// as calls f with the rights that a user has on files, and none besides: no group, no
// capability. They are those of a thread (setfsuid(2), capset(2)), so f may start nothing.
// Whoever is not root has no rights to lose, and f is just called.
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
		return errors.Join(err, back) // the thread ends with this goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// rights decide what a thread may do to files.
type rights struct {
	user, group int
	groups      []int
	able        capabilities
}

type capabilities [2]unix.CapUserData // bits 0 to 31, 32 to 63

// none returns the same capabilities, none of them in effect.
func (c capabilities) none() capabilities {
	c[0].Effective, c[1].Effective = 0, 0
	return c
}

func rightsOfThread() (r rights, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &r.able[0]); err != nil {
		return r, fmt.Errorf("read capabilities: %w", err)
	}
	r.user, r.group = os.Geteuid(), os.Getegid()
	r.groups, err = unix.Getgroups()
	return r, err
}

// assume gives a thread these rights. Capabilities in effect that it needs for that are there
// at the beginning or, on the way back, come first.
func (r rights) assume() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	able := unix.Capset(&header, &(&capabilities{
		{Effective: r.able[0].Permitted, Permitted: r.able[0].Permitted, Inheritable: r.able[0].Inheritable},
		{Effective: r.able[1].Permitted, Permitted: r.able[1].Permitted, Inheritable: r.able[1].Inheritable},
	})[0])
	// unix.Setgroups is for this thread alone, unlike syscall.Setgroups. The next two do not
	// tell whether they failed.
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
