package crossing

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/probe"
)

// maxMentioned bounds how many addresses are asked besides the node's own probe address, and lookRest how
// often all rules of the host are read for them, which may be thousands.
const maxMentioned = 16

var lookRest = backoff.Rest{Share: 200, Least: 5 * time.Second, Most: time.Minute}

// A target is a way of a probe.
type target struct {
	from, to netip.Addr
	one      bool // to is the address of one pod, which a rule names; else it stands for all pods
}

// round asks this node once, and publishes what drops packets to pods. fine is false if something does, or
// if that is not known.
func (k *Keeper) round(ctx context.Context, s *scene) (fine bool) {
	group := uint16(k.group.Load())
	err := errNoGroup
	if group != 0 {
		err = k.rules.Take(s.rules(group, 0))
	}
	k.setOnce()
	if err != nil {
		k.o.Log.Debug("forwarded probes are not taken", "error", err)
		k.o.Leads(false)
		k.publish(nil)
		return false
	}
	general, single := k.targets(s, k.entrance(s))
	k.o.Leads(len(general) > 0)
	if !s.Ask {
		k.publish(nil)
		return true
	}
	lost := append(general, single...)
	for try := 0; try < tries && len(lost) > 0 && ctx.Err() == nil; try++ {
		if lost = k.ask(ctx, lost); len(lost) > 0 && try == 0 {
			k.o.Suspect() // an accept of ours may help, and is there before the last try
		}
	}
	if ctx.Err() != nil {
		return false
	}
	// A loss that a slow host may explain neither begins nor ends a condition.
	if found := k.find(s, group, lost); len(found) > 0 || len(lost) == 0 {
		k.publish(found)
	}
	return len(lost) == 0
}

// errNoGroup is that of a kernel that refuses NFLOG; Read has said why.
var errNoGroup = errors.New("no group of NFLOG is bound")

// rules returns which probes end here, and of which ID they are traced.
func (s *scene) rules(group, trace uint16) filter.ProbeSettings {
	return filter.ProbeSettings{To: s.self.Subnets, Payload: []byte(probe.Magic), Group: group, Trace: trace,
		Port: s.Port}
}

// entrance has own probes, which are delivered to the TUN, come in where packets of pods do, and returns that
// interface. Where the kernel cannot do that for the encrypted one, a rule about that interface is seen by
// peers alone, whose probes come in there.
func (k *Keeper) entrance(s *scene) string {
	tun := s.Interfaces[0]
	if s.Sealed && len(s.Interfaces) > 1 {
		k.direct = false
		err := link.Redirect(tun, s.Interfaces[1], k.id)
		if err == nil {
			return s.Interfaces[1]
		}
		k.o.Log.Debug("own probes do not take the way of pods' packets", "error", err)
	}
	if !k.direct {
		k.direct = link.EndRedirect(tun) == nil // an earlier run may have begun it
	}
	return tun
}

// targets returns which ways to ask from an interface: those that lead to one of pods. Where no way does,
// this host has no pods yet, or does not forward, which is told elsewhere.
func (k *Keeper) targets(s *scene, in string) (general, single []target) {
	from := map[bool]netip.Addr{}
	for _, v6 := range []bool{false, true} {
		for p := range s.Mesh.Others() {
			if from[v6] = p.TUNAddress(v6); from[v6].IsValid() {
				break
			}
		}
		to := s.self.ForwardedProbe(v6)
		if from[v6].IsValid() && to.IsValid() && link.LeadsOn(in, from[v6], to) {
			general = append(general, target{from: from[v6], to: to})
		}
	}
	k.look(s)
	for _, to := range k.mentioned {
		if f := from[to.Is6()]; f.IsValid() && link.LeadsOn(in, f, to) {
			single = append(single, target{f, to, true})
		}
	}
	return general, single
}

// look reads which addresses of pods rules of others name, if rules have changed since.
func (k *Keeper) look(s *scene) {
	began := time.Now()
	if began.Before(k.nextLook) {
		return
	}
	generation, err := nft.Generation()
	if err != nil || k.read && generation == k.generation {
		return
	}
	k.mentioned, err = nft.Mentions(s.self.Subnets, maxMentioned)
	if err != nil { // the general ways tell enough meanwhile
		k.o.Log.Debug("rules of other programs cannot be read", "error", err)
	}
	k.read, k.generation = err == nil, generation
	k.nextLook = time.Now().Add(lookRest.After(time.Since(began)))
}

// ask sends a probe each way, and returns the ways on which it did not arrive in time.
func (k *Keeper) ask(ctx context.Context, ways []target) (lost []target) {
	arrived := make(chan uint64, len(ways))
	open := make(map[uint64]target, len(ways))
	for _, way := range ways {
		nonce := rand.Uint64()
		k.expect(nonce, arrived)
		defer k.expect(nonce, nil)
		open[nonce] = way
		if err := k.send(way, nonce); err != nil { // the TUN is down: there is nothing to measure
			delete(open, nonce)
		}
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for len(open) > 0 {
		select {
		case nonce := <-arrived:
			delete(open, nonce)
			continue
		case <-late.C:
		case <-ctx.Done():
		}
		break
	}
	for _, way := range open {
		lost = append(lost, way)
	}
	return lost
}

// expect registers who waits for an own probe; nil: no goroutine does any more.
func (k *Keeper) expect(nonce uint64, arrived chan<- uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if arrived == nil {
		delete(k.waiting, nonce)
	} else {
		k.waiting[nonce] = arrived
	}
}

// arrived notes an own probe, if a goroutine waits for one with that nonce.
func (k *Keeper) arrived(nonce uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if to := k.waiting[nonce]; to != nil {
		delete(k.waiting, nonce) // once only, so the channel has room
		to <- nonce
	}
}

// nonceAt is where the nonce of a payload is, see package probe.
const nonceAt = 16

// send delivers a probe to this node, as if the peer had sent it.
func (k *Keeper) send(way target, nonce uint64) error {
	payload := make([]byte, nonceAt+8)
	copy(payload, probe.Magic)
	binary.BigEndian.PutUint64(payload[nonceAt:], nonce)
	return k.o.Deliver(packet.Echo{Src: way.from, Dst: way.to, ID: k.id, Payload: payload}.Append(nil))
}

// nonceOf reads the nonce of an own probe's payload, which is shorter than one of a peer.
func nonceOf(payload []byte) (nonce uint64, ok bool) {
	if len(payload) != nonceAt+8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(payload[nonceAt:]), true
}

// randomID returns the ID of our own echoes.
func randomID() uint16 { return uint16(1 + rand.N(1<<16-1)) }
