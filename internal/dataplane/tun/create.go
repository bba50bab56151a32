package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// Create makes a persistent multi-queue TUN device called name, or takes over the one that an
// earlier run has left. It needs CAP_NET_ADMIN. A new device has no queues and no addresses, and is
// down. Each claim marks the device as the caller's. A new one persists only after that, so that whoever is
// killed in between leaves none that the next run would not know.
func Create(name string, claims ...func(name string) error) error {
	_, missing := net.InterfaceByName(name)
	exists := missing == nil // and persists, or somebody has it open: that must not change for a moment
	file, err := take(name, exists)
	if err != nil {
		return fmt.Errorf("create TUN %q: %w", name, explain(name, err))
	}
	for _, claim := range claims {
		err = errors.Join(err, claim(name))
	}
	if err == nil && !exists {
		err = persist(file, name)
	}
	return errors.Join(err, file.Close())
}

// take makes the device, or attaches a queue to the one that exists, and says whether it is to persist. No
// program is started before the file is marked: water opens it without O_CLOEXEC, and a program that
// inherits the queue would have packets wait in it that nobody reads.
func take(name string, persists bool) (*os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	// The multi-queue flag is fixed once the device exists (tun_set_iff in drivers/net/tun.c returns
	// EINVAL for a mismatch), so take always asks for it.
	dev, err := water.New(water.Config{
		DeviceType:             water.TUN,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name, Persist: persists, MultiQueue: true},
	})
	if err != nil {
		return nil, errors.Join(err, closeRefused())
	}
	file, ok := dev.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, errors.Join(errors.ErrUnsupported, dev.Close())
	}
	if err := control(file, func(fd int) error { unix.CloseOnExec(fd); return nil }); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// closeRefused closes what water leaves open when the kernel refuses a device: one descriptor each time, so
// that a daemon that tries again and again would have none left. It is the driver's, without a queue, and
// the only one of this process that is not marked to be closed on exec. The caller holds syscall.ForkLock.
func closeRefused() error {
	const open = "/proc/self/fd"
	entries, err := os.ReadDir(open)
	if err != nil {
		return fmt.Errorf("find the file of a device that was refused: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if path, err := os.Readlink(filepath.Join(open, e.Name())); err != nil || path != device {
			continue
		}
		marks, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		request, _ := unix.NewIfreq("") // fails for long names alone
		if err == nil && marks&unix.FD_CLOEXEC == 0 &&
			errors.Is(unix.IoctlIfreq(fd, unix.TUNGETIFF, request), unix.EBADFD) {
			return unix.Close(fd)
		}
	}
	return nil
}

// control calls what needs the descriptor of a file, which stays the file's.
func control(file *os.File, what func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := conn.Control(func(fd uintptr) { err = what(int(fd)) })
	return errors.Join(controlErr, err)
}

// persist has a device outlive its file.
func persist(file *os.File, name string) error {
	err := control(file, func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1) })
	if err != nil {
		return fmt.Errorf("make TUN %q persist: %w", name, err)
	}
	return nil
}

// explain adds to the usual errors of TUNSETIFF what to do about them.
func explain(name string, err error) error {
	switch {
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("%w: the device has its largest number of queues: another program has some of them", err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: load the driver with `modprobe tun`, or give the container %s", err, device)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: meshd needs CAP_NET_ADMIN and read and write access to %s", err, device)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: an interface of that name exists, and meshd did not make it: `ip link del %s`, "+
			"or choose another network.interface", err, name)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: another program has it open", err)
	}
	return err
}
