package user

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/table"
)

// outbound is the loop from the TUN to the wire. Bursts wait in the lane of the socket by which they
// leave, so that a call sends many, whatever the order of their peers.
type outbound struct {
	user    *Engine
	worker  *worker
	flows   *sketch  // for this batch; nil: none are counted
	memory  []byte   // of frames
	frames  [][]byte // read from the TUN
	headers []byte   // memory for the headers of segments
	used    int      // of headers
	lanes   []lane   // one for each socket
	aimed   *forwarding
	laneOf  []*lane // by target.from, plus 1, of the mesh aimed at; nil: no socket is fit, as for nowhere
	answer  *answerer
	one     [1]packet.Burst // for sending a packet of a burst alone
	whole   []byte          // for putting together a packet that is in parts
	long    [][]byte        // parts of a packet that is too long
}

// lane is what leaves by one socket with the next call.
type lane struct {
	wire    Wire
	sender  Sender
	bursts  []packet.Burst
	to      []*target // of each burst
	count   int       // of bursts
	several bool      // a burst may have several packets
}

func newOutbound(u *Engine, w *worker) *outbound {
	o := &outbound{
		user: u, worker: w, answer: newAnswerer(w.Tun.Writer()),
		memory: make([]byte, frameMemory), frames: make([][]byte, Frames), headers: make([]byte, headerMemory),
	}
	for _, s := range w.Sockets {
		o.lanes = append(o.lanes, lane{
			wire: s.Wire, sender: s.Sender, bursts: make([]packet.Burst, Bursts), to: make([]*target, Bursts),
			several: slices.Contains(s.Wire.Offloads(), "udp_gso"),
		})
	}
	return o
}

// aim makes a mesh the one whose packets are sent.
func (o *outbound) aim(f *forwarding) {
	o.aimed, o.laneOf = f, make([]*lane, 1+len(f.binds))
	for i, bind := range f.binds {
		if socket := o.worker.socketOf(bind); socket != nowhere {
			o.laneOf[1+i] = &o.lanes[socket]
		}
	}
}

func (o *outbound) String() string { return "tun to wire" }

// Run implements Loop.
func (o *outbound) Run(context.Context) error {
	life := &o.worker.loops[tunToWire]
	defer life.end()
	for {
		n, err := o.worker.Tun.Read(o.memory, o.frames)
		if n > 0 {
			o.forward(o.frames[:n])
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if life.woken(n, o.worker.Tun.Wake) {
				return nil
			}
		case err != nil && life.stopping.Load():
			return nil
		case err != nil:
			return fmt.Errorf("read from TUN: %w", err)
		}
	}
}

// forward routes a batch of frames and sends their packets.
func (o *outbound) forward(frames [][]byte) {
	f := o.user.mesh.Load()
	if f != o.aimed {
		o.aim(f)
	}
	o.flows = o.worker.flows.begin(tunToWire, len(frames))
	packets := 0
	for _, frame := range frames {
		packets += o.frame(f, frame)
	}
	o.flows.end()
	o.flush()
	o.worker.calls[mesh.TunRead].add(len(frames), packets)
}

// frame routes one frame, whose packets all go the same way, and returns how many
// there are.
func (o *outbound) frame(f *forwarding, frame []byte) int {
	h, b, ok := virtio.Parse(frame)
	if !ok {
		o.user.nobody.drop(mesh.Malformed, 1)
		return 1
	}
	if h.GSO == virtio.None {
		if !h.Complete(b) {
			o.user.nobody.drop(mesh.Malformed, 1)
		} else if to, tos := o.route(f, b, 1); to != nil {
			o.flows.sent(b, 1, len(b))
			o.packet(to, tos, b)
		}
		return 1
	}
	segments, ok := h.Segment(b)
	if !ok {
		o.user.nobody.drop(mesh.Malformed, 1)
		return 1
	}
	if to, tos := o.route(f, b, segments.Len()); to != nil {
		o.flows.sent(b, segments.Len(), len(b)+(segments.Len()-1)*segments.HeaderLen())
		o.segment(&segments, to, tos)
	}
	return segments.Len()
}

// packet sends one packet.
func (o *outbound) packet(to *target, tos uint8, b []byte) {
	if !to.carries(len(b)) {
		o.tooLong(to, tos, b)
		return
	}
	o.burst(to, tos, len(b)).Add(b)
}

// tooLong deals with a packet that the path to its peer does not carry, given in parts. No packet
// passes those that were added before.
func (o *outbound) tooLong(to *target, tos uint8, parts ...[]byte) {
	o.flush()
	one := packet.Burst{Addr: to.addr, TOS: tos, Parts: o.long[:0]}
	one.Add(parts...)
	o.long = one.Parts
	o.refusedOne(o.lane(to), &one, to, syscall.EMSGSIZE)
}

// segment sends a superpacket as what it stands for. Only headers are written:
// the payload goes from where it lies.
func (o *outbound) segment(s *virtio.Segments, to *target, tos uint8) {
	for i := range s.Len() {
		if o.used+s.HeaderLen() > len(o.headers) {
			o.flush()
		}
		payload := s.Payload(i)
		if !to.carries(s.HeaderLen() + len(payload)) {
			o.tooLong(to, tos, s.Header(i, o.headers[o.used:]), payload)
			continue
		}
		burst := o.burst(to, tos, s.HeaderLen()+len(payload)) // may flush
		header := s.Header(i, o.headers[o.used:])
		o.used += len(header)
		burst.Add(header, payload)
	}
}

// route decides about a packet, or the count that a superpacket stands for, and
// makes it ready for the wire. to is nil if it ends here, counted; tos is that of
// the outer header.
func (o *outbound) route(f *forwarding, b []byte, count int) (to *target, tos uint8) {
	h, ok := packet.Parse(b)
	if !ok {
		o.user.nobody.drop(mesh.Malformed, count)
		return nil, 0
	}
	if h.Dst.Is6() && h.Dst.IsLinkLocalMulticast() {
		// The kernel itself, greeting the link (MLD, RFC 3810): there is none
		// behind a TUN, and counting it would show losses on an idle host.
		return nil, 0
	}
	if !f.isOwn(h.Src) {
		if f.isReturned(h) {
			o.user.nobody.drop(mesh.NoRoute, count)
			o.answer.send(f, packet.NoRoute, b, nil)
			return nil, 0
		}
		// Its receiver would drop it as spoofed, in our name. Nothing is ever answered to
		// such a source: whoever has the address has not sent this.
		o.user.nobody.drop(mesh.ForeignSource, count)
		return nil, 0
	}
	i := f.table.Find(h.Dst)
	if i < 0 {
		i = f.table.Carrier(i)
	}
	if i == table.None || i == f.self {
		o.user.nobody.drop(mesh.NoRoute, count)
		o.answer.send(f, packet.NoRoute, b, nil)
		return nil, 0
	}
	if f.sealed {
		// The interface that encrypts is away, or its route is. Connections that begin should fail at once,
		// and those that stand last until it is back: that is what net unreachable does to TCP (RFC 1122
		// section 4.2.3.9).
		f.peers[i].drop(mesh.NotEncrypted, count)
		o.answer.send(f, packet.NoRoute, b, nil)
		return nil, 0
	}
	to = f.peers[i].active.Load()
	if h.TTL <= 1 {
		to.drop(mesh.TTLExpired, count)
		o.answer.send(f, packet.TimeExceeded, b, nil)
		return nil, 0
	}
	if o.lane(to) == nil {
		if to = o.another(&f.peers[i]); to == nil {
			f.peers[i].drop(mesh.SendError, count)
			return nil, 0
		}
	}
	packet.DecrementTTL(b)
	o.user.mark(h.TOS)
	return to, h.TOS // DSCP copied (RFC 2983 uniform), ECN per RFC 6040 normal mode
}

// isReturned tells whether a packet, of which this node is not the source, is one that a peer sent to this
// node and that the kernel has routed back into the TUN: nothing on this host has its destination, such as
// a subnet whose bridge is not there yet. Its sender is a member of the mesh, and has to be told.
func (f *forwarding) isReturned(h packet.Header) bool {
	return f.table.Owns(h.Dst, f.self) && f.table.Lookup(h.Src) != table.None
}

// lookBack is how many bursts a packet may pass to join one of its peer. Packets
// of one peer never pass each other.
const lookBack = 8

// lane returns where packets for a target wait; nil if nothing can be sent there, which route finds out.
func (o *outbound) lane(to *target) *lane { return o.laneOf[1+to.from] }

// another returns the first target of a peer that a socket is there for; nil without one. The mesh may be
// ahead of the sockets: they come with Apply, after Prepare.
func (o *outbound) another(p *peer) *target {
	for i := range p.targets {
		if o.lane(&p.targets[i]) != nil {
			return &p.targets[i]
		}
	}
	return nil
}

// burst returns where to add the next packet of a size for a target.
func (o *outbound) burst(to *target, tos uint8, size int) *packet.Burst {
	l := o.lane(to)
	if l.several {
		for i := l.count - 1; i >= 0 && i >= l.count-lookBack; i-- {
			if l.to[i].known != to.known {
				continue
			}
			if b := &l.bursts[i]; l.to[i] == to && b.TOS == tos && b.Fits(size) {
				return b
			}
			break
		}
	}
	if l.count == len(l.bursts) {
		o.flush()
	}
	b := &l.bursts[l.count]
	*b = packet.Burst{Addr: to.addr, TOS: tos, Parts: b.Parts[:0]}
	l.to[l.count] = to
	l.count++
	return b
}

// flush hands all bursts to the sockets: all lanes at once, since they share the memory of headers.
func (o *outbound) flush() {
	for i := range o.lanes {
		if l := &o.lanes[i]; l.count > 0 {
			o.flushLane(l)
		}
	}
	o.used = 0
}

// flushLane hands the bursts of a lane to its socket. Whatever it refuses costs that burst alone.
func (o *outbound) flushLane(l *lane) {
	bs, to := l.bursts[:l.count], l.to[:l.count]
	for len(bs) > 0 {
		n, err := l.sender.Write(bs)
		o.sent(bs[:n], to[:n])
		if n == len(bs) {
			break
		}
		o.refused(l, &bs[n], to[n], err)
		bs, to = bs[n+1:], to[n+1:]
	}
	l.count = 0
}

// sent counts bursts that one call took.
func (o *outbound) sent(bs []packet.Burst, to []*target) {
	packets := 0
	for i := range bs {
		packets += bs[i].Packets
		to[i].sent(uint64(bs[i].Packets), uint64(bs[i].Bytes))
	}
	o.worker.calls[mesh.WireWrite].add(1, packets)
}

// refused deals with a burst that the socket did not take. If size may be the
// reason, its packets are tried one by one, and if those pass, sending several at
// once is what the kernel or the device cannot do.
func (o *outbound) refused(l *lane, b *packet.Burst, to *target, err error) {
	if b.Packets == 1 {
		o.refusedOne(l, b, to, err)
		return
	}
	cannot := errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINVAL)
	if !cannot && !errors.Is(err, syscall.EMSGSIZE) {
		to.drop(mesh.SendError, b.Packets)
		return
	}
	passed := 0
	for one := range b.Split {
		o.one[0] = one
		if _, err := l.sender.Write(o.one[:]); err != nil {
			o.refusedOne(l, &one, to, err)
			continue
		}
		passed++
		o.sent(o.one[:], []*target{to})
	}
	if cannot && passed == b.Packets {
		l.several = false
		o.worker.noSend.Store(true)
		o.user.options.Log.Warn("the kernel or a network device refuses several packets in one message: "+
			"sending one by one from now on", "error", err, "event", "offload_refused")
	}
}

// refusedOne deals with a packet that the socket did not take. One that is larger
// than the path goes in fragments, or its sender is told the size that fits.
func (o *outbound) refusedOne(l *lane, one *packet.Burst, to *target, err error) {
	b := one.Parts[0]
	if len(one.Parts) > 1 {
		o.whole = append(o.whole[:0], b...)
		for _, part := range one.Parts[1:] {
			o.whole = append(o.whole, part...)
		}
		b = o.whole
	}
	if errors.Is(err, syscall.EMSGSIZE) && packet.MayFragment(b) {
		if err = l.sender.WriteFragmented(one, to.outer()); err == nil {
			to.sent(1, uint64(one.Bytes))
			return
		}
	}
	if !errors.Is(err, syscall.EMSGSIZE) {
		to.drop(mesh.SendError, 1)
		return
	}
	to.drop(mesh.TooBig, 1)
	o.answer.send(o.aimed, packet.TooBig, b, func() int { return pathMTU(l.wire, to, b) })
}

// outer returns the size in bytes of the largest datagrams that reach the target; 0 if it is not known.
func (t *target) outer() int {
	if mtu := int(t.mtu.Load()); mtu != 0 {
		return mtu + t.header
	}
	return 0
}
