package lookup

import (
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/plan"
)

// A Counted knows what rules about who may reach whom have done, by their names, and how many packets were
// dropped, altogether and in the last minute.
type Counted interface {
	Allowed() (passed func(rule string) (packets, bytes uint64), dropped, lately uint64)
}

// Allow tells what the rules of the file did on this node. A rule about other nodes let nothing pass here.
func Allow(p *plan.Plan, by Counted) control.Allow {
	rules := p.Config.Allow
	passed, dropped, lately := by.Allowed()
	all := control.Allow{Rules: make([]control.Rule, len(rules)), Dropped: dropped, DroppedLastMinute: lately}
	for i, r := range rules {
		packets, bytes := passed(r.Name)
		all.Rules[i] = control.Rule{Name: r.Name, Packets: packets, Bytes: bytes}
	}
	return all
}
