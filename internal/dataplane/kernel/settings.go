package kernel

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/dataplane"
)

// The settings are all that programs know besides the nodes: one element of a map, which is replaced
// as a whole. Three writers change parts of it, each its own: setMesh this node's addresses and its
// first subnets, the owner what is about interfaces, Look who else is at the TUN.

// configure changes the settings in force.
func (e *Engine) configure(change func(*meshSettings)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reconfigure(change)
}

// reconfigure is configure for a caller that holds mu.
func (e *Engine) reconfigure(change func(*meshSettings)) error {
	next := e.settings
	change(&next)
	if h := e.handle(); h != nil {
		if err := h.writeSettings(next, e.tables); err != nil {
			return fmt.Errorf("write the kernel's settings: %w", err)
		}
	}
	e.settings = next
	return nil
}

// writeSettings writes the settings, once both the interfaces and the mesh are known: until then
// programs that were taken over go on with those of the meshd before.
func (h *handle) writeSettings(s meshSettings, t tables) error {
	if s.Tun == 0 || t.numbers == nil {
		return nil
	}
	return h.Configured.Update(uint32(0), s, ebpf.UpdateAny)
}

// configureFor changes the settings to what is wanted, for the places that there are. It is the
// owner's.
func (e *Engine) configureFor(w dataplane.Wanted) error {
	return e.configure(func(s *meshSettings) {
		s.Tun, s.Mtu, s.Outer = uint32(e.tun), uint32(w.Kernel.MTU), uint32(w.Kernel.Outer)
		s.Spread = boolean(w.Spread)
		s.Merger, s.Decap, s.Devices = 0, 0, [len(s.Devices)]meshDevice{}
		s.UserPort = networkOrder(e.userPort)
		copy(s.Devices[:], e.marking)
		// Without a program packets would end there.
		if e.attached[attachment{stageMerge, e.merger.exit}] != nil && e.passage.off == nil {
			s.Merger = uint32(e.merger.entry)
		}
		if e.decapsulates() && e.passage.off == nil {
			s.Decap = uint32(e.decap[0])
		}
	})
}

// setHome takes over what tables say of this node itself.
func (s *meshSettings) setHome(t tables) {
	s.Own, s.More = t.own, boolean(t.more)
	s.Tun4, s.Tun6 = t.tun4, t.tun6
	s.Home4, s.Mask4, s.Home6, s.Mask6 = t.home4, t.mask4, t.home6, t.mask6
}

// newMarks makes the mark of this load, and returns the one before, which is believed beside it:
// frames may be on their way between the XDP and the tc program when ours become the settings in
// force, and their outer headers are gone. Without an earlier meshd both are the same.
func (h *handle) newMarks() (mark, before meshMark) {
	var random [len(mark.Words) * 4]byte
	_, _ = rand.Read(random[:]) // never fails
	for i := range mark.Words {
		mark.Words[i] = binary.NativeEndian.Uint32(random[4*i:])
	}
	var old meshSettings
	none := meshMark{} // which is what XDP writes in front of all other frames
	if h.Configured.Lookup(uint32(0), &old) == nil && old.Mark != none {
		return mark, old.Mark
	}
	return mark, mark
}

// newTags is newMarks for the mark of packets on their way to the kernel's decapsulation.
func (h *handle) newTags() (tag, before uint32) {
	const bits = 0xffff00fe // TAG_BITS in bpf/mesh.h
	for tag == 0 {
		var random [4]byte
		_, _ = rand.Read(random[:])
		tag = binary.NativeEndian.Uint32(random[:]) & bits
	}
	var old meshSettings
	if h.Configured.Lookup(uint32(0), &old) == nil && old.Tag != 0 {
		return tag, old.Tag
	}
	return tag, tag
}

func boolean(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// networkOrder returns a number whose bytes in memory are those of n on the wire.
func networkOrder(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}
