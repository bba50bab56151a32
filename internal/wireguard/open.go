package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/genl"
)

// Folder is where processes that are interfaces of WireGuard have their sockets, NAME.sock. wgctrl and wg(8)
// look nowhere else.
const Folder = "/run/wireguard"

// Open returns a Client that knows interfaces of the kernel and of user space. An interface that has a socket
// in Folder is one of user space. A call for an interface that neither knows returns an error that
// errors.Is(err, fs.ErrNotExist); Set and Read make ErrNone of it.
//
// A call to user space ends after 10 s at most with os.ErrDeadlineExceeded, and reads 64 MiB at most. Only a
// process of root or of this process's own user is spoken to, since it gets the private key; others are
// ErrStranger. A call to the kernel takes as long as the kernel does.
//
// The Client holds nothing open. Each call finds a module of the kernel that was loaded since.
func Open() (Client, error) { return OpenAt(Folder), nil }

// OpenAt is Open with another folder in the place of Folder, for hosts that are only namespaces of one
// machine.
func OpenAt(folder string) Client { return client{folder: folder, patience: 10 * time.Second} }

// InKernel tells whether the kernel has WireGuard. The question has the kernel load its module, see
// genl.Family.
func InKernel() (bool, error) {
	switch _, err := genl.Family(unix.WG_GENL_NAME); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

// client is a Client of both. wgctrl can speak to user space as well, but without bounds: its caller would
// wait for ever for a process that hangs. So wgctrl is asked only for interfaces that have no socket.
type client struct {
	folder   string
	patience time.Duration // for a call to user space
}

// Device implements Client.
func (c client) Device(name string) (d *wgtypes.Device, err error) {
	err = c.user(name, func(conn conversation) error {
		d, err = conn.device(name)
		return err
	})
	if !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	err = kernel(func(k Client) error {
		d, err = k.Device(name)
		return err
	})
	return d, err
}

// ConfigureDevice implements Client.
func (c client) ConfigureDevice(name string, config wgtypes.Config) error {
	err := c.user(name, func(conn conversation) error { return conn.configure(config) })
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return kernel(func(k Client) error { return k.ConfigureDevice(name, config) })
}

// Close implements Client. There is nothing to close.
func (client) Close() error { return nil }

// kernel calls f with a client of the kernel. wgctrl.New looks whether the kernel has WireGuard, once, so
// each call needs a new one: the module may have been loaded since. That costs a message to the kernel.
func kernel(f func(Client) error) error {
	k, err := wgctrl.New()
	if err != nil {
		return fmt.Errorf("speak to the kernel's WireGuard: %w", err)
	}
	return errors.Join(f(k), k.Close())
}
