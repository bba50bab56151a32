package user

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// seal has a rig's packets travel encrypted, or not.
func (r *rig) seal(t *testing.T, sealed bool) {
	t.Helper()
	w := wantedOf(threeNodes())
	w.Sealed = sealed
	if err := r.SetMesh(w); err != nil {
		t.Fatal(err)
	}
}

// fate is what an engine made of one packet: its drop and whose, and what was answered.
func (r *rig) fate() (drop, peer string, answer []byte) {
	c := r.Read()
	drop = strings.Join(drops(c.Totals), " ")
	for name, one := range c.Peers {
		if len(drops(one)) > 0 {
			peer = name
		}
	}
	if len(r.tun.written) > 0 {
		answer = r.tun.written[0]
	}
	return drop, peer, answer
}

// anyPacket returns a packet of any kind between addresses that are in the mesh, or not.
func anyPacket(r *rand.Rand) []byte {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	ttl := uint8(pick("\x00", "\x01", "\x02", "\x40")[0])
	four := []string{"10.244.0.2", "10.244.0.0", "10.244.1.2", "10.244.1.0", "10.244.2.2", "192.168.1.1",
		"192.168.7.1", "10.244.9.2", "8.8.8.8", "224.0.0.1", "172.18.0.3"}
	six := []string{"fd00:0:0:a::2", "fd00:0:0:b::2", "fd00:0:0:b::", "fd00:0:0:c::2", "2001:db8::1", "ff02::16"}
	switch r.IntN(8) {
	case 0:
		return []byte(pick("", "E", "GET / HTTP/1.1", "\x60"))
	case 1, 2, 3:
		return udp6(pick(six...), pick(six...), ttl)
	case 4:
		return echo(pick(four...), pick(four...), r.IntN(2) == 0, "payload")
	}
	return udp4(pick(four...), pick(four...), ttl, uint8(r.IntN(256)))
}

// The floor of a mesh whose packets travel encrypted sends nothing and delivers nothing, whatever comes. What
// an engine that is not sealed refuses for another reason keeps that reason: that engine is the oracle.
func TestSealedAgainstOpen(t *testing.T) {
	random := rand.New(rand.NewPCG(8, 6))
	seen := map[string]int{}
	for range 3000 {
		b, inward := anyPacket(random), random.IntN(2) == 0
		from := []string{"172.18.0.3:8285", "172.18.0.4:1", "172.18.0.9:8285", "172.18.0.2:8285"}[random.IntN(4)]
		run := func(sealed bool) *rig {
			r := newRig(t)
			r.mine = func(e dataplane.Echo) ([]byte, bool) { return e.Payload, true }
			r.seal(t, sealed)
			if inward {
				r.receive(from, 0, bytes.Clone(b))
			} else {
				r.send(bytes.Clone(b))
			}
			return r
		}
		open, sealed := run(false), run(true)
		wantDrop, wantPeer, wantAnswer := open.fate()
		drop, peer, answer := sealed.fate()
		switch {
		case inward && wantDrop != "unknown_sender":
			wantDrop, wantPeer, wantAnswer = "cleartext", map[bool]string{true: "b", false: "c"}[from[9] == '3'], nil
		case !inward && len(open.wire.sent) > 0:
			wantDrop = "not_encrypted"
			to, _ := packet.Parse(open.wire.sent[0].Data)
			wantPeer = threeNodes().Route(to.Dst).Peer
			wantAnswer = answer // below
		case !inward && wantDrop == "ttl_expired":
			wantDrop, wantAnswer = "not_encrypted", answer
		}
		seen[wantDrop]++
		if drop != wantDrop || peer != wantPeer || !bytes.Equal(answer, wantAnswer) {
			t.Errorf("% x from %s (inward %v): %q of %q, answer % x; want %q of %q, % x", b, from, inward,
				drop, peer, answer, wantDrop, wantPeer, wantAnswer)
		}
		if wantDrop == "not_encrypted" {
			want := ""
			if packet.Answerable(b) {
				want = map[bool]string{false: "0300", true: "0100"}[b[0]>>4 == 6]
			}
			checkAnswer(t, sealed, want)
		}
		if n := sealed.Read().Totals; len(sealed.wire.sent)+len(sealed.heard) > 0 || n.RxPackets+n.TxPackets > 0 {
			t.Errorf("% x: %d sent, %d heard, %+v", b, len(sealed.wire.sent), len(sealed.heard), n)
		}
	}
	for _, drop := range []string{"not_encrypted", "cleartext", "unknown_sender", "foreign_source", "no_route",
		"malformed", ""} {
		if seen[drop] == 0 {
			t.Errorf("no packet with the fate %q: %v", drop, seen)
		}
	}
}

// No echo leaves in the clear, whatever its form, and the error is a value.
func TestSealedEchoes(t *testing.T) {
	r := newRig(t)
	r.seal(t, true)
	for _, e := range []dataplane.Echo{{Peer: "b"}, {Peer: "b", Reply: true}, {Peer: "b", NoChecksum: true},
		{Peer: "b", Spread: true}, {Peer: "b", Forwarded: true}, {Peer: "nobody"}} {
		t.Run(fmt.Sprintf("%+v", e), func(t *testing.T) {
			if err := r.SendEcho(e); !errors.Is(err, dataplane.ErrSealed) || len(r.wire.sent) > 0 {
				t.Errorf("%v, %d sent", err, len(r.wire.sent))
			}
		})
	}
}

// A superpacket counts as the packets that it stands for, and is answered once.
func TestSealedSuperpacket(t *testing.T) {
	r := newRig(t, allOffloads...)
	r.seal(t, true)
	r.out.forward([][]byte{superframe(tcp4("10.244.0.2", "10.244.1.2", 10, 1000))})
	dropped := r.Read().Peers["b"].Drops[mesh.NotEncrypted]
	if dropped != 10 || len(r.wire.sent) != 0 || len(r.tun.written) != 1 {
		t.Errorf("%d dropped, %d sent, %d answered", dropped, len(r.wire.sent), len(r.tun.written))
	}
}

// An engine is sealed and opened by what is wanted, from one packet to the next, and tells what it is.
func TestSealing(t *testing.T) {
	r := newRig(t)
	var told []string
	for _, sealed := range []bool{false, true, false, true} {
		r.seal(t, sealed)
		told = append(told, r.Read().Works.Engine)
		r.send(udp4("10.244.0.2", "10.244.1.2", 63, 0))
		r.receive("172.18.0.3:8285", 0, udp4("10.244.1.2", "10.244.0.2", 62, 0))
	}
	if want := []string{"user", "wireguard", "user", "wireguard"}; !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
	c := r.Read().Peers["b"]
	if c.TxPackets != 2 || c.RxPackets != 2 || c.Drops[mesh.NotEncrypted] != 2 || c.Drops[mesh.Cleartext] != 2 ||
		len(r.wire.sent) != 2 {
		t.Errorf("%+v, %d sent", c, len(r.wire.sent))
	}
}

// What a peer sends that lags behind a sealed node has the fate that it has at an open one, and nothing
// leaves for it, answers to its echoes neither. Other peers' bare packets are dropped.
func TestLaggingAgainstOpen(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 1))
	seen := map[string]int{}
	for range 200 {
		b := anyPacket(random)
		run := func(sealed bool, from string) *rig {
			r := newRig(t)
			r.mine = func(e dataplane.Echo) ([]byte, bool) { return e.Payload, true }
			r.seal(t, sealed)
			if err := r.Learn("b", peers.Directive{Lagging: true}); err != nil {
				t.Fatal(err)
			}
			r.receive(from, 0, bytes.Clone(b))
			return r
		}
		open, sealed := run(false, "172.18.0.3:8285"), run(true, "172.18.0.3:8285")
		wantDrop, wantPeer, wantWritten := open.fate()
		drop, peer, written := sealed.fate()
		seen[drop]++
		if drop != wantDrop || peer != wantPeer || !bytes.Equal(written, wantWritten) ||
			len(sealed.heard) != len(open.heard) || len(sealed.wire.sent) > 0 {
			t.Errorf("% x: %q of %q, want %q of %q; %d heard, %d sent", b, drop, peer, wantDrop, wantPeer,
				len(sealed.heard), len(sealed.wire.sent))
		}
		if drop, _, _ := run(true, "172.18.0.4:8285").fate(); drop != "cleartext" {
			t.Errorf("% x of a peer that does not lag: %q", b, drop)
		}
	}
	for _, drop := range []string{"", "spoofed_source", "wrong_destination", "malformed", "ttl_expired"} {
		if seen[drop] == 0 {
			t.Errorf("no packet with the fate %q: %v", drop, seen)
		}
	}
}
