package user

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
)

// Which flows use the bandwidth is found by samples, each loop for itself:
//
//	unit     what a loop moves at once: a frame of the TUN, or a group of packets for it
//	run      units of a batch that follow each other, of which one is the sample: by chance, since flows may
//	         take turns
//	credit   packets and bytes of all units of a run; the sample's flow gets it
//	sketch   the table of a loop: a number of buckets, in which a flow has one of a few places
//	recent   bytes of a flow, half of which are forgotten at each reading
//
// So each byte is counted once, and of a batch some units alone cost time; where batches are small, each unit
// is a sample, and counts are exact. A busy flow has a place for as long as it is busier than others of its
// bucket: a newcomer takes the place of the flow with the fewest recent bytes.

const (
	flowBuckets = 128 // a power of two
	flowPlaces  = 8   // in each
	// runsOfBatch is how many runs a batch of many units has, about.
	runsOfBatch = 8
)

// flowKey is a flow as its packets have it; local is this node's side.
type flowKey struct {
	local, remote [16]byte // IPv4 in the first four bytes, and zeros
	ports         [4]byte  // local and remote, network order; zeros: none
	protocol      uint8
	v6            bool
}

// flowPlace is one place of a bucket; its count is zero if it is free.
type flowPlace struct {
	key    flowKey
	count  mesh.FlowCount
	recent uint64
}

// A sketch holds the flows of one loop. The loop counts; whoever reads holds mu for microseconds. The loop
// never waits for that: it keeps its credit until the next sample.
type sketch struct {
	seed maphash.Seed

	// Of the loop alone.
	units  int // of the batch, that are to come, if none is dropped
	length int // of a run
	left   int // units of this run
	until  int // units before its sample
	credit mesh.FlowCount
	sample []byte // good until the end of the batch; nil: there is none yet
	in     bool   // whether it came in

	mu      sync.Mutex
	buckets [flowBuckets][flowPlaces]flowPlace
}

func newSketch() *sketch { return &sketch{seed: maphash.MakeSeed()} }

// sketches are those of the loops of a worker; nil while no flows are counted.
type sketches []atomic.Pointer[sketch]

// begin returns the sketch of a loop for a batch of units; nil if no flows are counted.
func (s sketches) begin(loop, units int) *sketch {
	one := s[loop].Load()
	if one == nil {
		return nil
	}
	one.units, one.length = units, 1+units/runsOfBatch
	one.begin()
	return one
}

// begin begins a run.
func (s *sketch) begin() {
	s.left = max(1, min(s.length, s.units))
	s.units -= s.left
	s.until, s.sample = rand.IntN(s.left), nil
}

// sent counts a unit that leaves; b is its first packet, or a superpacket.
func (s *sketch) sent(b []byte, packets, bytes int) {
	if s == nil {
		return
	}
	s.credit.TxPackets += uint64(packets)
	s.credit.TxBytes += uint64(bytes)
	s.unit(b, false)
}

// received is sent for a unit that came in.
func (s *sketch) received(b []byte, packets int, bytes uint64) {
	if s == nil {
		return
	}
	s.credit.RxPackets += uint64(packets)
	s.credit.RxBytes += bytes
	s.unit(b, true)
}

// unit goes on with a run, or ends it.
func (s *sketch) unit(b []byte, in bool) {
	if s.sample == nil || s.until == 0 { // the first stands in for one that may be dropped
		s.sample, s.in = b, in
	}
	s.until--
	if s.left--; s.left == 0 {
		s.end()
	}
}

// end ends a run. So it ends a batch, of which some units may have been dropped. While a reader has the table
// the credit stays, and the sample of the next run gets it.
func (s *sketch) end() {
	if s == nil || s.sample == nil {
		return
	}
	if s.mu.TryLock() {
		s.add(keyOf(s.sample, s.in), s.credit)
		s.mu.Unlock()
		s.credit = mesh.FlowCount{}
	}
	s.begin()
}

// add counts for a flow. The caller holds mu.
func (s *sketch) add(key flowKey, credit mesh.FlowCount) {
	bucket := &s.buckets[maphash.Comparable(s.seed, key)%flowBuckets]
	least := &bucket[0]
	for i := range bucket {
		if bucket[i].key == key {
			bucket[i].count.Add(credit)
			bucket[i].recent += credit.Bytes()
			return
		}
		if bucket[i].recent < least.recent {
			least = &bucket[i]
		}
	}
	*least = flowPlace{key: key, count: credit, recent: credit.Bytes()}
}

// keyOf returns the flow of a packet that has passed packet.Parse. Fragments have no ports: those of all but
// the first would be payload.
func keyOf(b []byte, in bool) (k flowKey) {
	header := packet.HeaderLen6
	from, to := k.local[:], k.remote[:]
	if in {
		from, to = to, from
	}
	if b[0]>>4 == 4 {
		k.protocol, header = b[9], int(b[0]&0x0f)*4
		copy(from, b[12:16])
		copy(to, b[16:20])
		if packet.IsFragment4(b) {
			return k
		}
	} else {
		k.v6, k.protocol = true, b[6]
		copy(from, b[8:24])
		copy(to, b[24:40])
	}
	const sctp = 132
	switch k.protocol {
	case packet.ProtoTCP, packet.ProtoUDP, sctp:
		if len(b) < header+4 {
			return k
		}
		if copy(k.ports[:], b[header:header+4]); in {
			k.ports = [4]byte{k.ports[2], k.ports[3], k.ports[0], k.ports[1]}
		}
	}
	return k
}

// CountFlows implements dataplane.FlowCounter.
func (u *Engine) CountFlows(on bool) error {
	for _, w := range *u.workers.Load() {
		for i := range w.flows {
			switch {
			case !on:
				w.flows[i].Store(nil)
			case w.flows[i].Load() == nil:
				w.flows[i].Store(newSketch())
			}
		}
	}
	return nil
}

// Flows implements dataplane.FlowCounter. A flow's peer is the node that its packets go to now.
func (u *Engine) Flows() (dataplane.FlowReading, error) {
	f := u.mesh.Load()
	r := dataplane.FlowReading{Counts: map[mesh.Flow]mesh.FlowCount{}, Sampled: true, Sealed: f.sealed}
	for _, w := range *u.workers.Load() {
		for i := range w.flows {
			if s := w.flows[i].Load(); s != nil {
				s.read(f, r.Counts)
			}
		}
	}
	return r, nil
}

// read adds what a sketch holds to counts.
func (s *sketch) read(f *forwarding, counts map[mesh.Flow]mesh.FlowCount) {
	held := make([]flowPlace, 0, flowBuckets*flowPlaces) // so that mu is held for a copy alone
	s.mu.Lock()
	for i := range s.buckets {
		for j := range s.buckets[i] {
			if place := &s.buckets[i][j]; place.count != (mesh.FlowCount{}) {
				held = append(held, *place)
				place.recent /= 2
			}
		}
	}
	s.mu.Unlock()
	for _, place := range held {
		flow := place.key.flow()
		peer := f.table.Lookup(flow.Remote)
		if peer < 0 || peer == f.self { // its node has left the mesh
			continue
		}
		flow.Peer = f.table.Name(peer)
		sum := counts[flow]
		sum.Add(place.count)
		counts[flow] = sum
	}
}

// flow returns what a key stands for, but for the peer.
func (k flowKey) flow() mesh.Flow {
	port := binary.BigEndian.Uint16
	f := mesh.Flow{LocalPort: port(k.ports[:]), RemotePort: port(k.ports[2:]),
		Protocol: k.protocol, Local: netip.AddrFrom16(k.local), Remote: netip.AddrFrom16(k.remote)}
	if !k.v6 {
		f.Local, f.Remote = netip.AddrFrom4([4]byte(k.local[:4])), netip.AddrFrom4([4]byte(k.remote[:4]))
	}
	return f
}
