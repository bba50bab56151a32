package control

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os/user"
	"strings"
	"testing"
	"time"
)

// someFlows have something in every field.
func someFlows(q FlowQuery) Flows {
	return Flows{Schema: Schema, State: FlowsCounted, By: q.By, Until: at.Add(9 * time.Second), Since: at,
		At: at.Add(time.Second), IntervalSeconds: 1, Sampled: true, Known: q.Top,
		Total: FlowRates{RxPackets: 2, RxBytes: 3000, TxPackets: 1, TxBytes: 1000},
		Rows: []FlowRow{{Peer: "edge-2", Pod: "10.244.2.7", Remote: "10.244.1.3", Protocol: "tcp", PodPort: 40000,
			RemotePort: 5432, Port: 5432, Flows: 1, Share: 0.5, FlowRates: FlowRates{RxBytes: 2000, RxPackets: 1},
			Counted: FlowTotals{RxBytes: 5000, RxPackets: 4, TxBytes: 300, TxPackets: 3}}}}
}

// Writers have flows counted, for a bounded time; whoever may read gets what was counted, and no more than is
// bounded.
func TestFlows(t *testing.T) {
	type ask struct {
		lease time.Duration
		by    string
	}
	var asks []ask
	source := Source{Flows: someFlows,
		CountFlows: func(lease time.Duration, by string) { asks = append(asks, ask{lease, by}) }}
	socket := serve(t, source)
	c := NewClient(socket)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Flows(t.Context(), FlowQuery{})
	if err != nil || got.By != ByFlow || got.Known != FlowsTop || len(asks) != 0 {
		t.Errorf("%+v, %v, asked %v", got, err, asks)
	}
	doc, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "flows.json", append(doc, '\n'))
	got, err = c.CountFlows(t.Context(), 30*time.Second, FlowQuery{By: ByPort, Top: 3})
	if err != nil || got.By != ByPort || got.Known != 3 || len(asks) != 1 ||
		asks[0] != (ask{30 * time.Second, me.Username}) {
		t.Errorf("%+v, %v, asked %v", got, err, asks)
	}
	if answer, err := webClient(socket).Post("http://x/v1/flows", "", nil); err != nil ||
		answer.StatusCode != http.StatusOK || len(asks) != 2 || asks[1].lease != FlowsLease {
		t.Errorf("without a body: %v, asked %v", err, asks)
	}
	asks = nil
	for name, f := range map[string]func() error{
		"another key": func() error { _, err := c.Flows(t.Context(), FlowQuery{By: "dog"}); return err },
		"many rows": func() error {
			_, err := c.Flows(t.Context(), FlowQuery{Top: FlowsTopMost + 1})
			return err
		},
		"-1 rows": func() error { _, err := c.Flows(t.Context(), FlowQuery{Top: -1}); return err },
		"a long lease": func() error {
			_, err := c.CountFlows(t.Context(), FlowsLeaseMost+time.Second, FlowQuery{})
			return err
		},
		"a lease of -1 s": func() error {
			_, err := c.CountFlows(t.Context(), -time.Second, FlowQuery{})
			return err
		},
		"a lease with another key": func() error {
			_, err := c.CountFlows(t.Context(), 0, FlowQuery{By: "dog"})
			return err
		},
		"a lease that is no number":  func() error { return post(socket, "/v1/flows", `{"seconds":"x"}`) },
		"a lease that is not a JSON": func() error { return post(socket, "/v1/flows", `{`) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := f(); err == nil || len(asks) != 0 {
				t.Errorf("%v, asked %v", err, asks)
			}
		})
	}
	w := httptest.NewRecorder()
	routes(source).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/flows", strings.NewReader("{}")))
	if w.Code != http.StatusForbidden || len(asks) != 0 {
		t.Errorf("without credentials: %d, asked %v", w.Code, asks)
	}
}

// post sends a body; an answer that is not 200 is an error.
func post(socket, path, body string) error {
	answer, err := webClient(socket).Post("http://x"+path, "application/json", strings.NewReader(body))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return err
}
