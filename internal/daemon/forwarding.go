package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/link"
)

// Whether the host forwards packets of pods, and what --sysctl does about it.
//
//	IPv4   the switches of the mesh's interfaces, each once in a run: ip_forward stays as it was
//	IPv6   the global switch, once in a run: the kernel asks no other
//	closed what must stay apart, though forwarding is on: a rule drops what is forwarded from one of
//	       these interfaces to another. That is all interfaces but the TUN and those of pods, as long
//	       as nobody else has turned forwarding on for them
//
// What somebody turns off later is told, and not turned on again before the next start.

// passage is what a plan has to know of the host's forwarding.
type passage struct {
	crossing link.Crossing
	switches map[bool]link.Switches // true: IPv6
	found    found
	asked    bool // --sysctl
}

// passageOf looks at the host for a node.
func passageOf(network config.Network, self config.Node, underlay []int, o Options) (p passage, err error) {
	p.asked = o.Sysctl
	if p.crossing, err = link.FindCrossing(network.Interface, network.CIDR, self.Subnets, self.Routes, underlay); err != nil {
		return p, err
	}
	if p.switches, err = bothSwitches(); err != nil {
		return p, err
	}
	note, _ := readFound(o.State) // that it cannot be read is said where it is written
	p.found = note.still(p.switches)
	return p, nil
}

func bothSwitches() (map[bool]link.Switches, error) {
	v4, err4 := link.ForwardingSwitches(false)
	v6, err6 := link.ForwardingSwitches(true)
	return map[bool]link.Switches{false: v4, true: v6}, errors.Join(err4, err6)
}

// closed returns the names of the interfaces between which a family is not forwarded, if it is
// forwarded because of meshd, or is about to be.
func (p passage) closed(v6, carried bool) (names []string) {
	s := p.switches[v6]
	ours, theirs := len(p.found.IPv4) > 0, s.All
	if v6 {
		ours, theirs = p.found.IPv6, s.Default || s.All && !p.found.IPv6
	}
	if theirs || !ours && !(p.asked && carried) {
		return nil
	}
	for _, one := range slices.Concat(p.crossing.Sides, p.crossing.Rest) {
		if !s.Devices[one.Index] || !v6 && slices.Contains(p.found.IPv4, one.Index) {
			names = append(names, one.Name)
		}
	}
	slices.Sort(names)
	return names
}

// planForwarding says what must not be forwarded.
func (p *plan) planForwarding(host passage) {
	p.passage, p.closed = host, map[bool][]string{}
	for _, v6 := range []bool{false, true} {
		if names := host.closed(v6, slices.Contains(families(p.config.Network), v6)); len(names) > 0 {
			p.closed[v6] = names
		}
	}
}

// forwardingOff returns a warning for each family that the mesh carries and the host does not
// forward. It is asked anew for every status, so that it is gone when somebody has mended it.
func forwardingOff(p *plan) (warnings []string) {
	switches, err := bothSwitches()
	if err != nil {
		return []string{err.Error()}
	}
	advice := ", or meshd with --sysctl"
	if p.passage.asked {
		advice = ", or `systemctl restart meshd`: meshd turns forwarding on once, when it starts"
	}
	for _, v6 := range families(p.config.Network) {
		warning := ""
		switch {
		case !v6:
			warning = forwardingOff4(p, switches[v6])
		case !switches[v6].All:
			warning = "net.ipv6.conf.all.forwarding is 0: pods cannot reach other hosts over IPv6;" +
				" run `sysctl -w net.ipv6.conf.all.forwarding=1`" +
				" (first net.ipv6.conf.IFACE.accept_ra=2 where an interface gets its routes from router advertisements)"
		}
		if warning != "" {
			warnings = append(warnings, warning+advice)
		}
	}
	return warnings
}

// forwardingOff4 names the interfaces of the mesh that do not forward IPv4.
func forwardingOff4(p *plan, s link.Switches) string {
	var names, settings []string
	all := p.meshInterfaces()
	for _, one := range all {
		if on, known := s.Devices[one.Index]; known && !on {
			names = append(names, one.Name)
			settings = append(settings, link.SysctlName("ipv4", one.Name, "forwarding")+"=1")
		}
	}
	switch {
	case len(names) == 0:
		return ""
	case len(names) == len(all) && !s.All:
		return "net.ipv4.ip_forward is 0: pods cannot reach other hosts; run `sysctl -w net.ipv4.ip_forward=1`"
	}
	return fmt.Sprintf("%s: forwarding of IPv4 is off: packets of pods that come in there are dropped;"+
		" run `sysctl -w %s`", strings.Join(names, ", "), strings.Join(settings, " "))
}

// meshInterfaces returns the TUN, if it is there, and the interfaces by which packets of the mesh
// cross this host.
func (p *plan) meshInterfaces() []link.Interface {
	all := p.passage.crossing.All()
	if tun := link.Index(p.link.Interface); tun > 0 {
		all = append(all, link.Interface{Index: tun, Name: p.link.Interface})
	}
	return all
}

// forwarder turns forwarding on, as --sysctl asks for. Only status may be called by several
// goroutines at once.
type forwarder struct {
	folder string // of the note
	asked  bool
	log    *slog.Logger

	seen    map[int]bool  // interfaces that have forwarded IPv4 in this run
	routers map[int]bool  // TUNs whose switch for IPv6 was on in this run
	settled map[bool]bool // families (true: IPv6) whose global switch somebody else has turned, or we have

	mu      sync.Mutex
	failure string // why forwarding stays off; empty if nothing is wrong
}

func newForwarder(o Options) *forwarder {
	return &forwarder{folder: o.State, asked: o.Sysctl, log: o.Log,
		seen: map[int]bool{}, routers: map[int]bool{}, settled: map[bool]bool{}}
}

// errUnguarded is why nothing is turned on while the rules are not in force.
var errUnguarded = errors.New("the rule that keeps this host's other networks apart is not in force")

// follow turns on what a plan needs and has not been on in this run. guarded tells that the rule
// for the plan's closed interfaces is in force: nothing is turned on without. It tells whether it
// has to be called again for want of the rule.
func (f *forwarder) follow(p *plan, guarded bool) (again bool) {
	err := f.turn(p, guarded)
	failure := ""
	if err != nil {
		failure = "forwarding is not turned on: " + err.Error()
	}
	f.mu.Lock()
	news := failure != f.failure
	f.failure = failure
	f.mu.Unlock()
	if news && failure != "" {
		f.log.Warn(failure, "event", "warning")
	}
	return errors.Is(err, errUnguarded)
}

// warnings tells why forwarding stays off.
func (f *forwarder) warnings() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure == "" {
		return nil
	}
	return []string{f.failure}
}

func (f *forwarder) turn(p *plan, guarded bool) error {
	had, noteErr := readFound(f.folder)
	if had.Where == "" {
		return noteErr
	}
	switches, err := bothSwitches()
	if err != nil {
		return err
	}
	have := had.still(switches)
	due4, due6 := f.due(p, switches)
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
	return errors.Join(f.open4(due4), f.open6(p.link.Interface, due6), f.router(p, have, switches))
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

func (f found) same(g found) bool {
	return f.Where == g.Where && f.IPv6 == g.IPv6 && slices.Equal(f.IPv4, g.IPv4)
}

// due returns what is to be turned on now.
func (f *forwarder) due(p *plan, switches map[bool]link.Switches) (v4 []link.Interface, v6 bool) {
	for _, six := range []bool{false, true} {
		f.settled[six] = f.settled[six] || switches[six].All
	}
	carried := families(p.config.Network)
	if !f.asked {
		return nil, false
	}
	for _, one := range p.meshInterfaces() {
		on, known := switches[false].Devices[one.Index]
		f.seen[one.Index] = f.seen[one.Index] || on
		if known && !f.seen[one.Index] && !f.settled[false] && slices.Contains(carried, false) {
			v4 = append(v4, one)
		}
	}
	return v4, !f.settled[true] && slices.Contains(carried, true)
}

func (f *forwarder) open4(due []link.Interface) error {
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
		f.log.Info("turned forwarding on", "family", "IPv4", "interfaces", strings.Join(names, " "),
			"event", "forwarding_on")
	}
	return errors.Join(errs...)
}

func (f *forwarder) open6(tun string, due bool) error {
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
func (f *forwarder) router(p *plan, have found, switches map[bool]link.Switches) error {
	tun := link.Index(p.link.Interface)
	on, known := switches[true].Devices[tun]
	if !f.asked || !have.IPv6 || !known || f.routers[tun] {
		return nil
	}
	f.routers[tun] = true
	if on {
		return nil
	}
	return link.SetRouter6(p.link.Interface)
}

// RestoreForwarding turns off what a meshd that keeps its state in a folder has turned on, and
// nobody else wants by now. It returns in words what it did. It needs to run as root.
func RestoreForwarding(folder string) (did []string, err error) {
	have, err := readFound(folder)
	if err != nil {
		return nil, err
	}
	switches, err := bothSwitches()
	if err != nil {
		return nil, err
	}
	have = have.still(switches)
	var errs []error
	for _, index := range have.IPv4 {
		switch err := link.SetForwarding4(link.Interface{Index: index}, false); {
		case err == nil:
			did = append(did, "turned forwarding of IPv4 off on "+nameOf(index)+", as it was before")
		case !errors.Is(err, unix.ENODEV):
			errs = append(errs, err)
		}
	}
	if have.IPv6 {
		changed, err := link.CloseForwarding6()
		errs = append(errs, err)
		if changed && err == nil {
			did = append(did, "turned forwarding of IPv6 off, as it was before")
		}
	}
	if err := errors.Join(errs...); err != nil {
		return did, err
	}
	err = found{}.save(folder)
	_ = os.Remove(folder) // if nothing else is in it
	return did, err
}

// nameOf returns an interface's name for people.
func nameOf(index int) string {
	if one, err := net.InterfaceByIndex(index); err == nil {
		return one.Name
	}
	return fmt.Sprintf("interface %d", index)
}

// families tells which the network carries (true: IPv6).
func families(network config.Network) (carried []bool) {
	for _, probe := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if _, ok := network.CIDROf(probe); ok {
			carried = append(carried, probe.Is6())
		}
	}
	return carried
}
