package kernel

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/mesh"
)

// SetMesh makes the maps say what a mesh is. What comes is there before what goes is gone,
// and each node changes at one packet boundary, so that nothing is lost meanwhile.
func (p *Programs) SetMesh(m mesh.Mesh) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next, err := p.tables.next(m, p.finishes)
	if err != nil {
		return err
	}
	if err := p.change(next); err != nil {
		return fmt.Errorf("write the kernel's tables: %w", err)
	}
	p.tables = next
	return p.configure()
}

// change brings the maps from the tables in force to others.
func (p *Programs) change(next tables) error {
	o, old := &p.objects, &p.tables
	zero := make([]meshCounters, ebpf.MustPossibleCPU())
	for number := range next.nodes {
		if _, known := old.nodes[number]; known {
			continue
		}
		if err := o.Counted.Update(number, zero, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	if err := errors.Join(put(o.Nodes, old.nodes, next.nodes), put(o.Senders, old.senders, next.senders),
		put(o.Prefixes4, old.prefixes4, next.prefixes4), put(o.Prefixes6, old.prefixes6, next.prefixes6)); err != nil {
		return err
	}
	if err := errors.Join(drop(o.Prefixes4, old.prefixes4, next.prefixes4), drop(o.Prefixes6, old.prefixes6, next.prefixes6),
		drop(o.Senders, old.senders, next.senders), drop(o.Nodes, old.nodes, next.nodes)); err != nil {
		return err
	}
	for number := range old.nodes {
		if _, stays := next.nodes[number]; stays {
			continue
		}
		t, err := p.traffic(number)
		if err := errors.Join(err, o.Counted.Delete(number)); err != nil {
			return err
		}
		p.past.Add(t)
	}
	return nil
}

// put writes what is new or another one.
func put[K, V comparable](m *ebpf.Map, old, next map[K]V) error {
	for key, value := range next {
		if before, there := old[key]; there && before == value {
			continue
		}
		if err := m.Update(key, value, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes what is gone.
func drop[K, V comparable](m *ebpf.Map, old, next map[K]V) error {
	for key := range old {
		if _, stays := next[key]; stays {
			continue
		}
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// Finishes says whether a peer is meshd, which finishes checksums that were left to a device.
// Until that is known user space sends to it.
func (p *Programs) Finishes(peer string, yes bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finishes[peer] = yes
	number, known := p.tables.numbers[peer]
	if !known || number == self {
		return nil
	}
	node := p.tables.nodes[number]
	node.Finishes = boolean(yes)
	p.tables.nodes[number] = node
	if err := p.objects.Nodes.Update(number, node, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write the kernel's tables: %w", err)
	}
	return nil
}

func boolean(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// Watched tells what Watch was told last.
func (p *Programs) Watched() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watched
}

// Watch has packets out go by the TUN's queue, or not: a capture on the TUN sees only those.
func (p *Programs) Watch(yes bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watched == yes {
		return nil
	}
	p.watched = yes
	return p.configure()
}

// configure writes the settings, as soon as both they and the mesh are known. The caller
// holds mu.
func (p *Programs) configure() error {
	s := p.settings
	if !s.Address.IsValid() || p.tables.numbers == nil {
		return nil
	}
	t := &p.tables
	value := meshSettings{Tun: uint32(s.TUN), Mtu: uint32(s.MTU), Tun4: t.tun4, Tun6: t.tun6,
		Mark: p.mark, Before: p.before,
		Home4: t.home4, Mask4: t.mask4, Home6: t.home6, Mask6: t.mask6,
		Own: bytesOf(s.Address.Addr()), Port: networkOrder(s.Address.Port())}
	value.V6, value.Watched, value.Spread = boolean(s.Address.Addr().Is6()), boolean(p.watched), boolean(s.Spread)
	copy(value.Devices[:], p.marking)
	if p.attached[attachment{"gro", p.merger.Exit}] != nil { // or packets would end there
		value.Merger = uint32(p.merger.Entry)
	}
	return p.objects.Configured.Update(uint32(0), value, ebpf.UpdateAny)
}

// newMark makes the mark of this load. What an earlier meshd's settings have is believed
// beside it: frames may be on their way between the XDP and the tc program when ours become
// the settings in force, and their outer headers are gone.
func (p *Programs) newMark() {
	var random [len(p.mark.Words) * 4]byte
	_, _ = rand.Read(random[:]) // never fails
	for i := range p.mark.Words {
		p.mark.Words[i] = binary.NativeEndian.Uint32(random[4*i:])
	}
	p.before = p.mark
	var old meshSettings
	none := meshMark{} // which is what XDP writes in front of all other frames
	if p.objects.Configured.Lookup(uint32(0), &old) == nil && old.Mark != none {
		p.before = old.Mark
	}
}

// networkOrder returns a number whose bytes in memory are those of n on the wire.
func networkOrder(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

// readTables reads the tables back from the maps.
func (p *Programs) readTables() error {
	o, t := &p.objects, newTables()
	if err := errors.Join(read(o.Nodes, t.nodes), read(o.Senders, t.senders), read(o.Prefixes4, t.prefixes4), read(o.Prefixes6, t.prefixes6)); err != nil {
		return err
	}
	if len(t.nodes) == 0 {
		return nil
	}
	t.numbers = map[string]uint32{}
	zero := make([]meshCounters, ebpf.MustPossibleCPU())
	for number, node := range t.nodes {
		name := string(bytes.TrimRight(node.Name[:], "\x00"))
		t.numbers[name] = number
		p.finishes[name] = node.Finishes != 0
		if err := o.Counted.Update(number, zero, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	none := make([]uint64, ebpf.MustPossibleCPU())
	for i := range handovers {
		if err := o.Handed.Update(uint32(i), none, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	p.tables = t
	return nil
}

func read[K, V comparable](m *ebpf.Map, into map[K]V) error {
	var key K
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		into[key] = value
	}
	return entries.Err()
}
