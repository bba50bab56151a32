package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/mesh"
)

// Programs count flows while settings.flows is set, in a table that is made for it (bpf/flows.h). So programs
// are the same whether they count or not: those that do not have one test more, of a byte that stands beside
// others that each packet needs. To load other programs instead would take the verifier's time and touch each
// place where programs are attached.

// flowsOf is how many packets that come alone there are for one that is noted. Each of them costs some 450
// instructions; of a TCP stream between hosts that merge nothing that is 4 %, and a quarter of it 1 %.
const flowsOf = 4

// CountFlows has programs count flows from now on, or not any more. It costs next to nothing where it is so
// already, and does nothing without programs. It belongs to one goroutine, with Flows.
func (e *Engine) CountFlows(on bool) error {
	s := e.hold()
	if s.handle == nil {
		return nil
	}
	defer s.release()
	if on {
		if err := s.beginFlows(); err != nil {
			return err
		}
	}
	err := e.setFlows(on)
	if !on { // no program looks for it any more, or finds none
		err = errors.Join(err, s.endFlows())
	}
	return err
}

// setFlows tells programs whether to count flows, and one of how many packets.
func (e *Engine) setFlows(on bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	of := uint8(0)
	if on {
		of = cmp.Or(e.flowsOf, flowsOf)
	}
	if e.settings.Flows == of {
		return nil
	}
	return e.reconfigure(func(s *meshSettings) { s.Flows = of })
}

// beginFlows makes a table if there is none.
func (h *handle) beginFlows() error {
	if h.flows.Load() != nil {
		return nil
	}
	table, err := ebpf.NewMap(h.flowTable)
	if err != nil {
		return fmt.Errorf("make a table of flows: %w", err)
	}
	// The kernel waits until no program uses what was there, so this is no work for a holder of mu.
	if err := h.Flowing.Put(uint32(0), uint32(table.FD())); err != nil {
		return errors.Join(fmt.Errorf("give programs the table of flows: %w", err), table.Close())
	}
	h.flows.Store(table)
	return nil
}

// endFlows frees the table, also that which a meshd has left that was killed.
func (h *handle) endFlows() error {
	err := h.Flowing.Delete(uint32(0))
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	return errors.Join(err, h.flows.Swap(nil).Close())
}

// Flows returns what programs have counted for flows, which are estimates: see flowsOf. It is empty unless
// they do.
func (e *Engine) Flows() (map[mesh.Flow]mesh.FlowCount, error) {
	type outcome struct {
		counts map[mesh.Flow]mesh.FlowCount
		err    error
	}
	o := look(e, func(s *shown) outcome {
		counts, err := s.readFlows()
		return outcome{counts, err}
	})
	return o.counts, o.err
}

// readFlows reads the table.
func (s *shown) readFlows() (map[mesh.Flow]mesh.FlowCount, error) {
	if s.handle == nil || s.flows.Load() == nil {
		return nil, nil
	}
	raw := map[meshFlow]meshFlowCount{}
	if err := read(s.flows.Load(), raw); err != nil {
		return nil, fmt.Errorf("read the table of flows: %w", err)
	}
	names := make(map[uint32]string, len(s.numbers))
	for name, number := range s.numbers {
		names[number] = name
	}
	counts := make(map[mesh.Flow]mesh.FlowCount, len(raw))
	for key, c := range raw {
		if name, known := names[uint32(key.Number)]; known { // its node may have left the mesh
			counts[key.flow(name)] = mesh.FlowCount{RxPackets: c.RxPackets, RxBytes: c.RxBytes,
				TxPackets: c.TxPackets, TxBytes: c.TxBytes}
		}
	}
	return counts, nil
}

// flow returns what a key stands for.
func (f meshFlow) flow(peer string) mesh.Flow {
	return mesh.Flow{Peer: peer, Local: addressOf(f.Local, f.V6), Remote: addressOf(f.Remote, f.V6),
		LocalPort: networkOrder(f.LocalPort), RemotePort: networkOrder(f.RemotePort), Protocol: f.Protocol}
}

// addressOf returns the address of a key.
func addressOf(a [16]byte, v6 uint8) netip.Addr {
	if v6 != 0 {
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte(a[:4]))
}
