package seal

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/wireguard"
)

// Told is what is known of the interface. It is never changed.
type Told struct {
	Implementation string // "kernel" or "user"; empty: nothing can be encrypted
	Interface      string // empty: nothing has to be
	Port           uint16
	Public         mesh.Key // in use
	Next           mesh.Key // that the file has for a rotation; the zero value: there is none
	MTU            int      // bytes
	Prepared       bool     // packets leave bare
	Peers          map[string]PeerTold
}

// PeerTold is what is known of one peer.
type PeerTold struct {
	Public         mesh.Key       // in use
	Next           mesh.Key       // that the file has for a rotation; the zero value: there is none
	Endpoint       netip.AddrPort // where it is answered; invalid: it has not called
	Roamed         bool           // that is none of the addresses that the file has for it
	Handshake      time.Time      // the last one; zero: there was none
	Received, Sent uint64         // bytes of messages
	Relay          string         // the peer by which packets go; empty: none is between
	Lagging        bool           // its bare packets are taken, since it does not encrypt yet
	heard          time.Time      // when Received grew
	asked          time.Time      // when Sent has grown without an answer since; zero: it has not
}

// Told returns what is known of the interface.
func (k *Keeper) Told() Told {
	t, lag := *k.told.Load(), k.shift.lag()
	if lag != nil {
		t.Peers = maps.Clone(t.Peers)
		for name := range lag {
			if p, known := t.Peers[name]; known {
				p.Lagging = true
				t.Peers[name] = p
			}
		}
	}
	return t
}

// Ready tells whether packets to a peer could be encrypted at a time: the last handshake is not too old.
func (t Told) Ready(peer string, now time.Time) bool {
	p, known := t.Peers[peer]
	if known && p.Relay != "" {
		p, known = t.Peers[p.Relay]
	}
	return known && !p.Handshake.IsZero() && now.Sub(p.Handshake) < unanswered
}

// heard returns when something came from a peer.
func (k *Keeper) heard(peer string) time.Time { return k.told.Load().Peers[peer].heard }

// tell publishes a reading of the interface.
func (k *Keeper) tell(s wireguard.State, now time.Time) {
	before := k.told.Load()
	t := &Told{Implementation: "kernel", Interface: wireguard.Interface, Port: s.Port, Public: s.Public,
		Next: k.wanted.Self.Next, MTU: k.wanted.MTU, Prepared: k.wanted.Prepared,
		Peers: make(map[string]PeerTold, len(k.wanted.Peers))}
	if s.User {
		t.Implementation = "user"
	}
	for _, p := range k.wanted.Peers {
		if p.Relay != "" {
			t.Peers[p.Name] = PeerTold{Public: p.Key, Next: p.Next, Relay: p.Relay}
			continue
		}
		was, used := before.Peers[p.Name], k.keyOf(&p)
		is := s.Peers[used]
		one := PeerTold{Public: used, Next: p.Next, Endpoint: is.Endpoint, Handshake: is.Handshake,
			Received: is.Received, Sent: is.Sent, heard: was.heard, asked: was.asked,
			Roamed: is.Endpoint.IsValid() && len(p.Endpoints) > 0}
		for _, e := range p.Endpoints {
			one.Roamed = one.Roamed && e != is.Endpoint
		}
		switch {
		case is.Received > was.Received && was.Public == used,
			is.Received > 0 && was.Public != used && p.HasKey(was.Public): // it has taken its other key
			one.heard, one.asked = now, time.Time{}
		case is.Sent > was.Sent && one.asked.IsZero():
			one.asked = now
		}
		t.Peers[p.Name] = one
	}
	k.told.Store(t)
}

// tellFailed publishes that nothing is encrypted, though it should be.
func (k *Keeper) tellFailed() {
	if w := k.wanted; w != nil {
		t := *k.told.Load()
		t.Implementation, t.Interface, t.Port, t.Public, t.MTU = "", wireguard.Interface, w.Port, w.Self.Key, w.MTU
		t.Prepared = w.Prepared
		k.told.Store(&t)
	}
}

// unanswered is how long packets are sent to a peer without a handshake until that is a condition: WireGuard
// gives a session up after 180 s (REJECT_AFTER_TIME).
const unanswered = 3 * time.Minute

// conditions returns what is not as it should be.
func (k *Keeper) conditions() (all []mesh.Condition) {
	for _, one := range []*atomic.Pointer[mesh.Condition]{&k.failure, &k.suspicion} {
		if c := one.Load(); c != nil {
			all = append(all, *c)
		}
	}
	t, now := k.told.Load(), time.Now()
	all = append(all, k.repairs.Conditions(now)...)
	if t.Implementation == "user" {
		all = append(all, mesh.Condition{Kind: mesh.WireGuardUser, Severity: mesh.Info, Subject: t.Interface,
			Remedy: "a kernel with the module wireguard is faster"})
	}
	for name, p := range t.Peers {
		if !p.asked.IsZero() && now.Sub(p.asked) > unanswered && now.Sub(p.Handshake) > unanswered {
			severity := mesh.Degraded
			if t.Prepared { // no packet waits for it, and hosts get ready one after the other
				severity = mesh.Info
			}
			all = append(all, mesh.Condition{Kind: mesh.NoHandshake, Severity: severity, Peer: name,
				Subject: p.Endpoint.String(), Remedy: fmt.Sprintf("allow UDP port %d to that host, and compare "+
					"the keys: `meshd key --public` there prints what the file has to list; a host whose clock was set "+
					"back is refused until `date` there is right", p.Endpoint.Port())})
		}
	}
	return all
}

// conditionOf tells why nothing is encrypted, and what to do.
func conditionOf(err error, w *Wanted) mesh.Condition {
	c := mesh.Condition{Kind: mesh.WireGuardRefused, Severity: mesh.Failed, Subject: wireguard.Interface,
		Cause: err.Error()}
	switch {
	case errors.Is(err, link.ErrNoWireGuard):
		c.Kind = mesh.WireGuardMissing
		c.Remedy = "run `modprobe wireguard`; where the kernel has no such module, " +
			"`systemctl enable --now meshd-wireguard`"
	case errors.Is(err, errTaken):
		c.Remedy = "where it does not come by itself, find the program that deletes it"
	case errors.Is(err, errUnguarded):
		c.Kind, c.Remedy = mesh.GuardMissing, "see the condition about the rules"
	case w == nil:
		c.Remedy = "run `ip link del " + wireguard.Interface + "`"
	case errors.Is(err, unix.EADDRINUSE):
		c.Remedy = fmt.Sprintf("`ss -lunp 'sport = :%d'` shows who has the port: stop that, "+
			"or change wireguard.port on all hosts", w.Port)
	default:
		c.Remedy = "meshd tries again by itself; `wg show` and `dmesg` may tell more"
	}
	if w.isPrepared() {
		c.Kind, c.Severity = mesh.NotPrepared, mesh.Degraded
	}
	return c
}
