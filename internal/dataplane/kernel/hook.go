package kernel

import (
	"errors"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// A hook is an attached program. The next meshd takes it over, unless nothing can be pinned.
type hook interface {
	// Update replaces the program at one packet boundary. It is an error if the hook is gone.
	Update(*ebpf.Program) error
	remove() error
}

// linked is a hook that is a BPF link of the kernel: XDP (Linux 5.9), tcx (Linux 6.6). It ends with
// the process unless it is pinned.
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
	return addFilter(filteredAt(f.at), p.FD())
}

func (f filter) remove() error { return deleteFilter(filteredAt(f.at)) }

// errUnmarked says why XDP is not attached to an interface whose marks would not be believed.
var errUnmarked = errors.New("the interface was deleted, or there are too many of them")

// attachTo attaches a stage's program to an interface.
func (e *Engine) attachTo(at attachment) (hook, error) {
	h := e.handle()
	program, err := h.program(at)
	if err != nil {
		return nil, err
	}
	// Generic XDP, which every interface has, would copy each packet: only the driver's will do.
	var l link.Link
	if at.stage == stageXDP {
		if !e.marks(at.device) {
			return nil, errUnmarked
		}
		o := link.XDPOptions{Program: program, Interface: at.device, Flags: link.XDPDriverMode}
		l, err = link.AttachXDP(o)
	} else {
		o := link.TCXOptions{Program: program, Interface: at.device, Attach: stages[at.stage].attach}
		// Whatever ends the chain before would end packets of pods.
		if at.stage == stageMerge || at.stage == stageDecap {
			o.Anchor = link.Head()
		}
		l, err = e.attachTCX(o)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return filter{at}, filter{at}.Update(program)
		}
	}
	if err != nil || h.folder == "" {
		return linked{l, false}, err
	}
	// A hook that is not pinned where others are would end with meshd, and packets with it.
	if err := l.Pin(filepath.Join(h.folder, at.pin())); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return linked{l, true}, nil
}

// attachTCX is link.AttachTCX, unless a test plays a kernel without.
func (e *Engine) attachTCX(o link.TCXOptions) (link.Link, error) {
	if e.noTCX {
		return nil, ebpf.ErrNotSupported
	}
	return link.AttachTCX(o)
}
