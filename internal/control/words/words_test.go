package words

import (
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

func peer(op, subject, field string) control.Change {
	return control.Change{Op: op, Kind: "peer", Subject: subject, Field: field}
}

func TestChanges(t *testing.T) {
	for name, test := range map[string]struct {
		details []control.Change
		more    int
		want    string
	}{
		"nothing":            {nil, 0, "nothing changed"},
		"one":                {[]control.Change{peer("+", "a", "")}, 0, "+1 peer"},
		"several, in order":  {[]control.Change{peer("-", "b", ""), peer("+", "a", ""), peer("+", "c", "")}, 0, "-1 peer, +2 peers"},
		"two fields of one":  {[]control.Change{peer("~", "a", "address"), peer("~", "a", "routes")}, 0, "~1 peer"},
		"a field each":       {[]control.Change{peer("~", "a", "routes"), peer("~", "b", "routes")}, 0, "~2 peers"},
		"added and replaced": {[]control.Change{peer("+", "a", ""), peer("~", "a", "routes")}, 0, "+1 peer, ~1 peer"},
		"settings by key": {[]control.Change{
			{Op: "~", Kind: control.SettingChange, Subject: "probe.interval", Old: "1s", New: "2s"},
			{Op: "~", Kind: control.SettingChange, Subject: "network.name"},
		}, 0, "~1 probe.interval, ~1 network.name"},
		"words of several": {[]control.Change{
			{Op: "*", Kind: "address", Subject: "10.0.0.1/32"}, {Op: "*", Kind: "address", Subject: "fd00::1/128"},
			{Op: "+", Kind: "masquerade rule", Subject: "a"}, {Op: "+", Kind: "masquerade rule", Subject: "b"},
			{Op: "~", Kind: "identity"}, {Op: "~", Kind: "identity"},
		}, 0, "*2 addresses, +2 masquerade rules, ~2 identities"},
		"elements of a set": {[]control.Change{
			{Op: "+", Kind: "masquerade rule", Field: "mesh", New: "10.1.0.0/16"},
			{Op: "+", Kind: "masquerade rule", Field: "mesh", New: "10.2.0.0/16"},
		}, 0, "+2 masquerade rules"},
		"of a newer daemon":  {[]control.Change{{Op: "^", Kind: "tunnel"}, {Op: "^", Kind: "tunnel"}}, 0, "^2 tunnels"},
		"more than listed":   {[]control.Change{peer("+", "a", ""), peer("+", "b", "")}, 998, "+2 peers, 998 more"},
		"none of them shown": {nil, 3, "3 more"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Changes(test.details, test.more); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// Kinds come from values. What a sentence says does not matter, even where there are only sentences.
func TestReloaded(t *testing.T) {
	for name, test := range map[string]struct {
		reload control.Reload
		want   string
	}{
		"values":          {control.Reload{Changes: []string{"whatever it says"}, Details: []control.Change{peer("+", "a", "")}}, "+1 peer"},
		"cut":             {control.Reload{Changes: []string{"x", "and 4 more"}, Details: []control.Change{peer("+", "a", "")}, More: 4}, "+1 peer, 4 more"},
		"nothing":         {control.Reload{Changes: []string{}, Details: []control.Change{}}, "nothing changed"},
		"an older daemon": {control.Reload{Changes: []string{"+ peer a", "~ peer b", "~ mtu"}}, "3 changes"},
		"one of its":      {control.Reload{Changes: []string{"+ peer a"}}, "1 change"},
		"none of its":     {control.Reload{}, "nothing changed"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Reloaded(test.reload); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	for name, test := range map[string]struct {
		health   control.Health
		warnings []string
		want     string
	}{
		"well":            {control.Health{Level: control.OK}, nil, "health   ok"},
		"an older daemon": {control.Health{}, []string{"a is wrong: do b", "c"}, "! a is wrong: do b\n! c"},
		"older and well":  {control.Health{}, nil, ""},
		"problems, as the daemon sorted them": {control.Health{Level: control.Failed, Problems: []control.Problem{
			{Level: control.Failed, Kind: "rules_failed", Text: "cannot set rules", Remedy: "modprobe nf_tables"},
			{Level: control.Degraded, Kind: "peer_down", Peer: "edge-2", Text: "edge-2 is down"},
			{Level: control.Info, Kind: "unmerged", Text: "TCP reception is slow"},
		}}, []string{"repeats what the problems say"}, `health   failed
! failed rules_failed: cannot set rules
  remedy: modprobe nf_tables
! degraded peer_down edge-2: edge-2 is down
! info unmerged: TCP reception is slow`},
		"several lines": {control.Health{Level: control.Degraded, Problems: []control.Problem{
			{Level: control.Degraded, Kind: "file_rejected", Text: "a:1: x\na:2: y"},
		}}, nil, "health   degraded\n! degraded file_rejected: a:1: x\n  a:2: y"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(Health(test.health, test.warnings), "\n"); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestEngine(t *testing.T) {
	for want, d := range map[string]control.Dataplane{
		"":                         {},
		"user":                     {Engine: "user", Receive: "socket"},
		"user (no BTF)":            {Engine: "user", Receive: "socket", Reason: "no BTF"},
		"kernel, xdp":              {Engine: "kernel", Receive: "xdp"},
		"kernel, tcx (a bridge)":   {Engine: "kernel", Receive: "tcx", Reason: "a bridge"},
		"user (captures matter)":   {Engine: "user", Reason: "captures matter", Captured: true},
		"kernel, tcx (" + captured: {Engine: "kernel", Receive: "tcx", Reason: "a bridge", Captured: true},
	} {
		t.Run(want, func(t *testing.T) {
			if got := Engine(d); got != want {
				t.Errorf("%q", got)
			}
		})
	}
}

const captured = "sends through user space while a program captures on the TUN)"

func TestPeers(t *testing.T) {
	peers := []control.Peer{
		{Name: "a", State: control.Up, ConfigMatch: new(true)}, {Name: "b", State: control.Down},
		{Name: "c", State: "draining"}, {Name: "d", State: control.Stale, ConfigMatch: new(false), ConfigSHA256: "0123456789ab"},
		{Name: "e", State: control.Unknown}, {Name: "f", State: control.Down},
	}
	var names, files []string
	for _, p := range ByState(peers) {
		names, files = append(names, p.Name), append(files, File(p))
	}
	if got := strings.Join(names, ""); got != "cbfdea" {
		t.Errorf("order %s: the worst first, and a state that is not known before all", got)
	}
	if got := strings.Join(files, " "); got != "- - - 01234567 - same" {
		t.Errorf("files %s", got)
	}
	if peers[0].Name != "a" {
		t.Error("the caller's list was sorted")
	}
	if got := Peers(peers); got != "1 up  1 stale  2 down  1 unknown  1 with another file" {
		t.Errorf("%q", got)
	}
	if got := Peers(nil); got != "0 up" {
		t.Errorf("no peers: %q", got)
	}
}

func TestCounters(t *testing.T) {
	for name, test := range map[string]struct{ got, want string }{
		"drops":          {Drops(map[string]uint64{"ttl_expired": 1, "no_route": 30, "malformed": 0}), "no_route 30, ttl_expired 1"},
		"no drops":       {Drops(map[string]uint64{"malformed": 0}), ""},
		"rules off":      {Masquerade(control.Masquerade{Repairs: 3}), "off"},
		"rules unused":   {Masquerade(control.Masquerade{Enabled: true, Rules: []control.Rule{{Name: "x"}}}), "on"},
		"rules repaired": {Masquerade(control.Masquerade{Enabled: true, Repairs: 2, Rules: []control.Rule{{Name: "x", Packets: 5}}}), "on  x 5  repaired 2 times"},
		"batches": {Batches(map[string]control.Calls{"tun_read": {Calls: 2, Packets: 5}, "wire_read": {Calls: 1, Packets: 95}}),
			"packets per call: out 2.5 from TUN, - to wire; in 95.0 from wire, - to TUN"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.got != test.want {
				t.Errorf("%q, want %q", test.got, test.want)
			}
		})
	}
}

func TestFigures(t *testing.T) {
	got := []string{
		Span(0), Span(-time.Hour), Span(59 * time.Second), Span(61 * time.Second), Span(2*time.Hour + 3*time.Minute), Span(50 * time.Hour),
		Size(0), Size(999), Size(1000), Size(1234567), Size(1 << 63),
		Number(nil, "%.0f%%", 100), Number(new(0.05), "%.0f%%", 100), OrNone(""), OrNone("x"),
		HostPort(control.Network{Address: "172.18.0.3", Port: 8285}), HostPort(control.Network{Address: "2001:db8::1", Port: 1}),
		HostPort(control.Network{Address: "edge.example", Port: 1}), HostPort(control.Network{}),
	}
	want := []string{
		"0s", "0s", "59s", "1m 01s", "2h 03m", "2d 02h",
		"0 B", "999 B", "1.0 kB", "1.2 MB", "9223.4 PB",
		"-", "5%", "none", "x",
		"172.18.0.3:8285", "[2001:db8::1]:1", "edge.example", "",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
