package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"example.org/meshd/internal/text/hostile"
)

func filled[T any]() (v T) {
	hostile.Fill(&v)
	return v
}

// Every answer may be shown by a terminal as it is, whatever files and peers put into
// it, and means what it meant.
func TestAnswersAreHarmless(t *testing.T) {
	status := filled[Status]()
	events := NewEvents()
	events.Add(filled[Event]())
	evil := errors.New(hostile.Text)
	failing := false
	fails := func() error {
		if failing {
			return evil
		}
		return nil
	}
	socket := serve(t, Source{
		Events: events, Status: func() Status { return status },
		Route: func(netip.Addr) Route { return filled[Route]() },
		Reload: func(context.Context, string) (ReloadResult, error) {
			r := filled[ReloadResult]()
			r.Reload.OK = failing
			return r, fails()
		},
		Plan: func(context.Context, string, []byte) (Plan, []Error, error) {
			return filled[Plan](), filled[[]Error](), fails()
		},
		History: func(string, string) (*History, error) {
			h := filled[History]()
			return &h, fails()
		},
		Ping: func(context.Context, PingRequest) (Ping, bool, error) {
			return filled[Ping](), true, fails()
		},
		Healthy: func(context.Context) error { return fails() },
		Ready:   func(context.Context) error { return fails() },
	})
	for _, failing = range []bool{false, true} {
		for _, question := range []string{
			"GET /v1/status", "GET /v1/peers", "GET /v1/peers/%1b%c2%9bx", "GET /v1/events", "GET /metrics",
			"GET /v1/route?to=10.0.0.1", "GET /v1/route?to=%1b%c2%9b", "GET /v1/history?peer=%c2%9b",
			"POST /v1/reload", "POST /v1/plan", "POST /v1/ping", "GET /healthz", "GET /readyz", "GET /%c2%9b",
			"GET /v1/events?since=%c2%9b", "GET /v1/watch?interval=%c2%9b",
		} {
			_, reader := raw(t, socket, question+" HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
			answer, err := io.ReadAll(reader)
			_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
			if err != nil || body == "" || hostile.Fault(body) != "" {
				t.Errorf("%s: %v, %s", question, err, hostile.Fault(body))
			}
			if question == "GET /v1/status" {
				var back Status
				if err := json.Unmarshal([]byte(body), &back); err != nil || !reflect.DeepEqual(back, status) {
					t.Errorf("it means something else: %v", err)
				}
			}
		}
	}
	_, reader := raw(t, socket, "GET /v1/watch?since=0 HTTP/1.0\r\n\r\n")
	for line := ""; !strings.Contains(line, `"type":"event"`); {
		var err error
		if line, err = reader.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if fault := hostile.Fault(strings.ReplaceAll(line, "\r", "")); fault != "" {
			t.Error(fault)
		}
	}
}

// A tidy client has the same answers with nothing in them that does something.
func TestTidyClient(t *testing.T) {
	status := filled[Status]()
	status.Schema = Schema
	events := NewEvents()
	events.Add(filled[Event]())
	c := NewClient(serve(t, Source{Events: events, Status: func() Status { return status }}))
	c.Tidy = true
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = c.Events(t.Context(), 0, false, func(e Event) error {
		if !strings.Contains(e.Message, `\u001b]0;title\u0007`) || strings.Contains(e.Peer, "\n") {
			t.Errorf("%+v", e)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	p := got.Peers[0]
	if p.Name != p.Subnets[0] || strings.Contains(p.Name, "\n") || !strings.Contains(p.Name, `\nforged line\t`) {
		t.Errorf("%+v", p)
	}
	if !strings.Contains(got.Config.Error, "\nforged line") {
		t.Errorf("a text of several lines became one: %q", got.Config.Error)
	}
}
