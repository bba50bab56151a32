package survey

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/plan"
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

func parse(t *testing.T, doc string) *config.Config {
	t.Helper()
	c, err := config.Parse("mesh.toml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A name without an address is a fault at its place; a file without names asks for nothing.
func TestCheckNames(t *testing.T) {
	faults := Check(t.Context(), slog.New(slog.DiscardHandler), parse(t, named), nobody)
	if len(faults) != 1 || faults[0].Line != 10 || faults[0].Col != 26 || faults[0].Key != "node.address" {
		t.Errorf("%v", faults)
	}
	doc := strings.Replace(named, `, "b.example"`, "", 1)
	if faults := Check(t.Context(), slog.New(slog.DiscardHandler), parse(t, doc), nobody); len(faults) > 0 {
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
	if faults := Check(ctx, slog.New(slog.DiscardHandler), parse(t, named), hangs); len(faults) != 1 {
		t.Errorf("%v", faults)
	}
}

// What is known becomes words of plans, and names in doubt are those of nodes that fail.
func TestKnownNames(t *testing.T) {
	changed := make(chan struct{}, 10)
	n := NewNames(slog.New(slog.DiscardHandler), func() { changed <- struct{}{} }, nobody)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	c := parse(t, named)
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
