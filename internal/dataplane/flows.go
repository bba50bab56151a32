package dataplane

import "example.org/meshd/internal/mesh"

// A FlowCounter can tell which flows use the bandwidth. It counts only while it is asked to: until then it
// costs packets nothing. Both methods belong to one goroutine, which need not be the owner's.
type FlowCounter interface {
	// CountFlows has flows counted from now on, or not any more. It is to be called again every second or so
	// while they are: what moves packets may have been replaced meanwhile. Counts begin at zero. What could
	// not be begun is an error, and changes nothing for packets.
	CountFlows(on bool) error
	// Flows returns what was counted by now. The table is bounded: flows that came to a full one take the
	// places of idle ones.
	Flows() (FlowReading, error)
}

// FlowReading is one reading of the table of flows.
type FlowReading struct {
	Counts  map[mesh.Flow]mesh.FlowCount // belongs to whoever gets it
	Sampled bool                         // some were counted by samples, and are estimates
	// Sealed tells that packets travel encrypted, by another interface: what is counted is not all of them.
	Sealed bool
}
