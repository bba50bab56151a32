package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/table"
)

// outbound is the loop from the TUN to the wire.
type outbound struct {
	user   *User
	batch  []packet.Packet
	peers  []*peer // receiver of each packet of the batch
	answer *answerer
}

func (o *outbound) String() string { return "tun to wire" }

// Run implements Loop. Closing the engine ends it.
func (o *outbound) Run(context.Context) error {
	for {
		n, err := o.user.tun.Read(o.batch)
		if errors.Is(err, fs.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from TUN: %w", err)
		}
		o.forward(o.batch[:n])
	}
}

// forward routes a batch and sends what remains of it. Routed packets move to
// the front by swapping, since each packet owns its buffer.
func (o *outbound) forward(ps []packet.Packet) {
	f := o.user.mesh.Load()
	kept := 0
	for i := range ps {
		to := o.route(f, &ps[i])
		if to == nil {
			continue
		}
		if i != kept {
			ps[i], ps[kept] = ps[kept], ps[i]
		}
		o.peers[kept] = to
		kept++
	}
	o.send(f, ps[:kept], o.peers[:kept])
}

// route decides about one packet and makes it ready for the wire. It returns
// nil if the packet ends here, counted.
func (o *outbound) route(f *forwarding, p *packet.Packet) *peer {
	h, ok := packet.Parse(p.Data)
	if !ok {
		o.user.nobody.drop(Malformed)
		return nil
	}
	if h.Dst.Is6() && h.Dst.IsLinkLocalMulticast() {
		// The kernel itself, greeting the link (MLD, RFC 3810): there is none
		// behind a TUN, and counting it would show losses on an idle host.
		return nil
	}
	i := f.table.Lookup(h.Dst)
	if i == table.None || i == f.self {
		o.user.nobody.drop(NoRoute)
		o.answer.send(f, packet.NoRoute, p.Data, nil)
		return nil
	}
	to := &f.peers[i]
	if h.TTL <= 1 {
		to.drop(TTLExpired)
		o.answer.send(f, packet.TimeExceeded, p.Data, nil)
		return nil
	}
	packet.DecrementTTL(p.Data)
	p.Addr = to.underlay
	p.TOS = h.TOS // DSCP copied (RFC 2983 uniform), ECN per RFC 6040 normal mode
	return to
}

// send hands the packets to the socket. Whatever it refuses costs that packet
// alone.
func (o *outbound) send(f *forwarding, ps []packet.Packet, to []*peer) {
	for len(ps) > 0 {
		n, err := o.user.sender.Write(ps)
		countSent(ps[:n], to[:n])
		if n == len(ps) {
			return
		}
		o.refused(f, &ps[n], to[n], err)
		ps, to = ps[n+1:], to[n+1:]
	}
}

// refused deals with a packet that the socket did not take. One that is larger
// than the path goes in fragments, or its sender is told the size that fits.
func (o *outbound) refused(f *forwarding, p *packet.Packet, to *peer, err error) {
	if errors.Is(err, syscall.EMSGSIZE) && packet.MayFragment(p.Data) {
		if err = o.user.sender.WriteFragmented(p); err == nil {
			to.sent(1, uint64(len(p.Data)))
			return
		}
	}
	if !errors.Is(err, syscall.EMSGSIZE) {
		to.drop(SendError)
		return
	}
	to.drop(TooBig)
	o.answer.send(f, packet.TooBig, p.Data, func() int { return o.user.pathMTU(f, to.underlay, p.Data) })
}

// countSent adds up runs of packets to one peer, as bursts are.
func countSent(ps []packet.Packet, to []*peer) {
	for i := 0; i < len(ps); {
		first, packets, bytes := to[i], uint64(0), uint64(0)
		for ; i < len(ps) && to[i] == first; i++ {
			packets++
			bytes += uint64(len(ps[i].Data))
		}
		first.sent(packets, bytes)
	}
}
