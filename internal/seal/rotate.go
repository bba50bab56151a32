package seal

import (
	"context"
	"fmt"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/wireguard"
)

// A node changes its key while packets flow. A prefix belongs to one peer of WireGuard, so the others know
// the node as two peers, with both keys, and give its prefixes to the one that it speaks with:
//
//	listed     next_public_key is in the file: a second peer without prefixes
//	taken      the node has taken its next key, and makes new handshakes: the prefixes move to the second peer
//	done       public_key of the file is the new key: the first peer goes
//
// Packets that the node sends after its handshake are dropped until the prefixes have moved. What is sent to
// it arrives all the while: WireGuard receives with the keys of sessions for as long as they live, whatever
// the private key is by then.
//
// The node speaks first, since the others cannot know when it takes its next key. Where both nodes of a pair
// have taken theirs and have not heard of each other since, each would call the other one by a key that the
// other one has no longer, and neither would answer. So a peer is called by its other key, too, from the
// moment on in which this node has taken its own, and while the key in use gets no answer.

const (
	// turnEvery is the time between two looks for a handshake with another key. It is the longest part of the
	// time for which packets of a node that changes its key are dropped.
	turnEvery = 50 * time.Millisecond
	// turnPeer is what each peer adds to that time, some ten times of what reading it costs: there may be
	// thousands, and a lock of the kernel's is held meanwhile. What a look takes is no measure of its cost: on
	// a host with much to do it mostly waits for a CPU.
	turnPeer = 100 * time.Microsecond
	// insistent is the keepalive of a peer that is called by its other key. Setting it makes WireGuard call at
	// once, and again every 5 s (REKEY_TIMEOUT); whoever does not have that key drops the call.
	insistent = 25 * time.Second
)

// insists tells whether a peer is called by the key that is not in use, too. is is what the interface knows
// of the one in use.
func (k *Keeper) insists(p *Peer, is wireguard.PeerState, now time.Time) bool {
	self := &k.wanted.Self
	return self.Next.IsValid() && k.private.Public() == self.Next || k.o.Fails(p.Name) ||
		now.Sub(is.Handshake) > unanswered
}

// inUse returns the key that a peer speaks with: that of the later handshake. Without a later one, as after a
// restart of WireGuard in user space, it is the one from before, if the peer still has it.
func inUse(p *mesh.Peer, s wireguard.State, before mesh.Key) mesh.Key {
	if !p.Next.IsValid() {
		return p.Key
	}
	key, next := s.Peers[p.Key].Handshake, s.Peers[p.Next].Handshake
	if next.After(key) || next.Equal(key) && before == p.Next {
		return p.Next
	}
	return p.Key
}

// keyOf returns the key of a peer to which its prefixes belong, or will once the interface was brought to
// what is wanted.
func (k *Keeper) keyOf(p *Peer) mesh.Key {
	if used := k.using[p.Name]; used.IsValid() && p.HasKey(used) {
		return used
	}
	return p.Key
}

// other returns the key of a peer that is not in use; the zero value: it has one.
func other(p *mesh.Peer, used mesh.Key) mesh.Key {
	if used == p.Next {
		return p.Key
	}
	return p.Next
}

// turning tells whether some peer is about to change its key.
func (w *Wanted) turning() bool {
	for i := range w.Peers {
		if p := &w.Peers[i]; p.Relay == "" && p.Next.IsValid() {
			return true
		}
	}
	return false
}

// used returns which key of each peer is in use. before has those that were; peers that are new in it use the
// first one.
func (w *Wanted) used(s wireguard.State, before map[string]mesh.Key) map[string]mesh.Key {
	now := make(map[string]mesh.Key, len(w.Peers))
	for i := range w.Peers {
		p := &w.Peers[i]
		now[p.Name] = inUse(&p.Peer, s, before[p.Name])
	}
	return now
}

// turned tells whether some peer speaks with another key than it did when the interface was brought to what
// is wanted.
func (k *Keeper) turned(s wireguard.State) bool {
	for i := range k.wanted.Peers {
		p := &k.wanted.Peers[i]
		if was := k.using[p.Name]; p.Relay == "" && p.Next.IsValid() && inUse(&p.Peer, s, was) != was {
			return true
		}
	}
	return false
}

// use notes which key of each peer is in use, once the interface is so.
func (k *Keeper) use(now map[string]mesh.Key) {
	for i := range k.wanted.Peers {
		p := &k.wanted.Peers[i]
		if was, is := k.using[p.Name], now[p.Name]; was.IsValid() && was != is && p.Next.IsValid() {
			k.o.Log.Info("a peer has taken another key", "peer", p.Name, "from", was.String(), "to", is.String(),
				"event", "key_rotated")
		}
	}
	k.using = now
}

// turn gives prefixes to the other key of a peer that has begun to speak with it.
func (k *Keeper) turn(ctx context.Context, now time.Time) {
	if k.wanted == nil || !k.retry.IsZero() || !k.wanted.turning() {
		return
	}
	if state, err := k.read(); err == nil && k.turned(state) {
		k.bring(ctx, now)
	}
}

// turns returns when to look next for peers that change their key, after a look that took some time; nil: not
// before something else is wanted.
func (k *Keeper) turns(took time.Duration) <-chan time.Time {
	if k.wanted == nil || !k.wanted.turning() {
		return nil
	}
	return time.After(turnRest(len(k.wanted.Peers), took))
}

// turnRest is the time between two looks for a handshake with another key.
func turnRest(peers int, took time.Duration) time.Duration {
	return max(turnEvery+time.Duration(peers)*turnPeer, took)
}

// key reads the private key of this host. While the file has none that is of use, the key in force stays:
// sessions need it, and whoever compares file and host says what is wrong.
func (k *Keeper) key(ctx context.Context, w *Wanted) (wireguard.Private, error) {
	private, err := k.o.Key(ctx, w.KeyFile)
	if err == nil && !w.Self.HasKey(private.Public()) {
		err = fmt.Errorf("the key in %s is that of %s, and the file lists %s for %s", w.KeyFile, private.Public(),
			w.Self.Key, w.Self.Name)
	}
	switch inForce := k.private.IsValid() && w.Self.HasKey(k.private.Public()); {
	case err != nil && inForce:
		return k.private, nil
	case err != nil:
		return wireguard.Private{}, err
	case k.private.IsValid() && k.private != private:
		k.o.Log.Info("this host has taken another key", "from", k.private.Public().String(), "to",
			private.Public().String(), "event", "key_rotated")
	}
	k.private = private
	return private, nil
}
