package kernel

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/mesh"
)

// Counters returns what was counted, by name, and the sum of it with what is gone.
func (p *Programs) Counters() (peers map[string]mesh.Traffic, total mesh.Traffic, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	peers, total = map[string]mesh.Traffic{}, p.past
	for name, number := range p.tables.numbers {
		t, err := p.traffic(number)
		if err != nil {
			return nil, total, fmt.Errorf("read the kernel's counters: %w", err)
		}
		total.Add(t)
		if number != self { // what is counted for ourselves belongs to no peer
			peers[name] = t
		}
	}
	return peers, total, nil
}

// LastSeen returns when the programs took the last packet of a peer; the zero time if they
// never did.
func (p *Programs) LastSeen(peer string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	number, known := p.tables.numbers[peer]
	if !known || number == self {
		return time.Time{}
	}
	t, err := p.traffic(number)
	if err != nil {
		return time.Time{}
	}
	return t.LastSeen
}

// traffic reads the counters of a number.
func (p *Programs) traffic(number uint32) (t mesh.Traffic, err error) {
	var cpus []meshCounters
	if err := p.objects.Counted.Lookup(number, &cpus); err != nil {
		return t, err
	}
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
	if seen != 0 {
		t.LastSeen, err = sinceBoot(seen)
	}
	return t, err
}

// sinceBoot turns a reading of the clock that runs since the boot into a time.
func sinceBoot(ns uint64) (time.Time, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, os.NewSyscallError("clock_gettime", err)
	}
	return time.Now().Add(time.Duration(ns) - time.Duration(now.Nano())), nil
}

// handovers are the names of enum handover in bpf/mesh.h.
var handovers = [...]string{"no_route", "ttl_expired", "too_big", "no_underlay_route", "unusual", "from_socket", "unknown_sender", "fragment", "to_this_node", "plain_peer", "capture",
	"foreign_source"}

// Handed returns how many packets, or superpackets, were left to user space, by reason.
func (p *Programs) Handed() (map[string]uint64, error) {
	handed := map[string]uint64{}
	for i, name := range handovers {
		var cpus []uint64
		if err := p.objects.Handed.Lookup(uint32(i), &cpus); err != nil {
			return nil, fmt.Errorf("read the kernel's counters: %w", err)
		}
		for _, n := range cpus {
			handed[name] += n
		}
	}
	return handed, nil
}
