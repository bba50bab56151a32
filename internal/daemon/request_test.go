package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/seal"
)

// planServer serves the control socket with the real parser behind POST /v1/plan, for a
// daemon that forwards as file says, or nothing yet.
func planServer(t testing.TB, forwards bool) (
	m *reconciler, ask func(doc string) (status int, answer []byte),
) {
	t.Helper()
	v := newPublished(plantest.Parse(t, file))
	m = &reconciler{
		view: v, fits: func(*plan.Plan) error { return nil }, told: func() seal.Told { return seal.Told{} },
		observe: func(c *config.Config) (int, plan.Host, error) {
			local := addrs("172.18.0.2")
			self, err := plan.Identify(c, "", local, mesh.Key{})
			return self, plan.Host{Local: local, Underlay: link.Underlay{MTU: 1500}, CPUs: 2}, err
		},
	}
	if forwards {
		v.began(plantest.Make(t, file), now())
	}
	socket := filepath.Join(t.TempDir(), "s")
	source := control.Source{Plan: m.plans, Events: control.NewEvents()}
	server, err := control.Listen(socket, source, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial}}
	t.Cleanup(client.CloseIdleConnections)
	return m, func(doc string) (int, []byte) {
		response, err := client.Post("http://meshd/v1/plan?path=x", "", strings.NewReader(doc))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, answer
	}
}

// hostilePlans are files that once killed the daemon or took its memory. internal/config has
// more of them.
var hostilePlans = map[string]string{
	"brackets closed in comments": "a=" + strings.Repeat("[ #]\n", 20_000),
	"a dotted key":                strings.Repeat("a.", 8000) + "a=1",
	"unknown keys":                "[x]\n" + strings.Repeat("[[node]]\nx=1\n", 20_000),
	"the same node":               strings.Repeat("[[node]]\nname=\"a\"\naddress=\"10.0.0.1\"\n", 5000),
}

// A reader of the control socket gets faults for whatever file it sends; the daemon stays,
// and its memory, too.
func TestHostilePlans(t *testing.T) {
	_, ask := planServer(t, false)
	for name, doc := range hostilePlans {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			status, answer := ask(doc)
			runtime.ReadMemStats(&after)
			var failure struct {
				Error  control.Error
				Faults []control.Error
			}
			err := json.Unmarshal(answer, &failure)
			rejected := err == nil && status == http.StatusUnprocessableEntity && failure.Error.Code == "rejected"
			if n := len(failure.Faults); !rejected || n == 0 || n > 1001 {
				t.Errorf("%d, %v, %d faults: %.300s", status, err, n, answer)
			}
			if allocated := (after.TotalAlloc - before.TotalAlloc) >> 20; allocated > 200 {
				t.Errorf("%d bytes cost %d MB", len(doc), allocated)
			}
		})
	}
}

// A plan that nobody waits for any more is not made.
func TestPlanOfNobody(t *testing.T) {
	m, _ := planServer(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, faults, err := m.plans(ctx, "x", []byte("a=1")); !errors.Is(err, context.Canceled) || faults != nil {
		t.Errorf("%v, %v", faults, err)
	}
}

// What a file would change is told, and not done.
func TestPlans(t *testing.T) {
	for _, test := range []struct {
		name, doc string
		forwards  bool
		unfit     error
		changes   int
		faults    int
		err       error // nil with faults: they are the error
	}{
		{"the file in force", file, true, nil, 0, 0, nil},
		{"another one", moved, true, nil, 1, 0, nil},
		{"a faulty one", "[network", true, nil, 0, 1, nil},
		{"what needs a restart", with("[network]", "[network]\ninterface = \"x\""), true, nil, 0, 1, nil},
		{"of other hosts", with("172.18.0.2", "192.0.2.1"), true, nil, 0, 0, plan.ErrNotHere},
		{"routes in the way", moved, true, errRefused, 0, 0, errRefused},
		{"nothing to compare with", moved, false, nil, 0, 0, errNothingYet},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, _ := planServer(t, test.forwards)
			m.fits = func(*plan.Plan) error { return test.unfit }
			before := *m.view.current.Load()
			got, faults, err := m.plans(t.Context(), "x", []byte(test.doc))
			fails := test.err != nil || test.faults > 0
			if len(faults) != test.faults || test.err != nil && !errors.Is(err, test.err) || (err != nil) != fails {
				t.Errorf("%+v, %v", faults, err)
			}
			if len(got.Changes) != test.changes || len(got.Details) != test.changes ||
				err == nil && got.Generation != 1 {
				t.Errorf("%+v", got)
			}
			if now := *m.view.current.Load(); now.plan != before.plan || now.generation != before.generation ||
				m.loaded != nil {
				t.Errorf("%+v", now)
			}
		})
	}
}

// FuzzPlan: whatever file a reader sends, it gets an answer.
func FuzzPlan(f *testing.F) {
	for _, doc := range hostilePlans {
		f.Add(doc[:min(len(doc), 60_000)])
	}
	f.Add(file)
	_, ask := planServer(f, true)
	f.Fuzz(func(t *testing.T, doc string) {
		defer budget.Of(t)()
		status, answer := ask(doc)
		if status != http.StatusOK && status != http.StatusUnprocessableEntity || !json.Valid(answer) {
			t.Errorf("%d: %.300s", status, answer)
		}
	})
}
