package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// The global switch of IPv6, which netlink does not reach. Whoever turns it turns the switch of
// every interface with it (addrconf_forward_change in net/ipv6/addrconf.c), and so makes each a
// router's: it no longer listens to router advertisements, and loses the default route that it
// had from them. Here the switches of the interfaces stay as they were. What forwards to where is
// a matter of rules, as Documentation/networking/ip-sysctl.rst has it for conf/all/forwarding.

const (
	confFolder6 = "/proc/sys/net/ipv6/conf"
	confDefault = "default"
	forward6    = confFolder6 + "/all/forwarding"
)

// OpenForwarding6 makes the host forward IPv6. Of the switches of interfaces it turns on only that
// of the one called router: bpf_fib_lookup asks it. It needs CAP_NET_ADMIN and a /proc/sys that can
// be written.
func OpenForwarding6(router string) error {
	before, err := ForwardingSwitches(true)
	if err != nil {
		return err
	}
	return keepRoutes(func() error {
		if err := write(forward6, "1"); err != nil {
			return err
		}
		// The default first: interfaces that come from now on begin with it.
		errs := []error{setDefault6(before.Default)}
		return errors.Join(append(errs, eachInterface(func(name string, index int) error {
			return setForwarding6(name, before.Devices[index] || name == router)
		}))...)
	})
}

// SetRouter6 turns on the switch of an interface that was made after OpenForwarding6.
func SetRouter6(name string) error {
	return keepRoutes(func() error { return setForwarding6(name, true) })
}

// CloseForwarding6 ends what OpenForwarding6 began. It does nothing, and changed is false, if the
// host does not forward any more, or if somebody else has turned the switch meanwhile, which turns
// the default, too.
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

// keepRoutes does something that turns interfaces into routers' for a moment, and keeps the kernel
// from taking their default routes away: it spares those of interfaces that listen to router
// advertisements all the same, which is accept_ra 2 (rt6_purge_dflt_routers in net/ipv6/route.c).
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

// eachInterface calls do for each interface that has settings for IPv6.
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

// setForwarding6 turns the switch of one interface, if it is another way.
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

func setDefault6(on bool) error {
	if on {
		return nil // as the global switch has left it
	}
	return write(filepath.Join(confFolder6, confDefault, "forwarding"), "0")
}

func setAcceptRA(name, value string) error {
	path, err := confPath("ipv6", name, "accept_ra")
	if err != nil {
		return err
	}
	return ifThere(write(path, value))
}

// ifThere forgets the error for an interface that has gone meanwhile.
func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// write writes to a file that is there: in /proc/sys none can be made.
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
