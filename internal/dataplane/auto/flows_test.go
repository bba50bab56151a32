package auto

import (
	"errors"
	"net/netip"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// What both engines counted for a flow is summed.
func TestFlowsAreSummed(t *testing.T) {
	flow := func(port uint16) mesh.Flow {
		return mesh.Flow{Peer: "b", Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr("10.0.1.1"),
			LocalPort: port, RemotePort: 80, Protocol: 6}
	}
	r := newRig(t)
	r.kernel.flows = map[mesh.Flow]mesh.FlowCount{flow(1): {RxBytes: 5, RxPackets: 1}, flow(2): {TxBytes: 7}}
	r.user.flows = dataplane.FlowReading{Sampled: true,
		Counts: map[mesh.Flow]mesh.FlowCount{flow(1): {RxBytes: 50, RxPackets: 2}}}
	got, err := r.Flows()
	if err != nil || !got.Sampled || len(got.Counts) != 2 ||
		got.Counts[flow(1)] != (mesh.FlowCount{RxBytes: 55, RxPackets: 3}) ||
		got.Counts[flow(2)] != (mesh.FlowCount{TxBytes: 7}) {
		t.Errorf("%+v, %v", got, err)
	}
	r.user.flows.Counts = nil
	if got, err := r.Flows(); err != nil || len(got.Counts) != 2 {
		t.Errorf("without packets in user space: %+v, %v", got, err)
	}
	refused := errors.New("refused")
	r.kernel.fails["kernel.count"] = refused
	if err := r.CountFlows(true); !errors.Is(err, refused) {
		t.Errorf("an engine that cannot: %v", err)
	}
}
