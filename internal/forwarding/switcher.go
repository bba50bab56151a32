package forwarding

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/rate"
)

// Switcher turns forwarding on, as --sysctl asks for. Follow belongs to one goroutine; Conditions may
// be called from any.
type Switcher struct {
	folder string // of the note
	asked  bool
	log    *slog.Logger

	seen    map[int]bool  // interfaces that are there, and have forwarded IPv4 in this run
	routers map[int]bool  // TUNs that are there, and whose switch for IPv6 was on in this run
	opened  rate.Lines    // about interfaces that were opened
	settled map[bool]bool // families (true: IPv6) whose global switch somebody else has turned, or we have

	mu      sync.Mutex
	failure string // why forwarding stays off; empty if nothing is wrong
}

// New returns a Switcher that keeps its note in a folder. Without asked it turns nothing on.
func New(folder string, asked bool, log *slog.Logger) *Switcher {
	return &Switcher{folder: folder, asked: asked, log: log,
		seen: map[int]bool{}, routers: map[int]bool{}, settled: map[bool]bool{}}
}

// errUnguarded is why nothing is turned on while the rules are not in force.
var errUnguarded = errors.New("the rule that keeps this host's other networks apart is not in force")

// Follow turns on what a host needs and has not been on in this run. guarded tells that the rule for
// the closed interfaces is in force: nothing is turned on without. It tells whether it has to be
// called again for want of the rule.
func (f *Switcher) Follow(h Host, guarded bool) (again bool) {
	err := f.turn(h, guarded)
	failure := ""
	if err != nil {
		failure = err.Error()
	}
	f.mu.Lock()
	// Follow is called with each look at the host: only another failure is worth a line of the log.
	news := failure != f.failure
	f.failure = failure
	f.mu.Unlock()
	if news && err != nil {
		f.log.Warn("forwarding is not turned on", "error", err, "event", "warning")
	}
	return errors.Is(err, errUnguarded)
}

// Conditions tells why forwarding stays off though --sysctl asks for it.
func (f *Switcher) Conditions() []mesh.Condition {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure == "" {
		return nil
	}
	return []mesh.Condition{{Kind: mesh.ForwardingFailed, Severity: mesh.Degraded, Cause: f.failure}}
}

// turn notes what is on because of meshd, then turns on what is due. A note that cannot be read is
// written anew; without a name for this boot and namespace there can be none, and nothing is turned
// on.
func (f *Switcher) turn(h Host, guarded bool) error {
	had, noteErr := readFound(f.folder)
	if had.Where == "" {
		return noteErr
	}
	switches, err := bothSwitches()
	if err != nil {
		return err
	}
	// What somebody has turned off meanwhile leaves the note, or Restore would turn off what a later
	// owner turns on.
	have := had.still(switches)
	due4, due6 := f.due(h, switches)
	if len(due4) > 0 || due6 {
		if !guarded {
			return errUnguarded
		}
		have.IPv6 = have.IPv6 || due6
		for _, one := range due4 {
			have.IPv4 = append(have.IPv4, one.Index)
		}
	}
	// The note comes first: what is on without a note would be taken for somebody else's.
	if noteErr != nil || !have.same(had) {
		if err := have.save(f.folder); err != nil {
			return err
		}
	}
	return errors.Join(f.open4(due4), f.open6(h.Node.TUN, due6), f.router(h.Node.TUN, have, switches))
}

// still returns what is left of a note: what somebody has turned off, or has turned on for the whole
// host, is no longer on because of meshd. Whoever turns the global switch of IPv6 turns the default
// with it, which meshd does not.
func (f found) still(switches map[bool]link.Switches) found {
	v4, v6 := switches[false], switches[true]
	kept := found{Where: f.Where, IPv6: f.IPv6 && v6.All && !v6.Default}
	for _, index := range f.IPv4 {
		if v4.Devices[index] && !v4.All {
			kept.IPv4 = append(kept.IPv4, index)
		}
	}
	return kept
}

// same tells whether two notes say the same; lists are in the order in which interfaces were opened.
func (f found) same(g found) bool {
	return f.Where == g.Where && f.IPv6 == g.IPv6 && slices.Equal(f.IPv4, g.IPv4)
}

// due returns what is to be turned on now.
func (f *Switcher) due(h Host, switches map[bool]link.Switches) (v4 []link.Interface, v6 bool) {
	for _, six := range []bool{false, true} {
		// Settled for this run: who turns the global switch off later means it, and meshd does not fight
		// over it.
		f.settled[six] = f.settled[six] || switches[six].All
	}
	// Interfaces of pods come and go, for years.
	gone := func(of link.Switches) func(int, bool) bool {
		return func(index int, _ bool) bool { _, known := of.Devices[index]; return !known }
	}
	maps.DeleteFunc(f.seen, gone(switches[false]))
	maps.DeleteFunc(f.routers, gone(switches[true]))
	if !f.asked {
		return nil, false
	}
	for _, one := range h.interfaces() {
		on, known := switches[false].Devices[one.Index]
		// The same by interface: one that was on once and is off now has been turned off by somebody.
		f.seen[one.Index] = f.seen[one.Index] || on
		if known && !f.seen[one.Index] && !f.settled[false] && h.Node.carries(false) {
			v4 = append(v4, one)
		}
	}
	return v4, !f.settled[true] && h.Node.carries(true)
}

// open4 turns IPv4 on for interfaces, as far as it can: one that fails does not keep the others
// closed.
func (f *Switcher) open4(due []link.Interface) error {
	var errs []error
	var names []string
	for _, one := range due {
		err := link.SetForwarding4(one, true)
		switch {
		case err == nil:
			f.seen[one.Index] = true
			names = append(names, one.Name)
		case !errors.Is(err, unix.ENODEV): // it has gone meanwhile
			errs = append(errs, err)
		}
	}
	if len(names) > 0 {
		if n := f.opened.Add(time.Now()); n > 0 {
			f.log.Info("turned forwarding on", "family", "IPv4", "interfaces", strings.Join(names, " "), "count", n,
				"event", "forwarding_on")
		}
	}
	return errors.Join(errs...)
}

// open6 turns on the global switch of IPv6, if that is due: the kernel forwards IPv6 by no other. link
// leaves the switches of interfaces, but for the TUN's, as they are: those of a router ignore router
// advertisements.
func (f *Switcher) open6(tun string, due bool) error {
	if !due {
		return nil
	}
	if err := link.OpenForwarding6(tun); err != nil {
		return fmt.Errorf("%w: where /proc/sys cannot be written, leave --sysctl out and put"+
			" net.ipv6.conf.all.forwarding=1 into /etc/sysctl.d", err)
	}
	f.settled[true] = true
	f.log.Info("turned forwarding on", "family", "IPv6", "interfaces", "all", "event", "forwarding_on")
	return nil
}

// router has a TUN that was made anew be a router's, if the first one was.
func (f *Switcher) router(name string, have found, switches map[bool]link.Switches) error {
	tun := link.Index(name)
	on, known := switches[true].Devices[tun]
	if !f.asked || !have.IPv6 || !known || f.routers[tun] {
		return nil
	}
	// Once for each TUN, by index: if somebody turns it off later, it stays off.
	f.routers[tun] = true
	if on {
		return nil
	}
	// A new interface has the switch of `default`, which meshd leaves off.
	return link.SetRouter6(name)
}
