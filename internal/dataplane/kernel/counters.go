package kernel

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// Reading is what the programs counted, and how they forward. Counts begin with the Engine and never
// fall, whatever programs come and go, except Handed, which begins with the programs and counts
// a superpacket once.
type Reading struct {
	Forwards bool // programs are attached; if not, only what was counted means anything
	Totals   mesh.Traffic
	Peers    map[string]mesh.Traffic // by name, also of peers that are gone
	Handed   map[string]uint64       // packets left to user space, by reason; nil without programs
	Overflow uint64                  // packets that the kernel dropped when the merger's backlog was full
	Receive  dataplane.Receive       // where programs take datagrams; never AnyReceive
	Refused  string                  // why not where the file has them taken; may be empty
	NoFOU    string                  // why not by FOU, where the file does not say; may be empty
	Captured bool                    // user space sends, since somebody captures on the TUN
}

// Read returns what was counted by now. What cannot be read is missing in it, and logged once.
func (e *Engine) Read() Reading {
	type outcome struct {
		Reading
		err error
	}
	o := look(e, func(s *shown) outcome {
		r, err := s.read()
		return outcome{r, err}
	})
	e.reading.about(e.log, o.err, "counters_failed", "cannot read the counters of the kernel engine")
	// This asks netlink, so it is outside of look, whose rounds should be short.
	if o.Forwards {
		o.Overflow = e.overflow.Read(mergerOverflow())
	} else {
		o.Overflow = e.overflow.Read(0, errors.New("there is no merger"))
	}
	return o.Reading
}

// HeardBy returns when the programs took in the last packet of each of some peers, and left the last one to
// the socket; the zero time if they never did.
func (e *Engine) HeardBy(names ...string) []peers.Heard {
	return look(e, func(s *shown) []peers.Heard {
		all, numbers := make([]peers.Heard, len(names)), make([]uint32, len(names))
		for i, name := range names {
			all[i].Programs, numbers[i] = s.kept[name].LastSeen, self
			if number, known := s.numbers[name]; known {
				numbers[i] = number
			}
		}
		if s.handle == nil {
			return all
		}
		counters := s.chunks.copyFor(slices.Values(numbers))
		defer counters.release()
		for i, number := range numbers {
			if number != self {
				counters.heard(number, &all[i])
			}
		}
		return all
	})
}

// heard adds to h what programs noted of a number.
func (c *copyOfChunks) heard(number uint32, h *peers.Heard) {
	cpus, err := c.lookup(number)
	if err != nil {
		return
	}
	var seen, left uint64
	for _, c := range cpus {
		seen, left = max(seen, c.Seen), max(left, c.Left)
	}
	if at := c.at(seen); at.After(h.Programs) {
		h.Programs = at
	}
	h.Left = c.at(left)
}

// Marks returns the DSCP values with which programs have sent since the last call, as bits. What cannot
// be read is missing.
func (e *Engine) Marks() (all uint64) {
	return look(e, func(s *shown) uint64 {
		var seen uint64
		if s.handle == nil || s.Marks.Lookup(uint32(0), &seen) != nil || seen == 0 {
			return all
		}
		_ = s.Marks.Put(uint32(0), uint64(0)) // a value that stays is told again, which does no harm
		all |= seen                           // of each round
		return all
	})
}

// read reads all counters.
func (s *shown) read() (r Reading, err error) {
	r = Reading{Receive: dataplane.Socket}
	if s.handle != nil && s.attached {
		r.Forwards, r.Captured = true, s.captured
		r.Receive, r.Refused, r.NoFOU = s.receive, s.refused, s.noFOU
		var handedErr error
		r.Handed, handedErr = s.handed()
		err = errors.Join(err, handedErr)
	}
	all, countErr := s.countedFor(s.numbers)
	for _, t := range all {
		r.Totals.Add(t)
	}
	delete(all, noPeer)
	r.Peers = all
	return r, errors.Join(err, countErr)
}

// countedFor returns what is kept, and what is in the maps for some nodes, by name, or noPeer. It belongs to
// the caller.
func (s *shown) countedFor(numbers map[string]uint32) (map[string]mesh.Traffic, error) {
	all := make(map[string]mesh.Traffic, len(s.kept)+len(numbers))
	maps.Copy(all, s.kept)
	if s.handle == nil {
		return all, nil
	}
	var errs []error
	counters := s.chunks.copyFor(maps.Values(numbers))
	defer counters.release()
	for name, number := range numbers {
		t, err := counters.traffic(number)
		if err != nil {
			errs = append(errs, fmt.Errorf("read the counters of %q: %w", name, err))
			continue
		}
		if number == self { // what is counted for ourselves belongs to no peer
			name = noPeer
		}
		sum := all[name]
		sum.Add(t)
		all[name] = sum
	}
	return all, errors.Join(errs...)
}

// traffic returns the counters of a number, the sum over all CPUs.
func (c *copyOfChunks) traffic(number uint32) (t mesh.Traffic, err error) {
	cpus, err := c.lookup(number)
	if err != nil {
		return t, err
	}
	// A program counts on the CPU that it runs on, without atomic additions.
	var seen uint64
	for _, c := range cpus {
		t.RxPackets += c.RxPackets
		t.RxBytes += c.RxBytes
		t.TxPackets += c.TxPackets
		t.TxBytes += c.TxBytes
		for i, n := range c.Drops {
			t.Drops[i] += n
		}
		seen = max(seen, c.Seen)
	}
	t.LastSeen = c.at(seen)
	return t, nil
}

// at turns a reading of the clock that runs since the boot, in ns, into a time; the zero time for what never
// was.
func (c *copyOfChunks) at(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return c.booted.Add(time.Duration(ns))
}

// booted returns when the clock that runs since the boot began.
func booted() time.Time {
	// The clock goes on while the host sleeps, and is not set: its distance to now is what counts.
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // which that clock never refuses
	return time.Now().Add(-time.Duration(now.Nano()))
}

// handovers are the names of enum handover in bpf/mesh.h, which status and metrics show.
var handovers = [...]string{"no_route", "ttl_expired", "too_big", "no_underlay_route", "unusual",
	"from_socket", "unknown_sender", "fragment", "to_this_node", "plain_peer", "capture", "foreign_source",
	"out_by_user", "in_by_socket", "no_address"}

// handed returns how many packets, or superpackets, were left to user space, by reason.
func (h *handle) handed() (map[string]uint64, error) {
	handed := map[string]uint64{}
	for i, name := range handovers {
		var cpus []uint64
		if err := h.Handed.Lookup(uint32(i), &cpus); err != nil {
			return nil, fmt.Errorf("read why packets were left to user space: %w", err)
		}
		for _, n := range cpus {
			handed[name] += n
		}
	}
	return handed, nil
}
