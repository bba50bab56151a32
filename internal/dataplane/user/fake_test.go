package user

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/mesh"
)

// The fakes keep copies of what is written to them and feed prepared batches.

type fakeTun struct {
	written  [][]byte // packets, superpackets cut into theirs
	frames   int
	offloads []string
	refuse   map[int]error // by position among all writes
	writes   int
	feed     chan [][]byte
	wake     chan struct{}
}

func newFakeTun() *fakeTun {
	return &fakeTun{feed: make(chan [][]byte), wake: make(chan struct{}, 1), refuse: map[int]error{}}
}

func (f *fakeTun) Read(memory []byte, frames [][]byte) (int, error) {
	select {
	case batch := <-f.feed:
		return copy(frames, batch), nil
	case <-f.wake:
		return 0, os.ErrDeadlineExceeded
	}
}

func (f *fakeTun) Writer() func(parts [][]byte) error {
	return func(parts [][]byte) error {
		f.writes++
		if err := f.refuse[f.writes-1]; err != nil {
			return err
		}
		f.frames++
		h, b, _ := virtio.Parse(bytes.Join(parts, nil))
		segments, ok := h.Segment(b)
		if !ok {
			f.written = append(f.written, b)
			return nil
		}
		for i := range segments.Len() {
			header := segments.Header(i, make([]byte, segments.HeaderLen()))
			f.written = append(f.written, append(header, segments.Payload(i)...))
		}
		return nil
	}
}

func (f *fakeTun) Offloads() []string { return f.offloads }
func (f *fakeTun) Wake() error        { signal(f.wake); return nil }

type sentPacket struct {
	Data []byte
	Addr netip.AddrPort
	TOS  uint8
}

type fakeWire struct {
	sent     []sentPacket
	bursts   []int // packets of each
	cut      [][]byte
	offloads []string
	refuse   map[int]error               // by position among all bursts offered
	refuses  func(b *packet.Burst) error // for what refuse does not list
	offers   int
	mtu      int
	fail     chan error // of Read
	wake     chan struct{}
}

func newFakeWire() *fakeWire {
	return &fakeWire{refuse: map[int]error{}, mtu: 1500, fail: make(chan error), wake: make(chan struct{}, 1)}
}

func (f *fakeWire) PathMTU(netip.AddrPort) (int, error) { return f.mtu, nil }
func (f *fakeWire) Offloads() []string                  { return f.offloads }
func (f *fakeWire) Wake() error                         { signal(f.wake); return nil }

func (f *fakeWire) Read(ds []packet.Datagram) (int, error) {
	select {
	case err := <-f.fail:
		return 0, err
	case <-f.wake:
		return 0, os.ErrDeadlineExceeded
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (f *fakeWire) Write(bs []packet.Burst) (int, error) {
	for i := range bs {
		f.offers++
		err := f.refuse[f.offers-1]
		if err == nil && f.refuses != nil {
			err = f.refuses(&bs[i])
		}
		if err != nil {
			return i, err
		}
		f.bursts = append(f.bursts, bs[i].Packets)
		for one := range bs[i].Split {
			f.sent = append(f.sent, sentPacket{Data: bytes.Join(one.Parts, nil), Addr: one.Addr, TOS: one.TOS})
		}
	}
	return len(bs), nil
}

func (f *fakeWire) WriteFragmented(b *packet.Burst, _ int) error {
	f.cut = append(f.cut, bytes.Join(b.Parts, nil))
	return nil
}

// frame returns a packet as it comes from the TUN.
func frame(b []byte) []byte { return append(make([]byte, virtio.HeaderSize), b...) }

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

func threeNodes() mesh.Mesh {
	return mesh.Mesh{Self: "a", Peers: []mesh.Peer{
		{Name: "a", Addresses: []mesh.Endpoint{{AddrPort: netip.MustParseAddrPort("172.18.0.2:8285")}},
			Subnets: prefixes("10.244.0.0/24", "fd00:0:0:a::/64")},
		{Name: "b", Addresses: []mesh.Endpoint{{AddrPort: netip.MustParseAddrPort("172.18.0.3:8285")}},
			Subnets: prefixes("10.244.1.0/24", "fd00:0:0:b::/64"), Routes: prefixes("192.168.0.0/16")},
		{Name: "c", Addresses: []mesh.Endpoint{{AddrPort: netip.MustParseAddrPort("172.18.0.4:9000")}},
			Subnets: prefixes("10.244.2.0/24"), Routes: prefixes("192.168.7.0/24")},
	}}
}

type rig struct {
	*Engine
	tun  *fakeTun
	wire *fakeWire
	out  *outbound
	in   *inbound

	heard []dataplane.Echo
	mine  func(dataplane.Echo) ([]byte, bool)
}

// hear is the rig's EchoHandler.
func (r *rig) hear(e dataplane.Echo, _ time.Time) ([]byte, bool) {
	e.Payload = bytes.Clone(e.Payload)
	r.heard = append(r.heard, e)
	if r.mine == nil {
		return nil, false
	}
	return r.mine(e)
}

func newRig(t testing.TB, offloads ...string) *rig {
	r := &rig{tun: newFakeTun(), wire: newFakeWire()}
	r.tun.offloads, r.wire.offloads = offloads, offloads
	r.start()
	if err := r.setMesh(threeNodes()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) start() {
	r.Engine = New(dataplane.Options{Log: slog.New(slog.DiscardHandler), Hear: r.hear})
	loops, err := r.Replace([]Worker{{Tun: r.tun, Sockets: []Socket{r.wire.socket("172.18.0.2:8285")}}})
	if err != nil {
		panic(err)
	}
	r.out, r.in = loops[0].(*outbound), loops[1].(*inbound)
}

// setMesh is SetMesh for a host that has the first address of its own node.
func (u *Engine) setMesh(m mesh.Mesh) error { return u.SetMesh(wantedOf(m)) }

// wantedOf is what an engine is to do for a mesh on such a host.
func wantedOf(m mesh.Mesh) dataplane.Wanted {
	self, _ := m.Peer(m.Self)
	return dataplane.Wanted{Mesh: m, Binds: []netip.AddrPort{self.Underlay().AddrPort}}
}

// socket returns a socket bound to an address.
func (f *fakeWire) socket(bind string) Socket {
	return Socket{Bind: netip.MustParseAddrPort(bind), Wire: f, Receiver: f, Sender: f,
		Echoes: func() Sender { return f }, SpreadEchoes: func() Sender { return f }}
}

// send passes packets from the TUN through the engine.
func (r *rig) send(batch ...[]byte) {
	var frames [][]byte
	for _, b := range batch {
		frames = append(frames, frame(b))
	}
	r.out.forward(frames)
}

// receive passes datagrams from one underlay address through the engine.
func (r *rig) receive(from string, tos uint8, batch ...[]byte) {
	var ds []packet.Datagram
	for _, b := range batch {
		ds = append(ds, packet.Datagram{Data: bytes.Clone(b), Addr: netip.MustParseAddrPort(from), TOS: tos})
	}
	r.in.deliver(ds)
}
