package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/container"
	"example.org/meshd/internal/handover"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/rules"
)

// newHost returns a host that is only looked at.
func newHost(t *testing.T, e engine) *host {
	t.Helper()
	for _, name := range []string{"NOTIFY_SOCKET", "MESHD_DESCRIPTORS"} {
		t.Setenv(name, "")
	}
	log := slog.New(slog.DiscardHandler)
	return &host{log: log, engine: e, service: handover.New(log), rules: rules.New(log), legacy: rules.NewLegacy(log),
		files: newContainerTask(Options{Log: log, Socket: filepath.Join(t.TempDir(), "s.sock")})}
}

// The order in which a host is changed is what keeps packets from leaving bare, and from being lost.
func TestOrderOfParts(t *testing.T) {
	p := planned(t, file)
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
		}, nil},
		{"another plan", p, false, [][]string{
			{"port", "backstops", "TUN", "interface", "rules", "files", "packets", "forwarding"},
			{"introduction", "packets"},
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
	p := planned(t, file)
	other := planned(t, "metrics = {listen = \"127.0.0.1:1\"}\n"+file)
	failed := "failed"
	for _, test := range []struct {
		name   string
		step   step
		broken bool // files are not as planned
		want   map[string]bool
	}{
		{"the first plan", step{next: p}, false, map[string]bool{"metrics": true, "rules": true, "files": true, "port": false,
			"packets": false, "backstops": false, "interface": false, "routes": false, "forwarding": true}},
		{"a later one", step{old: p, next: p}, false, map[string]bool{"metrics": true, "rules": false, "files": false}},
		{"another address of metrics", step{old: p, next: other}, false, map[string]bool{"metrics": false}},
		{"what is broken already", step{old: p, next: p}, true, map[string]bool{"files": true, "rules": false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, &quiet{})
			if test.broken {
				h.files.failure.Store(&failed)
			}
			for _, one := range h.parts(test.step) {
				if want, asked := test.want[one.name]; asked && one.optional != want {
					t.Errorf("%s is optional: %v", one.name, one.optional)
				}
			}
		})
	}
}

func TestRepairedChanges(t *testing.T) {
	if got := repaired(mesh.ChangedRoute, nil); got != nil {
		t.Errorf("%+v", got)
	}
	want := []mesh.Change{{Op: mesh.Repaired, Kind: mesh.ChangedRoute, Subject: "a"}, {Op: mesh.Repaired, Kind: mesh.ChangedRoute, Subject: "b"}}
	if got := repaired(mesh.ChangedRoute, []string{"a", "b"}); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

// keepingFiles runs a test with a task that keeps a file for container runtimes.
func keepingFiles(t *testing.T, test func(t *testing.T, task *containerTask, log *events, p *plan.Plan)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := planned(t, file)
		p.Container = container.Settings{SubnetEnv: filepath.Join(dir, "subnet.env"), Networks: p.Container.Networks,
			Subnets: p.Container.Subnets, MTU: 1400}
		log := &events{}
		task := newContainerTask(Options{Log: slog.New(log), Socket: filepath.Join(dir, "s.sock")})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- task.Run(ctx) }()
		test(t, task, log, p)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Files are written with a plan, kept as they are, and go back to those of the plan before.
func TestFilesForContainers(t *testing.T) {
	keepingFiles(t, func(t *testing.T, task *containerTask, log *events, p *plan.Plan) {
		path := p.Container.SubnetEnv
		read := func() string {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			return string(text)
		}
		apply := func(p *plan.Plan) effect {
			t.Helper()
			e, err := task.apply(t.Context(), p)
			if err != nil || !task.fine() || task.conditions() != nil {
				t.Errorf("%v, %+v", err, task.conditions())
			}
			return e
		}
		first := apply(p)
		want := read()
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
		pass(filesEvery)
		if got := log.take(); read() != want || !slices.Equal(got, []string{"files_restored"}) {
			t.Errorf("removed: %q, logged %q", read(), got)
		}
		next := *p
		next.Container.MTU = 1300
		second := apply(&next)
		if read() == want {
			t.Error("the file has the MTU before")
		}
		for _, e := range []effect{second, first} { // without a plan before the file stays
			if err := e.undo(); err != nil || read() != want {
				t.Errorf("undone: %v, %q, want %q", err, read(), want)
			}
		}
	})
}

// A file that cannot be written is a condition, and is written once it can be.
func TestFilesThatFail(t *testing.T) {
	keepingFiles(t, func(t *testing.T, task *containerTask, log *events, p *plan.Plan) {
		folder := filepath.Join(filepath.Dir(p.Container.SubnetEnv), "folder")
		p.Container.SubnetEnv = filepath.Join(folder, "subnet.env")
		if err := os.WriteFile(folder, nil, 0o600); err != nil { // a file in the way
			t.Error(err)
		}
		if _, err := task.apply(t.Context(), p); err == nil || task.fine() {
			t.Errorf("%v", err)
		}
		pass(3 * filesEvery)
		if got := task.conditions(); !slices.Equal(kindsOf(got), []mesh.Kind{mesh.FilesFailed}) || got[0].Cause == "" {
			t.Errorf("%+v", got)
		}
		if err := os.Remove(folder); err != nil {
			t.Error(err)
		}
		pass(filesEvery)
		if got := log.take(); !task.fine() || !slices.Equal(got, []string{"files_failed", "files_written"}) {
			t.Errorf("logged %q", got)
		}
	})
}

// Whoever asks for files does not wait longer than its context lasts.
func TestFilesWithoutATask(t *testing.T) {
	task := newContainerTask(Options{Log: slog.New(slog.DiscardHandler), Socket: filepath.Join(t.TempDir(), "s")})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := task.apply(ctx, planned(t, file)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// One task that fails ends all, with its name.
func TestRunAll(t *testing.T) {
	waits := taskFunc{"waits", func(ctx context.Context) error { <-ctx.Done(); return nil }}
	fails := taskFunc{"fails", func(context.Context) error { return errRefused }}
	if err := runAll(t.Context(), slog.New(slog.DiscardHandler), waits, fails, waits); !errors.Is(err, errRefused) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runAll(ctx, slog.New(slog.DiscardHandler), waits, waits); err != nil {
		t.Error(err)
	}
}

func TestEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		began, calls := time.Now(), []time.Duration{}
		err := everySecond(ctx, func(now time.Time) { calls = append(calls, now.Sub(began)) })
		if want := []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}; err != nil || !slices.Equal(calls, want) {
			t.Errorf("%v, %v", calls, err)
		}
	})
}
