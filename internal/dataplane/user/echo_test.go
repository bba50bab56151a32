package user

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

func echo(src, dst string, reply bool, payload string) []byte {
	return packet.Echo{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Reply: reply, ID: 5, Seq: 6,
		Payload: []byte(payload)}.Append(nil)
}

// Echoes of ours leave for the peer's TUN address, in the family that both have,
// and are in no counter.
func TestSendEcho(t *testing.T) {
	r := newRig(t)
	if err := r.SendEcho(dataplane.Echo{Peer: "b", ID: 1, Seq: 2, Payload: []byte("hello")},
		dataplane.Echo{Peer: "c", Reply: true, Payload: []byte("c")}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ to, src, dst string }{
		{"172.18.0.3:8285", "10.244.0.0", "10.244.1.0"},
		{"172.18.0.4:9000", "10.244.0.0", "10.244.2.0"},
	} {
		sent := r.wire.sent[i]
		h, ok := packet.Parse(sent.Data)
		e, isEcho := packet.ParseEcho(sent.Data)
		if !ok || !isEcho || sent.Addr.String() != want.to || h.Src.String() != want.src ||
			h.Dst.String() != want.dst || e.Reply != (i == 1) || h.TTL != 64 {
			t.Errorf("%+v %+v to %s", h, e, sent.Addr)
		}
	}
	if c := r.Read(); c.Totals.TxPackets != 0 || c.Peers["b"].TxBytes != 0 {
		t.Errorf("counted: %+v", c.Totals)
	}
	err := r.SendEcho(dataplane.Echo{Peer: "a"}, dataplane.Echo{Peer: "x"})
	if err == nil || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("to ourselves and to nobody: %v", err)
	}
	// One that the socket refuses costs itself alone.
	r.wire.refuse[r.wire.offers] = syscall.EMSGSIZE
	err = r.SendEcho(dataplane.Echo{Peer: "b"}, dataplane.Echo{Peer: "c"})
	if !errors.Is(err, syscall.EMSGSIZE) || len(r.wire.sent) != 3 {
		t.Errorf("%v, %d sent", err, len(r.wire.sent))
	}
	m := threeNodes()
	m.Peers[0].Subnets, m.Peers[1].Subnets = m.Peers[0].Subnets[:1], m.Peers[1].Subnets[1:]
	if err := errors.Join(r.setMesh(m), r.SendEcho(dataplane.Echo{Peer: "b"})); !errors.Is(err, ErrNoAddress) {
		t.Errorf("IPv4 here, IPv6 there: %v", err)
	}
	m.Peers[0].Subnets = threeNodes().Peers[0].Subnets
	if err := errors.Join(r.setMesh(m), r.SendEcho(dataplane.Echo{Peer: "b"})); err != nil ||
		r.wire.sent[3].Data[0]>>4 != 6 {
		t.Errorf("IPv6: %v", err)
	}
}

// The socket for echoes without a checksum has a port of the loopback address. When this node listens
// elsewhere, other programs may have the old port, whether or not such an echo is ever sent again.
func TestPortOfBareEchoesIsReturned(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	n := nstest.ForTest(t)
	if err := n.IP("link set lo up", "address add 172.18.0.2/32 dev lo",
		"address add 172.18.0.3/32 dev lo"); err != nil {
		t.Fatal(err)
	}
	listen := func() error {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:8285")))
		if err == nil {
			err = c.Close()
		}
		return err
	}
	err := n.Do(func() error {
		r := newRig(t)
		defer r.bare.close()
		if err := r.SendEcho(dataplane.Echo{Peer: "b", NoChecksum: true}); err != nil {
			return err
		}
		if err := listen(); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("while such echoes leave from the port: %v", err)
		}
		m := threeNodes()
		m.Peers[0].Addresses[0].AddrPort = netip.MustParseAddrPort("172.18.0.2:9285")
		if err := r.setMesh(m); err != nil {
			return err
		}
		return listen()
	})
	if err != nil {
		t.Error(err)
	}
}

// An echo from a peer's TUN address to ours is for whoever hears it; the host's
// kernel gets what he does not want, and everything else.
func TestEchoIsHeard(t *testing.T) {
	r := newRig(t)
	const b, c = "172.18.0.3:8285", "172.18.0.4:9000"
	r.receive(b, 0, echo("10.244.1.0", "10.244.0.0", false, "not mine"))
	if len(r.heard) != 1 || r.heard[0].Peer != "b" || r.heard[0].Reply || r.heard[0].Seq != 6 ||
		string(r.heard[0].Payload) != "not mine" || len(r.tun.written) != 1 {
		t.Errorf("heard %+v, delivered %d", r.heard, len(r.tun.written))
	}
	r.mine = func(e dataplane.Echo) ([]byte, bool) { return bytes.ToUpper(e.Payload), true }
	before := r.Heard("b")
	r.receive(b, 0, echo("10.244.1.0", "10.244.0.0", false, "mine"),
		echo("fd00:0:0:b::", "fd00:0:0:a::", false, "six"))
	if len(r.heard) != 3 || len(r.tun.written) != 1 || len(r.wire.sent) != 2 {
		t.Fatalf("heard %+v, delivered %d, sent %d", r.heard, len(r.tun.written), len(r.wire.sent))
	}
	for i, want := range []string{"MINE", "SIX"} {
		e, ok := packet.ParseEcho(r.wire.sent[i].Data)
		if !ok || !e.Reply || e.ID != 5 || e.Seq != 6 || string(e.Payload) != want ||
			r.wire.sent[i].Addr.String() != b {
			t.Errorf("answer %+v to %s", e, r.wire.sent[i].Addr)
		}
	}
	if got := r.Read().Peers["b"]; got.RxPackets != 1 || !r.Heard("b").After(before) ||
		time.Since(r.Heard("b")) > time.Minute {
		t.Errorf("%+v, seen %v", got, r.Heard("b"))
	}
	// Not from its TUN, not to ours, no echo, another node's address.
	r.receive(b, 0, echo("10.244.1.7", "10.244.0.0", false, "x"), echo("10.244.1.0", "10.244.0.7", false, "x"),
		udp4("10.244.1.0", "10.244.0.0", 64, 0))
	r.receive(c, 0, echo("10.244.1.0", "10.244.0.0", true, "forged"))
	if len(r.heard) != 3 || len(r.tun.written) != 4 {
		t.Errorf("heard %+v, delivered %d", r.heard[3:], len(r.tun.written))
	}
	if got := r.Read().Peers["c"]; got.Drops[mesh.SpoofedSource] != 1 || !r.Heard("c").IsZero() {
		t.Errorf("%+v", got)
	}
}
