package control

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

var update = flag.Bool("update", false, "rewrite testdata")

var at = time.Date(2026, 11, 23, 14, 7, 33, 0, time.UTC)

// whole is a status with something in every field.
func whole() Status {
	return Status{
		Schema: Schema, Node: "edge-1", Version: "0.1.0", BootID: "5d2e6f70", PID: 812,
		Started: at.Add(-time.Hour), UptimeSeconds: 3600, Now: at,
		Config: Config{Path: "/etc/mesh.toml", Source: SourceFile, Generation: 3, SHA256: "9f3c1a", Applied: at,
			LastReload: Reload{OK: true, At: at, DurationMS: 4.1, Changes: []string{"+ peer edge-4 10.244.4.0/24"},
				Details: []Change{{Op: "+", Kind: "peer", Subject: "edge-4", New: "10.244.4.0/24"}}}},
		Network: Network{Name: "edge", CIDR: []string{"10.244.0.0/16"}, Interface: "mesh0", MTU: 1472, Port: 8285,
			Address: "172.18.0.3", Addresses: []string{"172.18.0.3:8285", "[2001:db8::3]:8285"},
			Underlay: &Underlay{Device: "eth0", MTU: 1500, Headers: 28},
			Subnets:  []string{"10.244.2.0/24"}, Repairs: 1},
		Dataplane: Dataplane{Engine: "user", Receive: "socket", Offloads: []string{"tso4", "udp_gso"},
			Refused: []string{"tun_gro"}, Queues: 2,
			Calls: map[string]Calls{"tun_read": {Calls: 1, Packets: 40}}},
		Totals: Totals{RxPackets: new(uint64(10)), RxBytes: new(uint64(1000)),
			TxPackets: new(uint64(20)), TxBytes: new(uint64(2000)),
			Drops:        map[string]uint64{"no_route": 3, "ttl_expired": 5, "socket_overflow": 0},
			Unattributed: map[string]uint64{"no_route": 3, "ttl_expired": 1}},
		Peers: []Peer{
			{Name: "edge-2", Address: "172.18.0.4:8285", Subnets: []string{"10.244.1.0/24"},
				Routes: []string{"192.168.7.0/24"}, State: Up,
				Since: new(at), LastSeen: new(at), RTTMS: new(0.21), RTTMinMS: new(0.2), RTTP95MS: new(0.9),
				RTTLastMS: new(0.25), JitterMS: new(0.02),
				Loss: new(0.05), MTU: 1372, MTUSource: "probed",
				ProbesTx: 60, ProbesRx: 57, ConfigSHA256: "9f3c1a", ConfigMatch: new(true),
				SendError: &SendError{Error: "operation not permitted", Errno: 1, Packets: 3, Last: at},
				ICMPError: &ICMPError{Means: "port_unreachable", From: "172.18.0.4", Packets: 5, Last: at},
				Version:   "0.1.0",
				RxPackets: new(uint64(9)), RxBytes: new(uint64(900)), TxPackets: new(uint64(19)),
				TxBytes: new(uint64(1900)), Drops: map[string]uint64{"ttl_expired": 4},
				Addresses: []PeerAddress{{Address: "172.18.0.4:8285", State: Down, Loss: new(1.0)},
					{Address: "[2001:db8::4]:8285", Name: "edge-2.example.net", Resolved: new(at), State: Up,
						RTTMS: new(0.21), Loss: new(0.05), Active: true}},
				RouteStates: []RouteState{{Prefix: "192.168.7.0/24", Metric: 50}}},
			{Name: "edge-3", Address: "[2001:db8::5]:8285", Subnets: []string{"fd00:10:244:3::/64"},
				Routes: []string{}, State: Draining, Drops: map[string]uint64{},
				Addresses:   []PeerAddress{{Address: "[2001:db8::5]:8285", State: Up, Active: true}},
				RouteStates: []RouteState{},
				WireGuard: &PeerWireGuard{PublicKey: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
					Endpoint: "198.51.100.7:40123", Roamed: true, LatestHandshake: new(at.Add(-90 * time.Second)),
					RxBytes: 1320, TxBytes: 960, Path: PathDirect, State: WireGuardSealed},
				Drain: &Drain{Since: new(at), Until: new(at.Add(time.Hour)), Reason: "new disk", By: "root"}},
		},
		Strangers: []Stranger{{Address: "172.18.0.9", Reason: "unknown_sender", InnerSource: "10.244.9.3",
			InnerDestination: "10.244.2.7", Packets: 12, Last: at}},
		Masquerade: Masquerade{Enabled: true, Rules: []Rule{{Name: "pods-to-outside", Packets: 7, Bytes: 700}},
			Repairs: 2},
		Allow: Allow{Rules: []Rule{{Name: "web", Packets: 3, Bytes: 300}}, Dropped: 2, DroppedLastMinute: 1},
		WireGuard: &WireGuard{Implementation: WireGuardKernel, Interface: "meshd-wg", Port: 51820,
			PublicKey: "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=", MTU: 1440},
		Drain: &Drain{Since: new(at), Reason: "new kernel", By: "anna", Waiting: []string{"edge-3"}},
		Health: Health{Level: Degraded, Problems: []Problem{{Level: Degraded, Kind: "forwarding_off",
			Text:   "net.ipv4.ip_forward is 0: pods cannot reach other hosts",
			Remedy: "sysctl -w net.ipv4.ip_forward=1", Since: at}}},
		Warnings: []string{"net.ipv4.ip_forward is 0: pods cannot reach other hosts"},
	}
}

// golden compares with testdata/NAME.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is\n%s\nnot\n%s", name, got, want)
	}
}

// Each answer is what scripts have read since it was made: a change here is a
// change of the API. And a client reads it back, with fields that it does not know.
func TestGoldenAnswers(t *testing.T) {
	status := whole()
	event := Event{Seq: 17, At: at, Level: "error", Kind: "peer_down", Peer: "edge-3",
		Message: "peer is down: nothing heard", Fields: map[string]string{"silent": "10s"}}
	known := []*float64{nil, new(1.0), new(2.5)}
	for name, answer := range map[string]any{
		"status": status, "peers": Peers{Schema: Schema, Node: "edge-1", Peers: status.Peers},
		"peer":  OnePeer{Schema: Schema, Peer: status.Peers[0]},
		"event": event,
		"watch-hello": Watched{Type: "hello", Seq: 1, Hello: &Hello{Schema: Schema, Node: "edge-1",
			Version: "0.1.0", BootID: "5d2e6f70", IntervalMS: 1000}},
		"watch-snapshot": Watched{Type: "snapshot", Seq: 2, Status: &status},
		"watch-event":    Watched{Type: "event", Seq: 3, Event: &event},
		"history": History{Schema: Schema, Peer: "edge-2", Span: "5m", StepSeconds: 1, BootID: "5d2e6f70", End: at,
			RxPackets: known, RxBytes: known, TxPackets: known, TxBytes: known, Drops: known, RTTMS: known,
			Loss: known},
		"route": Route{Schema: Schema, To: "10.244.1.2", Peer: "edge-2", Prefix: "10.244.1.0/24",
			Address: "172.18.0.4:8285", Source: "10.244.2.0",
			Interface: "mesh0", MTU: 1472, State: Up, Masquerade: "mesh-to-mesh",
			Carriers: []Carrier{{Peer: "edge-2", Metric: 100, State: Up, Active: true},
				{Peer: "edge-3", Metric: 200, State: Draining}},
			Kernel: []KernelRoute{
				{Sender: SenderHost, Agrees: true, Device: "mesh0", Table: "main",
					Rule: "32766: from all lookup main", Source: "10.244.2.0", MTU: 1472},
				{Sender: SenderPods, Table: "52", Rule: "5270: from all lookup 52", Error: "no route to host"}}},
		"reload": ReloadResult{Schema: Schema, Generation: 3, Reload: status.Config.LastReload,
			Faults: []Error{{Code: "bad_configuration", Message: "m", File: "/etc/mesh.toml", Line: 31}}},
		"plan": Plan{Schema: Schema, Generation: 3, Changes: []string{"- peer edge-4 10.244.4.0/24"},
			Details: []Change{{Op: "-", Kind: "peer", Subject: "edge-4", Old: "10.244.4.0/24"}}},
		"ping": Ping{Schema: Schema, Peer: "edge-2", Size: 108, RTTMS: new(0.21)}, "ready": Ready{OK: true},
		"reload-cut": ReloadResult{Schema: Schema, Generation: 3, Reload: Reload{OK: true, At: at, DurationMS: 9,
			Changes: []string{"+ peer edge-4 10.244.4.0/24", "and 7 more"}, More: 7,
			Details: []Change{{Op: "+", Kind: "peer", Subject: "edge-4", New: "10.244.4.0/24"}}}},
		"error": map[string]Error{"error": {Code: "rejected", Message: "m", File: "/etc/mesh.toml", Line: 31}},
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := json.MarshalIndent(answer, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", append(doc, '\n'))
			if name == "error" { // a map has no place for what it does not know
				return
			}
			future := bytes.Replace(doc, []byte("{"), []byte(`{"from the future": [1, {"x": null}],`), 1)
			back := reflect.New(reflect.TypeOf(answer))
			err = json.Unmarshal(future, back.Interface())
			if got := back.Elem().Interface(); err != nil || !reflect.DeepEqual(got, answer) {
				t.Errorf("read back as %+v, %v", got, err)
			}
		})
	}
}

// A scrape, as Prometheus itself reads it.
func TestGoldenMetrics(t *testing.T) {
	w := httptest.NewRecorder()
	Metrics(whole).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	golden(t, "metrics.txt", w.Body.Bytes())
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(io.NopCloser(strings.NewReader(w.Body.String())))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, m := range families["meshd_drops_total"].Metric {
		for _, l := range m.Label {
			if l.GetName() == "reason" && l.GetValue() == "ttl_expired" {
				sum += m.Counter.GetValue()
			}
		}
	}
	if sum != 5 {
		t.Errorf("ttl_expired of all peers and of nobody: %v, in all 5", sum)
	}
	if got := families["meshd_peer_rtt_seconds"].Metric; len(got) != 1 ||
		math.Abs(got[0].Gauge.GetValue()-0.00021) > 1e-12 {
		t.Errorf("%v", got)
	}
}
