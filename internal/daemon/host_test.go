package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"

	"example.org/meshd/internal/container"
	"example.org/meshd/internal/handover"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/rules"
)

// newHost returns a host that is only looked at.
func newHost(t *testing.T, e engine) *host {
	t.Helper()
	for _, name := range []string{"NOTIFY_SOCKET", "MESHD_DESCRIPTORS"} {
		t.Setenv(name, "")
	}
	log := slog.New(slog.DiscardHandler)
	return &host{log: log, engine: e, service: handover.New(log), rules: rules.New(log),
		legacy: rules.NewLegacy(log),
		files:  container.NewKeeper(filepath.Join(t.TempDir(), "files"), log)}
}

// The order in which a host is changed is what keeps packets from leaving bare, and from being lost.
func TestOrderOfParts(t *testing.T) {
	p := plantest.Make(t, file)
	elsewhere := plantest.Make(t, "network.port = 8286\n"+file)
	for _, test := range []struct {
		name     string
		old      *plan.Plan
		takeover bool
		order    [][]string // each list in this order
		absent   []string
	}{
		{"the first plan", nil, false, [][]string{
			{"port", "routes", "backstops", "TUN", "interface", "rules", "files", "packets", "forwarding"},
			{"metrics", "packets"}, {"introduction", "packets"},
			{"interface", "rules", "programs", "legacy rules", "packets"}, // they are loaded beside the rules
		}, nil},
		{"another plan", p, false, [][]string{
			{"port", "backstops", "TUN", "interface", "packets"}, {"rules", "port"}, // both at once
			{"rules", "files", "packets", "forwarding"}, {"introduction", "packets"},
		}, []string{"routes"}},
		{"another port", elsewhere, false, [][]string{
			{"port", "backstops", "TUN", "interface", "rules", "files", "packets", "forwarding"},
		}, []string{"routes"}},
		{"packets wait in queues of an earlier run", nil, true, [][]string{
			{"port", "routes", "backstops", "packets", "interface", "rules", "files"}, {"introduction", "packets"},
			{"rules", "forwarding"},
		}, []string{"TUN"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, &quiet{})
			h.takeover = test.takeover
			parts, err := inOrder(h.parts(step{old: test.old, next: p}))
			if err != nil {
				t.Fatal(err)
			}
			got := namesOf(parts)
			for _, order := range test.order {
				at := -1
				for _, name := range order {
					next := slices.Index(got, name)
					if next <= at {
						t.Errorf("%s is not where it should be: %q, want %q", name, got, order)
					}
					at = next
				}
			}
			for _, name := range test.absent {
				if slices.Contains(got, name) {
					t.Errorf("%s is among %q", name, got)
				}
			}
		})
	}
}

// What the mesh works without is no reason to reject the first plan; later it is not given up.
func TestOptionalParts(t *testing.T) {
	p := plantest.Make(t, file)
	other := plantest.Make(t, "metrics = {listen = \"127.0.0.1:1\"}\n"+file)
	for _, test := range []struct {
		name   string
		step   step
		broken bool // files are not as planned
		want   map[string]bool
	}{
		{"the first plan", step{next: p}, false,
			map[string]bool{"metrics": true, "rules": true, "files": true, "port": false,
				"packets": false, "backstops": false, "interface": false, "routes": false, "forwarding": true}},
		{"a later one", step{old: p, next: p}, false,
			map[string]bool{"metrics": true, "rules": false, "files": false}},
		{"another address of metrics", step{old: p, next: other}, false, map[string]bool{"metrics": false}},
		{"what is broken already", step{old: p, next: p}, true, map[string]bool{"files": true, "rules": false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, &quiet{})
			if test.broken {
				breakFiles(t, h.files, p)
			}
			for _, one := range h.parts(test.step) {
				if want, asked := test.want[one.name]; asked && one.optional != want {
					t.Errorf("%s is optional: %v", one.name, one.optional)
				}
			}
		})
	}
}

// breakFiles has files kept where none can be written.
func breakFiles(t *testing.T, files *container.Keeper, p *plan.Plan) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- files.Run(ctx) }()
	broken := p.Container
	broken.SubnetEnv = "/proc/none/subnet.env"
	if _, err := files.Set(ctx, broken); err == nil || files.Fine() {
		t.Fatalf("files are fine: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRepairedChanges(t *testing.T) {
	if got := repaired(mesh.ChangedRoute, nil); got != nil {
		t.Errorf("%+v", got)
	}
	want := []mesh.Change{{Op: mesh.Repaired, Kind: mesh.ChangedRoute, Subject: "a"},
		{Op: mesh.Repaired, Kind: mesh.ChangedRoute, Subject: "b"}}
	if got := repaired(mesh.ChangedRoute, []string{"a", "b"}); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
