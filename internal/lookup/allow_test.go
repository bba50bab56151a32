package lookup

import (
	"reflect"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/plan"
)

// counted is what rules did.
type counted struct {
	passed          map[string][2]uint64
	dropped, lately uint64
}

func (c counted) Allowed() (passed func(string) (packets, bytes uint64), dropped, lately uint64) {
	return func(rule string) (packets, bytes uint64) { return c.passed[rule][0], c.passed[rule][1] }, c.dropped,
		c.lately
}

// The rules are those of the file, in its order, whatever is counted: a rule about other nodes let nothing
// pass here, and what a rule did that is gone is not told.
func TestAllow(t *testing.T) {
	for _, test := range []struct {
		name  string
		rules []string
		by    counted
		want  control.Allow
	}{
		{"no rules", nil, counted{}, control.Allow{Rules: []control.Rule{}}},
		{"no rules any more", nil, counted{map[string][2]uint64{"web": {1, 2}}, 3, 0},
			control.Allow{Rules: []control.Rule{}, Dropped: 3}},
		{"some", []string{"web", "#2", "db"},
			counted{map[string][2]uint64{"db": {5, 500}, "web": {1, 40}, "x": {9, 9}}, 7, 2},
			control.Allow{Rules: []control.Rule{{Name: "web", Packets: 1, Bytes: 40}, {Name: "#2"},
				{Name: "db", Packets: 5, Bytes: 500}}, Dropped: 7, DroppedLastMinute: 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &config.Config{}
			for _, name := range test.rules {
				c.Allow = append(c.Allow, config.Allow{Name: name})
			}
			if got := Allow(&plan.Plan{Config: c}, test.by); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}
