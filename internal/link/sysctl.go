package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file turns the global forwarding switch of IPv6, which netlink cannot reach. Writing it
// turns the switch of every interface with it (addrconf_forward_change in
// net/ipv6/addrconf.c). The host would then behave as a router on each: it would ignore
// router advertisements and lose the default routes that it has from them. So the functions
// here restore the switches of the interfaces. Rules have to limit what is forwarded between
// them, as Documentation/networking/ip-sysctl.rst recommends for conf/all/forwarding.

// Paths of the switches, and the name that stands for new interfaces.
const (
	confFolder6 = "/proc/sys/net/ipv6/conf"
	confDefault = "default"
	forward6    = confFolder6 + "/all/forwarding"
)

// OpenForwarding6 makes the host forward IPv6. Of the interfaces' switches it turns on only
// that of the interface called router: bpf_fib_lookup asks it. It needs CAP_NET_ADMIN and a
// writable /proc/sys.
func OpenForwarding6(router string) error {
	before, err := ForwardingSwitches(true)
	if err != nil {
		return err
	}
	return keepRoutes(func() error {
		if err := write(forward6, "1"); err != nil {
			return err
		}
		// The default comes first: an interface made from now on starts with it.
		errs := []error{setDefault6(before.Default)}
		return errors.Join(append(errs, eachInterface(func(name string, index int) error {
			return setForwarding6(name, before.Devices[index] || name == router)
		}))...)
	})
}

// SetRouter6 turns on the switch of the interface called name, which was made after
// OpenForwarding6.
func SetRouter6(name string) error {
	return keepRoutes(func() error { return setForwarding6(name, true) })
}

// setRouter6 is the step of Set that turns on the TUN's switch. Where /proc/sys is read-only, as in
// many containers, the mesh works without it, only slower: the kernel engine tells.
func setRouter6(_ netlink.Link, s Settings) (changed []string, err error) {
	if !s.Router6 || setting("ipv6", s.Interface, "forwarding") != "0" {
		return nil, nil
	}
	err = SetRouter6(s.Interface)
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return []string{"IPv6 forwarding was off"}, err
}

// CloseForwarding6 undoes OpenForwarding6. It does nothing, and changed is false, if the host
// does not forward any more or if another program has turned the global switch meanwhile:
// that turns the default, too, which OpenForwarding6 has left off.
func CloseForwarding6() (changed bool, err error) {
	before, err := ForwardingSwitches(true)
	if err != nil || !before.All || before.Default {
		return false, err
	}
	return true, keepRoutes(func() error {
		if err := write(forward6, "0"); err != nil {
			return err
		}
		return eachInterface(func(name string, index int) error {
			return setForwarding6(name, before.Devices[index])
		})
	})
}

// keepRoutes calls do, which makes the host a router on all interfaces for a moment, without
// losing default routes. The kernel then removes the routes it has from router
// advertisements, except on interfaces with accept_ra 2, which listen to advertisements in
// any case (rt6_purge_dflt_routers in net/ipv6/route.c). keepRoutes sets 2 and restores 1.
func keepRoutes(do func() error) error {
	var listening []string
	err := eachInterface(func(name string, _ int) error {
		if setting("ipv6", name, "accept_ra") != "1" {
			return nil
		}
		listening = append(listening, name)
		return setAcceptRA(name, "2")
	})
	if err == nil {
		err = do()
	}
	errs := []error{err}
	for _, name := range listening {
		errs = append(errs, setAcceptRA(name, "1"))
	}
	return errors.Join(errs...)
}

// eachInterface calls do for each interface with settings of its own and joins the errors.
func eachInterface(do func(name string, index int) error) error {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		if _, err := confPath("ipv6", l.Attrs().Name, ""); err == nil {
			errs = append(errs, do(l.Attrs().Name, l.Attrs().Index))
		}
	}
	return errors.Join(errs...)
}

// setForwarding6 turns the switch of one interface, unless it is so already.
func setForwarding6(name string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	path, err := confPath("ipv6", name, "forwarding")
	if err != nil || (setting("ipv6", name, "forwarding") != "0") == on {
		return err
	}
	return ifThere(write(path, value))
}

// setDefault6 restores the default for new interfaces after the global switch has turned it on.
func setDefault6(on bool) error {
	if on {
		return nil
	}
	return write(filepath.Join(confFolder6, confDefault, "forwarding"), "0")
}

// setAcceptRA sets whether an interface accepts router advertisements.
func setAcceptRA(name, value string) error {
	path, err := confPath("ipv6", name, "accept_ra")
	if err != nil {
		return err
	}
	return ifThere(write(path, value))
}

// ifThere ignores the error of an interface that was removed meanwhile.
func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// write writes to an existing file. os.WriteFile would try to create it, which /proc/sys refuses
// with another error than "does not exist".
func write(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(value)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return fmt.Errorf("set %s to %s: %w", strings.TrimPrefix(path, "/proc/sys/"), value, err)
	}
	return nil
}
