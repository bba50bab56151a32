package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A limit says how much of a figure may be more at the end than at the beginning: a share of what it was, and
// room on top. Memory is compared by medians. What is counted is compared by the least: a leak raises that,
// too, whereas states that come and go, such as a reload, do not.
type limit struct {
	figure      string
	share, room float64
	least       bool
}

var limits = []limit{
	{figureRSS, 0.15, 6, false},
	{figureFDs, 0, 2, true},
	{figureThreads, 0, 4, true},
	{figureMaps, 0, 0, true},
	{figureEntries, 0, 0, true},
}

// warmUp is how long after the beginning nothing is compared: 2 minutes, a fifth of a short soak.
func warmUp(soak time.Duration) time.Duration { return min(2*time.Minute, soak/5) }

// A trend is a figure of a process over the soak.
type trend struct {
	mesh, process, figure string
	early, late           float64
	limit                 limit
}

// helperRoom is how much the memory of a helper may grow, in MiB: it keeps a buffer of 64 KiB for each packet
// that has ever waited at the same time, until garbage collection finds it unused (sync.Pool).
const helperRoom = 48

// allowed returns how much it may be at the end.
func (t trend) allowed() float64 {
	room := t.limit.room
	if t.limit.figure == figureRSS && strings.HasSuffix(t.process, "helper") {
		room = helperRoom
	}
	return t.early*(1+t.limit.share) + room
}

// grows tells whether it is more at the end than it may be.
func (t trend) grows() bool { return t.late > t.allowed() }

// trendOf compares the first with the last third of values.
func trendOf(values []float64, l limit) (early, late float64) {
	if len(values) == 0 {
		return 0, 0
	}
	third := max(1, len(values)/3)
	typical := middle
	if l.least {
		typical = slices.Min[[]float64]
	}
	return typical(values[:third]), typical(values[len(values)-third:])
}

// middle returns the median; of an even number the upper one.
func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// trends compares all figures of all processes, without those of the warm-up.
func trends(names []string, samples []sample, warm time.Duration) (all []trend) {
	for i, name := range names {
		values := map[string]map[string][]float64{}
		for _, s := range samples {
			if s.At < warm {
				continue
			}
			for _, r := range s.Meshes[i].Processes {
				if values[r.Process] == nil {
					values[r.Process] = map[string][]float64{}
				}
				for figure, value := range r.Figures {
					values[r.Process][figure] = append(values[r.Process][figure], value)
				}
			}
		}
		for _, process := range slices.Sorted(maps.Keys(values)) {
			for _, l := range limits {
				t := trend{mesh: name, process: process, figure: l.figure, limit: l}
				t.early, t.late = trendOf(values[process][l.figure], l)
				all = append(all, t)
			}
		}
	}
	return all
}

// A probe that is answered later than this counts as lost, and what lost probes lead to lasts for so long.
const (
	probeWaits = time.Second
	lossLasts  = time.Minute // peer_loss looks at 30 s; and the time until probes tell
)

// ofProbes are the kinds of problems that lost probes lead to.
var ofProbes = []string{"peer_loss", "peer_down", "peer_silent", "peer_one_way"}

// lasting returns the problems that two samples in a row had, after the warm-up: one that a reload brings and
// ends is none. excused are those of them that say that probes were lost while the machine had no CPU for
// them: packets took longer than a probe waits, or a sample was late itself.
func (r *result) lasting(mesh int) (all, excused []problem) {
	var last sample
	slow := -lossLasts // when there was no CPU last
	for _, s := range r.samples {
		now := s.Meshes[mesh]
		if now.Max >= float64(probeWaits.Milliseconds()) || s.At-last.At > 2*interval(r.soak) {
			slow = s.At
		}
		for _, p := range now.Problems {
			if s.At < warmUp(r.soak) || len(last.Meshes) == 0 || !slices.Contains(last.Meshes[mesh].Problems, p) {
				continue
			}
			to := &all
			if slices.Contains(ofProbes, p.kind) && s.At-slow <= lossLasts {
				to = &excused
			}
			if !slices.Contains(*to, p) {
				*to = append(*to, p)
			}
		}
		last = s
	}
	return all, excused
}

// An account is what became of the packets of a mesh.
type account struct {
	kinds    []kindAccount
	counters counters // what queues and sockets lost meanwhile
}

// A kindAccount is what became of one kind of traffic. TCP counts bytes.
type kindAccount struct {
	name string
	tally
}

// lost returns how many packets of a mesh did not arrive. One counter may stand for a superpacket, so lost
// datagrams of those count as few packets as they may have been.
func (a account) lost() (packets uint64) {
	for _, k := range a.kinds {
		if k.name == "tcp" || k.arrived >= k.sent {
			continue
		}
		missing := k.sent - k.arrived
		if k.name == "gso" {
			missing = (missing + gsoMost - 1) / gsoMost
		}
		packets += missing
	}
	return packets
}

// faults returns what is wrong with an account. Bytes of TCP are sent again until they arrive: nothing
// explains that they are missing.
func (a account) faults(mesh string) (all []string) {
	for _, k := range a.kinds {
		switch {
		case k.sent == 0:
			all = append(all, fmt.Sprintf("%s: no %s was sent", mesh, k.name))
		case k.arrived > k.sent:
			all = append(all, fmt.Sprintf("%s: %d of %s arrived, %d were sent", mesh, k.arrived, k.name, k.sent))
		case k.name == "tcp" && k.arrived < k.sent:
			all = append(all, fmt.Sprintf("%s: %d bytes of TCP did not arrive", mesh, k.sent-k.arrived))
		}
	}
	if lost, known := a.lost(), a.counters.sum(); lost > known {
		all = append(all, fmt.Sprintf("%s: %d packets were lost, of which counters explain %d", mesh, lost, known))
	}
	return all
}

// A crew is the goroutines of a process, by what started them: those at the end, and those of a process that
// has just begun.
type crew struct {
	mesh, process string
	after, fresh  map[string]int
}

// moreGoroutines is how many more a process may have at the end than a new one: some last for seconds.
const moreGoroutines = 8

// total adds up goroutines.
func total(by map[string]int) (n int) {
	for _, v := range by {
		n += v
	}
	return n
}

// fault tells of goroutines that have leaked; empty: none have.
func (c crew) fault() string {
	if total(c.after) <= total(c.fresh)+moreGoroutines {
		return ""
	}
	var more []string
	for _, by := range slices.Sorted(maps.Keys(c.after)) {
		if n := c.after[by] - c.fresh[by]; n > 0 {
			more = append(more, fmt.Sprintf("%d of %s", n, by))
		}
	}
	return fmt.Sprintf("%s: %s has %d goroutines, a new one %d: %s more", c.mesh, c.process, total(c.after),
		total(c.fresh), strings.Join(more, ", "))
}

// compares tells whether a figure of the first and the last third can be compared. Each way to move packets
// has maps and descriptors of its own, so both thirds need a whole round of switches.
func (r *result) compares(l limit) bool {
	third := (r.soak - warmUp(r.soak)) / 3
	return !l.least || time.Duration(len(steps()))*r.switches <= third
}

// judge returns everything for which a soak fails. While meshes switch, hosts differ on purpose, and the way
// back from encryption loses packets: then neither loss nor problems are judged.
func (r *result) judge() (all []string) {
	if r.ledger.altered > 0 {
		all = append(all, fmt.Sprintf("other bytes arrived than were sent, %d times", r.ledger.altered))
	}
	for _, t := range trends(r.names, r.samples, warmUp(r.soak)) {
		if t.grows() && r.compares(t.limit) {
			all = append(all, fmt.Sprintf("%s: %s of %s grew from %.1f to %.1f", t.mesh, t.figure, t.process, t.early,
				t.late))
		}
	}
	for _, c := range r.crews {
		if fault := c.fault(); fault != "" {
			all = append(all, fault)
		}
	}
	if r.switches == 0 {
		for i, name := range r.names {
			all = append(all, r.accounts[i].faults(name)...)
			lasts, _ := r.lasting(i)
			for _, p := range lasts {
				all = append(all, fmt.Sprintf("%s: health had a problem: %s", name, p))
			}
		}
		all = append(all, r.ledger.errors...)
	}
	return append(all, r.trouble...)
}
