package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/genl"
)

// With receive = "fou" the kernel itself has the mesh's port: a FOU socket (foo over UDP, Linux 3.18) of
// the type GUE. Variant 1 of GUE is a bare IP packet in UDP, which is the wire of the mesh. So the kernel's
// GRO knows that there is TCP inside, and merges it on the underlay's own interface. What FOU takes out of
// UDP goes to a device for IP in IP, where mesh_decap takes it to the TUN.
//
// The socket is bound to all addresses and to no interface. Before Linux 6.5 GRO looks a socket up without
// the interface (7938cd154368), and before 6.9 with the inner addresses (5ef31ea5d053): no other socket would
// be found. So no socket of meshd can have the port beside it: they have another one (Wanted.Apart).

// errNoFOU says that the kernel, or the host as it is, is not fit for receive = "fou".
var errNoFOU = errors.New("no FOU")

// noFOU wraps the reason.
func noFOU(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errNoFOU, fmt.Errorf(format, args...))
}

// A port is what FOU has, or is to have.
type port struct {
	family int
	number uint16
}

// askFOU sends a message to FOU (include/uapi/linux/fou.h). Without FOU in the kernel the error is
// fs.ErrNotExist.
func askFOU(flags int, command uint8, attributes ...*nl.RtAttr) ([][]syscall.NetlinkRouteAttr, error) {
	family, err := genl.Family(netlink.FOU_GENL_NAME)
	if err != nil {
		return nil, err
	}
	return genl.Ask(family, flags, command, 1, attributes...)
}

// add has FOU take the port. netlink.FouAdd says IPPROTO 0, too, which Linux refuses since 6.3 (ERANGE).
func (p port) add() error {
	_, err := askFOU(unix.NLM_F_ACK, netlink.FOU_CMD_ADD,
		nl.NewRtAttr(netlink.FOU_ATTR_PORT, binary.BigEndian.AppendUint16(nil, p.number)),
		nl.NewRtAttr(netlink.FOU_ATTR_TYPE, []byte{netlink.FOU_ENCAP_GUE}),
		nl.NewRtAttr(netlink.FOU_ATTR_AF, []byte{uint8(p.family)}))
	return err
}

// drop has FOU give the port back.
func (p port) drop() error {
	_, err := askFOU(unix.NLM_F_ACK, netlink.FOU_CMD_DEL,
		nl.NewRtAttr(netlink.FOU_ATTR_PORT, binary.BigEndian.AppendUint16(nil, p.number)),
		nl.NewRtAttr(netlink.FOU_ATTR_AF, []byte{uint8(p.family)}))
	return err
}

// portsOf returns those of our addresses, each once.
func portsOf(binds []netip.AddrPort) (all []port) {
	for _, b := range binds {
		p := port{unix.AF_INET, b.Port()}
		if b.Addr().Is6() {
			p.family = unix.AF_INET6
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// fouPorts returns the ports that FOU sockets of our kind have, whoever made them: it is none of a meshd
// that is bound to an address, or of another type. Without FOU in the kernel there are none.
func fouPorts() (all []port, err error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := retry(func() ([][]syscall.NetlinkRouteAttr, error) {
			return askFOU(unix.NLM_F_DUMP, netlink.FOU_CMD_GET,
				nl.NewRtAttr(netlink.FOU_ATTR_AF, []byte{uint8(family)}))
		})
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list FOU sockets: %w", err)
		}
		for _, attributes := range list {
			if own, ours := portIn(attributes); ours && !slices.Contains(all, own) {
				all = append(all, own)
			}
		}
	}
	return all, nil
}

// portIn returns the port of a FOU socket; ours tells whether it is of our kind.
func portIn(attributes []syscall.NetlinkRouteAttr) (p port, ours bool) {
	unbound := true
	for _, a := range attributes {
		switch a.Attr.Type {
		case netlink.FOU_ATTR_AF:
			p.family = int(a.Value[0])
		case netlink.FOU_ATTR_PORT:
			p.number = binary.BigEndian.Uint16(a.Value)
		case netlink.FOU_ATTR_TYPE:
			ours = a.Value[0] == netlink.FOU_ENCAP_GUE
		case netlink.FOU_ATTR_IFINDEX:
			unbound = binary.NativeEndian.Uint32(a.Value) == 0
		}
	}
	return p, ours && unbound
}

// HoldsPort tells whether the kernel has the port of one of our addresses, since an earlier meshd had it so,
// and at which port the sockets of that meshd are, or were. It is the owner's.
func (e *Engine) HoldsPort(w dataplane.Wanted) (sockets uint16, held bool) {
	all, err := fouPorts()
	links, linksErr := retry(netlink.LinkList)
	if err != nil || linksErr != nil {
		return 0, false
	}
	for _, l := range links {
		if !isTunnel(l) {
			continue
		}
		a := aliasIn(l.Attrs().Alias)
		for _, p := range portsOf(w.Binds) {
			if slices.Contains(a.ports, p) && slices.Contains(all, p) {
				return a.sockets, true
			}
		}
	}
	return 0, false
}

// addPorts has FOU take ports that it has not.
func addPorts(ports []port) error {
	held, err := fouPorts()
	if err != nil {
		return err
	}
	for _, p := range ports {
		if slices.Contains(held, p) {
			continue
		}
		err := p.add()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return noFOU("the kernel's module fou is not there: `modprobe fou` loads it")
		case err != nil:
			return noFOU("take UDP port %d: %w", p.number, err)
		}
	}
	return nil
}

// dropPorts has FOU give ports back, whichever of them it has.
func dropPorts(ports []port) (found bool, err error) {
	held, err := fouPorts()
	for _, p := range ports {
		if !slices.Contains(held, p) {
			continue
		}
		found = true
		if one := p.drop(); one != nil && !errors.Is(one, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("free UDP port %d: %w", p.number, one))
		}
	}
	return found, err
}

// fouPause is how long it is not tried again whether the kernel can have the port.
const fouPause = 10 * time.Second

// A noFOUSince is why the kernel does not have the mesh's port, and when it may next.
type noFOUSince struct {
	why   error // nil: it may
	again time.Time
}

// CanFOU tells whether the kernel may have the mesh's port, as far as that shows before sockets have left
// it, or whether it could take the port the last time; the error says why not, and status shows it. It is
// EADDRINUSE if a socket still has the port. It is the owner's.
func (e *Engine) CanFOU(w dataplane.Wanted) error {
	e.mu.Lock()
	since := e.noFOU
	e.mu.Unlock()
	if since.why != nil && time.Now().Before(since.again) {
		return since.why
	}
	err := e.tryFOU(w)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.noFOU = noFOUSince{err, time.Now().Add(fouPause)}
	return err
}

// tryFOU makes the devices, since that is how to find out whether the kernel has their kinds. They stay down.
func (e *Engine) tryFOU(w dataplane.Wanted) error {
	if _, err := genl.Family(netlink.FOU_GENL_NAME); err != nil {
		return noFOU("the kernel's module fou is not there: `modprobe fou` loads it")
	}
	for _, peer := range slices.Sorted(maps.Keys(w.Kernel.Policed)) {
		// What IPsec takes out of ESP does not come by mesh_in again.
		if w.Kernel.Policed[peer].In {
			return noFOU("an IPsec policy is about datagrams of node %q", peer)
		}
	}
	for _, device := range w.Kernel.Underlay {
		if l, err := netlink.LinkByIndex(device); err == nil && l.Type() == "tuntap" {
			return noFOU("%s is a TUN, which brings packets one by one", l.Attrs().Name)
		}
	}
	_, err := setTunnels(w, e.userPort)
	if err != nil && len(e.decap) == 0 {
		_, deleteErr := deleteTunnels()
		err = errors.Join(err, deleteErr)
	}
	return err
}

// giveUpFOU notes why the kernel cannot have the port, for some time, and deletes the devices: they must not
// be up without their program.
func (e *Engine) giveUpFOU(why error) {
	e.decap = nil
	if _, err := deleteTunnels(); err != nil {
		why = errors.Join(why, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgoFOU(why)
}

// hasFOU notes that the kernel has the port.
func (e *Engine) hasFOU() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.noFOU = noFOUSince{}
}

// forgoFOU is giveUpFOU for a caller that holds mu and is not the owner.
func (e *Engine) forgoFOU(why error) {
	if !errors.Is(why, errNoFOU) {
		why = noFOU("%w", why)
	}
	e.log.Warn("the kernel cannot have the mesh's port: programs receive by tcx",
		"error", why, "event", "no_fou")
	e.noFOU = noFOUSince{why, time.Now().Add(passagePause)}
}

// whyNoFOU returns why the kernel does not have the port although it may, in words; empty: it has, or
// nothing is known against it.
func (e *Engine) whyNoFOU(w dataplane.Wanted) string {
	if e.receive == dataplane.FOU || !w.Kernel.MayFOU() {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.noFOU.why == nil {
		return ""
	}
	return e.noFOU.why.Error()
}

// HandTo has programs hand datagrams for user space to the socket at a port, and not to the one at the
// mesh's own port, until it is called with 0. It is the owner's.
func (e *Engine) HandTo(port uint16) error {
	e.userPort = port
	return e.configure(func(s *meshSettings) { s.UserPort = networkOrder(port) })
}

// takePort has the kernel take the mesh's port, and brings everything for it to the wanted state. A device
// comes up with its program: without one, packets of anybody in IP would come in by it.
func (e *Engine) takePort(w dataplane.Wanted) error {
	if e.handle().folder == "" {
		// A link of tcx ends with meshd then, but neither the port nor the devices do: packets of anybody in IP
		// would come in.
		return noFOU("the programs are not pinned, and would end before the kernel gives the port back")
	}
	devices, err := setTunnels(w, e.userPort)
	if err != nil {
		return err
	}
	e.clean = false
	for _, device := range devices {
		at := attachment{stageDecap, device}
		if e.stands(at) {
			continue
		}
		h, err := e.attachTo(at)
		if err != nil {
			return fmt.Errorf("attach the program %q to %s: %w", at.stage, nameOf(device), explain(err))
		}
		e.attached[at] = h
	}
	if err := raiseTunnels(devices); err != nil {
		return err
	}
	if err := addPorts(portsOf(w.Binds)); err != nil {
		return err
	}
	e.decap = devices
	return nil
}

// decapsulates tells whether packets can be sent to the devices: they have their program.
func (p *places) decapsulates() bool {
	missing := func(device int) bool { return p.attached[attachment{stageDecap, device}] == nil }
	return len(p.decap) > 0 && !slices.ContainsFunc(p.decap, missing)
}

// exit returns the index of the interface where merged packets come out; 0: there is none.
func (p *places) exit() int {
	if len(p.decap) > 0 {
		return p.decap[0]
	}
	return p.merger.exit
}

// ReleasePort has the kernel give back the ports that a meshd had it take. Programs still hand datagrams
// to the sockets that HandTo named, so none is lost until others have these ports. It is the owner's.
func (e *Engine) ReleasePort() error {
	errs := []error{e.configure(func(s *meshSettings) { s.Decap = 0 })}
	if len(e.decap) > 0 {
		time.Sleep(passageTime) // what is on its way still needs the devices
	}
	e.decap = nil
	_, err := deleteTunnels()
	errs = append(errs, err)
	for _, at := range inOrder(e.attached) {
		if at.stage == stageDecap {
			_ = e.take(at) // its device is gone
		}
	}
	return errors.Join(errs...)
}
