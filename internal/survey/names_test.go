package survey

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/resolve"
)

const named = `
[network]
cidr = "10.244.0.0/16"
[[node]]
name = "a"
address = "172.18.0.2"
subnets = ["10.244.1.0/24"]
[[node]]
name = "b"
address = ["172.18.0.3", "b.example"]
subnets = ["10.244.2.0/24"]
`

// nobody dials no server at all.
func nobody(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }

// A name without an address is a fault at its place; a file without names asks for nothing.
func TestCheckNames(t *testing.T) {
	faults := Check(t.Context(), slog.New(slog.DiscardHandler), plantest.Parse(t, named), nobody)
	if len(faults) != 1 || faults[0].Line != 10 || faults[0].Col != 26 || faults[0].Key != "node.address" {
		t.Errorf("%v", faults)
	}
	doc := strings.Replace(named, `, "b.example"`, "", 1)
	faults = Check(t.Context(), slog.New(slog.DiscardHandler), plantest.Parse(t, doc), nobody)
	if len(faults) > 0 {
		t.Errorf("%v", faults)
	}
}

// A check ends with its time, whatever DNS does.
func TestCheckEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	hangs := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if faults := Check(ctx, slog.New(slog.DiscardHandler), plantest.Parse(t, named), hangs); len(faults) != 1 {
		t.Errorf("%v", faults)
	}
}

// What is known becomes words of plans, and names in doubt are those of nodes that fail.
func TestKnownNames(t *testing.T) {
	changed := make(chan struct{}, 10)
	n := NewNames(slog.New(slog.DiscardHandler), "", func() { changed <- struct{}{} }, nobody)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	c := plantest.Parse(t, named)
	n.Follow(c)
	<-changed
	known := n.Known()
	if one := known["b.example"]; len(known) != 1 || one.Cause == "" || len(one.Addrs) > 0 {
		t.Errorf("%+v", known)
	}
	p, err := plan.Make(c, 0, plan.Host{})
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	n.Doubt(c, p, func(node string) bool { asked = append(asked, node); return false })
	n.Doubt(c, nil, nil)
	if fmt.Sprint(asked) != "[b]" {
		t.Errorf("asked about %q", asked)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A host that starts while DNS is away knows what names stood for before, and how old that is.
func TestAnswersAreKept(t *testing.T) {
	folder, log := t.TempDir(), slog.New(slog.DiscardHandler)
	at := time.Unix(1e9, 0).UTC()
	doc := `{"b.example":{"addresses":["198.51.100.7","127.0.0.1","172.18.0.2"],"at":"` +
		at.Format(time.RFC3339) + `"}}`
	if err := os.WriteFile(filepath.Join(folder, "names"), []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := NewNames(log, folder, func() {}, nobody)
	n.Follow(plantest.Parse(t, named))
	got := n.Known()["b.example"]
	if len(got.Addrs) != 1 || got.Addrs[0].String() != "198.51.100.7" || !got.At.Equal(at) || got.Cause != "" {
		t.Errorf("before it is asked for: %+v", got)
	}
	n.folder = "" // nothing is written: nobody waits for the writer at the end
	go n.Run(ctx)
	n.Await(ctx, plantest.Parse(t, named))
	if got := n.Known()["b.example"]; len(got.Addrs) != 1 || !got.At.Equal(at) || got.Cause == "" {
		t.Errorf("no server answers: %+v", got)
	}
}

// Good answers are in the state folder soon, and a file there that makes no sense counts as none.
func TestAnswersAreWritten(t *testing.T) {
	folder, log := t.TempDir(), &nstest.Events{}
	if err := os.WriteFile(filepath.Join(folder, "names"), []byte("nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := NewNames(slog.New(log), folder, func() {}, nobody)
	if got := log.Take(); len(got) != 1 || got[0] != "names_unread" {
		t.Errorf("logged %q", got)
	}
	n.Resolver = resolve.New(resolve.Options{Log: slog.New(log), Changed: func() {},
		Kept: map[string]resolve.Answer{"b.example": {Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.7")}}}})
	n.Follow(plantest.Parse(t, named))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go n.keep(ctx)
	n.news <- struct{}{}
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) { // it tells nothing
		if kept := keptAnswers(folder, slog.New(slog.DiscardHandler)); len(kept["b.example"].Addrs) == 1 {
			return
		}
		if time.Now().After(until) {
			t.Fatal("nothing is kept")
		}
	}
}

// FuzzKept: whatever is in the file, what is read of it has bounds.
func FuzzKept(f *testing.F) {
	f.Add([]byte(`{"b.example":{"addresses":["198.51.100.7","::1"],"at":"2026-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		defer budget.Of(t)()
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "names"), doc, 0o644); err != nil {
			t.Fatal(err)
		}
		n := NewNames(slog.New(slog.DiscardHandler), folder, func() {}, nobody)
		n.Follow(plantest.Parse(t, named))
		for name, one := range n.Known() {
			if name != "b.example" || len(one.Addrs) > resolve.MaxAddrs {
				t.Errorf("%q: %v", name, one.Addrs)
			}
			for _, ip := range one.Addrs {
				if !ip.IsValid() || config.NotUnderlay(ip) != "" {
					t.Errorf("%q: %v", name, ip)
				}
			}
		}
	})
}
