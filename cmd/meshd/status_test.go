package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// sample is the status of a node with something to show in every line.
func sample(now time.Time) control.Status {
	seen := now.Add(-3 * time.Second)
	return control.Status{
		Schema: control.Schema, Node: "edge-1", Version: "0.1.0", PID: 812,
		Started: now.Add(-76*time.Hour - 12*time.Minute),
		Config:  control.Config{Path: "/etc/mesh.toml", Generation: 3, SHA256: "9f3c1a2bcdef"},
		Network: control.Network{
			Name: "edge", CIDR: []string{"10.244.0.0/16"}, Interface: "mesh0", MTU: 1472, Port: 8285,
			Address: "172.18.0.3", Subnets: []string{"10.244.2.0/24"},
		},
		Dataplane: control.Dataplane{
			Engine: "user", Receive: "socket", Queues: 1,
			Calls: map[string]control.Calls{"tun_read": {Calls: 1, Packets: 40}},
		},
		Totals: control.Totals{
			RxPackets: new(uint64(5)), RxBytes: new(uint64(1234567)),
			TxPackets: new(uint64(6)), TxBytes: new(uint64(999)),
			Drops: map[string]uint64{"no_route": 3, "malformed": 0},
		},
		Peers: []control.Peer{
			{
				Name: "edge-2", Address: "172.18.0.4:8285", Subnets: []string{"10.244.1.0/24"},
				Routes: []string{"192.168.7.0/24"}, State: "up", LastSeen: &seen, RTTMS: new(0.2134), Loss: new(0.0),
				ConfigMatch: new(true), RxPackets: new(uint64(5)), TxPackets: new(uint64(6)),
				Drops: map[string]uint64{"ttl_expired": 1},
			},
			{
				Name: strings.Repeat("a-long-name.", 5), Address: "[2001:db8:1234:5678::1]:8285",
				Subnets: []string{"fd00:10:244:1::/64"}, State: "down", Loss: new(1.0),
				ConfigMatch: new(false), ConfigSHA256: "0123456789ab",
				RxPackets: new(uint64(0)), TxPackets: new(uint64(0)),
			},
			{Name: "edge-3", Address: "172.18.0.5:8285", Subnets: []string{"10.244.3.0/24"}, State: "unknown",
				RxPackets: new(uint64(0)), TxPackets: new(uint64(0))},
		},
		Masquerade: control.Masquerade{
			Enabled: true, Repairs: 2, Rules: []control.Rule{{Name: "mesh-to-mesh", Packets: 9}, {Name: "excluded"}},
		},
		Health: control.Health{Level: control.Degraded, Problems: []control.Problem{
			{Level: control.Degraded, Kind: "forwarding_off", Text: "this host does not forward",
				Remedy: "sysctl -w x=1"},
			{Level: control.Info, Kind: "underlay_families", Peer: "edge-3", Text: "edge-3 has another family"},
		}},
		Warnings: []string{"this host does not forward: sysctl -w x=1"},
	}
}

// Health is told, not judged: status exits with 0 if the daemon answers.
func TestStatusCommand(t *testing.T) {
	for _, level := range []string{control.OK, control.Degraded, control.Failed, ""} {
		t.Run("level "+level, func(t *testing.T) {
			want := sample(time.Now().Round(0).UTC())
			want.Health.Level = level
			socket := fake(t, control.Source{Status: func() control.Status { return want }})
			code, out, errs := meshd("--socket", socket, "status")
			if code != 0 || errs != "" || !strings.HasPrefix(out, "edge-1  ") || strings.Contains(out, "\x1b") {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
			code, out, errs = meshd("--socket", socket, "status", "--json")
			if got := decode[control.Status](t, out); code != 0 || errs != "" ||
				!reflect.DeepEqual(got.Health, want.Health) {
				t.Errorf("--json: %d, %q\n%+v", code, errs, got.Health)
			}
		})
	}
}

// The JSON of a command is the API's object, with what only newer daemons know left out.
func TestOlderDaemonsStatus(t *testing.T) {
	socket := raw(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"schema":1,"node":"a","warnings":["x is wrong"],"peers":[{"name":"b","state":"up"}]}`)
	})
	code, out, errs := meshd("status", "--socket", socket)
	if code != 0 || errs != "" || !strings.HasPrefix(out, "a  DEGRADED: x is wrong") {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
}

func TestPeers(t *testing.T) {
	socket := fake(t, control.Source{Status: func() control.Status { return sample(time.Now()) }})
	for name, want := range map[string]int{"edge-2": 0, "edge-3": exitNo} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := meshd("peers", name, "--socket", socket)
			if code != want || errs != "" || strings.Count(out, "\n") != 2 || !strings.Contains(out, "\n"+name+" ") {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
			code, out, _ = meshd("peers", name, "--json", "--socket", socket)
			if p := decode[control.OnePeer](t, out); code != want || p.Name != name || p.Schema != control.Schema {
				t.Errorf("--json: %d, %q", code, out)
			}
		})
	}
	for _, name := range []string{"nobody", "edge-1"} { // the second is the node itself
		t.Run(name, func(t *testing.T) {
			code, out, errs := meshd("peers", name, "--socket", socket)
			if code != exitNo || out != "" || !strings.Contains(errs, name) {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
		})
	}
	code, out, _ := meshd("--json", "peers", "--socket", socket)
	if all := decode[control.Peers](t, out); code != 0 || all.Node != "edge-1" || len(all.Peers) != 3 {
		t.Errorf("all: %d, %q", code, out)
	}
	for args, want := range map[string]string{
		"":                     "a-long-name,edge-3,edge-2",
		"--sort name":          "a-long-name,edge-2,edge-3",
		"--sort loss":          "a-long-name,edge-2,edge-3",
		"--sort rtt":           "edge-2,a-long-name,edge-3",
		"--sort drops":         "edge-2,a-long-name,edge-3",
		"--sort seen":          "a-long-name,edge-3,edge-2",
		"--state up":           "edge-2",
		"--state up,unknown":   "edge-3,edge-2",
		"--state stale":        "no peer",
		"--state up --sort rx": "edge-2",
	} {
		t.Run(args, func(t *testing.T) {
			code, out, errs := meshd(append(strings.Fields(args), "peers", "--socket", socket)...)
			var names []string
			for l := range strings.Lines(out) {
				if name, _, _ := strings.Cut(l, "  "); name != "PEER" {
					names = append(names, strings.TrimSpace(strings.SplitN(name, ".", 2)[0]))
				}
			}
			if got := strings.Join(names, ","); code != 0 || errs != "" || got != want {
				t.Errorf("%d, %q, want %q; %q", code, got, want, errs)
			}
		})
	}
	code, out, _ = meshd("peers", "--json", "--state", "up", "--socket", socket)
	some := decode[control.Peers](t, out)
	if code != 0 || len(some.Peers) != 1 || some.Peers[0].Name != "edge-2" {
		t.Errorf("--state: %d, %q", code, out)
	}
	code, out, _ = meshd("peers", "--json", "--state", "stale", "--socket", socket)
	if code != 0 || strings.Contains(out, "null") {
		t.Errorf("none: %d, %q", code, out)
	}
}

// --check says nothing, and is an exit code.
func TestStatusCheck(t *testing.T) {
	well := sample(time.Now())
	well.Health = control.Health{Level: control.OK}
	well.Peers = well.Peers[:1]
	maintained := well
	maintained.Peers = []control.Peer{well.Peers[0], {Name: "x", State: control.Down, Drain: &control.Drain{}}}
	for name, test := range map[string]struct {
		status control.Status
		ready  error
		args   string
		code   int
	}{
		"well":                  {well, nil, "--check", 0},
		"degraded":              {sample(time.Now()), nil, "--check", exitNo},
		"an older daemon":       {control.Status{Node: "a"}, nil, "--check", exitNo},
		"not in the mesh yet":   {control.Status{Health: well.Health}, nil, "--check", exitNo},
		"ready":                 {sample(time.Now()), nil, "--check ready", 0},
		"ready, joined":         {sample(time.Now()), nil, "--check=ready", 0},
		"not ready":             {well, errors.New("no address"), "--check ready", exitNo},
		"peers":                 {well, nil, "--check peers", 0},
		"a peer is down":        {sample(time.Now()), nil, "--check peers", exitNo},
		"a peer in maintenance": {maintained, nil, "--check peers", 0},
		"health by its name":    {well, nil, "--check=health", 0},
	} {
		t.Run(name, func(t *testing.T) {
			test.status.Schema = control.Schema
			socket := fake(t, control.Source{Status: func() control.Status { return test.status },
				Ready: func(context.Context) error { return test.ready }})
			args := append(strings.Fields("status "+test.args), "--socket", socket)
			if code, out, errs := meshd(args...); code != test.code || out+errs != "" {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
			code, out, _ := meshd(append(args, "--json")...)
			if got := decode[control.Ready](t, out); code != test.code || got.OK != (code == 0) {
				t.Errorf("--json: %d, %q", code, out)
			}
		})
	}
	none := t.TempDir() + "/none"
	for _, what := range []string{"ready", "peers", "health"} {
		if code, out, _ := meshd("status", "--check="+what, "--socket", none); code != exitNotRunning || out != "" {
			t.Errorf("no daemon: %d, %q", code, out)
		}
	}
}

// Watching prints again and again, with rates from the second time on, until Ctrl-C, which is no error.
func TestStatusWatch(t *testing.T) {
	asked := 0
	socket := fake(t, control.Source{Status: func() control.Status {
		asked++
		s := sample(time.Now())
		s.UptimeSeconds = float64(asked)
		s.Peers[0].RxBytes, s.Peers[0].TxBytes = new(uint64(1000*asked)), new(uint64(0))
		return s
	}})
	for _, test := range []struct{ args, want string }{{"-w 0.1", "8.0 kb/s"},
		{"--watch=100ms --json", `"peers":`}} {
		t.Run(test.args, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			reader, writer := io.Pipe()
			done := make(chan error, 1)
			go func() {
				args := append(strings.Fields("status "+test.args), "--socket", socket)
				done <- run(ctx, args, writer, io.Discard)
				writer.Close()
			}()
			seen := 0
			for lines := bufio.NewScanner(reader); seen < 2 && lines.Scan(); {
				seen += strings.Count(lines.Text(), test.want)
			}
			interrupt()
			go io.Copy(io.Discard, reader)
			if err := <-done; err != nil || seen < 2 {
				t.Errorf("%v, seen %d times", err, seen)
			}
		})
	}
	if code, _, _ := meshd("status", "-w", "--socket", t.TempDir()+"/none"); code != exitNotRunning {
		t.Errorf("no daemon: %d", code)
	}
}
