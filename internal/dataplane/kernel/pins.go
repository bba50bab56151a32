package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/link"

	devices "example.org/meshd/internal/link"
)

// layout is the version mark: a daemon takes over only what has its own, and removes what
// has another. It is raised with every change of bpf/mesh.h or of a map.
const layout = 3

// adopt takes over what an earlier meshd has left: what pinned maps say of the mesh, and
// programs at interfaces, which become ours at one packet boundary each. Counters begin
// again, as all that a meshd counts.
func (p *Programs) adopt() error {
	if p.folder != "" {
		if err := p.adoptPins(); err != nil {
			return err
		}
	}
	// Filters outlive the process without pins.
	filters, err := devices.Classifiers()
	if err != nil {
		return fmt.Errorf("take over filters: %w", err)
	}
	for _, f := range filters {
		at := attachment{"in", f.Device}
		switch {
		case f.Out:
			at.program = "out"
		case nameOf(f.Device) == devices.MergerExit:
			at.program = "gro"
		}
		p.attached[at] = filter{at}
		if p.stands(at) {
			continue
		}
		if err := (filter{at}).remove(); err != nil { // no error if its interface was deleted
			return fmt.Errorf("take over the filter of %s: %w", nameOf(f.Device), err)
		}
	}
	return nil
}

func (p *Programs) adoptPins() error {
	if err := p.readTables(); err != nil {
		return fmt.Errorf("take over pinned maps: %w", err)
	}
	pins, err := filepath.Glob(filepath.Join(p.folder, "link-*"))
	if err != nil {
		return err
	}
	for _, pin := range pins {
		at, ok := attachmentOf(filepath.Base(pin))
		if l := p.takeOver(pin, at); ok && l != nil {
			p.attached[at] = linked{l, true}
			continue
		}
		if err := os.Remove(pin); err != nil {
			return err
		}
	}
	return nil
}

// takeOver returns a pinned link with our program in it; nil if it is of no use, for instance
// because its interface was deleted.
func (p *Programs) takeOver(pin string, at attachment) link.Link {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil
	}
	program, err := p.program(at)
	if err != nil || interfaceOf(l) != at.device || l.Update(program) != nil {
		_ = l.Close()
		return nil
	}
	return l
}

// interfaceOf returns the index of the interface that a link is at; 0 if that was deleted.
func interfaceOf(l link.Link) int {
	info, err := l.Info()
	if err != nil {
		return 0
	}
	if tcx := info.TCX(); tcx != nil {
		return int(tcx.Ifindex)
	}
	if xdp := info.XDP(); xdp != nil {
		return int(xdp.Ifindex)
	}
	return 0
}

// String names the pin of what is attached.
func (at attachment) String() string { return fmt.Sprintf("link-%s-%d", at.program, at.device) }

func attachmentOf(name string) (at attachment, ok bool) {
	words := strings.NewReplacer("-", " ").Replace(strings.TrimPrefix(name, "link-"))
	_, err := fmt.Sscan(words, &at.program, &at.device)
	return at, err == nil
}
