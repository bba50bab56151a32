package control

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Counters and what probes measure change with every snapshot, at every peer. As Changes.Peers tells them,
// with names and in full, they are 600 bytes of each peer, and to read these was most of what a dashboard of
// a large mesh cost. So a reader may ask for lists of them: figures=rx_bytes,probes.0.sent
//
//	figure   a number of a peer, by the names of the fields that lead to it: "rx_bytes", "probes.0.sent"
//	growth   by how much it changed since the line before, in whole units, of every peer in the order of names
//	unit     1 of a counter, a millionth of what is measured, a nanosecond of a time
//
// What no whole number tells, such as a counter that becomes null, is in Changes.Peers, as all else is. So a
// reader takes Peers first and then adds Figures.

// Growth is by how much one figure of each peer changed. It is a JSON list of whole numbers.
type Growth []int64

// MarshalJSON implements json.Marshaler.
func (g Growth) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 8*len(g)+2), '[')
	for i, n := range g {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return append(b, ']'), nil
}

var errGrowth = errors.New("figures must be lists of whole numbers")

// UnmarshalJSON implements json.Unmarshaler. It is here for its speed: a mesh of 10,000 peers has 100,000
// figures a second, and encoding/json takes ten times as long for each.
func (g *Growth) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '[' || b[len(b)-1] != ']' {
		return errGrowth
	}
	list, b := make(Growth, 0, len(b)/4), bytes.TrimSpace(b[1:len(b)-1])
	for len(b) > 0 {
		n, rest, ok := leadingInt(b)
		if !ok || len(rest) > 0 && (rest[0] != ',' || len(rest) == 1) {
			return errGrowth
		}
		list, b = append(list, n), rest[min(1, len(rest)):]
	}
	*g = list
	return nil
}

// leadingInt reads a number, with blanks around it.
func leadingInt(b []byte) (n int64, rest []byte, ok bool) {
	blank := func(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }
	i, sign, digits := 0, int64(1), 0
	for i < len(b) && blank(b[i]) {
		i++
	}
	if i < len(b) && b[i] == '-' {
		sign, i = -1, i+1
	}
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		n, digits = n*10+sign*int64(b[i]-'0'), digits+1
	}
	for i < len(b) && blank(b[i]) {
		i++
	}
	// 19 digits may be too many, which turns the sign; 20 always are.
	return n, b[i:], digits > 0 && digits < 20 && (n == 0 || n < 0 == (sign < 0))
}

// A figure is one number of a peer.
type figure struct {
	name string
	read func(p *Peer) (n int64, ok bool)      // in whole units; not ok if it is none
	set  func(p *Peer, n int64, memory *slabs) // where read is ok
	back func(p, was *Peer)                    // sets it to that of another peer; read is ok of both
}

// figures are those that change all the time. A field that is not listed is told as other changes are.
var figures = slices.Concat([]figure{
	moment("last_seen", func(p *Peer) **time.Time { return &p.LastSeen }),
	measure("rtt_ms", func(p *Peer) **float64 { return &p.RTTMS }),
	measure("rtt_min_ms", func(p *Peer) **float64 { return &p.RTTMinMS }),
	measure("rtt_p95_ms", func(p *Peer) **float64 { return &p.RTTP95MS }),
	measure("rtt_last_ms", func(p *Peer) **float64 { return &p.RTTLastMS }),
	measure("jitter_ms", func(p *Peer) **float64 { return &p.JitterMS }),
	tally("probes_sent", func(p *Peer) *uint64 { return &p.ProbesTx }),
	tally("probes_received", func(p *Peer) *uint64 { return &p.ProbesRx }),
	counter("rx_packets", func(p *Peer) **uint64 { return &p.RxPackets }),
	counter("rx_bytes", func(p *Peer) **uint64 { return &p.RxBytes }),
	counter("tx_packets", func(p *Peer) **uint64 { return &p.TxPackets }),
	counter("tx_bytes", func(p *Peer) **uint64 { return &p.TxBytes }),
	ofWireGuard("rx_bytes", func(w *PeerWireGuard) *uint64 { return &w.RxBytes }),
	ofWireGuard("tx_bytes", func(w *PeerWireGuard) *uint64 { return &w.TxBytes }),
}, ofForms(4), ofAddresses(2))

// figuresNamed returns the figures with names, which commas separate. A name of another version is left out.
func figuresNamed(names string) (all []figure) {
	asked := strings.Split(names, ",")
	for _, f := range figures {
		if slices.Contains(asked, f.name) {
			all = append(all, f)
		}
	}
	return all
}

// figureNames names all figures, for a reader that knows all of them.
func figureNames() string {
	var names []string
	for _, f := range figures {
		names = append(names, f.name)
	}
	return strings.Join(names, ",")
}

// ofForms are figures of the first probe forms; no peer has more than four.
func ofForms(n int) (all []figure) {
	for i := range n {
		all = append(all, tally(fmt.Sprintf("probes.%d.sent", i), func(p *Peer) *uint64 {
			if i >= len(p.Probes) {
				return nil
			}
			return &p.Probes[i].Sent
		}))
	}
	return all
}

// ofAddresses are figures of the first addresses. Few peers have more than two.
func ofAddresses(n int) (all []figure) {
	for i := range n {
		all = append(all, measure(fmt.Sprintf("addresses.%d.rtt_ms", i), func(p *Peer) **float64 {
			if i >= len(p.Addresses) {
				return nil
			}
			return &p.Addresses[i].RTTMS
		}))
	}
	return all
}

// ofWireGuard is a figure of a peer while packets are encrypted.
func ofWireGuard(name string, of func(w *PeerWireGuard) *uint64) figure {
	return tally("wireguard."+name, func(p *Peer) *uint64 {
		if p.WireGuard == nil {
			return nil
		}
		return of(p.WireGuard)
	})
}

// tally is a counter that is never null. at returns nil where the peer has none.
func tally(name string, at func(p *Peer) *uint64) figure {
	return figure{name,
		func(p *Peer) (int64, bool) {
			n := at(p)
			if n == nil || *n > math.MaxInt64 {
				return 0, false
			}
			return int64(*n), true
		},
		func(p *Peer, n int64, _ *slabs) { *at(p) = uint64(n) },
		func(p, was *Peer) { *at(p) = *at(was) },
	}
}

// counter is one that may be null.
func counter(name string, at func(p *Peer) **uint64) figure {
	return figure{name,
		func(p *Peer) (int64, bool) {
			n := *at(p)
			if n == nil || *n > math.MaxInt64 {
				return 0, false
			}
			return int64(*n), true
		},
		func(p *Peer, n int64, memory *slabs) { *at(p) = memory.counts.put(uint64(n)) },
		func(p, was *Peer) { *at(p) = *at(was) },
	}
}

// measure is a figure of which millionths are whole: a time in milliseconds that was measured in nanoseconds.
// at returns nil where the peer has none.
func measure(name string, at func(p *Peer) **float64) figure {
	const whole = 1e6
	return figure{name,
		func(p *Peer) (int64, bool) {
			m := at(p)
			if m == nil || *m == nil || math.Abs(**m) > 1e9 {
				return 0, false
			}
			n := int64(math.Round(**m * whole))
			return n, float64(n)/whole == **m
		},
		func(p *Peer, n int64, memory *slabs) { *at(p) = memory.measures.put(float64(n) / whole) },
		func(p, was *Peer) { *at(p) = *at(was) },
	}
}

// moment is a time.
func moment(name string, at func(p *Peer) **time.Time) figure {
	return figure{name,
		func(p *Peer) (int64, bool) {
			t := *at(p)
			if t == nil || t.Year() < 1700 || t.Year() > 2200 { // what UnixNano can tell
				return 0, false
			}
			return t.UnixNano(), true
		},
		func(p *Peer, n int64, memory *slabs) {
			was := *at(p)
			*at(p) = memory.times.put(was.Add(time.Duration(n - was.UnixNano()))) // in the zone that it had
		},
		func(p, was *Peer) { *at(p) = *at(was) },
	}
}

// growths compares the figures of peers with those before, both by name. was[i] is the peer before of now[i],
// nil if it is new. A figure that few peers' has changed is left to Changes.Peers, which is shorter then.
func growths(was []*Peer, now []Peer, figured []figure) map[string]Growth {
	all := map[string]Growth{}
	list := make(Growth, len(now))
	for _, f := range figured {
		changed := 0
		for i := range now {
			list[i] = 0
			if was[i] == nil {
				continue
			}
			before, ok := f.read(was[i])
			after, fits := f.read(&now[i])
			if ok && fits && after != before {
				list[i], changed = after-before, changed+1
			}
		}
		if changed*8 > len(now) {
			all[f.name] = slices.Clone(list)
		}
	}
	return all
}

// setBack returns peer i of now with each figure that grew as it was before: what is left to tell of it.
func setBack(was *Peer, now Peer, i int, all map[string]Growth, memory *slabs) Peer {
	if len(all) == 0 {
		return now
	}
	unshare(&now, memory)
	for _, f := range figures {
		if list, told := all[f.name]; told && list[i] != 0 {
			f.back(&now, was)
		}
	}
	return now
}

// grow adds growths to the figures of peers, which share no list with others.
func grow(peers []Peer, all map[string]Growth) error {
	if len(all) == 0 {
		return nil
	}
	memory := &slabs{}
	for i := range peers {
		unshare(&peers[i], memory)
	}
	for _, f := range figures {
		list, told := all[f.name]
		if told && len(list) != len(peers) {
			return fmt.Errorf("%w: %d figures %q of %d peers", ErrPlace, len(list), f.name, len(peers))
		}
		for i, n := range list {
			if n == 0 {
				continue
			}
			before, ok := f.read(&peers[i])
			if !ok {
				return fmt.Errorf("%w: peer %q has no %s that could grow", ErrPlace, peers[i].Name, f.name)
			}
			f.set(&peers[i], before+n, memory)
		}
	}
	return nil
}

// unshare copies what a peer points to and figures are in.
func unshare(p *Peer, memory *slabs) {
	p.Probes, p.Addresses = memory.forms.list(p.Probes), memory.addresses.list(p.Addresses)
	if p.WireGuard != nil {
		p.WireGuard = memory.wireguard.put(*p.WireGuard)
	}
}

// slabs is memory for the figures of many peers: one allocation for hundreds of values.
type slabs struct {
	counts    slab[uint64]
	measures  slab[float64]
	times     slab[time.Time]
	forms     slab[ProbeForm]
	addresses slab[PeerAddress]
	wireguard slab[PeerWireGuard]
}

// slab is memory for values of one type.
type slab[T any] struct{ free []T }

const slabLength = 256

// put returns a pointer to a copy of v.
func (s *slab[T]) put(v T) *T {
	if len(s.free) == 0 {
		s.free = make([]T, slabLength)
	}
	p := &s.free[0]
	*p, s.free = v, s.free[1:]
	return p
}

// list returns a copy of a list.
func (s *slab[T]) list(values []T) []T {
	n := len(values)
	if n == 0 {
		return values
	}
	if n > len(s.free) {
		s.free = make([]T, max(n, slabLength))
	}
	list := s.free[:n:n]
	s.free = s.free[n:]
	copy(list, values)
	return list
}
