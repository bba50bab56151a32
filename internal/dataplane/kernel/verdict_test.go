package kernel

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// counters are those of the programs.
func (p *Engine) counters(t *testing.T) Reading {
	t.Helper()
	r, err := p.shown.Load().read()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// loopback is the interface that frames of a trial run come in by; its MAC address is zero.
const loopback = 1

// programsOf returns programs that know a mesh, with settings as they would be, attached to
// nothing.
func programsOf(t testing.TB, m mesh.Mesh) *Engine {
	t.Helper()
	p := unpinned(t)
	if err := p.load(); err != nil {
		t.Fatal(err)
	}
	if err := p.set(m); err != nil {
		t.Fatal(err)
	}
	p.tun = loopback
	p.marking = []meshDevice{{Index: loopback}}
	if err := p.configureFor(wantedOver(m, "", dataplane.TCX)); err != nil {
		t.Fatal(err)
	}
	return p
}

// unpinned returns an engine that pins nothing, and so is alone on this machine.
func unpinned(t testing.TB) *Engine {
	t.Helper()
	p := New(slog.New(slog.DiscardHandler))
	p.pins = func() (string, error) { return "", nil }
	t.Cleanup(func() {
		if err := p.leave(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// wantedOver is what an engine is to do for a mesh, with the TUN and interfaces of the underlay.
func wantedOver(m mesh.Mesh, tun string, receive dataplane.Receive, underlay ...int) dataplane.Wanted {
	w := dataplane.Wanted{Mesh: m, Interface: tun}
	w.Kernel = dataplane.Programs{Use: dataplane.Always, MTU: 1472, Outer: 1500,
		Receive: receive, Underlay: underlay}
	self, _ := m.Peer(m.Self)
	for _, at := range self.Addresses {
		w.Binds = append(w.Binds, at.AddrPort)
	}
	return w
}

// receives are the places by their words.
var receives = map[string]dataplane.Receive{
	"tcx": dataplane.TCX, "xdp": dataplane.XDP, "socket": dataplane.Socket,
}

// handed is how much was counted as left to user space, whatever the reason.
func (p *Engine) handed(t *testing.T) (n uint64) {
	t.Helper()
	reasons, err := p.handle().handed()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range reasons {
		n += m
	}
	return n
}

// decide has one of the programs for receiving decide about a frame. left tells that user
// space is to decide; ours, that it is a datagram for our socket. XDP finds metadata in front
// of the frame, of some length.
func (p *Engine) decide(
	t *testing.T, program *ebpf.Program, frame, meta []byte, ours bool,
) (v verdict, left bool) {
	t.Helper()
	const ( // linux/bpf.h, linux/pkt_cls.h
		xdpDrop, xdpPass   = 1, 2
		tcShot, tcRedirect = 2, 7
		tcUnspec           = 0xffffffff
	)
	before, handed := p.counters(t), p.handed(t)
	code, mark, out := run(t, program, frame, meta)
	after := p.counters(t)
	v.drop = counted(before.Peers, after.Peers)
	const ethernet = 14
	xdp := program == p.handle().xdp
	handed = p.handed(t) - handed
	if xdp && code == xdpPass && mark != p.settings.Mark && mark != (meshMark{}) {
		t.Errorf("metadata is %x after %x", mark, meta)
	}
	switch {
	case xdp && code == xdpPass && mark == p.settings.Mark:
		v.delivered = string(out[ethernet:])
	case !xdp && code == tcRedirect:
		v.delivered = string(out[ethernet:])
	case xdp && code == xdpPass, !xdp && code == tcUnspec:
		if v.drop != "" || !bytes.Equal(out, frame) {
			t.Errorf("left to user space, but counted as %q, or changed", v.drop)
		}
		// What XDP leaves comes to the tc program, too, which counts it.
		if xdp && handed != 0 || !xdp && ours && handed != 1 {
			t.Errorf("counted %d times as left to user space: % x", handed, frame)
		}
		return v, true
	case xdp && code == xdpDrop, !xdp && code == tcShot:
		if v.drop == "" {
			t.Errorf("dropped, and not counted: % x", frame)
		}
	default:
		t.Fatalf("code %d", code)
	}
	if handed != 0 {
		t.Errorf("not left to user space, but counted so: % x", frame)
	}
	if v.delivered != "" {
		// What a frame has behind the packet is padding, which the kernel takes off.
		v.delivered = v.delivered[:innerLength(v.delivered)]
		received := after.Totals.RxPackets - before.Totals.RxPackets
		bytes := after.Totals.RxBytes - before.Totals.RxBytes
		if received != 1 || bytes != uint64(len(v.delivered)) {
			t.Errorf("counted %d packets and %d bytes of %d", received, bytes, len(v.delivered))
		}
	}
	return v, false
}

// xdpMd is struct xdp_md of linux/bpf.h.
type xdpMd struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }

// run has a program decide about a frame, with metadata in front of it, and returns what it
// made of both: of the metadata what the tc program looks at.
func run(t *testing.T, program *ebpf.Program, frame, meta []byte) (code uint32, mark meshMark, out []byte) {
	t.Helper()
	options := &ebpf.RunOptions{
		Data:    append(bytes.Clone(meta), frame...),
		DataOut: make([]byte, len(meta)+len(frame)+256),
	}
	size := binary.Size(mark)
	xdp := program.Type() == ebpf.XDP
	if xdp {
		options.Context = xdpMd{Data: uint32(len(meta)), DataEnd: uint32(len(options.Data))}
	}
	code, err := program.Run(options)
	if err != nil {
		t.Fatal(err)
	}
	out = options.DataOut
	if !xdp || code != 2 {
		return code, mark, out
	}
	if _, err := binary.Decode(out, binary.NativeEndian, &mark.Words); err != nil {
		t.Fatal(err)
	}
	if len(meta) < size { // what was there is too short, and stays behind the mark
		size += len(meta)
	} else {
		size = len(meta)
	}
	return code, mark, out[size:]
}

func innerLength(b string) int {
	if b[0]>>4 == 4 {
		return min(len(b), int(binary.BigEndian.Uint16([]byte(b[2:4]))))
	}
	return min(len(b), 40+int(binary.BigEndian.Uint16([]byte(b[4:6]))))
}

// socket returns what a UDP socket at an address would be given of an Ethernet frame that the
// loopback receives: by the RFCs 791, 768, 8200, and as eth_type_trans has it.
func socket(frame []byte, at netip.AddrPort) (from netip.AddrPort, tos uint8, payload []byte, ok bool) {
	if len(frame) < 14 || frame[0]&1 == 0 && [6]byte(frame[:6]) != ([6]byte{}) {
		return from, 0, nil, false
	}
	proto, b := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	var src, dst netip.Addr
	var pseudo []byte
	switch {
	case proto == 0x0800 && at.Addr().Is4() && len(b) >= 20 && b[0]>>4 == 4:
		header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		fragment := binary.BigEndian.Uint16(b[6:])&0x3fff != 0
		if header < 20 || total < header || total > len(b) || packet.Checksum(b[:header], 0) != 0 ||
			fragment || b[9] != 17 {
			return from, 0, nil, false
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		tos, pseudo = b[1], b[12:20]
		b = b[header:total]
	case proto == 0x86dd && at.Addr().Is6() && len(b) >= 40 && b[0]>>4 == 6 && b[6] == 17:
		total := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if total > len(b) {
			return from, 0, nil, false
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		tos, pseudo = b[0]<<4|b[1]>>4, b[8:40]
		b = b[40:total]
	default:
		return from, 0, nil, false
	}
	if len(b) < 8 || dst != at.Addr() || binary.BigEndian.Uint16(b[2:]) != at.Port() {
		return from, 0, nil, false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < 8 || length > len(b) {
		return from, 0, nil, false
	}
	b = b[:length]
	if b[6]|b[7] != 0 && packet.Fold(packet.Sum(b, packet.PseudoSum(pseudo, 17, length))) != 0xffff {
		return from, 0, nil, false
	}
	return netip.AddrPortFrom(src, binary.BigEndian.Uint16(b)), tos, b[8:], true
}

// The same frames have the same fate in both engines: what a program delivers, user space
// would have delivered, byte for byte; what it drops, user space would have dropped for the
// same reason; and what is plain it does not leave to user space.
func TestVerdicts(t *testing.T) {
	nstest.Require(t)
	shared := meshOverBoth()
	shared.Peers[1].Routes, shared.Peers[2].Routes = nil, nil
	shareAmong(&shared, "192.168.0.0/16", "b", "c")
	shareAmong(&shared, "192.168.7.0/24", "c", "a")
	for underlay, m := range map[string]mesh.Mesh{
		"v4": meshOver(false), "v6": meshOver(true), "both": meshOverBoth(), "shares": shared} {
		p := programsOf(t, m)
		xdp, err := p.handle().loadXDP()
		if err != nil {
			t.Fatal(err)
		}
		for name, program := range map[string]*ebpf.Program{"tc": p.handle().In, "xdp": xdp} {
			t.Run(underlay+"/"+name, func(t *testing.T) {
				u := newUserEngine(t, m)
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), mesh: m}
				fates := map[string]int{}
				for range 20000 {
					frame, plain := g.frame()
					from, tos, payload, ours := socketAmong(frame, m.Peers[0].Addresses)
					var meta []byte
					if name == "xdp" {
						meta = g.metadata(p)
					}
					got, left := p.decide(t, program, frame, meta, ours)
					if left {
						fates["left"]++
						if plain && (name == "xdp" || payload[0]>>4 == 4 == from.Addr().Is4()) {
							t.Errorf("plain, and left to user space: % x", frame)
						}
						continue
					}
					if !ours {
						t.Errorf("nothing for a socket, but %+q: % x", got, frame)
						continue
					}
					if want := u.receive(from, tos, payload); got != want {
						t.Errorf("from %s, TOS %#x, % x:\n%+q, but user space\n%+q", from, tos, payload, got, want)
					}
					if got.drop == "" {
						got.drop = "delivered"
					}
					fates[got.drop]++
					if t.Failed() {
						t.FailNow()
					}
				}
				t.Log(fates)
				for _, fate := range []string{
					"left", "delivered", "b spoofed_source", "b wrong_destination", "b malformed",
				} {
					if fates[fate] < 10 {
						t.Errorf("%d of %q: this tests little", fates[fate], fate)
					}
				}
			})
		}
	}
}

// socketAmong is socket for several sockets.
func socketAmong(frame []byte, all []mesh.Endpoint) (from netip.AddrPort, tos uint8, payload []byte,
	ok bool) {
	for _, at := range all {
		if from, tos, payload, ok = socket(frame, at.AddrPort); ok {
			break
		}
	}
	return from, tos, payload, ok
}
