package dataplane

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"

	"example.org/meshd/internal/dataplane/packet"
)

// The fakes keep copies of what is written to them and feed prepared batches.

type fakeTun struct {
	written [][]byte
	refuse  map[int]error // by position among all writes
	writes  int
	feed    chan [][]byte
	closed  chan struct{}
}

func newFakeTun() *fakeTun {
	return &fakeTun{feed: make(chan [][]byte), closed: make(chan struct{}), refuse: map[int]error{}}
}

func (f *fakeTun) Read(ps []packet.Packet) (int, error) {
	select {
	case batch := <-f.feed:
		return fill(ps, batch), nil
	case <-f.closed:
		return 0, os.ErrClosed
	}
}

func (f *fakeTun) Write(ps []packet.Packet) (int, error) {
	for i := range ps {
		if err := f.WriteOne(ps[i].Data); err != nil {
			return i, err
		}
	}
	return len(ps), nil
}

func (f *fakeTun) WriteOne(b []byte) error {
	f.writes++
	if err := f.refuse[f.writes-1]; err != nil {
		return err
	}
	f.written = append(f.written, bytes.Clone(b))
	return nil
}

func (f *fakeTun) Close() error { close(f.closed); return nil }

type fakeWire struct {
	sent   []packet.Packet
	cut    [][]byte      // sent in fragments
	refuse map[int]error // by position among all packets offered
	offers int
	mtu    int
	closed chan struct{}
}

func newFakeWire() *fakeWire {
	return &fakeWire{refuse: map[int]error{}, mtu: 1500, closed: make(chan struct{})}
}

func (f *fakeWire) PathMTU(netip.AddrPort) (int, error) { return f.mtu, nil }
func (f *fakeWire) Close() error                        { close(f.closed); return nil }
func (f *fakeWire) Read([]packet.Packet) (int, error)   { <-f.closed; return 0, net.ErrClosed }

func (f *fakeWire) Write(ps []packet.Packet) (int, error) {
	for i, p := range ps {
		f.offers++
		if err := f.refuse[f.offers-1]; err != nil {
			return i, err
		}
		f.sent = append(f.sent, packet.Packet{Data: bytes.Clone(p.Data), Addr: p.Addr, TOS: p.TOS})
	}
	return len(ps), nil
}

func (f *fakeWire) WriteFragmented(p *packet.Packet) error {
	f.cut = append(f.cut, bytes.Clone(p.Data))
	return nil
}

func fill(ps []packet.Packet, batch [][]byte) int {
	for i, b := range batch {
		ps[i].Data = ps[i].Buf[:copy(ps[i].Buf, b)]
	}
	return len(batch)
}

// udp4 returns an IPv4 UDP packet.
func udp4(src, dst string, ttl, tos uint8) []byte {
	b := make([]byte, 28)
	b[0], b[1], b[8], b[9] = 0x45, tos, ttl, 17
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], netip.MustParseAddr(src).AsSlice())
	copy(b[16:], netip.MustParseAddr(dst).AsSlice())
	b[6] = 0x40 // don't fragment
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
	return b
}

func udp6(src, dst string, ttl uint8) []byte {
	b := make([]byte, 48)
	b[0], b[6], b[7] = 0x60, 17, ttl
	binary.BigEndian.PutUint16(b[4:], 8)
	copy(b[8:], netip.MustParseAddr(src).AsSlice())
	copy(b[24:], netip.MustParseAddr(dst).AsSlice())
	return b
}

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func mesh() Mesh {
	return Mesh{Self: "a", Peers: []Peer{
		{Name: "a", Underlay: netip.MustParseAddrPort("172.18.0.2:8285"), Subnets: prefixes("10.244.0.0/24", "fd00:0:0:a::/64")},
		{Name: "b", Underlay: netip.MustParseAddrPort("172.18.0.3:8285"), Subnets: prefixes("10.244.1.0/24", "fd00:0:0:b::/64"), Routes: prefixes("192.168.0.0/16")},
		{Name: "c", Underlay: netip.MustParseAddrPort("172.18.0.4:9000"), Subnets: prefixes("10.244.2.0/24"), Routes: prefixes("192.168.7.0/24")},
	}}
}

type rig struct {
	*User
	tun  *fakeTun
	wire *fakeWire
	out  *outbound
	in   *inbound
}

func newRig(t testing.TB) *rig {
	r := &rig{tun: newFakeTun(), wire: newFakeWire()}
	r.User = NewUser(r.tun, r.wire, r.wire, r.wire, slog.New(slog.DiscardHandler))
	if err := r.SetMesh(mesh()); err != nil {
		t.Fatal(err)
	}
	loops := r.Loops()
	r.out, r.in = loops[0].(*outbound), loops[1].(*inbound)
	return r
}

// send passes packets from the TUN through the engine.
func (r *rig) send(batch ...[]byte) { r.out.forward(r.out.batch[:fill(r.out.batch, batch)]) }

// receive passes datagrams from one underlay address through the engine.
func (r *rig) receive(from string, tos uint8, batch ...[]byte) {
	n := fill(r.in.batch, batch)
	for i := range n {
		r.in.batch[i].Addr, r.in.batch[i].TOS = netip.MustParseAddrPort(from), tos
	}
	r.in.deliver(r.in.batch[:n])
}
