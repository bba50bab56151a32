package health

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/meshd/internal/mesh"
)

// Which growth degrades, and which never does:
//
//	spoofed_source     of a node: its file differs from this one; or somebody forges its address
//	wrong_destination  of a node: its file differs from this one
//	cleartext          of a node: its file does not encrypt; or somebody forges its address
//	send_error         this host does not send what pods send to the peer
//	write_error        the TUN does not take what the peer sends
//	socket_overflow    a flood of strangers can do it, too: it then costs the nodes' own packets
//	tun_overflow       a burst of pods can do it, too: only a lasting share of the traffic counts
//
// What pods or strangers can cause alone without costing others is not here: unknown_sender,
// no_route, foreign_source, malformed, ttl_expired, too_big.
var (
	// lies are never normal: some packets are enough.
	lies = []mesh.Drop{mesh.SpoofedSource, mesh.WrongDestination, mesh.Cleartext}
	// losses happen under load as well: TCP finds its speed by them. A share of the packets counts.
	losses   = []mesh.Drop{mesh.SendError, mesh.WriteError}
	overflow = []string{"socket_overflow", "tun_overflow"}
	// reasons are those that count by peer.
	reasons = slices.Concat(lies, losses)
)

// Bounds of noise.
const (
	window     = 30 * time.Second // how long growth counts
	step       = 10 * time.Second // between two readings that are kept
	fewPackets = 10               // fewer in a window are noise
	lossShare  = 1000             // at most one of so many packets lost is noise
)

// A Growth tells which counters grow. Its zero value is ready; its methods may be called at any time from
// any goroutine. It keeps a reading for every 10 s of the last 30 s.
type Growth struct {
	mu   sync.Mutex
	kept []kept // oldest first
}

// kept is what of a reading at a time is compared with later ones. It is a tenth of the reading: several are
// kept, of thousands of peers each.
type kept struct {
	at      time.Time
	packets uint64
	lost    map[string]uint64
	peers   map[string]uint64    // packets of each
	drops   map[string][5]uint64 // by the index in reasons; of those that had some
}

// of returns what is kept of a reading at a time.
func of(c Counted, at time.Time) kept {
	k := kept{at: at, packets: packets(c.Totals), lost: c.Lost, peers: make(map[string]uint64, len(c.Peers)),
		drops: map[string][5]uint64{}}
	for name, t := range c.Peers {
		k.peers[name] = packets(t)
		var drops [5]uint64
		for i, reason := range reasons {
			drops[i] = t.Drops[reason]
		}
		if drops != [5]uint64{} {
			k.drops[name] = drops
		}
	}
	return k
}

// Take keeps a reading, unless one of the last 10 s is kept. It tells whether it did.
func (g *Growth) Take(c Counted, at time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.kept); n > 0 && at.Sub(g.kept[n-1].at) < step {
		return false
	}
	// A new array: a reader may hold the old one.
	g.kept = append(slices.DeleteFunc(slices.Clone(g.kept), func(k kept) bool { return at.Sub(k.at) > window }),
		of(c, at))
	return true
}

// Conditions compares a reading with the oldest one of the last 30 s.
func (g *Growth) Conditions(now Counted, at time.Time) (all []mesh.Condition) {
	g.mu.Lock()
	readings := g.kept
	g.mu.Unlock()
	first := slices.IndexFunc(readings, func(k kept) bool { return at.Sub(k.at) <= window })
	if first < 0 {
		return nil
	}
	before := readings[first]
	suspects := suspectsOf(now.Peers)
	for i := range reasons {
		all = append(all, ofPeers(i, suspects, before, now.Peers)...)
	}
	moved := grown(before.packets, packets(now.Totals))
	for _, reason := range overflow {
		if lost := grown(before.lost[reason], now.Lost[reason]); counts(lost, moved) {
			all = append(all, mesh.Condition{Kind: mesh.DropsGrowing, Severity: mesh.Degraded, Subject: reason,
				Cause: lostIn(lost)})
		}
	}
	return all
}

// suspectsOf returns the peers of which enough was ever counted to be more than noise, by name. They are few:
// to sort thousands of names every second, once for each reason, would cost more than all else here.
func suspectsOf(now map[string]mesh.Traffic) (names []string) {
	for name, t := range now {
		if slices.ContainsFunc(reasons, func(r mesh.Drop) bool { return t.Drops[r] >= fewPackets }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// ofPeers returns for which of some peers a reason, by its index, counts more than noise. A peer that was not
// there before is looked at from the next reading on: its counters may be old ones.
func ofPeers(index int, suspects []string, before kept, now map[string]mesh.Traffic) (all []mesh.Condition) {
	reason := reasons[index]
	for _, name := range suspects {
		moved, known := before.peers[name]
		is := now[name]
		lost := grown(before.drops[name][index], is.Drops[reason])
		moved = grown(moved, packets(is))
		if slices.Contains(lies, reason) {
			moved = 0
		}
		if known && counts(lost, moved) {
			c := mesh.Condition{Kind: mesh.DropsGrowing, Severity: mesh.Degraded, Peer: name,
				Subject: reason.String(), Cause: lostIn(lost) + " of " + name, Remedy: growthRemedies[reason]}
			if reason == mesh.Cleartext {
				c.Kind, c.Subject = mesh.SendsClear, ""
			}
			all = append(all, c)
		}
	}
	return all
}

var growthRemedies = map[mesh.Drop]string{
	mesh.SpoofedSource:    "compare the files of both nodes: their subnets and addresses have to be the same",
	mesh.WrongDestination: "compare the files of both nodes: their subnets and routes have to be the same",
	mesh.Cleartext:        "give that node this file: both ends have to encrypt",
	mesh.SendError:        "look at the other problems of the peer; without one, this host is overloaded",
	mesh.WriteError:       "see that the interface of the mesh is up: `ip link`",
}

// counts tells whether losses are more than noise among the packets that moved.
func counts(lost, moved uint64) bool { return lost >= fewPackets && lost*lossShare > moved }

// grown is the growth of a counter; none of one that began anew.
func grown(before, now uint64) uint64 { return max(before, now) - before }

func packets(t mesh.Traffic) uint64 { return t.RxPackets + t.TxPackets }

func lostIn(lost uint64) string { return fmt.Sprintf("%d packets in the last %v", lost, window) }

// A NeighbourTable is the state of a neighbour table of the kernel, which all network namespaces of a
// host share: ARP's or that of IPv6.
type NeighbourTable struct {
	Name  string // the kernel's: "arp_cache", "ndisc_cache"
	Limit uint32 // entries, gc_thresh3
	Fulls uint64 // how often there was no room for a new entry
}

// Neighbours tells whether a neighbour table is full. Its zero value is ready; its methods may be called
// at any time from any goroutine.
type Neighbours struct {
	mu   sync.Mutex
	last map[string]NeighbourTable
	full map[string]time.Time // when it was seen to be full last
}

// Take compares a reading of a table with the one before.
func (n *Neighbours) Take(t NeighbourTable, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last == nil {
		n.last, n.full = map[string]NeighbourTable{}, map[string]time.Time{}
	}
	if was, known := n.last[t.Name]; known && t.Fulls > was.Fulls {
		n.full[t.Name] = at
	}
	n.last[t.Name] = t
}

// Conditions returns one condition for each table that was full in the last 30 s.
func (n *Neighbours) Conditions(at time.Time) (all []mesh.Condition) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(n.full)) {
		if at.Sub(n.full[name]) > window {
			continue
		}
		family := "ipv4"
		if strings.HasPrefix(name, "ndisc") {
			family = "ipv6"
		}
		limit := n.last[name].Limit
		all = append(all, mesh.Condition{Kind: mesh.NeighboursFull, Severity: mesh.Degraded, Subject: name,
			Cause: fmt.Sprintf("it holds at most %d entries", limit),
			// The kernel collects garbage above gc_thresh2, so all three grow together.
			Remedy: fmt.Sprintf("run `sysctl -w net.%[1]s.neigh.default.gc_thresh3=%[2]d "+
				"net.%[1]s.neigh.default.gc_thresh2=%[3]d`", family, max(limit, 1024)*4, max(limit, 1024)*2)})
	}
	return all
}
