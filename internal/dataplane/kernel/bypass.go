package kernel

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"example.org/meshd/internal/mesh"
)

// Programs may be attached and take no packet: another program is in front, datagrams come in by
// another interface, the lookup of the way fails. What user space moved, beside what programs took
// and what they handed over for a known reason, tells.

const (
	compareEvery = 10 * time.Second
	// fewest is how many packets have to pass by user space in that time before anything is said.
	fewest = 20
	// superpacket is how many packets one that is handed over may stand for at most.
	superpacket = 64
)

// amounts are counts of packets in one direction.
type amounts struct {
	user, programs uint64
	handed         uint64 // by programs, for any reason; superpackets count once
	lost           uint64 // of those, for want of a route to the peer
}

// since returns what was counted since an earlier reading.
func (a amounts) since(b amounts) amounts {
	return amounts{a.user - b.user, a.programs - b.programs, a.handed - b.handed, a.lost - b.lost}
}

// bypassed tells whether more than half of the packets went by user space without being seen by
// a program.
func (a amounts) bypassed() bool {
	return a.user >= fewest && a.user > a.programs && a.user > superpacket*a.handed
}

// wayless tells whether more than half of the packets went by user space since programs found no
// way for most of them.
func (a amounts) wayless() bool {
	return a.lost >= fewest && a.user > a.programs && a.lost > a.handed/2
}

// A comparison is repeated from time to time. It may be used by several goroutines at once.
type comparison struct {
	mu      sync.Mutex
	at      time.Time
	in, out amounts // as read at that time
	// What followed: packets in and out are seen by no program, programs find no way.
	unseenIn, unseenOut, wayless bool
}

// due tells whether a time has come, and takes it.
func (c *comparison) due(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.at) < compareEvery {
		return false
	}
	c.at = now
	return true
}

// compare draws conclusions from what was counted by now. Counts of handed packets begin anew with
// the programs, which gives no conclusion.
func (c *comparison) compare(in, out amounts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	oldIn, oldOut := c.in, c.out
	c.in, c.out = in, out
	c.unseenIn, c.unseenOut, c.wayless = false, false, false
	first := oldIn == amounts{} && oldOut == amounts{}
	if first || in.handed < oldIn.handed || out.handed < oldOut.handed {
		return
	}
	in, out = in.since(oldIn), out.since(oldOut)
	c.unseenIn, c.unseenOut, c.wayless = in.bypassed(), out.bypassed(), out.wayless()
}

// incoming are the reasons for which packets from the underlay are handed over. Those that both
// directions have count for both, so that they hide a bypass rather than feign one.
var incoming = map[string]bool{"from_socket": true, "unknown_sender": true, "fragment": true,
	"to_this_node": true, "in_by_socket": true}

// both are the reasons of both directions.
var both = map[string]bool{"ttl_expired": true, "unusual": true}

// Compare compares what the user engine has moved, which moved reads, with what programs took, every 10 s.
// It may be called more often, and by several goroutines.
func (e *Engine) Compare(now time.Time, moved func() mesh.Traffic) {
	if !e.Forwards() || !e.compared.due(now) {
		return
	}
	user, r := moved(), e.Read()
	in := amounts{user: user.RxPackets, programs: r.Totals.RxPackets}
	out := amounts{user: user.TxPackets, programs: r.Totals.TxPackets, lost: r.Handed["no_underlay_route"]}
	for reason, n := range r.Handed {
		if incoming[reason] || both[reason] {
			in.handed += n
		}
		if !incoming[reason] {
			out.handed += n
		}
	}
	e.compared.compare(in, out)
}

// conditions tells what programs do not get, and why as far as that is known. s is what was seen last.
func (c *comparison) conditions(s *shown) (all []mesh.Condition) {
	c.mu.Lock()
	in, out, wayless := c.unseenIn, c.unseenOut, c.wayless
	c.mu.Unlock()
	add := func(subject, cause, remedy string) {
		all = append(all, mesh.Condition{Kind: mesh.ProgramsBypassed, Severity: s.severity,
			Subject: subject, Cause: cause, Remedy: remedy})
	}
	front := strings.Join(s.front, ", ")
	if in && s.receives() {
		cause := "they come in by another interface than " + strings.Join(s.underlay, ", ")
		if front != "" {
			cause = "in front of meshd's programs: " + front
		}
		add("received", cause, "")
	}
	if out && front != "" {
		add("sent", "in front of meshd's programs: "+front, "")
	} else if out {
		add("sent", "", "")
	}
	if wayless && s.forward6 != "" {
		add("sent", "the lookup of the way fails while IPv6 forwarding is off on the TUN",
			fmt.Sprintf("`sysctl net.ipv6.conf.%s.forwarding=1`", s.forward6))
	} else if wayless {
		add("sent", "programs find no route to peers", "")
	}
	return all
}
