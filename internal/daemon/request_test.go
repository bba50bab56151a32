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

	"example.org/meshd/internal/control"
)

// planServer serves the control socket with the real parser behind POST /v1/plan, for a
// daemon that forwards nothing yet.
func planServer(t testing.TB) (m *reconciler, ask func(doc string) (status int, answer []byte)) {
	t.Helper()
	m = &reconciler{state: &state{}}
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
	_, ask := planServer(t)
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
	m, _ := planServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, faults, err := m.plans(ctx, "x", []byte("a=1")); !errors.Is(err, context.Canceled) || faults != nil {
		t.Errorf("%v, %v", faults, err)
	}
}

// FuzzPlan: whatever file a reader sends, it gets an answer.
func FuzzPlan(f *testing.F) {
	for _, doc := range hostilePlans {
		f.Add(doc[:min(len(doc), 60_000)])
	}
	f.Add(file)
	_, ask := planServer(f)
	f.Fuzz(func(t *testing.T, doc string) {
		status, answer := ask(doc)
		if status != http.StatusOK && status != http.StatusUnprocessableEntity || !json.Valid(answer) {
			t.Errorf("%d: %.300s", status, answer)
		}
	})
}
