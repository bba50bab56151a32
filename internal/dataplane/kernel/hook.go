package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	devices "example.org/meshd/internal/link"
)

// attachment is a place that a program can be at.
type attachment struct {
	program string // "out", "in", "xdp", "gro"
	device  int
}

// A hook is a program that is asked about packets of an interface. It is taken over by the
// next meshd, unless nothing can be pinned.
type hook interface {
	// Update replaces the program at one packet boundary.
	Update(*ebpf.Program) error
	remove() error
}

// linked is a hook that is a BPF link of the kernel: XDP (Linux 5.9), tcx (Linux 6.6). It ends
// with the process unless it is pinned.
type linked struct {
	link.Link
	pinned bool
}

func (l linked) remove() (err error) {
	if l.pinned {
		err = l.Unpin()
	}
	return errors.Join(err, l.Close())
}

// filter is a hook of the clsact qdisc, for kernels without tcx. It outlives the process.
type filter struct{ at attachment }

func (f filter) Update(p *ebpf.Program) error {
	return devices.AttachClassifier(f.at.device, p.FD(), f.at.program == "out")
}

func (f filter) remove() error { return devices.DetachClassifier(f.at.device, f.at.program == "out") }

// attach puts a program where it belongs.
func (p *Programs) attach(at attachment) (hook, error) {
	program, err := p.program(at)
	if err != nil {
		return nil, err
	}
	var l link.Link
	switch at.program {
	case "xdp":
		if !slices.ContainsFunc(p.marking, func(d meshDevice) bool { return d.Index == uint32(at.device) }) {
			return nil, errors.New("it was deleted, or there are too many interfaces")
		}
		l, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: at.device, Flags: link.XDPDriverMode})
	case "out":
		l, err = p.attachTCX(link.TCXOptions{Program: program, Interface: at.device, Attach: ebpf.AttachTCXEgress})
	default:
		l, err = p.attachTCX(link.TCXOptions{Program: program, Interface: at.device, Attach: ebpf.AttachTCXIngress})
	}
	if errors.Is(err, ebpf.ErrNotSupported) && at.program != "xdp" {
		return filter{at}, filter{at}.Update(program)
	}
	if err != nil || p.folder == "" {
		return linked{l, false}, err
	}
	if err := l.Pin(filepath.Join(p.folder, at.String())); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return linked{l, true}, nil
}

// attachTCX is link.AttachTCX, unless a test plays a kernel without.
func (p *Programs) attachTCX(o link.TCXOptions) (link.Link, error) {
	if p.noTCX {
		return nil, ebpf.ErrNotSupported
	}
	return link.AttachTCX(o)
}

// Attach puts the programs where settings say, and takes them from everywhere else. repaired
// tells, in words, what of the merger was not as we left it.
func (p *Programs) Attach(s Settings) (repaired []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.TUN <= 0 {
		return nil, errors.New("the TUN was deleted")
	}
	p.settings = s
	repaired = p.setMerger()
	p.describe(s.places()) // before XDP is there, or what it marks would be dropped
	if err := p.configure(); err != nil {
		return repaired, err
	}
	if err := p.place(); err != nil {
		return repaired, err
	}
	// Now the merger has its program, and XDP is where it could be.
	p.describe(nil)
	if err := p.configure(); err != nil || s.way() != "socket" {
		return repaired, err
	}
	_, err = devices.DeleteMerger()
	return repaired, err
}

// setMerger sees to it that there is a merger if packets are taken by programs.
func (p *Programs) setMerger() (repaired []string) {
	p.merger, p.unmerged = devices.Merger{}, nil
	if p.settings.way() == "socket" {
		p.made = devices.Merger{}
		return nil
	}
	queues, err := ebpf.PossibleCPU()
	if err != nil {
		queues = runtime.NumCPU()
	}
	m, repaired, err := devices.SetMerger(queues)
	if err != nil {
		p.unmerged = err
		return nil
	}
	if p.made != (devices.Merger{}) && p.made != m {
		repaired = append(repaired, devices.MergerEntry+" was deleted")
	}
	p.merger, p.made = m, m
	return repaired
}

// Unmerged returns why TCP comes to the TUN packet by packet; nil if it does not, or is not
// to be merged.
func (p *Programs) Unmerged() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unmerged
}

// place puts the programs where they belong, and takes them from everywhere else. The caller
// holds mu.
func (p *Programs) place() error {
	wanted := p.settings.places()
	if p.merger.Exit != 0 {
		wanted[attachment{"gro", p.merger.Exit}] = true
	}
	p.refused = nil
	for _, at := range inOrder(wanted) {
		if p.stands(at) {
			continue
		}
		h, err := p.attach(at)
		switch {
		case err == nil:
			p.attached[at] = h
		case at.program == "gro": // its interface may just have been deleted
			p.unmerged, p.merger = err, devices.Merger{}
			delete(wanted, at)
			if err := p.configure(); err != nil {
				return err
			}
		case at.program == "xdp": // the file is for hosts with and without
			p.refused = append(p.refused, fmt.Sprintf("%s has no native XDP that fits: %v", nameOf(at.device), explain(err)))
			delete(wanted, at)
		default:
			return fmt.Errorf("attach the program %q to %s: %w", at.program, nameOf(at.device), explain(err))
		}
	}
	for _, at := range slices.Backward(inOrder(p.attached)) {
		if wanted[at] {
			continue
		}
		if err := p.take(at); err != nil {
			return err
		}
	}
	return nil
}

// describe lists the interfaces that XDP is at, or is to come to, with their MAC addresses,
// which change at times. What is more than the programs have room for is left out, and so are
// interfaces that are gone: XDP does not come there. The caller holds mu.
func (p *Programs) describe(wanted map[attachment]bool) {
	var settings meshSettings
	p.marking = nil
	for _, at := range slices.Concat(inOrder(p.attached), inOrder(wanted)) {
		known := slices.ContainsFunc(p.marking, func(d meshDevice) bool { return d.Index == uint32(at.device) })
		if at.program != "xdp" || known || len(p.marking) == len(settings.Devices) {
			continue
		}
		if i, err := net.InterfaceByIndex(at.device); err == nil {
			d := meshDevice{Index: uint32(at.device)}
			copy(d.Address[:], i.HardwareAddr)
			p.marking = append(p.marking, d)
		}
	}
}

// stands tells whether a program is where we put it: others may have taken it away.
func (p *Programs) stands(at attachment) bool {
	h := p.attached[at]
	if h == nil {
		return false
	}
	program, err := p.program(at)
	if err == nil && h.Update(program) == nil {
		return true
	}
	_ = p.take(at) // what is left of it
	return false
}

// places returns where programs belong.
func (s *Settings) places() map[attachment]bool {
	places := map[attachment]bool{{"out", s.TUN}: true}
	for _, device := range s.Underlay {
		if s.way() != "socket" {
			places[attachment{"in", device}] = true
		}
		if s.way() == "xdp" {
			places[attachment{"xdp", device}] = true
		}
	}
	return places
}

// inOrder returns places in the order in which programs come; they go in the opposite one. What
// the tc program sends into the merger needs the program there, and what XDP marks needs the
// tc program, or it would be taken for the underlay's own.
func inOrder[V any](places map[attachment]V) []attachment {
	return slices.SortedFunc(maps.Keys(places), func(a, b attachment) int {
		return cmp.Or(strings.Compare(a.program, b.program), cmp.Compare(a.device, b.device)) // gro, in, out, xdp
	})
}

// Receive tells in words where packets are taken, and why not where settings ask for.
func (p *Programs) Receive() (where string, refused []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	where = p.settings.way()
	if where == "xdp" && len(p.refused) == len(p.settings.Underlay) {
		where = "tcx"
	}
	return where, p.refused
}

// nameOf returns the name of an interface, or its number if it has gone.
func nameOf(device int) string {
	i, err := net.InterfaceByIndex(device)
	if err != nil {
		return fmt.Sprintf("the interface with index %d", device)
	}
	return i.Name
}

// program returns what is to be at a place.
func (p *Programs) program(at attachment) (*ebpf.Program, error) {
	switch at.program {
	case "xdp":
		return p.xdpProgram()
	case "in":
		return p.objects.In, nil
	case "gro":
		return p.objects.Merged, nil
	}
	return p.objects.Out, nil
}

// xdpProgram loads the program that needs a newer kernel than the others.
func (p *Programs) xdpProgram() (*ebpf.Program, error) {
	if p.xdp != nil {
		return p.xdp, nil
	}
	spec, err := loadMesh()
	if err != nil {
		return nil, err
	}
	o := &p.objects
	var loaded struct {
		XDP *ebpf.Program `ebpf:"mesh_xdp"`
	}
	err = spec.LoadAndAssign(&loaded, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		"configured": o.Configured, "nodes": o.Nodes, "prefixes4": o.Prefixes4, "prefixes6": o.Prefixes6,
		"senders": o.Senders, "counted": o.Counted, "handed": o.Handed,
	}})
	p.xdp = loaded.XDP
	return p.xdp, err
}

// detach takes the programs from everywhere.
func (p *Programs) detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.merger = devices.Merger{}
	errs := []error{p.configure()}
	for _, at := range slices.Backward(inOrder(p.attached)) {
		errs = append(errs, p.take(at))
	}
	if err := errors.Join(errs...); err != nil { // what is left may need the merger
		return err
	}
	_, err := devices.DeleteMerger()
	return err
}

// take takes a program from where it is attached. The caller holds mu.
func (p *Programs) take(at attachment) error {
	h := p.attached[at]
	delete(p.attached, at)
	return h.remove()
}
