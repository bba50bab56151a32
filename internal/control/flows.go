package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What Flows are summed by.
const (
	ByFlow = "flow" // one row for each pair of addresses and ports
	ByPod  = "pod"  // for each address of this node's side
	ByPeer = "peer"
	ByPort = "port" // for each protocol and FlowRow.Port
)

// FlowKeys returns what Flows can be summed by.
func FlowKeys() []string { return []string{ByFlow, ByPod, ByPeer, ByPort} }

// What becomes of a wish to know flows (Flows.State).
const (
	FlowsOff      = "off"      // nobody asks: nothing is counted
	FlowsStarting = "starting" // they are counted, and there is no interval to tell of yet
	FlowsCounted  = "counted"
	FlowsSealed   = "sealed" // packets travel encrypted, by the kernel's WireGuard, where nothing counts flows
	FlowsFailed   = "failed" // they cannot be counted; Cause says why
)

// Bounds of what is asked about flows.
const (
	FlowsLease     = 10 * time.Second // for how long flows are counted, unless a request says otherwise
	FlowsLeaseMost = time.Minute
	FlowsTop       = 20 // rows, unless a request says otherwise
	FlowsTopMost   = 200
)

// FlowsRequest is the body of POST /v1/flows.
type FlowsRequest struct {
	Seconds float64 `json:"seconds"` // for how long flows are counted from now on; 0: 10, at most 60
}

// Flows is the answer of GET and POST /v1/flows: who uses the bandwidth.
type Flows struct {
	Schema int    `json:"schema"`
	State  string `json:"state"`           // FlowsOff and the others
	Cause  string `json:"cause,omitempty"` // of FlowsFailed
	By     string `json:"by"`
	// Until is when counting ends, and Since when it began; zero while it is off.
	Until time.Time `json:"until,omitzero"`
	Since time.Time `json:"since,omitzero"`
	// IntervalSeconds is the time that rates are about, which ends at At.
	At              time.Time `json:"at,omitzero"`
	IntervalSeconds float64   `json:"interval_seconds"`
	// Sampled tells that counts are estimates, made of samples.
	Sampled bool      `json:"sampled"`
	Total   FlowRates `json:"total"` // of all flows
	Known   int       `json:"known"` // rows that there are; Rows are the busiest of them
	Rows    []FlowRow `json:"rows"`
}

// FlowRates is what moved in the interval, by the second.
type FlowRates struct {
	RxPackets float64 `json:"rx_packets"`
	RxBytes   float64 `json:"rx_bytes"`
	TxPackets float64 `json:"tx_packets"`
	TxBytes   float64 `json:"tx_bytes"`
}

// Bytes returns those of both directions.
func (r FlowRates) Bytes() float64 { return r.RxBytes + r.TxBytes }

// FlowRow is a flow, or the sum of some. What differs among those that it sums is empty, or 0.
type FlowRow struct {
	Peer       string `json:"peer"`
	Pod        string `json:"pod"`    // address of this node's side
	Remote     string `json:"remote"` // that of the peer's
	Protocol   string `json:"protocol"`
	PodPort    uint16 `json:"pod_port"`    // 0: the protocol has no ports, or fragments were counted
	RemotePort uint16 `json:"remote_port"` // as PodPort
	// Port is the lower of the two, which nearly always is that of the service.
	Port  uint16  `json:"port"`
	Flows int     `json:"flows"` // how many are summed
	Share float64 `json:"share"` // of the bytes of all flows in the interval, 0 to 1
	FlowRates
	// Counted is what moved since counting began.
	Counted FlowTotals `json:"counted"`
}

// FlowTotals are counts of inner packets.
type FlowTotals struct {
	RxPackets uint64 `json:"rx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
	TxPackets uint64 `json:"tx_packets"`
	TxBytes   uint64 `json:"tx_bytes"`
}

// FlowQuery says which rows are wanted.
type FlowQuery struct {
	By  string // ByFlow and the others; empty: ByFlow
	Top int    // rows at most; 0: FlowsTop
}

// values returns the query as a part of a URL.
func (q FlowQuery) values() string {
	return url.Values{"by": {q.By}, "top": {strconv.Itoa(q.Top)}}.Encode()
}

// flowQuery reads a query, with its defaults.
func flowQuery(v url.Values) (q FlowQuery, err error) {
	q = FlowQuery{By: v.Get("by"), Top: FlowsTop}
	if q.By == "" {
		q.By = ByFlow
	}
	if !slices.Contains(FlowKeys(), q.By) {
		return q, fmt.Errorf("by must be one of %s", strings.Join(FlowKeys(), ", "))
	}
	if top := v.Get("top"); top != "" && top != "0" {
		if q.Top, err = strconv.Atoi(top); err != nil || q.Top < 1 || q.Top > FlowsTopMost {
			return q, fmt.Errorf("top must be 1 to %d", FlowsTopMost)
		}
	}
	return q, nil
}

// flows serves GET /v1/flows.
func (a *api) flows(calls slots) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := flowQuery(r.URL.Query())
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_request", err.Error())
			return
		}
		ctx, stop := linger(r)
		defer stop()
		flows, err := calling(ctx, calls, func() Flows { return a.source.Flows(q) })
		if err != nil {
			busy(w)
			return
		}
		reply(w, http.StatusOK, flows)
	}
}

// countFlows serves POST /v1/flows: it has flows counted for some seconds from now on, and answers as GET.
func (a *api) countFlows(get http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !mayWrite(r) {
			notPermitted(w)
			return
		}
		var request FlowsRequest
		doc, err := body(w, r, 4096)
		if err == nil && len(doc) > 0 {
			err = json.Unmarshal(doc, &request)
		}
		if err == nil && !(request.Seconds >= 0 && request.Seconds <= FlowsLeaseMost.Seconds()) {
			err = fmt.Errorf("seconds must be 0 to %.0f", FlowsLeaseMost.Seconds())
		}
		if err == nil {
			_, err = flowQuery(r.URL.Query()) // before anything is done
		}
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_request", err.Error())
			return
		}
		lease := FlowsLease
		if request.Seconds > 0 {
			lease = time.Duration(request.Seconds * float64(time.Second))
		}
		a.source.CountFlows(lease, DrainRequest{}.asker(r))
		get(w, r)
	}
}
