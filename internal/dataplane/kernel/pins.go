package kernel

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"
)

// layout is the version of what pins hold: a meshd takes over only what has its own, and removes
// what has another. Every change of a map, or of a struct in bpf/mesh.h, raises it.
const layout = 9

// adopt takes over the programs that an earlier meshd has left at interfaces. Each becomes ours at
// one packet boundary.
func (e *Engine) adopt() error {
	if h := e.handle(); h.folder != "" {
		if err := e.adoptPins(h); err != nil {
			return fmt.Errorf("take over pinned programs: %w", err)
		}
	}
	// Filters outlive the process without pins.
	there, err := filters()
	if err != nil {
		return fmt.Errorf("take over filters: %w", err)
	}
	for _, f := range there {
		at := attachment{stageIn, f.device}
		switch {
		case f.out:
			at.stage = stageOut
		case nameOf(f.device) == mergerExit:
			at.stage = stageMerge
		case isTunnelName(nameOf(f.device)):
			at.stage = stageDecap
		}
		if f != filteredAt(at) { // of an earlier version
			if err := deleteFilter(f); err != nil {
				return err
			}
			continue
		}
		// It says whose it is by its handle, and not which program is in it: ours is put in.
		e.attached[at] = filter{at}
		if e.stands(at) {
			continue
		}
		if err := (filter{at}).remove(); err != nil { // no error if its interface was deleted
			return fmt.Errorf("take over the filter of %s: %w", nameOf(f.device), err)
		}
	}
	return nil
}

// adoptPins takes over pinned links, and removes those that are of no use. Both programs of a link,
// the old and the new one, use the same maps, so it does not matter which link comes first.
func (e *Engine) adoptPins(h *handle) error {
	pins, err := filepath.Glob(filepath.Join(h.folder, "link-*"))
	if err != nil {
		return err
	}
	for _, pin := range pins {
		if at, ours := attachmentOf(filepath.Base(pin)); ours {
			if l := h.adoptLink(pin, at); l != nil {
				e.attached[at] = linked{l, true}
				continue
			}
		}
		if err := os.Remove(pin); err != nil {
			return err
		}
	}
	return nil
}

// adoptLink returns a pinned link, with our program in it; nil if it is of no use, for instance
// because its interface was deleted.
func (h *handle) adoptLink(pin string, at attachment) link.Link {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil
	}
	// An interface that was deleted may have left its index to another one, so the name of the pin is
	// not enough.
	program, err := h.program(at)
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
