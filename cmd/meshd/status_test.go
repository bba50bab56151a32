package main

import (
	"bytes"
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

const sampleText = `node     edge-1  up 3d 04:12  meshd 0.1.0  pid 812
config   /etc/mesh.toml  generation 3  sha 9f3c1a2b
network  edge  10.244.0.0/16  listening on 172.18.0.3:8285  pods 10.244.2.0/24
plane    user  mesh0 mtu 1472  queues 1  offloads none
batches  packets per call: out 40.0 from TUN, - to wire; in - from wire, - to TUN
nat      on  mesh-to-mesh 9  repaired 2 times
traffic  rx 5 packets, 1.2 MB  tx 6 packets, 999 B
drops    no_route 3
peers    1 up  1 down  1 unknown  1 with another file

PEER                                                          STATE    RTT ms  LOSS  ADDRESS                       SUBNETS                       RX PACKETS  TX PACKETS  LAST SEEN  FILE                   DROPS
a-long-name.a-long-name.a-long-name.a-long-name.a-long-name.  down     -       100%  [2001:db8:1234:5678::1]:8285  fd00:10:244:1::/64            0           0           never      another file 01234567  none
edge-3                                                        unknown  -       -     172.18.0.5:8285               10.244.3.0/24                 0           0           never      file unknown           none
edge-2                                                        up       0.21    0%    172.18.0.4:8285               10.244.1.0/24 192.168.7.0/24  5           6           3s ago     same file              ttl_expired 1
`

// sealed makes a status that of a mesh whose packets are encrypted.
func sealed(s control.Status, now time.Time) control.Status {
	s.Dataplane = control.Dataplane{Engine: control.EngineWireGuard, Queues: 1}
	s.WireGuard = &control.WireGuard{Implementation: "kernel", Interface: "meshd-wg", Port: 51820,
		PublicKey: "Own=", MTU: 1440}
	s.Totals = control.Totals{Drops: map[string]uint64{"not_encrypted": 2}}
	s.Peers = s.Peers[:1]
	p := &s.Peers[0]
	p.RxPackets, p.TxPackets, p.Drops = nil, nil, nil
	p.WireGuard = &control.PeerWireGuard{PublicKey: "Peer=", Endpoint: "172.18.0.4:51820", RxBytes: 1500,
		TxBytes: 900, LatestHandshake: new(now.Add(-70 * time.Second)), Path: control.PathDirect}
	return s
}

const sealedText = `node     edge-1  up 3d 04:12  meshd 0.1.0  pid 812
config   /etc/mesh.toml  generation 3  sha 9f3c1a2b
network  edge  10.244.0.0/16  listening on 172.18.0.3:8285  pods 10.244.2.0/24
plane    wireguard  mesh0 mtu 1472  queues 1  offloads none
crypto   kernel  meshd-wg mtu 1440  UDP 51820  key Own=
batches  packets per call: out - from TUN, - to wire; in - from wire, - to TUN
nat      on  mesh-to-mesh 9  repaired 2 times
traffic  rx 1.5 kB  tx 900 B, encrypted
drops    not_encrypted 2
peers    1 up

PEER    STATE  RTT ms  LOSS  ADDRESS          SUBNETS                       RX PACKETS  TX PACKETS  ` +
	`LAST SEEN  FILE       DROPS
edge-2  up     0.21    0%    172.18.0.4:8285  10.244.1.0/24 192.168.7.0/24  -           -           ` +
	`3s ago     same file  none
`

func TestStatusForPeople(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	older := func(s control.Status) control.Status { s.Health = control.Health{}; return s }
	waiting := control.Status{Started: now, Warnings: []string{"waiting for an address"},
		Config: control.Config{Path: "x"}}
	for name, test := range map[string]struct {
		status control.Status
		want   string
	}{
		"problems": {sample(now), `health   DEGRADED
! degraded forwarding_off: this host does not forward
  remedy: sysctl -w x=1
! info underlay_families edge-3: edge-3 has another family
` + sampleText},
		"encrypted": {sealed(older(sample(now)), now), "! this host does not forward: sysctl -w x=1\n" +
			sealedText},
		"an older daemon": {older(sample(now)), "! this host does not forward: sysctl -w x=1\n" + sampleText},
		"not forwarding yet": {waiting, "! waiting for an address\n" +
			"node     (unknown node)  up 0 s  meshd   pid 0\n" +
			"config   x  generation 0  sha \n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := printStatus(&out, test.status, now); err != nil || out.String() != test.want {
				t.Errorf("%v, got:\n%s\nwant:\n%s", err, &out, test.want)
			}
		})
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
			if code != 0 || errs != "" || strings.HasPrefix(out, "health   "+strings.ToUpper(level)+"\n") != (level != "") {
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
	if code != 0 || errs != "" || !strings.HasPrefix(out, "! x is wrong\nnode     a  ") ||
		strings.Contains(out, "health") {
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
	code, out, errs := meshd("peers", "--socket", socket)
	if _, table, _ := strings.Cut(sampleText, "\n\n"); code != 0 || errs != "" || out != table {
		t.Errorf("all: %d, %q\n%s", code, errs, out)
	}
}
