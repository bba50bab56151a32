package mesh_test

import (
	"testing"

	"example.org/meshd/internal/mesh"
)

// The words are part of the API, and a greater severity is worse.
func TestSeverity(t *testing.T) {
	words := map[mesh.Severity]string{mesh.Info: "info", mesh.Degraded: "degraded", mesh.Failed: "failed"}
	for severity, want := range words {
		if got := severity.String(); got != want {
			t.Errorf("%d is %q, want %q", severity, got, want)
		}
	}
	if mesh.Info >= mesh.Degraded || mesh.Degraded >= mesh.Failed {
		t.Error("the severities are in another order")
	}
}

func TestWorst(t *testing.T) {
	of := func(all ...mesh.Severity) (cs []mesh.Condition) {
		for _, s := range all {
			cs = append(cs, mesh.Condition{Severity: s})
		}
		return cs
	}
	for _, test := range []struct {
		name       string
		conditions []mesh.Condition
		want       mesh.Severity
	}{
		{"none", nil, mesh.Info},
		{"worth knowing", of(mesh.Info), mesh.Info},
		{"in the middle", of(mesh.Info, mesh.Failed, mesh.Degraded), mesh.Failed},
		{"the last", of(mesh.Info, mesh.Degraded), mesh.Degraded},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := mesh.Worst(test.conditions); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestHas(t *testing.T) {
	cs := []mesh.Condition{{Kind: mesh.Unmerged}, {Kind: mesh.RulesFailed, Subject: "x"}}
	if !mesh.Has(cs, mesh.RulesFailed) || mesh.Has(cs, mesh.FilesFailed) || mesh.Has(nil, mesh.Unmerged) {
		t.Errorf("%+v", cs)
	}
}
