package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// setMesh makes the maps say what is wanted: what the mesh is, which addresses are this node's, and which
// peers rules for sockets are about, all of it or nothing. What is new is there before what is old goes, and
// each node changes at one packet boundary, so that no packet is lost meanwhile. It is the owner's.
func (e *Engine) setMesh(w dataplane.Wanted) error {
	if err := fits(w.Mesh); err != nil {
		return err
	}
	before := e.inMaps
	if before != nil && before.isFor(w) { // Apply comes soon after Prepare
		return nil
	}
	next := contentsOf(w, before)
	if before == nil || before.leavesRoomFor(next) {
		return e.moveTo(next)
	}
	// The maps have no room for both meshes: what goes makes room first. The programs know nothing of
	// nodes that come until those are there, so they hand packets over to user space, which has the mesh.
	if err := e.moveTo(before.staying(next)); err != nil {
		return err
	}
	if err := e.moveTo(next); err != nil {
		return errors.Join(err, e.moveTo(before))
	}
	return nil
}

// moveTo is setMesh for maps that have room for what comes beside what goes.
func (e *Engine) moveTo(next *contents) error {
	numbers := e.tables.numbersFor(next.Mesh) // which the owner alone changes
	if err := e.handle().chunks.provide(numbers); err != nil {
		return fmt.Errorf("write the kernel's tables: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.tables.changeTo(next, numbers, e.inMaps, e.learned)
	if err := e.change(c); err != nil {
		return fmt.Errorf("write the kernel's tables: %w", err)
	}
	e.inMaps = next
	return nil
}

// respecting returns a directive that also leaves a peer to sockets where it is policed.
func respecting(d peers.Directive, policed dataplane.Policed) peers.Directive {
	d.OutByUser, d.InBySocket = d.OutByUser || policed.Out, d.InBySocket || policed.In
	return d
}

// fits tells whether maps have room for a mesh, before anything is written.
func fits(m mesh.Mesh) error {
	if err := room(m.Peers); err != nil {
		return err
	}
	if _, there := m.Peer(m.Self); !there {
		return fmt.Errorf("set mesh: no node is named %q", m.Self)
	}
	return nil
}

// maxSenders is how many addresses all nodes may have together (SENDERS in bpf/maps.h).
const maxSenders = 4 * mesh.MaxNodes

// room tells whether maps have room for some lists of peers at once.
func room(lists ...[]mesh.Peer) error {
	nodes, senders, prefixes := 0, 0, [2]int{}
	for _, list := range lists {
		nodes += len(list)
		for _, peer := range list {
			senders += len(peer.Addresses)
			for _, some := range [][]mesh.Prefix{peer.Subnets, peer.Routes} {
				for _, prefix := range some {
					prefixes[boolean(prefix.Addr().Is6())]++
				}
			}
		}
	}
	if nodes > mesh.MaxNodes {
		return fmt.Errorf("%w: %d nodes, and the limit is %d", errFull, nodes, mesh.MaxNodes)
	}
	if senders > maxSenders {
		return fmt.Errorf("%w: %d addresses of nodes, and the limit is %d", errFull, senders, maxSenders)
	}
	if n := max(prefixes[0], prefixes[1]); n > mesh.MaxPrefixes {
		return fmt.Errorf("%w: %d prefixes of one family, and the limit is %d", errFull, n, mesh.MaxPrefixes)
	}
	return nil
}

// change makes a change of the tables in force. The caller holds mu.
func (e *Engine) change(c change) error {
	h := e.handle()
	// Programs drop nothing for want of counters, they hand packets over: so counters come first.
	err := h.chunks.begin(slices.Values(c.joined))
	if err == nil {
		err = h.write(c)
	}
	settings := e.settings
	settings.setHome(c.after)
	if err == nil && settings != e.settings {
		err = h.writeSettings(settings, c.after)
	}
	if err != nil {
		return errors.Join(err, h.write(c.back(e.tables)))
	}
	// Numbers tell nodes apart, not names: a name that is another node now has another number.
	left := map[string]uint32{}
	if len(c.nodes.drop) > 0 {
		for name, number := range e.tables.numbers {
			if c.nodes.drop[number] {
				left[name] = number
			}
		}
	}
	c.do(&e.tables)
	e.settings = settings
	// What was counted for a node that is gone stays in the sums. Its number may be another node's from
	// the next change on.
	kept, err := e.shown.Load().countedFor(left)
	e.publish(func(s *shown) { s.numbers, s.kept = c.after.numbers, kept })
	if err != nil {
		e.log.Error("lost counters of peers that left the mesh", "error", err, "event", "counters_failed")
	}
	return nil
}

// write makes a change: what is added or changed first, then what goes. A prefix that moves from one
// node to another so always has one of the two. Nodes come before the prefixes that lead to them, and
// go after them. Maps that hold anything between the two contents are fine, too, so the way back is
// the same.
func (h *handle) write(c change) error {
	if err := errors.Join(
		put(h.Nodes, c.nodes.put),
		put(h.Senders, c.senders.put),
		put(h.Owns, c.owns.put),
		put(h.Carriers, c.carriers.put),
		put(h.Prefixes4, c.prefixes4.put),
		put(h.Prefixes6, c.prefixes6.put),
	); err != nil {
		return err
	}
	return errors.Join(
		drop(h.Prefixes4, c.prefixes4.drop),
		drop(h.Prefixes6, c.prefixes6.drop),
		drop(h.Carriers, c.carriers.drop),
		drop(h.Owns, c.owns.drop),
		drop(h.Senders, c.senders.drop),
		drop(h.Nodes, c.nodes.drop),
	)
}

// put writes what is added or changed.
func put[K, V comparable](m *ebpf.Map, entries map[K]V) error {
	if len(entries) > 1 {
		keys, values := make([]K, 0, len(entries)), make([]V, 0, len(entries))
		for key, value := range entries {
			keys, values = append(keys, key), append(values, value)
		}
		// Kernels without batches, and whatever is wrong with one element, are found one by one.
		if _, err := m.BatchUpdate(keys, values, nil); err == nil {
			return nil
		}
	}
	for key, value := range entries {
		if err := again(func() error { return m.Update(key, value, ebpf.UpdateAny) }); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes what is gone.
func drop[K comparable](m *ebpf.Map, keys map[K]bool) error {
	if len(keys) > 1 {
		// As for put. What a batch has deleted before it failed is missing then, which is no error.
		if _, err := m.BatchDelete(slices.Collect(maps.Keys(keys)), nil); err == nil {
			return nil
		}
	}
	for key := range keys {
		// On the way back it may never have been there.
		err := again(func() error { return m.Delete(key) })
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// patience is how long a write into a map is tried again, in all; it is as long as Learn may have to wait.
const patience = 128 * time.Millisecond

// again writes into a map until the kernel does not say any more that it cannot at the moment: the
// memory that it may take without sleeping is used up, and comes back by itself (ENOMEM, EAGAIN), or
// the place is locked (EBUSY). What lasts longer than patience is an error as any other; whoever
// wanted the write tries all of it again later.
func again(write func() error) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := write()
		passing := errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY)
		if !passing || pause >= patience {
			return err
		}
		time.Sleep(pause)
	}
}

// readTables reads the tables back from maps that an earlier meshd has left, and sets the counts of
// hand-overs to zero.
func (h *handle) readTables() (t tables, err error) {
	t = newTables()
	if err := errors.Join(read(h.Nodes, t.nodes), read(h.Senders, t.senders),
		read(h.Owns, t.owns), read(h.Carriers, t.carriers),
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
	return t, nil
}

// readAtOnce is how many elements are read with one call. No bucket of a hash holds nearly as many.
const readAtOnce = 4096

// read reads all of a map.
func read[K, V comparable](m *ebpf.Map, into map[K]V) error {
	keys, values := make([]K, readAtOnce), make([]V, readAtOnce)
	var at ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&at, keys, values, nil)
		for i := range n {
			into[keys[i]] = values[i]
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist): // that was the last
			return nil
		case err != nil: // older kernels have no batches, or not for tries
			return readSingly(m, into)
		}
	}
}

// readSingly is read for kernels without batches.
func readSingly[K, V comparable](m *ebpf.Map, into map[K]V) error {
	var key K
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		into[key] = value
	}
	return entries.Err()
}
