package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// places is where programs are, and where they belong. It is the owner's alone.
type places struct {
	attached map[attachment]hook
	tun      int               // index
	underlay []int             // indices of the interfaces where programs are to take datagrams
	spared   []int             // of those where the socket takes them as long as meshd runs
	receive  dataplane.Receive // where the file has datagrams taken; never AnyReceive
	merger   merger            // where TCP is merged; zero: nowhere
	made     merger            // the last pair, to tell that it was deleted
	unmerged error             // why TCP is not merged; nil: it is, or is not to be
	decap    []int             // indices of devices where the kernel delivers, if it has the port; see fou.go
	userPort uint16            // of the user engine's sockets, if the kernel has the mesh's; else 0
	marking  []meshDevice      // where a mark is believed: where XDP is, or comes to
	refused  []string          // why XDP is not where it should be, an interface each
}

// attach puts the programs where they belong, and takes them from everywhere else. The changes name
// what of the merger was not as we left it.
func (e *Engine) attach(w dataplane.Wanted, tun int) (changes []mesh.Change, err error) {
	e.tun, e.underlay, e.receive, e.spared = tun, w.Kernel.Underlay, w.Kernel.Receive, nil
	if e.receive == dataplane.FOU {
		e.receive = dataplane.TCX // until the kernel has the port
	}
	if e.receive == dataplane.AnyReceive {
		// Native XDP is for those who ask for it: nearly every driver resets its rings, and with
		// them the link, when the first program comes, and gives up receive offloads as long as it
		// is there (virtio_net refuses for them; a veth's peer loses segmentation offload).
		e.receive = dataplane.TCX
		if w.Kernel.Use == dataplane.IfPossible {
			e.spareTUNs()
		}
	}
	if w.Apart && e.receive == dataplane.TCX {
		if err := e.takePort(w); err != nil {
			e.giveUpFOU(err)
		} else {
			e.receive = dataplane.FOU
			e.hasFOU()
		}
	}
	changes = e.haveMerger()
	moved, err := e.pass()
	changes = append(changes, moved...)
	if err != nil {
		return changes, err
	}
	wanted := e.wantedPlaces()
	e.describe(wanted) // before XDP is there, or its marks would not be believed and packets dropped
	if err := e.configureFor(w); err != nil {
		return changes, err
	}
	if err := e.place(wanted); err != nil {
		return changes, err
	}
	e.describe(nil) // now XDP is where it could be, and the merger has its program
	if err := e.configureFor(w); err != nil {
		return changes, err
	}
	if e.receive == dataplane.Socket || e.receive == dataplane.FOU {
		if _, err := deleteMerger(); err != nil {
			return changes, err
		}
	}
	return changes, e.tell(w)
}

// spareTUNs leaves datagrams that come in by TUNs to the socket. Whoever feeds a TUN, such as a VPN in user
// space, writes packets one by one. Each is a run of softirqs of its own, so that the merger finds no two
// at a time, while the user engine merges all that wait in the socket. Devices of the kernel (WireGuard,
// PPP) bring many packets in one run.
func (p *places) spareTUNs() {
	all := p.underlay
	p.underlay = nil
	for _, device := range all {
		if l, err := netlink.LinkByIndex(device); err == nil && l.Type() == "tuntap" {
			p.spared = append(p.spared, device)
		} else {
			p.underlay = append(p.underlay, device)
		}
	}
	if len(p.underlay) == 0 && len(p.spared) > 0 {
		p.receive = dataplane.Socket
	}
}

// StandIn has programs take in what the socket has taken in so far. It is the owner's last call, when meshd
// ends: packets go on without it. A program that would end with meshd is not attached.
func (e *Engine) StandIn() error {
	h := e.handle()
	if h == nil || h.folder == "" {
		return nil
	}
	var errs []error
	for _, device := range e.spared {
		at := attachment{stageIn, device}
		hook, err := e.attachTo(at)
		if err != nil {
			errs = append(errs, fmt.Errorf("attach the program %q to %s: %w", at.stage, nameOf(device), explain(err)))
			continue
		}
		e.attached[at] = hook
	}
	return errors.Join(errs...)
}

// join joins texts that are not empty.
func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// tell shows readers where programs are, and logs what could not be done, each reason once.
func (e *Engine) tell(w dataplane.Wanted) error {
	receive, refused, before := e.receive, strings.Join(e.refused, "; "), e.shown.Load()
	if receive == dataplane.XDP && len(e.refused) == len(e.underlay) {
		receive = dataplane.TCX // on every interface
	}
	if refused != "" && refused != before.refused {
		e.log.Warn("XDP refused: falling back to tcx", "error", refused, "event", "xdp_refused")
	}
	if e.unmerged != nil && (before.unmerged == nil || before.unmerged.Error() != e.unmerged.Error()) {
		e.log.Warn("TCP reception is slow: receive merging (GRO) is off",
			"error", e.unmerged, "event", "unmerged")
	}
	ids, err := e.handle().ids()
	if err != nil {
		return fmt.Errorf("read the numbers of the programs: %w", err)
	}
	noFOU := e.whyNoFOU(w)
	if noFOU != "" && w.Kernel.Receive == dataplane.FOU {
		refused, noFOU = join(refused, noFOU), ""
	}
	for _, device := range e.spared {
		refused = join(refused, nameOf(device)+" is a TUN: the socket takes datagrams in faster")
	}
	names := make([]string, 0, len(e.underlay))
	for _, device := range e.underlay {
		names = append(names, nameOf(device))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.publish(func(s *shown) {
		s.standings, s.ids, s.underlay, s.forward6 = e.standings(), ids, names, ""
		if slices.ContainsFunc(w.Binds, func(b netip.AddrPort) bool { return b.Addr().Is6() }) {
			s.forward6 = w.Interface
		}
		s.attached, s.receive, s.refused, s.noFOU, s.unmerged = true, receive, refused, noFOU, e.unmerged
		// Where nothing but speed is lost, and the file does not ask for programs, all is well.
		if s.severity = mesh.Info; w.Kernel.Use == dataplane.Always {
			s.severity = mesh.Degraded
		}
	})
	return nil
}

// haveMerger sees to it that there is a merger if programs take packets in.
func (e *Engine) haveMerger() (changes []mesh.Change) {
	e.merger, e.unmerged = merger{}, nil
	if e.receive == dataplane.Socket || e.receive == dataplane.FOU {
		e.made = merger{}
		return nil
	}
	queues, err := ebpf.PossibleCPU()
	if err != nil {
		queues = runtime.NumCPU()
	}
	m, changes, err := setMerger(queues)
	if err != nil {
		e.unmerged = err
		return nil
	}
	switch {
	case e.made == m:
	case e.made == merger{}:
		// What was dropped before is not ours to count.
		if dropped, err := mergerOverflow(); err == nil {
			e.overflow.From(dropped)
		}
	default:
		changes = append(changes, mesh.Change{Op: mesh.Repaired, Kind: mesh.ChangedInterface,
			Subject: mergerEntry, Old: "deleted"})
	}
	e.merger, e.made = m, m
	return changes
}

// wantedPlaces returns where programs belong.
func (p *places) wantedPlaces() map[attachment]bool {
	// Sending by programs does not depend on how packets are received.
	wanted := map[attachment]bool{{stageOut, p.tun}: true}
	if p.merger.exit != 0 {
		wanted[attachment{stageMerge, p.merger.exit}] = true
	}
	for _, device := range p.decap {
		wanted[attachment{stageDecap, device}] = true
	}
	for _, device := range p.underlay {
		if p.receive != dataplane.Socket {
			wanted[attachment{stageIn, device}] = true
		}
		if p.receive == dataplane.XDP {
			wanted[attachment{stageXDP, device}] = true
		}
	}
	return wanted
}

// place attaches programs where they are wanted, and then detaches them from everywhere else.
func (e *Engine) place(wanted map[attachment]bool) error {
	// What is attached in vain is taken away at the end: the first stages are useless without the
	// others, and do no harm.
	e.refused = nil
	for _, at := range inOrder(wanted) {
		if e.stands(at) {
			continue
		}
		h, err := e.attachTo(at)
		if err == nil {
			e.attached[at] = h
			continue
		}
		switch delete(wanted, at); stages[at.stage].policy {
		case required:
			return fmt.Errorf("attach the program %q to %s: %w", at.stage, nameOf(at.device), explain(err))
		case droppable: // the interface may just have been deleted
			if at.stage == stageDecap {
				e.giveUpFOU(err)
				continue
			}
			e.unmerged, e.merger = err, merger{}
			if err := e.configure(func(s *meshSettings) { s.Merger = 0 }); err != nil {
				return err
			}
		case fallsBack: // one file is for hosts with and without
			why := fmt.Sprintf("%s: no native XDP: %v", nameOf(at.device), explain(err))
			e.refused = append(e.refused, why)
		}
	}
	for _, at := range slices.Backward(inOrder(e.attached)) {
		if wanted[at] {
			continue
		}
		if err := e.take(at); err != nil {
			return err
		}
	}
	return nil
}

// describe lists the interfaces that XDP is at, or is to come to, with their MAC addresses, which
// change at times. It leaves out what the programs have no room for, and interfaces that are gone:
// XDP is not attached there.
func (e *Engine) describe(wanted map[attachment]bool) {
	var settings meshSettings
	e.marking = nil
	for _, at := range slices.Concat(inOrder(e.attached), inOrder(wanted)) {
		if at.stage != stageXDP || e.marks(at.device) || len(e.marking) == len(settings.Devices) {
			continue
		}
		if i, err := net.InterfaceByIndex(at.device); err == nil {
			d := meshDevice{Index: uint32(at.device)}
			copy(d.Address[:], i.HardwareAddr)
			e.marking = append(e.marking, d)
		}
	}
}

// marks tells whether a mark in front of packets of an interface is believed.
func (p *places) marks(device int) bool {
	return slices.ContainsFunc(p.marking, func(d meshDevice) bool { return d.Index == uint32(device) })
}

// stands tells whether a program is where we put it, which others may have changed, and makes it
// the one that is loaded.
func (e *Engine) stands(at attachment) bool {
	h := e.attached[at]
	if h == nil {
		return false
	}
	program, err := e.handle().program(at)
	if err == nil && h.Update(program) == nil {
		return true
	}
	_ = e.take(at) // whatever is left of it
	return false
}

// detach takes the programs from everywhere, and the merger with them.
func (e *Engine) detach() error {
	e.merger, e.made, e.unmerged, e.refused, e.marking = merger{}, merger{}, nil, nil, nil
	errs := []error{e.configure(func(s *meshSettings) { s.Merger, s.Decap = 0, 0 })}
	if len(e.decap) > 0 { // before its program goes, or packets of anybody would come in by it
		_, err := deleteTunnels()
		errs, e.decap = append(errs, err), nil
	}
	for _, at := range slices.Backward(inOrder(e.attached)) {
		errs = append(errs, e.take(at))
	}
	if err := errors.Join(errs...); err != nil { // a program that is left may need the merger
		return err
	}
	_, err := deleteMerger()
	return err
}

// take takes a program from where it is attached.
func (e *Engine) take(at attachment) error {
	h := e.attached[at]
	delete(e.attached, at)
	return h.remove()
}

// bare tells whether packets of an interface begin with the IP header: those of WireGuard, PPP and
// TUNs (ARPHRD_NONE, ARPHRD_PPP and ARPHRD_RAWIP in linux/if_arp.h). There is no native XDP.
func bare(device int) bool {
	l, err := netlink.LinkByIndex(device)
	return err == nil && slices.Contains([]string{"none", "ppp", "unknown519"}, l.Attrs().EncapType)
}

// indexOf returns the index of an interface; 0 if there is none of the name.
func indexOf(name string) int {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return i.Index
}

// nameOf returns the name of an interface, or words with its index if it is gone.
func nameOf(device int) string {
	i, err := net.InterfaceByIndex(device)
	if err != nil {
		return fmt.Sprintf("the interface with index %d", device)
	}
	return i.Name
}
