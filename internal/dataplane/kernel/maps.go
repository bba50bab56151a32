package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// setMesh makes the maps say what a mesh is, and which of its peers an IPsec policy is about, all of it
// or nothing. What is new is there before what
// is old goes, and each node changes at one packet boundary, so that no packet is lost meanwhile.
// It is the owner's.
func (e *Engine) setMesh(m mesh.Mesh, policed map[string]bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	next, err := e.tables.next(m, func(name string) peers.Directive {
		return respecting(e.known[name], policed[name])
	})
	if err != nil {
		return err
	}
	if err := e.change(next); err != nil {
		return fmt.Errorf("write the kernel's tables: %w", err)
	}
	e.inMaps = &contents{m, policed}
	return nil
}

// contents is what the maps were filled from.
type contents struct {
	mesh    mesh.Mesh
	policed map[string]bool // peers whose datagrams an IPsec policy is about, by name
}

// policed tells whether a policy of IPsec is about a peer's datagrams. The caller holds mu.
func (e *Engine) policed(peer string) bool { return e.inMaps != nil && e.inMaps.policed[peer] }

// respecting returns a directive that also leaves a peer to sockets in both directions if policed:
// the kernel applies IPsec only to what passes its sockets.
func respecting(d peers.Directive, policed bool) peers.Directive {
	d.OutByUser, d.InBySocket = d.OutByUser || policed, d.InBySocket || policed
	return d
}

// change brings the maps from the tables in force to others. The caller holds mu.
func (e *Engine) change(next tables) error {
	h, old := e.handle(), e.tables
	// Numbers tell nodes apart, not names: a name that is another node now has another number.
	var joined, left []string
	for name, number := range next.numbers {
		if _, known := old.nodes[number]; !known {
			joined = append(joined, name)
		}
	}
	for name, number := range old.numbers {
		if _, stays := next.nodes[number]; !stays {
			left = append(left, name)
		}
	}
	// Programs drop nothing for want of counters, they hand packets over: so counters come first.
	err := h.zero(next.numbers, joined)
	if err == nil {
		err = h.write(old, next)
	}
	settings := e.settings
	settings.setHome(next)
	if err == nil {
		err = h.writeSettings(settings, next)
	}
	// The way back writes each key that differs, whether it was written or not.
	if err != nil {
		return errors.Join(err, h.write(next, old), h.forget(next.numbers, joined))
	}
	e.tables, e.settings = next, settings
	// Readers learn that a node is gone before its counters go; what was counted stays in the sums.
	kept, err := e.shown.Load().countedFor(left)
	e.publish(func(s *shown) { s.numbers, s.kept = next.numbers, kept })
	if err := errors.Join(err, h.forget(old.numbers, left)); err != nil {
		e.log.Error("lost counters of peers that left the mesh", "error", err, "event", "counters_failed")
	}
	return nil
}

// write brings the maps from one content to another: what is added or changed first, then what goes.
// A prefix that moves from one node to another so always has one of the two. Nodes come before the
// prefixes that lead to them, and go after them. Maps that hold anything between the two contents are
// fine, too, so the way back is the same.
func (h *handle) write(from, to tables) error {
	if err := errors.Join(
		put(h.Nodes, from.nodes, to.nodes),
		put(h.Senders, from.senders, to.senders),
		put(h.Prefixes4, from.prefixes4, to.prefixes4),
		put(h.Prefixes6, from.prefixes6, to.prefixes6),
	); err != nil {
		return err
	}
	return errors.Join(
		drop(h.Prefixes4, from.prefixes4, to.prefixes4),
		drop(h.Prefixes6, from.prefixes6, to.prefixes6),
		drop(h.Senders, from.senders, to.senders),
		drop(h.Nodes, from.nodes, to.nodes),
	)
}

// put writes what is added or changed.
func put[K, V comparable](m *ebpf.Map, from, to map[K]V) error {
	for key, value := range to {
		if before, there := from[key]; there && before == value {
			continue
		}
		if err := m.Update(key, value, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes what is gone.
func drop[K, V comparable](m *ebpf.Map, from, to map[K]V) error {
	for key := range from {
		if _, stays := to[key]; stays {
			continue
		}
		// On the way back it may never have been there.
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// zero makes the counters of some nodes, at zero.
func (h *handle) zero(numbers map[string]uint32, names []string) error {
	zero := make([]meshCounters, ebpf.MustPossibleCPU())
	for _, name := range names {
		if err := h.Counted.Update(numbers[name], zero, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}

// forget deletes the counters of some nodes.
func (h *handle) forget(numbers map[string]uint32, names []string) (err error) {
	for _, name := range names {
		if e := h.Counted.Delete(numbers[name]); !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// readTables reads the tables back from maps that an earlier meshd has left, and sets all counters
// to zero.
func (h *handle) readTables() (t tables, err error) {
	t = newTables()
	if err := errors.Join(read(h.Nodes, t.nodes), read(h.Senders, t.senders),
		read(h.Prefixes4, t.prefixes4), read(h.Prefixes6, t.prefixes6)); err != nil {
		return t, err
	}
	if len(t.nodes) == 0 { // the maps are new
		return t, nil
	}
	// Names are in the maps for this alone: nodes that stay keep their numbers, by which packets are
	// on their way.
	t.numbers = map[string]uint32{}
	for number, node := range t.nodes {
		t.numbers[string(bytes.TrimRight(node.Name[:], "\x00"))] = number
	}
	for i := range handovers {
		none := make([]uint64, ebpf.MustPossibleCPU())
		if err := h.Handed.Update(uint32(i), none, ebpf.UpdateAny); err != nil {
			return t, err
		}
	}
	names := []string{}
	for name := range maps.Keys(t.numbers) {
		names = append(names, name)
	}
	return t, h.zero(t.numbers, names)
}

// read reads all of a map.
func read[K, V comparable](m *ebpf.Map, into map[K]V) error {
	var key K
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		into[key] = value
	}
	return entries.Err()
}
