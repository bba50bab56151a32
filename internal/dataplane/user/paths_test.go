package user

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// Addresses of nodes with two uplinks.
const (
	ours4, ours6, ours4b = "172.18.0.2:8285", "[2001:db8::2]:8285", "172.19.0.2:9000"
	b4, b6, b4b          = "172.18.0.3:8285", "[2001:db8::3]:8285", "172.19.0.3:8285"
	c6                   = "[2001:db8::4]:9000"
)

func endpointsAt(addresses ...string) (all []mesh.Endpoint) {
	for _, a := range addresses {
		all = append(all, mesh.Endpoint{AddrPort: netip.MustParseAddrPort(a)})
	}
	return all
}

// twoUplinks is threeNodes where b has three addresses, c one of IPv6, and d a name without an address.
// b and c share a LAN, and all three another one.
func twoUplinks(binds ...string) dataplane.Wanted {
	m := threeNodes()
	m.Peers[0].Addresses = endpointsAt(ours4, ours6, ours4b)
	m.Peers[1].Addresses, m.Peers[2].Addresses = endpointsAt(b4, b6, b4b), endpointsAt(c6)
	m.Peers[1].Routes = prefixes("192.168.0.0/16", "192.0.2.0/24")
	m.Peers[2].Routes = m.Peers[1].Routes
	m.Peers[0].Routes = prefixes("192.0.2.0/24")
	m.Peers = append(m.Peers, mesh.Peer{Name: "d", Subnets: prefixes("10.244.3.0/24")})
	m.Shares = []mesh.Share{
		{Prefix: prefixes("192.168.0.0/16")[0], Carriers: []mesh.Carrier{{Peer: "c"}, {Peer: "b", Metric: 100}}},
		{Prefix: prefixes("192.0.2.0/24")[0], Carriers: []mesh.Carrier{{Peer: "b"}, {Peer: "a"}, {Peer: "c"}}},
	}
	w := dataplane.Wanted{Mesh: m, Sources: map[netip.Addr]int{}}
	for i, bind := range binds {
		w.Binds = append(w.Binds, netip.MustParseAddrPort(bind))
		if bind == ours4b {
			w.Sources[netip.MustParseAddrPort(b4b).Addr()] = i
		}
	}
	return w
}

// pathRig is a rig with a socket for each of its own addresses.
type pathRig struct {
	*rig
	wires map[string]*fakeWire // by the address
	ins   map[string]*inbound
	order []string // of calls to the sockets
}

// ordered is a socket that notes when it is used.
type ordered struct {
	*fakeWire
	rig  *pathRig
	bind string
}

func (o ordered) Write(bs []packet.Burst) (int, error) {
	o.rig.order = append(o.rig.order, o.bind)
	return o.fakeWire.Write(bs)
}

func newPathRig(t testing.TB, w dataplane.Wanted, sockets ...string) *pathRig {
	t.Helper()
	r := &pathRig{rig: newRig(t), wires: map[string]*fakeWire{}, ins: map[string]*inbound{}}
	worker := Worker{Tun: r.tun}
	for _, bind := range sockets {
		wire := newFakeWire()
		socket := wire.socket(bind)
		socket.Sender = ordered{wire, r, bind}
		r.wires[bind], worker.Sockets = wire, append(worker.Sockets, socket)
	}
	r.Engine = New(r.options)
	loops, err := r.Replace([]Worker{worker})
	if err != nil {
		t.Fatal(err)
	}
	r.out = loops[0].(*outbound)
	for i, bind := range sockets {
		r.ins[bind] = loops[1+i].(*inbound)
	}
	if err := r.SetMesh(w); err != nil {
		t.Fatal(err)
	}
	return r
}

// receive passes datagrams that came to one of our addresses through the engine.
func (r *pathRig) receive(at, from string, batch ...[]byte) {
	r.in = r.ins[at]
	r.rig.receive(from, 0, batch...)
}

// left returns what has left since the last call: "OURS > THEIRS".
func (r *pathRig) left() (all []string) {
	for bind, wire := range r.wires {
		for _, one := range wire.sent {
			all = append(all, bind+" > "+one.Addr.String())
		}
		wire.sent = nil
	}
	slices.Sort(all)
	return all
}

func (r *pathRig) checkLeft(t *testing.T, when string, want ...string) {
	t.Helper()
	if got := r.left(); !slices.Equal(got, want) {
		t.Errorf("%s: %q left, want %q", when, got, want)
	}
}

// Packets go to the address that was learned, from the one of ours that the host sends from, and else to
// the first that can be sent to.
func TestVia(t *testing.T) {
	all := []string{ours4, ours6, ours4b}
	to := func(peer int) []byte { return udp4("10.244.0.2", fmt.Sprintf("10.244.%d.2", peer), 63, 0) }
	for _, test := range []struct {
		name  string
		binds []string
		via   string
		peer  int
		want  string // empty: dropped
	}{
		{"the first", all, "", 1, ours4 + " > " + b4},
		{"the second", all, b6, 1, ours6 + " > " + b6},
		{"from another of ours", all, b4b, 1, ours4b + " > " + b4b},
		{"an address that is no one's", all, "172.18.0.9:8285", 1, ours4 + " > " + b4},
		{"another port", all, "[2001:db8::3]:9", 1, ours4 + " > " + b4},
		{"no IPv4 here", []string{ours6}, "", 1, ours6 + " > " + b6},
		{"no IPv4 here, which was learned", []string{ours6}, b4, 1, ours6 + " > " + b6},
		{"no IPv6 here, which was learned", []string{ours4}, b6, 1, ours4 + " > " + b4},
		{"no family in common", []string{ours4}, "", 2, ""},
		{"no address yet", all, "", 3, ""},
	} {
		for _, before := range []string{"learned before", "learned after"} {
			t.Run(test.name+", "+before, func(t *testing.T) {
				w := twoUplinks(test.binds...)
				r := newPathRig(t, dataplane.Wanted{Mesh: threeNodes(), Binds: w.Binds}, test.binds...)
				name := w.Mesh.Peers[test.peer].Name
				var d peers.Directive
				if test.via != "" {
					d.Via = netip.MustParseAddrPort(test.via)
				}
				steps := []func() error{func() error { return r.Learn(name, d) }, func() error { return r.SetMesh(w) }}
				if before == "learned after" {
					slices.Reverse(steps)
				}
				for _, step := range steps {
					if err := step(); err != nil {
						t.Fatal(err)
					}
				}
				r.send(to(test.peer))
				counted, err := r.Read().Peers[name], r.SendEcho(dataplane.Echo{Peer: name})
				if test.want == "" {
					r.checkLeft(t, "dropped")
					if got := strings.Join(drops(counted), " "); got != "send_error" || !errors.Is(err, ErrUnreachable) {
						t.Errorf("drops %q, echo: %v", got, err)
					}
					return
				}
				r.checkLeft(t, "a packet and an echo", test.want, test.want)
				if wanted, _ := w.To(w.Mesh.Peers[test.peer], d.Via); err != nil ||
					!strings.HasSuffix(test.want, "> "+wanted.String()) {
					t.Errorf("echo: %v; the contract says %s", err, wanted)
				}
			})
		}
	}
}

// A mesh whose sockets are not there yet is served by those that are, of the same family.
func TestSocketsComeAfterMesh(t *testing.T) {
	r := newPathRig(t, twoUplinks(ours4b, ours6), ours4)
	if err := r.Learn("b", peers.Directive{Via: netip.MustParseAddrPort(b6)}); err != nil {
		t.Fatal(err)
	}
	r.send(udp4("10.244.0.2", "10.244.1.2", 63, 0), udp4("10.244.0.2", "10.244.2.2", 63, 0))
	if err := r.SendEcho(dataplane.Echo{Peer: "b"}); err != nil {
		t.Error(err)
	}
	err := r.SendEcho(dataplane.Echo{Peer: "b", Via: netip.MustParseAddrPort(b6)})
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("by IPv6: %v", err)
	}
	r.checkLeft(t, "one socket", ours4+" > "+b4, ours4+" > "+b4)
	if got := drops(r.Read().Peers["c"]); len(got) != 1 || got[0] != "send_error" {
		t.Errorf("%q", got)
	}
}

// Packets that leave by several sockets take one call for each, however they are mixed, and those of a
// peer keep their order.
func TestLanesStayFull(t *testing.T) {
	r := newPathRig(t, twoUplinks(ours4, ours6), ours4, ours6)
	var batch [][]byte
	for i := range 20 {
		batch = append(batch, udp4("10.244.0.2", []string{"10.244.1.2", "10.244.2.2"}[i%2], uint8(100+i), 0))
	}
	r.send(batch...)
	if !slices.Equal(r.order, []string{ours4, ours6}) {
		t.Errorf("calls: %q", r.order)
	}
	for first, wire := range []*fakeWire{r.wires[ours4], r.wires[ours6]} {
		for i, one := range wire.sent {
			if int(one.Data[8])+1 != 100+first+2*i {
				t.Errorf("socket %d: packet %d has TTL %d", first, i, one.Data[8])
			}
		}
	}
	c := r.Read()
	if c.Peers["b"].TxPackets != 10 || c.Peers["c"].TxPackets != 10 || c.Calls[mesh.WireWrite].Calls != 2 {
		t.Errorf("%+v, %v", c.Peers, c.Calls)
	}
}

// A burst holds packets to one address.
func TestSwitchEndsBurst(t *testing.T) {
	w := twoUplinks(ours4, ours4b)
	r := newPathRig(t, w, ours4, ours4b)
	for i := range r.out.lanes {
		r.out.lanes[i].several = true
	}
	if err := r.SetMesh(dataplane.Wanted{Mesh: w.Mesh, Binds: w.Binds}); err != nil { // all by the first socket
		t.Fatal(err)
	}
	p := udp4("10.244.0.2", "10.244.1.2", 63, 0)
	f := r.mesh.Load()
	r.out.aim(f)
	r.out.frame(f, frame(bytes.Clone(p)))
	if err := r.Learn("b", peers.Directive{Via: netip.MustParseAddrPort(b4b)}); err != nil {
		t.Fatal(err)
	}
	r.out.frame(f, frame(bytes.Clone(p)))
	r.out.flush()
	if got := r.wires[ours4].bursts; !slices.Equal(got, []int{1, 1}) {
		t.Errorf("bursts of %v", got)
	}
	r.checkLeft(t, "before and after", ours4+" > "+b4, ours4+" > "+b4b)
}

// Sizes that senders are told count the outer headers of the family that packets take.
func TestSizesByFamily(t *testing.T) {
	for via, want := range map[string]uint16{b4: 1372, b6: 1352} {
		t.Run(via, func(t *testing.T) {
			r := newPathRig(t, twoUplinks(ours4, ours6), ours4, ours6)
			at := netip.MustParseAddrPort(via)
			if err := r.Learn("b", peers.Directive{Via: at}); err != nil {
				t.Fatal(err)
			}
			for _, wire := range r.wires {
				wire.mtu, wire.refuse = 1400, map[int]error{0: syscall.EMSGSIZE}
			}
			r.send(udp4("10.244.0.2", "10.244.1.2", 63, 0))
			if len(r.tun.written) != 1 || binary.BigEndian.Uint16(r.tun.written[0][26:]) != want {
				t.Errorf("answers % x, want %d", r.tun.written, want)
			}
			if err := r.Learn("b", peers.Directive{Via: at, MTU: 1300}); err != nil {
				t.Fatal(err)
			}
			if got := r.mesh.Load().peers[1].active.Load().outer(); got != 1300+1400-int(want) {
				t.Errorf("fragments of %d bytes", got)
			}
		})
	}
}

// Each echo is about one address of a peer: the one that it names, and the reply to one goes back to where
// it came from, whatever packets do.
func TestEchoVia(t *testing.T) {
	r := newPathRig(t, twoUplinks(ours4, ours6, ours4b), ours4, ours6, ours4b)
	if err := r.Learn("b", peers.Directive{Via: netip.MustParseAddrPort(b4b)}); err != nil {
		t.Fatal(err)
	}
	via := netip.MustParseAddrPort
	if err := r.SendEcho(dataplane.Echo{Peer: "b"}, dataplane.Echo{Peer: "b", Via: via(b4)},
		dataplane.Echo{Peer: "b", Via: via(b6)}, dataplane.Echo{Peer: "c", Via: via(c6)}); err != nil {
		t.Fatal(err)
	}
	r.checkLeft(t, "echoes", ours4+" > "+b4, ours4b+" > "+b4b, ours6+" > "+b6, ours6+" > "+c6)
	if err := r.SendEcho(dataplane.Echo{Peer: "b", Via: via(c6)}); err == nil {
		t.Error("an echo left for an address that the peer does not have")
	}
	r.wires[ours6].refuse[r.wires[ours6].offers] = syscall.EPERM
	err := r.SendEcho(dataplane.Echo{Peer: "b", Via: via(b6)}, dataplane.Echo{Peer: "b", Via: via(b4)})
	if got := dataplane.Refused(err); !slices.Equal(got, []string{"b"}) {
		t.Errorf("refused %q: %v", got, err)
	}
	r.checkLeft(t, "one refused", ours4+" > "+b4)

	r.mine = func(e dataplane.Echo) ([]byte, bool) { return e.Payload, true }
	for _, test := range []struct{ at, from, via, reply string }{
		{ours4, b4, b4, ours4},
		{ours6, "[2001:db8::3]:40000", b6, ours6},
		{ours4, b4b, b4b, ours4b}, // the answer leaves as packets to that address do
		{ours4b, "172.19.0.3:1", b4b, ours4b},
	} {
		r.heard = nil
		r.receive(test.at, test.from, echo("10.244.1.0", "10.244.0.0", false, "x"))
		if len(r.heard) != 1 || r.heard[0].Via != via(test.via) || r.heard[0].Peer != "b" {
			t.Errorf("from %s: heard %+v", test.from, r.heard)
		}
		r.checkLeft(t, "reply to "+test.from, test.reply+" > "+test.via)
	}
}

// A peer's packets are accepted from each of its addresses, and of no other port's owner.
func TestSendersOfManyAddresses(t *testing.T) {
	r := newPathRig(t, twoUplinks(ours4, ours6), ours4, ours6)
	p := udp4("10.244.1.2", "10.244.0.2", 62, 0)
	r.receive(ours4, b4, p)
	r.receive(ours6, b6, p)
	r.receive(ours4, "172.19.0.3:77", p)
	r.receive(ours6, c6, p)     // b's pod
	r.receive(ours4, ours4b, p) // this node's own address
	c := r.Read()
	if c.Peers["b"].RxPackets != 3 || len(r.tun.written) != 3 || c.Peers["c"].Drops[mesh.SpoofedSource] != 1 ||
		c.Totals.Drops[mesh.UnknownSender] != 1 {
		t.Errorf("%+v", c.Peers)
	}
}

// A shared prefix is carried by who was said to, and packets come in from all who have it.
func TestCarry(t *testing.T) {
	lan, ours := prefixes("192.168.0.0/16")[0], prefixes("192.0.2.0/24")[0]
	to := func(dst string) []byte { return udp4("10.244.0.2", dst, 63, 0) }
	viaB, viaC := ours4+" > "+b4, ours6+" > "+c6
	for _, test := range []struct {
		name   string
		prefix mesh.Prefix
		said   string
		dst    string
		want   []string
	}{
		{"nothing was said", lan, "", "192.168.1.1", []string{viaC}},
		{"another carrier", lan, "b", "192.168.1.1", []string{viaB}},
		{"one without the prefix", lan, "d", "192.168.1.1", []string{viaC}},
		{"this node, which has it not", lan, "a", "192.168.1.1", []string{viaC}},
		{"this node has it, too", ours, "", "192.0.2.1", nil},
		{"this node has it, and another carries", ours, "c", "192.0.2.1", []string{viaC}},
		{"a prefix that is not shared", prefixes("10.244.1.0/24")[0], "c", "10.244.1.2", []string{viaB}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := twoUplinks(ours4, ours6)
			after := newPathRig(t, w, ours4, ours6)
			before := newPathRig(t, dataplane.Wanted{Mesh: threeNodes(), Binds: w.Binds}, ours4, ours6)
			if err := errors.Join(after.Carry(test.prefix, test.said), before.Carry(test.prefix, test.said),
				before.SetMesh(w)); err != nil {
				t.Fatal(err)
			}
			for when, r := range map[string]*pathRig{"said after": after, "said before": before} {
				r.send(to(test.dst))
				r.checkLeft(t, when, test.want...)
			}
		})
	}
	r := newPathRig(t, twoUplinks(ours4, ours6), ours4, ours6)
	if err := r.Carry(ours, "c"); err != nil {
		t.Fatal(err)
	}
	for _, from := range []struct{ at, addr, pod string }{{ours4, b4, "10.244.1.2"}, {ours6, c6, "10.244.2.2"}} {
		r.receive(from.at, from.addr, udp4("192.168.1.1", "10.244.0.2", 62, 0),
			udp4(from.pod, "192.0.2.1", 62, 0)) // one of our own prefixes, whoever carries it
	}
	r.send(udp4("192.0.2.9", "10.244.1.2", 63, 0)) // and packets leave from it
	r.checkLeft(t, "from our LAN", viaB)
	if c := r.Read(); len(r.tun.written) != 4 || len(drops(c.Totals)) != 0 {
		t.Errorf("%d delivered, drops %q", len(r.tun.written), drops(c.Totals))
	}
	bad := twoUplinks(ours4)
	bad.Mesh.Shares = []mesh.Share{{Prefix: lan, Carriers: []mesh.Carrier{{Peer: "x"}, {Peer: "b"}}}}
	if err := r.SetMesh(bad); err == nil {
		t.Error("a carrier that is no node")
	}
}

// What is about one of several addresses is about their peer.
func TestTroublesOfAddresses(t *testing.T) {
	var doubted []string
	r := newPathRig(t, twoUplinks(ours4, ours6), ours4, ours6)
	r.options.Doubt = func(peer string) { doubted = append(doubted, peer) }
	at := netip.MustParseAddrPort
	r.Refused(at(b4), syscall.EPERM)
	r.Refused(at(b6), syscall.ENETUNREACH)
	r.Refused(at(b6), syscall.ENETUNREACH)
	r.Reported(udp.PathError{To: at(b4b), Type: 3, Code: 1})
	r.Reported(udp.PathError{To: at(b6), Type: 2})
	got := r.Read().Troubles["b"]
	if got.Refused.Count != 3 || got.Refused.InARow != 2 || got.Refused.Address != at(b6) ||
		got.Refused.Errno != uint32(syscall.ENETUNREACH) || got.Reported.Count != 1 ||
		got.Reported.Address != at(b4b) || !slices.Equal(doubted, []string{"b"}) {
		t.Errorf("%+v, doubted %q", got, doubted)
	}
}

// Several sockets do not make the packet path allocate.
func TestLanesDoNotAllocate(t *testing.T) {
	w := twoUplinks(ours4, ours6)
	r := newPathRig(t, w, ours4, ours6)
	for i := range r.out.lanes {
		r.out.lanes[i].sender = discard{}
	}
	b, c := frame(udp4("10.244.0.2", "192.168.1.2", 63, 0)), frame(udp4("10.244.0.2", "10.244.1.2", 63, 0))
	ttl := len(b) - 28 + 8
	carriers, n := []string{"b", "c"}, 0
	if allocated := testing.AllocsPerRun(100, func() {
		n++
		b[ttl], c[ttl] = 63, 63
		_ = r.Carry(w.Mesh.Shares[0].Prefix, carriers[n%2])
		r.out.forward([][]byte{b, c})
	}); allocated != 0 {
		t.Errorf("%v allocations", allocated)
	}
	if c := r.Read(); c.Peers["b"].TxPackets == 0 || c.Peers["c"].TxPackets == 0 {
		t.Errorf("%+v", c.Peers)
	}
}
