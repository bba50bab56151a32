package dataplane

import (
	"context"
	"errors"
	"net"
	"time"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/table"
)

// inbound is the loop from the wire to the TUN. It trusts nobody: the outer
// source must be a listed node, the inner source must lie behind that node and
// the inner destination behind this one.
type inbound struct {
	user   *User
	batch  []packet.Packet
	peers  []*peer // sender of each packet of the batch
	answer *answerer
}

func (in *inbound) String() string { return "wire to tun" }

// receivePause keeps a socket that fails for want of memory, the only reason
// left for an unconnected one, from spinning.
const receivePause = 10 * time.Millisecond

// Run implements Loop. Closing the engine ends it.
func (in *inbound) Run(ctx context.Context) error {
	failing := false
	for {
		n, err := in.user.receiver.Read(in.batch)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			if !failing { // once for each row of failures, never for each packet
				in.user.log.Error("receiving fails, trying again", "error", err)
			}
			failing = true
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(receivePause):
				continue
			}
		}
		failing = false
		in.deliver(in.batch[:n])
	}
}

// deliver checks a batch and writes what remains of it to the TUN.
func (in *inbound) deliver(ps []packet.Packet) {
	f := in.user.mesh.Load()
	kept := 0
	for i := range ps {
		from := in.accept(f, &ps[i])
		if from == nil {
			continue
		}
		if i != kept {
			ps[i], ps[kept] = ps[kept], ps[i]
		}
		in.peers[kept] = from
		kept++
	}
	in.write(ps[:kept], in.peers[:kept])
}

// accept decides about one datagram and makes its packet ready for the TUN. It
// returns nil if the packet ends here, counted.
func (in *inbound) accept(f *forwarding, p *packet.Packet) *peer {
	sender := f.table.Sender(p.Addr.Addr())
	if sender == table.None || sender == f.self {
		in.user.nobody.drop(UnknownSender)
		return nil
	}
	from := &f.peers[sender]
	h, ok := packet.Parse(p.Data)
	if !ok || !packet.ValidChecksum(p.Data) {
		from.drop(Malformed)
		return nil
	}
	if f.table.Lookup(h.Src) != sender {
		from.drop(SpoofedSource)
		return nil
	}
	if f.table.Lookup(h.Dst) != f.self {
		from.drop(WrongDestination)
		return nil
	}
	tos, ok := packet.Decapsulate(h.TOS, p.TOS)
	if !ok {
		from.drop(Malformed)
		return nil
	}
	if h.TTL <= 1 {
		from.drop(TTLExpired)
		in.answer.send(f, packet.TimeExceeded, p.Data, nil)
		return nil
	}
	packet.DecrementTTL(p.Data)
	if tos != h.TOS {
		packet.SetTOS(p.Data, tos)
	}
	return from
}

// write delivers packets; one that the TUN refuses costs itself alone.
func (in *inbound) write(ps []packet.Packet, from []*peer) {
	now := time.Now()
	for len(ps) > 0 {
		n, err := in.user.tun.Write(ps)
		countReceived(ps[:n], from[:n], now)
		if err == nil {
			return
		}
		from[n].drop(WriteError)
		ps, from = ps[n+1:], from[n+1:]
	}
}

// countReceived adds up runs of packets from one peer, as bursts are.
func countReceived(ps []packet.Packet, from []*peer, now time.Time) {
	for i := 0; i < len(ps); {
		first, packets, bytes := from[i], uint64(0), uint64(0)
		for ; i < len(ps) && from[i] == first; i++ {
			packets++
			bytes += uint64(len(ps[i].Data))
		}
		first.received(packets, bytes, now)
	}
}
