package page

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text/hostile"
)

var update = flag.Bool("update", false, "rewrite testdata")

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// mesh is a node with n peers that are well.
func mesh(n int) control.Status {
	s := control.Status{
		Schema: control.Schema, Node: "control-plane", Version: "0.1.0", BootID: "5d2e", PID: 812, Now: noon,
		Started: noon.Add(-22 * time.Minute), UptimeSeconds: 22 * 60,
		Config: control.Config{Path: "/etc/mesh.toml", Generation: 3, SHA256: "32790fac0011",
			LastReload: control.Reload{OK: true, At: noon.Add(-5 * time.Minute), DurationMS: 3.4,
				Details: []control.Change{{Op: "+", Kind: "peer", Subject: "worker-2"}}}},
		Network: control.Network{Name: "edge", CIDR: []string{"10.244.0.0/16"}, Interface: "mesh0", MTU: 1472,
			Port: 8285, Address: "172.18.0.2", Subnets: []string{"10.244.0.0/24"}, Repairs: 1},
		Dataplane: control.Dataplane{Engine: "kernel", Receive: "tcx", Queues: 2,
			Offloads: []string{"tso4", "tso6", "uso"}, Refused: []string{"udp_gro"},
			Handed: map[string]uint64{"from_socket": 5368, "plain_peer": 0},
			Calls:  map[string]control.Calls{"tun_read": {Calls: 2, Packets: 5}}},
		Totals: control.Totals{RxPackets: new(uint64(5)), RxBytes: new(uint64(1234567)), TxPackets: new(uint64(6)),
			TxBytes: new(uint64(999)), Drops: map[string]uint64{"no_route": 312},
			Unattributed: map[string]uint64{"no_route": 300}},
		Masquerade: control.Masquerade{Enabled: true, Rules: []control.Rule{{Name: "mesh-to-mesh", Packets: 2},
			{Name: "pods-to-outside", Packets: 777}}},
		Health: control.Health{Level: control.OK},
	}
	for i := range n {
		bytes := uint64(1000 * (i + 1) * (i + 1))
		s.Peers = append(s.Peers, control.Peer{
			Name: fmt.Sprintf("worker-%d", i+1), Address: fmt.Sprintf("172.18.%d.%d:8285", i/250, i%250+3),
			Subnets: []string{fmt.Sprintf("10.244.%d.0/24", i+1)}, State: control.Up,
			Since: new(noon.Add(-20 * time.Minute)), LastSeen: new(noon), RTTMS: new(0.34 + float64(i)),
			Loss: new(0.0), ConfigMatch: new(true), Version: "0.1.0", RxBytes: &bytes, TxBytes: &bytes,
		})
	}
	return s
}

// fail makes a peer one that is down.
func fail(p *control.Peer) {
	p.State, p.LastSeen, p.Loss, p.ConfigMatch = control.Down, new(noon.Add(-15*time.Second)), new(0.22), nil
}

// sick is a mesh in which most things that can be wrong are wrong.
func sick() control.Status {
	s := mesh(4)
	fail(&s.Peers[1])
	s.Peers[1].Routes = []string{"192.168.7.0/24"}
	s.Peers[2].Loss, s.Peers[2].Drops = new(0.234), map[string]uint64{"too_big": 10452}
	s.Peers[3].ConfigMatch, s.Peers[3].ConfigSHA256 = new(false), "00c0ffee77"
	s.Config.Error = "/etc/mesh.toml:4:1: error: a\n/etc/mesh.toml:9:1: error: b"
	s.Health = control.Health{Level: control.Failed, Problems: []control.Problem{
		{Level: control.Failed, Kind: "peer_down", Peer: "worker-2",
			Text:   "no answer and no data from peer worker-2",
			Remedy: "check it", Since: noon.Add(-12 * time.Second)},
		{Level: control.Failed, Kind: "forwarding_off", Since: noon.Add(-3 * time.Hour),
			Text:   "this host does not forward IPv4: pods cannot reach other hosts",
			Remedy: "run `sysctl -w net.ipv4.ip_forward=1`, and write the same into a file below /etc/sysctl.d"},
		{Level: control.Degraded, Kind: "peer_loss", Peer: "worker-3",
			Text:  "probes to peer worker-3 are lost: 23 %",
			Since: noon.Add(-40 * time.Second)},
		{Level: control.Degraded, Kind: "file_rejected", Since: noon.Add(-time.Minute),
			Text:   "the new file is rejected, the one before stays in force: " + s.Config.Error,
			Remedy: "correct and save the file: meshd reads it by itself"},
		{Level: control.Degraded, Kind: "file_differs", Peer: "worker-4",
			Text: "this node's file differs in meaning from that of peer worker-4"},
		{Level: control.Info, Kind: "unmerged", Text: "TCP reception is slow: receive merging (GRO) is off"},
	}}
	s.Strangers = []control.Stranger{{Address: "172.18.0.9", Reason: "unknown_sender", Packets: 3,
		InnerSource: "10.244.9.3", InnerDestination: "10.244.0.7", Last: noon.Add(-3 * time.Second)}}
	s.Allow = control.Allow{Rules: []control.Rule{{Name: "web"}}, Dropped: 12}
	s.Drain = &control.Drain{Since: new(noon.Add(-time.Minute)), By: "root", Reason: "new disk"}
	return s
}

// sealed is a mesh whose packets are encrypted.
func sealed() control.Status {
	s := mesh(4)
	s.Dataplane = control.Dataplane{Engine: control.EngineWireGuard, Queues: 1}
	s.WireGuard = &control.WireGuard{Implementation: "kernel", Interface: "meshd-wg", Port: 51820,
		PublicKey: "Own=", MTU: 1440, State: control.WireGuardSealed}
	s.Totals = control.Totals{Drops: map[string]uint64{"not_encrypted": 2}}
	for i := range s.Peers {
		p := &s.Peers[i]
		p.RxBytes, p.TxBytes = nil, nil
		p.WireGuard = &control.PeerWireGuard{RxBytes: 1500, TxBytes: 900, Path: control.PathDirect,
			State: control.WireGuardSealed, LatestHandshake: new(noon.Add(-70 * time.Second))}
	}
	s.Peers[1].WireGuard.LatestHandshake = nil
	s.Peers[2].WireGuard.State = control.WireGuardLagging
	s.Health = control.Health{Level: control.Degraded, Problems: []control.Problem{
		{Level: control.Degraded, Kind: "sends_clear", Peer: "worker-4",
			Text: "peer worker-4 still sends in the clear, and its packets are dropped"},
		{Level: control.Degraded, Kind: "no_handshake", Peer: "worker-2",
			Text: "worker-2 does not answer WireGuard"},
	}}
	return s
}

// cloud is a mesh whose names have a long domain in common.
func cloud() control.Status {
	s := mesh(12)
	for i := range s.Peers {
		s.Peers[i].Name = fmt.Sprintf("ip-172-31-0-%d.eu-central-1.compute.internal.example.com", i+1)
	}
	return s
}

// hundred is a mesh of many peers, some of which are not well.
func hundred() control.Status {
	s := mesh(100)
	for _, i := range []int{1, 9, 19} {
		fail(&s.Peers[i])
	}
	s.Health = control.Health{Level: control.Failed, Problems: []control.Problem{
		{Level: control.Failed, Kind: "peer_down", Peer: "worker-2"},
		{Level: control.Failed, Kind: "peer_down", Peer: "worker-10"},
		{Level: control.Failed, Kind: "peer_down", Peer: "worker-20"}}}
	return s
}

// alone is a mesh of which nothing is heard.
func alone() control.Status {
	s := mesh(300)
	for i := range s.Peers {
		fail(&s.Peers[i])
	}
	s.Health = control.Health{Level: control.Failed, Problems: []control.Problem{{Level: control.Failed,
		Kind: "peer_down", Text: "no answer and no data from all 300 peers",
		Remedy: "look at this host: `ip route get 172.18.0.3`"}}}
	return s
}

// scenes are pages that people have to be able to read. Look at them after a change.
var scenes = map[string]struct {
	status  control.Status
	options Options
}{
	"well-80":     {mesh(2), Options{Width: 80}},
	"well-120":    {mesh(2), Options{Width: 120}},
	"well-pipe":   {mesh(2), Options{}},
	"verbose":     {mesh(2), Options{Width: 80, Verbose: true}},
	"sick-80":     {sick(), Options{Width: 80}},
	"sick-kinds":  {sick(), Options{Width: 80, Verbose: true}},
	"sick-140":    {sick(), Options{Width: 140}},
	"sick-40":     {sick(), Options{Width: 40}},
	"sick-pipe":   {sick(), Options{}},
	"colour":      {sick(), Options{Width: 80, Colour: true}},
	"sealed":      {sealed(), Options{Width: 80}},
	"cloud":       {cloud(), Options{Width: 80}},
	"folded":      {hundred(), Options{Width: 80}},
	"short":       {hundred(), Options{Width: 80, Height: 24}},
	"alone":       {alone(), Options{Width: 80}},
	"maintained":  {maintained(), Options{Width: 80}},
	"no-peers":    {mesh(0), Options{Width: 80}},
	"rates":       {mesh(2), Options{Width: 80, Before: new(before())}},
	"starting":    {starting(), Options{Now: noon}},
	"older":       {older(), Options{Width: 80, Now: noon}},
	"unknown-yet": {unknown(), Options{Width: 80}},
}

// before is mesh(2) ten seconds earlier.
func before() control.Status {
	s := mesh(2)
	s.UptimeSeconds -= 10
	s.Peers = s.Peers[:1]
	s.Peers[0].RxBytes, s.Peers[0].TxBytes = new(uint64(1)), new(uint64(1000))
	return s
}

// older is the status of a daemon without health, clock and uptime.
func older() control.Status {
	s := mesh(2)
	fail(&s.Peers[0])
	s.Health, s.Now, s.UptimeSeconds = control.Health{}, time.Time{}, 0
	s.Warnings = []string{"net.ipv4.ip_forward is 0: pods cannot reach other hosts"}
	return s
}

// maintained is a node in maintenance that is well.
func maintained() control.Status {
	s := mesh(1)
	s.Drain = &control.Drain{Since: new(noon.Add(-time.Minute)), Until: new(noon.Add(time.Hour)), By: "anna"}
	return s
}

// starting is a node without an address.
func starting() control.Status {
	return control.Status{Started: noon, Warnings: []string{"waiting for an address"}}
}

// unknown is a mesh that has just been started.
func unknown() control.Status {
	s := mesh(1)
	p := &s.Peers[0]
	p.State, p.LastSeen, p.RTTMS, p.Loss, p.ConfigMatch, p.Version = control.Unknown, nil, nil, nil, nil, ""
	return s
}

func TestStatus(t *testing.T) {
	for name, scene := range scenes {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := Status(&b, scene.status, scene.options); err != nil {
				t.Fatal(err)
			}
			compare(t, filepath.Join("testdata", name+".txt"), b.String())
			if (strings.Contains(b.String(), "\x1b")) != scene.options.Colour {
				t.Error("escape codes without colour, or the reverse")
			}
		})
	}
}

// compare compares a page with a file.
func compare(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nnot\n%s", path, got, want)
	}
}

// A page is as wide as its screen. Only what has to be copied whole is longer.
func TestWidths(t *testing.T) {
	for name, make := range map[string]func() control.Status{"sick": sick, "cloud": cloud, "hundred": hundred,
		"sealed": sealed} {
		for _, w := range []int{64, 80, 100, 120, 140, 200} {
			t.Run(fmt.Sprint(name, w), func(t *testing.T) {
				var b strings.Builder
				if err := Status(&b, make(), Options{Width: w, Verbose: true}); err != nil {
					t.Fatal(err)
				}
				for l := range strings.Lines(b.String()) {
					if n := width(strings.TrimSuffix(l, "\n")); n > w {
						t.Errorf("%d columns: %s", n, l)
					}
				}
			})
		}
	}
}

// Every peer has its line in a table of all.
func TestPeers(t *testing.T) {
	var b strings.Builder
	if err := Peers(&b, hundred(), Options{Width: 80}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"); n != 101 {
		t.Errorf("%d lines", n)
	}
	b.Reset()
	if err := Peers(&b, mesh(0), Options{}); err != nil || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("%v, %q", err, &b)
	}
}

// Whatever others say does nothing to a terminal.
func TestHostile(t *testing.T) {
	var s control.Status
	hostile.Fill(&s)
	for name, o := range map[string]Options{"pipe": {Verbose: true}, "screen": {Width: 80, Verbose: true},
		"ascii": {ASCII: true, Width: 80}} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := Status(&b, s, o); err != nil || hostile.Fault(b.String()) != "" {
				t.Errorf("%v, %s", err, hostile.Fault(b.String()))
			}
			if o.ASCII && strings.ContainsFunc(b.String(), func(r rune) bool { return r >= 0x80 }) {
				t.Error("not ASCII")
			}
		})
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

var errFull = errors.New("full")

func TestFullDisk(t *testing.T) {
	if err := Status(full{}, mesh(1), Options{}); !errors.Is(err, errFull) {
		t.Error(err)
	}
}

func TestWrap(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		w    int
		want string
	}{
		"short":              {"a b", 10, "a b"},
		"no width":           {"a b c d", 0, "a b c d"},
		"between words":      {"aaa bbb ccc", 7, "aaa bbb|ccc"},
		"a command":          {"run `ip route get` x", 16, "run|`ip route get` x"},
		"a long command":     {"run `ip route get` x", 8, "run `ip|route|get` x"},
		"half a command":     {"run `ip route get x", 8, "run `ip|route|get x"},
		"a long word":        {"a 0123456789 b", 5, "a|0123456789|b"},
		"letters, not bytes": {"äöü äöü", 7, "äöü äöü"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(wrap(test.text, test.w), "|"); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestFit(t *testing.T) {
	for want, n := range map[string]int{"control-plane  ": 15, "control-plane": 13, "cont..plane": 11,
		"con": 3} {
		if got := fit("control-plane", n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestRate(t *testing.T) {
	for want, v := range map[string]float64{"0 b/s": 0, "999 b/s": 999, "1.0 kb/s": 1000, "587 kb/s": 587123,
		"3.8 Gb/s": 3.82e9, "38 Tb/s": 38e12} {
		if got := rate(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}
