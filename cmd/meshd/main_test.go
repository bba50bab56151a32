package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.org/meshd/configs"
	"example.org/meshd/internal/control"
)

// meshd runs one command line and returns its exit code and what it printed.
func meshd(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	err := run(context.Background(), args, &out, &errs)
	return exitCode(err), out.String(), errs.String()
}

func write(t *testing.T, doc string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mesh.toml")
	if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheck(t *testing.T) {
	good, bad := write(t, string(configs.Starter)), write(t, "[network]\ncidr = 1\nfoo = 2\n")
	for _, args := range [][]string{{"check", good}, {"check", "-c", good}, {"-c", good, "check"}, {"--config=" + good, "check"}} {
		if code, out, errs := meshd(args...); code != 0 || out+errs != "" {
			t.Errorf("%q: %d, %q, %q", args, code, out, errs)
		}
	}
	want := bad + ":1:1: error: node: no node is listed: add a [[node]] table for every host\n" +
		bad + ":2:8: error: network.cidr: must be a prefix in quotes such as \"10.244.1.0/24\", not 1\n" +
		bad + ":3:1: error: network.foo: unknown key \"foo\"; known here: name, cidr, port, interface, mtu\n"
	if code, out, errs := meshd("check", bad); code != 1 || out != want || errs != "" {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	code, out, _ := meshd("check", "--json", bad)
	var faults []struct {
		Line int
		Key  string
	}
	if err := json.Unmarshal([]byte(out), &faults); err != nil || code != 1 || len(faults) != 3 || faults[1].Line != 2 || faults[1].Key != "network.cidr" {
		t.Errorf("%d, %q, %v", code, out, err)
	}
	if code, out, _ := meshd("check", "--json", good); code != 0 || strings.TrimSpace(out) != "[]" {
		t.Errorf("%d, %q", code, out)
	}
	public := strings.ReplaceAll(string(configs.Starter), "172.18.0.3", "9.9.9.9")
	open := write(t, public)
	line := 1 + strings.Count(public[:strings.Index(public, "9.9.9.9")], "\n")
	if code, out, errs := meshd("check", open); code != 0 || !strings.HasPrefix(out, fmt.Sprintf("%s:%d:11: warning: node.address: 9.9.9.9 is a public address", open, line)) || strings.Count(out, "\n") != 1 || errs != "" {
		t.Errorf("a warning: %d, %q, %q", code, out, errs)
	}
	for path, level := range map[string]string{open: "warning", bad: "error"} {
		_, out, _ := meshd("check", "--json", path)
		var found []struct{ Level, Message string }
		if err := json.Unmarshal([]byte(out), &found); err != nil || len(found) == 0 || found[0].Level != level || found[0].Message == "" {
			t.Errorf("want %s: %q, %v", level, out, err)
		}
	}
	if code, out, _ := meshd("check", "/nonexistent"); code != 1 || !strings.HasPrefix(out, "/nonexistent: error: ") {
		t.Errorf("%d, %q", code, out)
	}
}

func TestInitPrintsTheShippedFile(t *testing.T) {
	code, out, _ := meshd("init")
	if code != 0 || out != string(configs.Starter) {
		t.Errorf("%d, %d bytes", code, len(out))
	}
	if code, out, _ := meshd("check", write(t, out)); code != 0 {
		t.Errorf("its own check: %d, %s", code, out)
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{}, {"frobnicate"}, {"--frobnicate"}, {"check", "a", "b"}, {"route"}, {"route", "pod"}, {"run", "now"},
		{"run", "--log-level", "loud"}, {"run", "--log-format", "xml"}, {"status", "--json=maybe"},
	} {
		if code, out, errs := meshd(args...); code != exitUsage || out != "" || !strings.Contains(errs, "meshd: usage: ") {
			t.Errorf("%q: %d, %q, %q", args, code, out, errs)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"run", "--help"}, {"version"}, {"completion", "bash"}} {
		if code, out, errs := meshd(args...); code != 0 || out == "" || errs != "" {
			t.Errorf("%q: %d, %q, %q", args, code, out, errs)
		}
	}
	if _, out, _ := meshd("version", "--json"); strings.Join(strings.Fields(out), "") != `{"version":"`+version+`"}` {
		t.Errorf("%q", out)
	}
}

// What a shell offers.
func TestCompletion(t *testing.T) {
	socket := fake(t, control.Source{Status: func() control.Status { return sample(time.Now()) }})
	for line, want := range map[string]string{
		"run --log-level ": "debug\ninfo\nwarn\nerror\n", "run --log-format ": "text\njson\n",
		"ping ": "edge-2\n", "peers edge-": "edge-2\n", "wait ": "ready\n", "wait peer:": "peer:edge-2\n", "ping edge-2 ": "",
	} {
		words := append([]string{"__complete", "--socket", socket}, strings.Split(line, " ")...)
		if code, out, _ := meshd(words...); code != 0 || !strings.Contains(out, want) || want == "" && strings.Contains(out, "edge") {
			t.Errorf("%q: %d, %q", line, code, out)
		}
	}
}

func TestNotRunning(t *testing.T) {
	for _, args := range [][]string{{"status"}, {"route", "10.0.0.1"}, {"peers"}, {"peers", "a"}, {"ping", "a"}, {"events"}, {"events", "-f"}} {
		code, out, errs := meshd(append(args, "--json", "--socket", filepath.Join(t.TempDir(), "none"))...)
		var failure struct{ Error control.Error }
		if err := json.Unmarshal([]byte(out), &failure); err != nil || code != exitNotRunning || failure.Error.Code != "not_running" || errs == "" {
			t.Errorf("%q --json: %d, %q, %v", args, code, out, err)
		}
	}
	for _, args := range [][]string{{"status"}, {"route", "10.0.0.1"}, {"peers"}, {"peers", "a"}, {"ping", "a"}, {"events"}} {
		code, out, errs := meshd(append(args, "--socket", filepath.Join(t.TempDir(), "none"))...)
		if code != exitNotRunning || out != "" || !strings.Contains(errs, "meshd is not running") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: %d, %q, %q", args, code, out, errs)
		}
	}
}

// fake serves a made-up daemon until the test ends.
func fake(t *testing.T, source control.Source) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "meshd.sock")
	server, err := control.Listen(socket, source, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return socket
}

func sample(now time.Time) control.Status {
	seen := now.Add(-3 * time.Second)
	return control.Status{
		Schema: control.Schema, Node: "edge-1", Version: "0.1.0", PID: 812, Started: now.Add(-76*time.Hour - 12*time.Minute),
		Config:    control.Config{Path: "/etc/mesh.toml", Generation: 3, SHA256: "9f3c1a2bcdef"},
		Network:   control.Network{Name: "edge", CIDR: []string{"10.244.0.0/16"}, Interface: "mesh0", MTU: 1472, Port: 8285, Address: "172.18.0.3", Subnets: []string{"10.244.2.0/24"}},
		Dataplane: control.Dataplane{Engine: "user", Receive: "socket", Queues: 1, Calls: map[string]control.Calls{"tun_read": {Calls: 1, Packets: 40}}},
		Totals:    control.Totals{RxPackets: 5, RxBytes: 1234567, TxPackets: 6, TxBytes: 999, Drops: map[string]uint64{"no_route": 3, "malformed": 0}},
		Peers: []control.Peer{
			{Name: "edge-2", Address: "172.18.0.4:8285", Subnets: []string{"10.244.1.0/24"}, Routes: []string{"192.168.7.0/24"}, State: "up", LastSeen: &seen, RTTMS: new(0.2134), Loss: new(0.0), ConfigMatch: new(true), RxPackets: 5, TxPackets: 6, Drops: map[string]uint64{"ttl_expired": 1}},
			{Name: strings.Repeat("a-long-name.", 5), Address: "[2001:db8:1234:5678::1]:8285", Subnets: []string{"fd00:10:244:1::/64"}, State: "down", Loss: new(1.0), ConfigMatch: new(false), ConfigSHA256: "0123456789ab"},
			{Name: "edge-3", Address: "172.18.0.5:8285", Subnets: []string{"10.244.3.0/24"}, State: "unknown"},
		},
		Masquerade: control.Masquerade{Enabled: true, Repairs: 2, Rules: []control.Rule{{Name: "mesh-to-mesh", Packets: 9}, {Name: "excluded"}}},
		Warnings:   []string{"something is wrong: do this"},
	}
}

func TestStatusForPeople(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var out bytes.Buffer
	if err := printStatus(&out, sample(now), now); err != nil {
		t.Fatal(err)
	}
	want := `! something is wrong: do this
node     edge-1  up 3d 04h  meshd 0.1.0  pid 812
config   /etc/mesh.toml  generation 3  sha 9f3c1a2b
network  edge  10.244.0.0/16  listening on 172.18.0.3:8285  pods 10.244.2.0/24
plane    user  mesh0 mtu 1472  queues 1  offloads none
batches  packets per call: out 40.0 from TUN, - to wire; in - from wire, - to TUN
nat      on  mesh-to-mesh 9  repaired 2 times
traffic  rx 5 packets, 1.2 MB  tx 6 packets, 999 B
drops    no_route 3
peers    1 up  1 down  1 unknown  1 with another file

PEER                                                          STATE    RTT       LOSS  ADDRESS                       SUBNETS                       RX PACKETS  TX PACKETS  LAST SEEN  FILE      DROPS
a-long-name.a-long-name.a-long-name.a-long-name.a-long-name.  down     -         100%  [2001:db8:1234:5678::1]:8285  fd00:10:244:1::/64            0           0           never      01234567  none
edge-3                                                        unknown  -         -     172.18.0.5:8285               10.244.3.0/24                 0           0           never      -         none
edge-2                                                        up       0.213 ms  0%    172.18.0.4:8285               10.244.1.0/24 192.168.7.0/24  5           6           3s ago     same      ttl_expired 1
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", &out, want)
	}
	out.Reset()
	waiting := control.Status{Started: now, Warnings: []string{"waiting for an address"}, Config: control.Config{Path: "x"}}
	if err := printStatus(&out, waiting, now); err != nil || !strings.HasPrefix(out.String(), "! waiting for an address\nnode     (unknown node)  up 0s") {
		t.Errorf("%v\n%s", err, &out)
	}
}

func TestStatusJSONIsTheAPI(t *testing.T) {
	socket := fake(t, control.Source{Status: func() control.Status { return sample(time.Now()) }})
	code, out, errs := meshd("--socket", socket, "status", "--json")
	var got control.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || errs != "" || got.Node != "edge-1" {
		t.Errorf("%d, %v, %q", code, err, errs)
	}
}

func TestRoute(t *testing.T) {
	socket := fake(t, control.Source{Route: func(to netip.Addr) control.Route {
		if to == netip.MustParseAddr("10.244.1.2") {
			return control.Route{Schema: control.Schema, To: to.String(), Peer: "edge-2", Prefix: "10.244.1.0/24", Address: "172.18.0.4:8285", Source: "10.244.2.0", Interface: "mesh0", MTU: 1472, State: "up", Masquerade: "mesh-to-mesh"}
		}
		return control.Route{Schema: control.Schema, To: to.String(), Reason: "nobody has it", Masquerade: "pods-to-outside"}
	}})
	if code, out, errs := meshd("route", "10.244.1.2", "--socket", socket); code != 0 || errs != "" || out != "10.244.1.2 via edge-2 at 172.18.0.4:8285 (10.244.1.0/24) dev mesh0 src 10.244.2.0 mtu 1472\npeer edge-2 is up\nfrom a pod: keeps its address (rule mesh-to-mesh)\n" {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	if code, out, errs := meshd("route", "10.9.9.9", "--socket", socket); code != 1 || out != "" || errs != "meshd: no way through the mesh to 10.9.9.9: nobody has it\nmeshd: from a pod of this host: leaves with this host's address (rule pods-to-outside)\n" {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
}

func TestExitCodes(t *testing.T) {
	for err, want := range map[error]int{
		nil: 0, errors.New("x"): 1, errSilent: 1, errUsage: 2, control.ErrNotRunning: 3, control.ErrPermission: 4,
		control.ErrMismatch: 5, context.DeadlineExceeded: 6, errFile: 78,
	} {
		if got := exitCode(err); got != want {
			t.Errorf("exitCode(%v) = %d, want %d", err, got, want)
		}
	}
}

func TestPeers(t *testing.T) {
	socket := fake(t, control.Source{Status: func() control.Status { return sample(time.Now()) }})
	for name, want := range map[string]int{"edge-2": 0, "edge-3": exitNo, "nobody": exitNo} {
		code, out, errs := meshd("peers", name, "--socket", socket)
		if code != want || name != "nobody" && !strings.Contains(out, "\n"+name+" ") || name == "nobody" && !strings.Contains(errs, `no peer is named "nobody"`) {
			t.Errorf("%s: %d, %q, %q", name, code, out, errs)
		}
		if code, out, _ := meshd("peers", name, "--json", "--socket", socket); code != want || !json.Valid([]byte(out)) {
			t.Errorf("%s --json: %d, %q", name, code, out)
		}
	}
	if code, out, _ := meshd("--json", "peers", "--socket", socket); code != 0 || !strings.Contains(out, `"node": "edge-1"`) {
		t.Errorf("%d, %q", code, out)
	}
}

func TestPing(t *testing.T) {
	asked := 0
	socket := fake(t, control.Source{Status: func() control.Status { return control.Status{Schema: control.Schema, Node: "edge-1"} }, Ping: func(_ context.Context, r control.PingRequest) (control.Ping, bool, error) {
		asked++
		p := control.Ping{Schema: control.Schema, Peer: r.Peer, Size: 28 + max(r.Size, 80)}
		switch {
		case r.Size > 1000:
			p.Error = "larger than the path to the peer"
		case asked%3 != 0:
			p.RTTMS = new(float64(asked))
		}
		return p, r.Peer == "b", nil
	}})
	code, out, errs := meshd("ping", "b", "-c", "4", "-i", "10ms", "--socket", socket)
	want := "108 bytes from b: seq=1 time=1.000 ms\n108 bytes from b: seq=2 time=2.000 ms\n108 bytes to b: seq=3 no answer\n108 bytes from b: seq=4 time=4.000 ms\n" +
		"4 sent, 3 received, 25% loss\nrtt min/median/max 1.000/2.000/4.000 ms\n"
	if code != 0 || out != want || errs != "" {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	code, out, _ = meshd("ping", "--json", "b", "-c", "2", "-i", "10ms", "-s", "1400", "--socket", socket)
	var p pinged
	if err := json.Unmarshal([]byte(out), &p); err != nil || code != exitNo || p.Sent != 2 || p.Received != 0 || p.Loss != 1 || p.MedianMS != nil || p.Replies[1].Error == "" {
		t.Errorf("%d, %+v, %v", code, p, err)
	}
	for _, args := range [][]string{{"ping", "x"}, {"ping", "b", "-c", "0"}, {"ping", "b", "-i", "1ms"}, {"ping"}} {
		if code, out, errs := meshd(append(args, "--socket", socket)...); code == 0 || out != "" || errs == "" {
			t.Errorf("%q: %d, %q, %q", args, code, out, errs)
		}
	}
}

func TestEvents(t *testing.T) {
	events := control.NewEvents()
	socket := fake(t, control.Source{Events: events})
	events.Add(control.Event{At: time.Now().Add(-2 * time.Hour), Level: "info", Kind: "reloaded", Message: "reloaded", Fields: map[string]string{"generation": "2", "changes": "+ peer b"}})
	events.Add(control.Event{At: time.Now(), Level: "error", Kind: "peer_down", Peer: "b", Message: "peer is down"})
	code, out, errs := meshd("events", "--socket", socket)
	if lines := strings.Split(out, "\n"); code != 0 || errs != "" || len(lines) != 3 ||
		!strings.HasSuffix(lines[0], ` INFO  reloaded changes="+ peer b" generation=2`) || !strings.HasSuffix(lines[1], " ERROR b: peer is down") {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	if code, out, _ := meshd("events", "--since", "1h", "--json", "--socket", socket); code != 0 || strings.Count(out, "\n") != 1 || !strings.Contains(out, `"kind":"peer_down"`) {
		t.Errorf("%d, %q", code, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"events", "-f", "--json", "--socket", socket}, writer, io.Discard)
		writer.Close()
	}()
	lines := bufio.NewScanner(reader)
	for i := range 3 {
		if !lines.Scan() || !strings.Contains(lines.Text(), fmt.Sprintf(`"seq":%d,`, i+1)) {
			t.Fatalf("line %d: %q", i, lines.Text())
		}
		if i == 1 {
			events.Add(control.Event{At: time.Now(), Level: "info", Kind: "peer_up", Peer: "b"})
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWait(t *testing.T) {
	var ready atomic.Bool
	status := sample(time.Now())
	socket := fake(t, control.Source{
		Status: func() control.Status { return status },
		Ready: func(context.Context) error {
			if !ready.Swap(true) {
				return errors.New("waiting for an address")
			}
			return nil
		},
	})
	for _, test := range []struct {
		code int
		says string
		args []string
	}{
		{0, "", []string{"ready"}}, {0, "", []string{"peer:edge-2"}},
		{exitTimeout, "it is unknown", []string{"peer:edge-3", "--timeout", "300ms"}},
		{exitTimeout, `no peer is named "x"`, []string{"peer:x", "--timeout", "300ms"}},
		{exitTimeout, "meshd is not running", []string{"ready", "--timeout", "300ms", "--socket", socket + "x"}},
		{exitUsage, "peer:NAME", []string{"peer:"}}, {exitUsage, "peer:NAME", []string{"dinner"}},
	} {
		code, out, errs := meshd(append([]string{"--socket", socket, "wait"}, test.args...)...)
		if code != test.code || out != "" || !strings.Contains(errs, test.says) {
			t.Errorf("%q: %d, %q, %q", test.args, code, out, errs)
		}
	}
}
