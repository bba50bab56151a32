// Package forms has probes leave as pods' packets do, and turns what becomes of them into facts about
// peers. It stands between probe, which knows no packets, and an engine, which knows no probes.
//
//	form   what a probe looks like: see probe.Form
//	trait  how pods' packets differ from plain probes now; it follows from the engine and the file
//	loses  what of pods' packets a peer does not get
package forms

import (
	"sync/atomic"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/probe"
)

const (
	// lookEvery is the time between two looks at how packets leave.
	lookEvery = time.Second
	// remember is how long a DSCP value is probed after a packet has left with it.
	remember = 5 * time.Minute
)

// A Sender sends questions in their forms. Send and Trait belong to one goroutine; the other methods
// may be called by any at any time. Its zero value is ready.
type Sender struct {
	spread     atomic.Bool // packets leave from many ports
	noChecksum atomic.Bool // packets leave without a UDP checksum
	mtu        atomic.Int64

	// Of the goroutine that sends.
	echoes []dataplane.Echo // of the last call; its memory is used again
	looked time.Time
	seen   [64]time.Time // when a packet has left with a DSCP value
}

// Configure tells whether packets leave from many ports, as dataplane.spread says, and the MTU of the
// TUN in bytes.
func (s *Sender) Configure(spread bool, mtu int) {
	s.spread.Store(spread)
	s.mtu.Store(int64(mtu))
}

// Trait returns how pods' packets differ from plain probes. news is false, and the trait not asked for,
// if the last look was less than a second ago.
func (s *Sender) Trait(engine dataplane.Echoer, now time.Time) (t probe.Trait, news bool) {
	if now.Sub(s.looked) < lookEvery {
		return t, false
	}
	s.looked = now
	leaving := engine.Leaving()
	s.noChecksum.Store(leaving.NoChecksum)
	t.Data = leaving.NoChecksum || s.spread.Load()
	for value := range s.seen {
		if leaving.DSCP>>value&1 != 0 {
			s.seen[value] = now
		}
		if !s.seen[value].IsZero() && now.Sub(s.seen[value]) < remember {
			t.DSCP |= 1 << value
		}
	}
	return t, true
}

// Send sends questions, all with one call: those of other forms cost no calls of their own. unsent are those
// that say nothing, since what the kernel refuses is told to pods, or counted. A plain question that cannot
// be sent is one without an answer.
func (s *Sender) Send(
	engine dataplane.Echoer, questions []probe.Question,
) (unsent []probe.Question, err error) {
	if len(questions) == 0 {
		return nil, nil
	}
	s.echoes = s.echoes[:0]
	for _, q := range questions {
		one := dataplane.Echo{Peer: q.Peer, Via: q.Via, ID: q.ID, Seq: q.Seq, Payload: q.Payload, DSCP: q.DSCP}
		switch q.Form {
		case probe.Data:
			one.NoChecksum, one.Spread = s.noChecksum.Load(), s.spread.Load()
		case probe.Forwarded:
			one.Forwarded = true
		}
		s.echoes = append(s.echoes, one)
	}
	err = engine.SendEcho(s.echoes...)
	for _, i := range dataplane.Unsent(err, len(questions)) {
		if questions[i].Form != probe.Plain {
			unsent = append(unsent, questions[i])
		}
	}
	return unsent, err
}

// leastMTU is the smallest path that a size is searched for, in bytes of pods' packets: what every IPv4
// host takes (RFC 791 section 3.1). Narrower paths, and paths of less than 1280 bytes for IPv6 between
// pods, get fragments.
const leastMTU = 576

// Bounds returns what probes a peer can get from a node. mtu is how large packets to the peer may be as
// far as this host is concerned, in bytes. sealed tells that packets travel encrypted: then probes are UDP,
// whose header has the size of ICMP's.
func Bounds(self, peer mesh.Peer, mtu int, sealed bool) probe.Bounds {
	var b probe.Bounds
	if headers := dataplane.EchoHeadersTo(self, peer); mtu > headers {
		b.Sizes = probe.Sizes{Least: leastMTU - headers, Most: mtu - headers, Headers: headers, Meshd: sealed}
	}
	for _, v6 := range []bool{false, true} {
		b.Forwarded = b.Forwarded || self.TUNAddress(v6).IsValid() && peer.ForwardedProbe(v6).IsValid()
	}
	return b
}

// Update brings facts about a peer up to date with what probes report.
func (s *Sender) Update(f *peers.Facts, r probe.Report) {
	f.Recent = peers.Loss{Probes: r.Recent.Probes, Lost: r.Recent.Lost, Runs: r.Recent.Runs}
	f.NotHeard, f.Silent, f.Drain = r.NotHeard, r.Silent, r.Drain
	f.Addresses = nil
	for _, a := range r.Paths {
		f.Addresses = append(f.Addresses, peers.Address{At: a.Via, State: peers.State(a.State.String()),
			Silent: a.Silent, Good: a.Good, Answered: a.Answered, RTT: a.Figures.Last, Loss: a.Figures.Loss})
	}
	f.Path = peers.PathMTU{}
	if z := r.Size; z.Most > 0 {
		f.Path = peers.PathMTU{InUse: z.InUse, Least: z.Least, Most: z.Most, Interface: int(s.mtu.Load()),
			Proven: z.Proven, Nothing: z.Nothing}
	}
	before := f.Loses
	f.Loses = peers.Loses{}
	for _, one := range r.Forms {
		if !one.Fails {
			continue
		}
		switch one.Form {
		case probe.Data:
			f.Loses.NoChecksum, f.Loses.Spread = before.NoChecksum, before.Spread
			if !before.NoChecksum && !before.Spread { // later news of the engine does not change what was found
				f.Loses.NoChecksum, f.Loses.Spread = s.noChecksum.Load(), s.spread.Load()
			}
		case probe.Marked:
			f.Loses.DSCP = one.DSCP
		case probe.Forwarded:
			f.Loses.Forwarded = true
		}
	}
}
