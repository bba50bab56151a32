package words

import (
	"strings"
	"testing"

	"example.org/meshd/internal/control"
)

func TestHealth(t *testing.T) {
	for name, test := range map[string]struct {
		health   control.Health
		warnings []string
		want     string
	}{
		"well":            {control.Health{Level: control.OK}, nil, "health   OK"},
		"an older daemon": {control.Health{}, []string{"a is wrong: do b", "c"}, "! a is wrong: do b\n! c"},
		"older and well":  {control.Health{}, nil, ""},
		"problems, as the daemon sorted them": {control.Health{Level: control.Failed, Problems: []control.Problem{
			{Level: control.Failed, Kind: "rules_failed", Text: "cannot set rules", Remedy: "modprobe nf_tables"},
			{Level: control.Degraded, Kind: "peer_down", Peer: "edge-2", Text: "edge-2 is down"},
			{Level: control.Info, Kind: "unmerged", Text: "TCP reception is slow"},
		}}, []string{"repeats what the problems say"}, `health   FAILED
! failed rules_failed: cannot set rules
  remedy: modprobe nf_tables
! degraded peer_down edge-2: edge-2 is down
! info unmerged: TCP reception is slow`},
		"several lines": {control.Health{Level: control.Degraded, Problems: []control.Problem{
			{Level: control.Degraded, Kind: "file_rejected", Text: "a:1: x\na:2: y"},
		}}, nil, "health   DEGRADED\n! degraded file_rejected: a:1: x\n  a:2: y"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(Health(test.health, test.warnings), "\n"); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}
