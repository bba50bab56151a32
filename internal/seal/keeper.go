package seal

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/rate"
	"example.org/meshd/internal/wireguard"
)

// Options is what a Keeper gets from its owner.
type Options struct {
	Log *slog.Logger
	// Key reads the private key at a path, within a few seconds.
	Key func(ctx context.Context, path string) (wireguard.Private, error)
	// Guard puts the rules in force that drop what comes out of the interface and is not for this node, and
	// tells whether they are: WireGuard checks sources alone. Without them the interface stays down, and a new
	// one gets no peers.
	Guard func(context.Context) bool
	// Fails tells whether a peer does not answer.
	Fails func(peer string) bool
	// Lags hears that bare packets of a peer are taken, or not any more, and has the engine follow at once.
	Lags func(peer string, lags bool)
}

// A Keeper brings the interface to what is wanted, and keeps it so. One goroutine, Keep, does all the work.
type Keeper struct {
	o       Options
	brought func() // the interface may have been made anew

	asked   chan request
	over    chan struct{} // closed when Keep has ended
	steered chan struct{} // something was learned

	mu      sync.Mutex // guards learned
	learned learned

	// Of Keep alone.
	wanted  *Wanted
	private wireguard.Private   // in force
	using   map[string]mesh.Key // of each peer, the key to which its prefixes belong
	calls   map[string]*caller
	again   backoff.Backoff
	retry   time.Time // of the next attempt after one that failed; zero: none failed
	failed  int       // index of the interface at that failure
	refused refused
	index   int // of the interface at the last look; 0: there was none
	lines   rate.Lines
	said    bool      // the failure that lasts is in the log
	rested  time.Time // until then the interface is not read
	full    time.Time // of the last comparison with everything that is wanted

	shift     switchover
	repairs   *rate.Repairs
	told      atomic.Pointer[Told]
	failure   atomic.Pointer[mesh.Condition]
	suspicion atomic.Pointer[mesh.Condition] // of those who send what is not theirs
}

type request struct {
	wanted *Wanted
	before chan *Wanted
}

const (
	// lookEvery is the time between two readings of the interface, and fullEvery that between two
	// comparisons with all that is wanted: no news tell that somebody has run `wg set`.
	lookEvery = time.Second
	fullEvery = 10 * time.Second
)

var (
	// lookRest bounds how often the interface is read: with thousands of peers that takes milliseconds, and
	// holds a lock of the kernel's meanwhile.
	lookRest = backoff.Rest{Share: 50, Least: lookEvery, Most: 5 * time.Second}
	// steerRest bounds how often what was learned is done. The first news of a path is done at once, and when a
	// thousand paths turn out to be narrow, the next ones are done together.
	steerRest = backoff.Rest{Share: 10, Most: 2 * time.Second}
)

func newKeeper(o Options) *Keeper {
	k := &Keeper{o: o, asked: make(chan request), over: make(chan struct{}), steered: make(chan struct{}, 1),
		calls: map[string]*caller{}, repairs: rate.NewRepairs("encrypted interface")}
	k.learned = learned{map[string]peers.Directive{}, map[mesh.Prefix]string{}}
	k.told.Store(&Told{})
	return k
}

// want makes something the wanted state, and returns what was before. ok is false if the daemon is
// ending: the interface stays as it is then.
func (k *Keeper) want(ctx context.Context, w *Wanted) (before *Wanted, ok bool) {
	r := request{w, make(chan *Wanted, 1)}
	select {
	case k.asked <- r:
		return <-r.before, true
	case <-ctx.Done():
	case <-k.over:
	}
	return nil, false
}

// learn takes over what follows from all that is known of a peer.
func (k *Keeper) learn(peer string, d peers.Directive) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.learned.directives[peer].MTU != d.MTU {
		k.wake()
	}
	k.learned.directives[peer] = d
}

// carry takes over which peer carries a shared prefix.
func (k *Keeper) carry(prefix mesh.Prefix, peer string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.learned.carriers[prefix] != peer {
		k.wake()
	}
	k.learned.carriers[prefix] = peer
}

// wake has Keep do what was learned.
func (k *Keeper) wake() {
	select {
	case k.steered <- struct{}{}:
	default: // Keep will see it all
	}
}

// known returns what was learned by now.
func (k *Keeper) known() learned {
	k.mu.Lock()
	defer k.mu.Unlock()
	return learned{maps.Clone(k.learned.directives), maps.Clone(k.learned.carriers)}
}

// Keep keeps the interface as wanted until ctx ends. The interface stays then: packets flow on.
func (k *Keeper) Keep(ctx context.Context) error {
	defer close(k.over)
	tick := time.After(0)
	steered := k.steered // nil while nothing learned is to be done
	var rested <-chan time.Time
	var turn <-chan time.Time
	for {
		if turn == nil {
			turn = k.turns(0)
		}
		select {
		case <-ctx.Done():
			return nil
		case r := <-k.asked:
			before := k.wanted
			k.wanted = r.wanted
			k.bring(ctx, time.Now())
			r.before <- before
		case <-steered:
			if k.wanted != nil && k.retry.IsZero() {
				began := time.Now()
				k.bring(ctx, began)
				steered, rested = nil, time.After(steerRest.After(time.Since(began)))
			}
		case <-rested:
			steered, rested = k.steered, nil
		case <-tick:
			began := time.Now()
			k.settle(began)
			if !began.Before(k.rested) {
				k.look(ctx, began)
				k.rested = time.Now().Add(lookRest.After(time.Since(began)))
			}
			tick = time.After(lookEvery)
		case <-turn:
			began := time.Now()
			k.turn(ctx, began)
			turn = k.turns(time.Since(began))
		}
	}
}

// look reads the interface, and mends it where it is not as wanted.
func (k *Keeper) look(ctx context.Context, now time.Time) {
	if k.wanted == nil {
		return
	}
	k.watch(now)
	if !k.retry.IsZero() {
		// An interface that came meanwhile, of a helper that has started, may be why the next one succeeds.
		if !now.Before(k.retry) || link.Index(wireguard.Interface) != k.failed {
			k.bring(ctx, now)
		}
		return
	}
	face := link.FaceOf(wireguard.Interface)
	k.refused.note(face, now)
	k.suspicion.Store(k.wanted.suspect(k.known(), k.refused.lies()))
	state, err := k.read()
	if err == nil {
		k.tell(state, now)
	}
	if err != nil || !face.Up || !k.fits(state) || k.turned(state) || k.calling(state, now) ||
		now.Sub(k.full) >= fullEvery {
		k.bring(ctx, now)
	}
}

// read asks the interface.
func (k *Keeper) read() (wireguard.State, error) {
	client, err := wireguard.Open()
	if err != nil {
		return wireguard.State{}, err
	}
	defer client.Close()
	return wireguard.Read(client, wireguard.Interface)
}

// fits tells whether a state may be the wanted one, as far as it shows: a helper that has begun anew knows
// neither keys nor peers.
func (k *Keeper) fits(s wireguard.State) bool {
	if s.Port != k.wanted.Port || s.Public != k.told.Load().Public {
		return false
	}
	direct := 0
	for _, p := range k.wanted.Peers {
		if p.Relay != "" || !p.Key.IsValid() {
			continue
		}
		direct++
		for _, key := range []mesh.Key{p.Key, p.Next} {
			if _, there := s.Peers[key]; !there && key.IsValid() {
				return false
			}
		}
		if p.Next.IsValid() {
			direct++
		}
	}
	return direct == len(s.Peers)
}

// calling tells whether some peer is to be called elsewhere.
func (k *Keeper) calling(s wireguard.State, now time.Time) (any bool) {
	for i := range k.wanted.Peers {
		p, copied := &k.wanted.Peers[i], caller{}
		if c := k.calls[p.Name]; c != nil {
			copied = *c
		}
		_, call := copied.decide(p.Endpoints, s.Peers[k.keyOf(p)].Endpoint, k.o.Fails(p.Name), now)
		any = any || call
	}
	return any
}

// errUnguarded is why the interface stays down.
var errUnguarded = errors.New("the rules that guard what comes out of it are not in force")

// bring brings the interface to what is wanted.
func (k *Keeper) bring(ctx context.Context, now time.Time) {
	var changed []string
	var err error
	if k.wanted == nil {
		_, err = link.RemoveEncrypted(wireguard.Interface)
		k.told.Store(&Told{})
		k.suspicion.Store(nil)
		k.calls, k.using, k.index = map[string]*caller{}, nil, 0
	} else {
		changed, err = k.try(ctx, now)
	}
	switch {
	case err != nil:
		k.tellFailed()
		pause := k.again.Next()
		k.retry, k.failed = now.Add(pause), link.Index(wireguard.Interface)
		c := conditionOf(err, k.wanted)
		c.Again = pause
		if before := k.failure.Swap(&c); before == nil || before.Kind != c.Kind || before.Cause != c.Cause {
			k.logFailure(err, pause, now)
		}
		return
	case k.failure.Swap(nil) != nil && !k.wanted.isPrepared() && k.said:
		k.o.Log.Info("encrypting", "interface", wireguard.Interface, "event", "encrypting")
	}
	k.brought()
	k.retry, k.full, k.said = time.Time{}, now, false
	k.index = max(0, link.Index(wireguard.Interface))
	k.again.Reset()
	if len(changed) > 0 {
		k.o.Log.Debug("brought the encrypted interface to what is wanted", "what", changed)
	}
}

// try does the work of bring: the interface, its keys and peers, and only then addresses and routes.
func (k *Keeper) try(ctx context.Context, now time.Time) (changed []string, err error) {
	w, l := k.wanted, k.known()
	private, err := k.key(ctx, w)
	if err != nil {
		return nil, err
	}
	made, err := link.MakeEncrypted(wireguard.Interface)
	if errors.Is(err, link.ErrNoWireGuard) && wireguard.Runs(wireguard.Interface) {
		err = errTaken
	}
	if err != nil {
		return nil, err
	}
	if made {
		changed = append(changed, "it was missing")
	}
	if !k.o.Guard(ctx) {
		return changed, errUnguarded
	}
	client, err := wireguard.Open()
	if err != nil {
		return changed, err
	}
	defer client.Close()
	is, err := wireguard.Read(client, wireguard.Interface)
	if err != nil {
		return changed, err
	}
	used := w.used(is, k.using)
	call := func(p *Peer) (netip.AddrPort, bool) { return k.call(p, is.Peers[used[p.Name]], now) }
	insists := func(p *Peer) bool { return k.insists(p, is.Peers[used[p.Name]], now) }
	settings := wireguard.Settings{Interface: wireguard.Interface, Private: private, Port: w.Port,
		Peers: w.peersOf(l, used, call, insists)}
	for _, bring := range []func() ([]string, error){
		func() ([]string, error) { return wireguard.Set(client, settings) },
		func() ([]string, error) { k.use(used); return link.Set(w.linkOf(l)) },
	} {
		what, err := bring()
		if changed = append(changed, what...); err != nil {
			return changed, err
		}
	}
	if len(changed) > 0 {
		if is, err = wireguard.Read(client, wireguard.Interface); err != nil {
			return changed, err
		}
	}
	k.tell(is, now)
	return changed, nil
}

// call returns at which address a peer is called.
func (k *Keeper) call(p *Peer, is wireguard.PeerState, now time.Time) (to netip.AddrPort, call bool) {
	c := k.calls[p.Name]
	if c == nil {
		c = &caller{}
		k.calls[p.Name] = c
	}
	return c.decide(p.Endpoints, is.Endpoint, k.o.Fails(p.Name), now)
}
