package daemon

import (
	"errors"
	"net/netip"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/dataplane/udp"
)

// queues is what the user engine moves packets through: as many pairs of a TUN
// queue and a UDP socket as count.
type queues struct {
	bind    netip.AddrPort
	count   int
	offload bool
	spread  bool // each pair but the first sends from a port of its own
}

// sockets are the open UDP sockets of all queues.
type sockets struct {
	receive []*udp.Conn // bound to the port of the mesh
	send    []*udp.Conn // the same ones, unless spread
}

// openSockets binds them, beside those that are open if there are any, or returns
// why it cannot, with none left open.
func openSockets(q queues, beside *sockets) (s *sockets, err error) {
	s = &sockets{}
	var group []*udp.Conn
	if beside != nil {
		group = beside.receive
	}
	if s.receive, err = udp.OpenGroup(q.bind, q.offload, q.count, group); err != nil {
		return nil, err
	}
	for i, conn := range s.receive {
		if q.spread && i > 0 {
			if conn, err = udp.Open(netip.AddrPortFrom(q.bind.Addr(), 0), q.offload); err != nil {
				return s, errors.Join(err, s.close())
			}
		}
		s.send = append(s.send, conn)
	}
	return s, nil
}

func (s *sockets) close() error {
	var errs []error
	for i, conn := range s.receive {
		errs = append(errs, conn.Close())
		if i < len(s.send) && s.send[i] != conn {
			errs = append(errs, s.send[i].Close())
		}
	}
	return errors.Join(errs...)
}

// overflows returns what the kernel dropped because a receive buffer was full.
func (s *sockets) overflows() (sum uint64, err error) {
	for _, conn := range s.receive {
		n, err := conn.Overflows()
		if err != nil {
			return 0, err
		}
		sum += uint64(n)
	}
	return sum, nil
}

// workers attaches a TUN queue to each socket. On an error none stays attached.
func (s *sockets) workers(device string, q queues) (ws []dataplane.Worker, err error) {
	defer func() {
		if err != nil {
			for _, w := range ws {
				err = errors.Join(err, w.Tun.Close())
			}
			ws = nil
		}
	}()
	for i, conn := range s.receive {
		queue, err := tun.Open(device, q.offload)
		if err != nil {
			return ws, err
		}
		wire := dataplane.Wire(conn)
		if s.send[i] != conn {
			wire = both{Conn: conn, send: s.send[i]}
		}
		ws = append(ws, dataplane.Worker{
			Tun: queue, Wire: wire, Receiver: conn.NewReceiver(dataplane.Datagrams), Sender: s.send[i].NewSender(dataplane.Bursts),
		})
	}
	return ws, nil
}

// both is a wire that receives on one socket and sends on another.
type both struct {
	*udp.Conn
	send *udp.Conn
}

func (b both) Close() error { return errors.Join(b.Conn.Close(), b.send.Close()) }
