// Package crossing measures whether this host forwards packets of peers to its pods. A mesh can be up
// while a firewall drops every packet of a pod: plain probes go from meshd to meshd, and the host's
// forward chains never see them.
//
//	probe    an ICMP echo request that comes in by the TUN, or by the encrypted interface, and that the
//	         kernel routes to a pod. A rule of our own takes it behind all filters (filter.Last), so no
//	         pod gets it
//	peer's   a probe that a peer has sent: it is answered, since it has passed. Where packets travel
//	         encrypted it is a UDP datagram, see package ask
//	own      a probe that this node delivers to itself every few seconds, as if a peer had sent it. The TUN
//	         gets it, and passes it on to the encrypted interface where packets of pods come in there.
//	         One that does not arrive is sent again with a trace, and the kernel names the rule
//
// So the host whose firewall is at fault names the rule, also if no peer measures.
package crossing

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nft"
)

const (
	// pace is how often this node asks itself, suspicion how often while a probe is lost, and leastPace
	// the least time between two rounds, whatever happens.
	pace      = 5 * time.Second
	suspicion = 2 * time.Second
	leastPace = time.Second
	// patience is how long a probe may take through this host's own kernel, and a trace of one.
	patience = 500 * time.Millisecond
	// tries is how many probes in a row must be lost to count: a queue may overflow once.
	tries = 3
	// firstRules is how long the start of the daemon waits for the rules.
	firstRules = time.Second
	// reopen is how long to wait after the kernel has refused NFLOG.
	reopen = time.Minute

	// firstGroup is where the search for a free group of NFLOG begins: programs that log, such as
	// ulogd, use small numbers.
	firstGroup = 28500
	// copied is how much of a probe is looked at, in bytes: IPv6, ICMP and a payload of 80 bytes are 128.
	copied = 256
)

// Wanted is what to measure.
type Wanted struct {
	// Interfaces are meshd's, by which packets of pods come from other nodes and leave to them: the TUN, and the
	// encrypted interface, if there is one. Own probes come in by the one that packets of pods take.
	Interfaces []string
	Sealed     bool           // that is the encrypted one
	Networks   []netip.Prefix // of the mesh
	Mesh       mesh.Mesh
	Ask        bool // this node asks itself, too; without, only probes of peers end here
	// Port is the UDP port to which peers send such probes where packets travel encrypted; 0: they send echoes.
	Port uint16
}

// Options is what a Keeper needs of others. The functions may be called at any time, by one of the
// Keeper's two goroutines; they must not wait.
type Options struct {
	Log     *slog.Logger
	Deliver func(packet []byte) error        // see dataplane.Deliverer
	Answer  func(peer string, e packet.Echo) // answers the probe of a peer
	Leads   func(bool)                       // hears whether probes of peers are answered
	Suspect func()                           // hears that a probe was lost: rules may need a look
	Last    *filter.Last                     // takes probes that this host's filters have passed
}

// A Keeper measures. Run and Read are for one goroutine each; all other methods may be called from
// any goroutine, and never wait.
type Keeper struct {
	o     Options
	rules *filter.Last
	id    uint16        // of our own echoes, not 0
	news  chan struct{} // something may have changed: measure at once

	opened  chan struct{} // closed once the kernel was asked for a group of NFLOG
	inForce chan struct{} // closed once the rules are in force, or cannot be

	wanted     atomic.Pointer[scene] // nil before the first Set
	group      atomic.Uint32         // of NFLOG; 0: none is bound
	conditions atomic.Pointer[[]mesh.Condition]

	mu      sync.Mutex
	waiting map[uint64]chan<- uint64 // own probes under way, by nonce

	// Of Run alone.
	setOnce    func()       // closes inForce
	direct     bool         // nothing has own probes come in elsewhere than where they are delivered
	unseen     int          // traced probes in a row that no rule has seen
	mentioned  []netip.Addr // addresses that rules of others name
	generation uint32       // of the rules, when they were read for mentioned
	read       bool         // they were
	nextLook   time.Time    // not before
}

// scene is what is wanted, with what follows from it.
type scene struct {
	Wanted
	self  mesh.Peer
	peers func() map[netip.Addr]string // by TUN address; made when the first probe of a peer has come
}

// New returns a Keeper that has not touched the kernel.
func New(o Options) *Keeper {
	k := &Keeper{o: o, rules: o.Last, id: randomID(), news: make(chan struct{}, 1),
		opened: make(chan struct{}), inForce: make(chan struct{}), waiting: map[uint64]chan<- uint64{}}
	k.conditions.Store(&[]mesh.Condition{})
	k.setOnce = sync.OnceFunc(func() { close(k.inForce) })
	return k
}

// Set says what to measure from now on. The first one waits until the rules are in force, so that a
// host with a mesh always has them; later ones never wait.
func (k *Keeper) Set(w Wanted) {
	s := &scene{Wanted: w, peers: sync.OnceValue(w.Mesh.ByTUN)}
	s.self, _ = w.Mesh.Peer(w.Mesh.Self)
	k.wanted.Store(s)
	k.Wake()
	select {
	case <-k.inForce:
	case <-time.After(firstRules):
	}
}

// Forget goes back to measuring nothing, as before the first Set. The rules stay.
func (k *Keeper) Forget() {
	k.wanted.Store(nil)
	k.publish(nil)
}

// Wake has the Keeper measure at once: rules or routes of this host may have changed.
func (k *Keeper) Wake() {
	select {
	case k.news <- struct{}{}:
	default: // it is about to
	}
}

// Conditions tells which rules drop packets to pods.
func (k *Keeper) Conditions() []mesh.Condition { return *k.conditions.Load() }

// Run measures until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	select {
	case <-k.opened:
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		// Before the first Set there is nothing to measure. A round of nothing must not be rested from:
		// that Set waits for the round after it, and the start of the daemon with it.
		s := k.wanted.Load()
		if s == nil {
			select {
			case <-ctx.Done():
			case <-k.news:
			}
			continue
		}
		pause := pace
		if !k.round(ctx, s) {
			pause = suspicion
		}
		rest := time.After(leastPace)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		case <-k.news:
		}
		select { // another program may change its rules all the time
		case <-ctx.Done():
			return nil
		case <-rest:
		}
	}
	return nil
}

// Read takes probes from the kernel until ctx ends, and answers those of peers.
func (k *Keeper) Read(ctx context.Context) error {
	first := sync.OnceFunc(func() { close(k.opened) })
	for {
		err := k.readOnce(ctx, first)
		if ctx.Err() != nil {
			return nil
		}
		k.o.Log.Info("forwarded probes cannot be taken: whether a firewall drops pods' packets is not measured",
			"error", err, "event", "forwarding_unmeasured")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reopen):
		}
	}
}

// readOnce is Read with one socket.
func (k *Keeper) readOnce(ctx context.Context, opened func()) error {
	log, err := nft.OpenLog(firstGroup, copied)
	if err == nil {
		k.group.Store(uint32(log.Group()))
	}
	opened()
	if err != nil {
		return err
	}
	defer log.Close()
	defer k.group.Store(0)
	k.Wake()
	return log.Read(ctx, k.take)
}

// take looks at one packet that has passed this host's filters.
func (k *Keeper) take(b []byte, _ int) {
	s := k.wanted.Load()
	if _, ok := packet.Parse(b); !ok || s == nil {
		return
	}
	e, ok := packet.ParseEcho(b)
	if !ok && s.Port != 0 {
		e.Src, e.Dst, e.Payload, ok = packet.ParseDatagram(b, s.Port)
	}
	if !ok || e.Reply {
		return
	}
	if nonce, own := nonceOf(e.Payload); own {
		k.arrived(nonce)
		return
	}
	if peer := s.peers()[e.Src]; peer != "" && e.Dst == s.self.ForwardedProbe(e.Dst.Is6()) {
		k.o.Answer(peer, e)
	}
}
