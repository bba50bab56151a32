package kernel

import (
	"errors"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	devices "example.org/meshd/internal/link"
)

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
		l, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: at.device, Flags: link.XDPDriverMode})
	case "in":
		l, err = p.attachTCX(link.TCXOptions{Program: program, Interface: at.device, Attach: ebpf.AttachTCXIngress})
	default:
		l, err = p.attachTCX(link.TCXOptions{Program: program, Interface: at.device, Attach: ebpf.AttachTCXEgress})
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
