package user

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"example.org/meshd/internal/dataplane/gro"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/table"
)

// inbound is the loop from one socket to the TUN. It trusts nobody: the outer
// source must be a listed node, the inner source must lie behind that node and
// the inner destination behind this one.
type inbound struct {
	user   *Engine
	worker *worker
	number int     // of the loop, among the worker's
	socket *Socket // of the worker
	batch  []packet.Datagram
	merge  *gro.Coalescer
	whole  cutter
	peers  []*peer // sender of each group of packets
	plain  [][]byte
	write  func(parts [][]byte) error
	answer *answerer

	replies echoes
	allowed way // of the last packet that was; nearly always the next one has the same
}

// way is which packets have the same answer to whether their sender may send them: who owns a prefix never
// changes in a mesh.
type way struct {
	mesh     *forwarding
	sender   int32
	src, dst netip.Addr
}

// newInbound returns the loop of one of the sockets of a worker.
func newInbound(u *Engine, w *worker, socket int) *inbound {
	datagrams, own := Datagrams, &w.Sockets[socket]
	if slices.Contains(own.Wire.Offloads(), "udp_gro") {
		datagrams = DatagramsMerged
	}
	offloads := w.Tun.Offloads()
	return &inbound{
		user: u, worker: w, number: wireToTun + socket, socket: own, batch: packet.NewDatagrams(datagrams),
		merge: gro.New(slices.Contains(offloads, "tso4"), slices.Contains(offloads, "uso")),
		write: w.Tun.Writer(), answer: newAnswerer(w.Tun.Writer()),
		replies: newEchoes(w, w.newEchoSender),
	}
}

func (in *inbound) String() string { return in.worker.name(in.number) }

// What is done about a socket that fails: a pause, so that it does not spin, and
// after some failures in a row, with nothing received between them, the end.
const (
	receivePause    = 10 * time.Millisecond
	receiveFailures = 50
)

// Run implements Loop.
func (in *inbound) Run(ctx context.Context) error {
	life := &in.worker.loops[in.number]
	defer life.end()
	failures := 0
	for {
		n, err := in.socket.Receiver.Read(in.batch)
		if n > 0 {
			failures = 0
			in.deliver(in.batch[:n])
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if life.woken(n, in.socket.Wire.Wake) {
				return nil
			}
		case err != nil && life.stopping.Load():
			return nil
		case err != nil:
			if failures++; failures == receiveFailures {
				return fmt.Errorf("receive from the wire: %w", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(receivePause):
			}
		}
	}
}

// deliver checks a batch and writes what remains of it to the TUN.
func (in *inbound) deliver(ds []packet.Datagram) {
	f := in.user.mesh.Load()
	in.merge.Reset()
	in.whole.reset()
	packets := 0
	for i := range ds {
		packets += in.datagram(f, &ds[i])
	}
	in.worker.calls[mesh.WireRead].add(1, packets)
	in.flush()
	_ = in.replies.flush() // whoever asked counts what he does not get
}

// datagram checks the packets of one message, which are all of one sender, and
// returns how many there were.
func (in *inbound) datagram(f *forwarding, d *packet.Datagram) (packets int) {
	sender := f.table.Sender(d.Addr.Addr())
	if d.IsWhole() {
		d = in.whole.cut(d)
	}
	empty := len(d.Data) == 0
	for b, ok := d.Next(); ok || empty; b, ok = d.Next() {
		empty = false
		packets++
		if sender == table.None || sender == f.self {
			in.user.nobody.drop(mesh.UnknownSender, 1)
			in.user.strangers.note(d.Addr.Addr(), mesh.UnknownSender, "", b, time.Now())
			continue
		}
		if f.sealed && !f.peers[sender].lagging.Load() { // it may be anybody's, in the name of a node
			f.peers[sender].drop(mesh.Cleartext, 1)
			continue
		}
		if in.accept(f, sender, b, d) {
			group := in.merge.Add(b)
			if group == len(in.peers) {
				in.peers = append(in.peers, nil)
			}
			in.peers[group] = &f.peers[sender]
		}
	}
	return packets
}

// accept decides about one packet and makes it ready for the TUN. It returns
// false if the packet ends here: counted, or for meshd itself.
func (in *inbound) accept(f *forwarding, sender int32, b []byte, d *packet.Datagram) bool {
	from := &f.peers[sender]
	h, ok := packet.Parse(b)
	if !ok || !packet.ValidChecksum(b) {
		from.drop(mesh.Malformed, 1)
		return false
	}
	if way := (way{f, sender, h.Src, h.Dst}); way != in.allowed {
		if f.table.Find(h.Src) != sender && !f.table.Owns(h.Src, sender) {
			in.lie(f, sender, mesh.SpoofedSource, b, d)
			return false
		}
		if f.table.Find(h.Dst) != f.self && !f.table.Owns(h.Dst, f.self) {
			in.lie(f, sender, mesh.WrongDestination, b, d)
			return false
		}
		in.allowed = way
	}
	tos, ok := packet.Decapsulate(h.TOS, d.TOS)
	if !ok {
		from.drop(mesh.Malformed, 1)
		return false
	}
	if h.TTL <= 1 {
		from.drop(mesh.TTLExpired, 1)
		in.answer.send(f, packet.TimeExceeded, b, nil)
		return false
	}
	packet.DecrementTTL(b)
	if tos != h.TOS {
		packet.SetTOS(b, tos)
	}
	return !in.echo(f, sender, h, b, d.Addr)
}

// lie drops a packet whose inner addresses its sender may not use, and remembers which they were.
func (in *inbound) lie(f *forwarding, sender int32, reason mesh.Drop, b []byte, d *packet.Datagram) {
	f.peers[sender].drop(reason, 1)
	in.user.strangers.note(d.Addr.Addr(), reason, f.table.Name(sender), b, time.Now())
}

// flush delivers all groups; one that the TUN refuses costs itself alone.
func (in *inbound) flush() {
	now := time.Now()
	packets := 0
	flows := in.worker.flows.begin(in.number, in.merge.Len())
	for i := range in.merge.Len() {
		group := in.merge.Packets(i)
		packets += len(group)
		if err := in.write(in.merge.Frame(i)); err != nil {
			in.refused(group, in.peers[i], err, now)
			continue
		}
		size := sizes(group)
		in.peers[i].received(uint64(len(group)), size, now)
		flows.received(group[0], len(group), size)
	}
	flows.end()
	in.worker.calls[mesh.TunWrite].add(in.merge.Len(), packets)
}

func sizes(packets [][]byte) (bytes uint64) {
	for _, b := range packets {
		bytes += uint64(len(b))
	}
	return bytes
}

// refused delivers the packets of a group one by one. If those pass, merging is
// what the kernel does not understand.
func (in *inbound) refused(group [][]byte, from *peer, err error, now time.Time) {
	if len(group) == 1 {
		from.drop(mesh.WriteError, 1)
		return
	}
	passed := 0
	for _, b := range group {
		in.plain = gro.Plain(in.plain[:0], b)
		if err := in.write(in.plain); err != nil {
			from.drop(mesh.WriteError, 1)
			continue
		}
		passed++
		from.received(1, uint64(len(b)), now)
	}
	if errors.Is(err, syscall.EINVAL) && passed == len(group) {
		in.merge.Off()
		in.worker.noMerge.Store(true)
		in.user.options.Log.Warn("the kernel refuses superpackets: delivering packets one by one from now on",
			"error", err, "event", "offload_refused")
	}
}
