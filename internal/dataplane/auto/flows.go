package auto

import (
	"errors"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// CountFlows implements dataplane.FlowCounter. Each engine counts the packets that it moves.
func (e *Engine) CountFlows(on bool) error {
	return errors.Join(e.user.CountFlows(on), e.kernel.CountFlows(on))
}

// Flows implements dataplane.FlowCounter. Both engines take samples.
func (e *Engine) Flows() (dataplane.FlowReading, error) {
	r, userErr := e.user.Flows()
	counts, kernelErr := e.kernel.Flows()
	if r.Counts == nil {
		r.Counts = map[mesh.Flow]mesh.FlowCount{}
	}
	for flow, count := range counts {
		sum := r.Counts[flow]
		sum.Add(count)
		r.Counts[flow] = sum
	}
	return r, errors.Join(userErr, kernelErr)
}
