package words

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/probe"
)

var (
	fibre = netip.MustParseAddrPort("172.18.0.3:8285")
	radio = netip.MustParseAddrPort("[2001:db8::3]:8285")
	lan   = netip.MustParsePrefix("192.168.7.0/24")
	wan   = netip.MustParsePrefix("192.168.8.0/24")
)

// node is a peer with addresses, and with both prefixes.
func node(name string, addresses ...netip.AddrPort) mesh.Peer {
	p := mesh.Peer{Name: name, Routes: []mesh.Prefix{lan, wan}}
	for _, a := range addresses {
		p.Addresses = append(p.Addresses, mesh.Endpoint{AddrPort: a})
	}
	return p
}

func TestAddresses(t *testing.T) {
	measured := probe.Figures{Probes: 60, P50: 2 * time.Millisecond, Loss: 0.5}
	path := func(via netip.AddrPort, state probe.State, silent bool) probe.PathReport {
		return probe.PathReport{Via: via, State: state, Silent: silent, Figures: measured}
	}
	type tested = control.PeerAddress
	both := []netip.AddrPort{fibre, radio}
	for _, test := range []struct {
		name      string
		of        mesh.Peer
		paths     []probe.PathReport
		in        netip.AddrPort
		reachable []netip.AddrPort
		want      []control.PeerAddress
	}{
		{"none", node("b"), nil, netip.AddrPort{}, nil, nil},
		{"one", node("b", fibre), nil, netip.AddrPort{}, both[:1],
			[]tested{{Address: fibre.String(), State: control.Silent, RTTMS: new(7.0), Loss: new(0.1), Active: true}}},
		{"one of two can be reached", node("b", both...), nil, netip.AddrPort{}, both[1:],
			[]tested{{Address: fibre.String(), State: control.Unknown},
				{Address: radio.String(), State: control.Silent, RTTMS: new(7.0), Loss: new(0.1), Active: true}}},
		{"the first of two", node("b", both...), []probe.PathReport{path(fibre, probe.Up, false), {Via: radio}},
			netip.AddrPort{}, both,
			[]tested{{Address: fibre.String(), State: control.Up, RTTMS: new(2.0), Loss: new(0.5), Active: true},
				{Address: radio.String(), State: control.Unknown}}},
		{"the second of two, and the first has just fallen silent", node("b", both...),
			[]probe.PathReport{path(fibre, probe.Up, true), path(radio, probe.Up, false)}, radio, both,
			[]tested{{Address: fibre.String(), State: control.Stale, RTTMS: new(2.0), Loss: new(0.5)},
				{Address: radio.String(), State: control.Up, RTTMS: new(2.0), Loss: new(0.5), Active: true}}},
		{"none can be reached", node("b", fibre), nil, netip.AddrPort{}, nil,
			[]tested{{Address: fibre.String(), State: control.Unknown}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := control.Peer{State: control.Silent, RTTMS: new(7.0), Loss: new(0.1)}
			Addresses(&s, test.of, test.paths, test.in, test.reachable,
				func(netip.Addr) (name string, at time.Time) { return "", time.Time{} })
			if !reflect.DeepEqual(s.Addresses, test.want) {
				t.Errorf("%+v\nwant %+v", s.Addresses, test.want)
			}
		})
	}
}

func TestNamesOfAddresses(t *testing.T) {
	at := time.Unix(1e9, 0)
	var s control.Peer
	Addresses(&s, node("b", fibre, radio), nil, fibre, nil, func(a netip.Addr) (string, time.Time) {
		if a == radio.Addr() {
			return "b.example.net", at
		}
		return "", time.Time{}
	})
	if a := s.Addresses; a[0].Name != "" || a[0].Resolved != nil || a[1].Name != "b.example.net" ||
		a[1].Resolved == nil || !a[1].Resolved.Equal(at) {
		t.Errorf("%+v", a)
	}
}

func TestRoutes(t *testing.T) {
	metric := func(peer string, p mesh.Prefix) int { return map[mesh.Prefix]int{lan: 50, wan: 100}[p] }
	for _, test := range []struct {
		name    string
		carrier string // of lan
		want    bool
	}{{"it carries", "b", true}, {"it stands by", "c", false}, {"this node carries", "a", false}} {
		t.Run(test.name, func(t *testing.T) {
			s := control.Peer{}
			Routes(&s, node("b", fibre), map[mesh.Prefix]string{lan: test.carrier}, metric)
			want := []control.RouteState{{Prefix: lan.String(), Metric: 50, Active: test.want},
				{Prefix: wan.String(), Metric: 100, Active: true}} // which no other node has
			if !reflect.DeepEqual(s.RouteStates, want) {
				t.Errorf("%+v", s.RouteStates)
			}
		})
	}
}

func TestMaintained(t *testing.T) {
	now := time.Unix(1e9, 0)
	since, until := now.Add(-time.Hour), now.Add(time.Hour)
	drain := &mesh.Drain{Since: since, Until: until, By: "root", Reason: "new disk"}
	told := &control.Drain{Since: &since, Until: &until, By: "root", Reason: "new disk"}
	for _, test := range []struct {
		name, state, want string
		drain             *mesh.Drain
		told              *control.Drain
	}{
		{"in none", control.Up, control.Up, nil, nil},
		{"up", control.Up, control.Draining, drain, told},
		{"it only says that there is one", control.Up, control.Draining, &mesh.Drain{}, &control.Drain{}},
		{"it has died", control.Down, control.Down, drain, told},
		{"silent", control.Silent, control.Silent, drain, told},
		{"over", control.Up, control.Up, &mesh.Drain{Until: now}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := control.Peer{State: test.state}
			Maintained(&s, test.drain, now)
			if s.State != test.want || !reflect.DeepEqual(s.Drain, test.told) {
				t.Errorf("%s, %+v", s.State, s.Drain)
			}
		})
	}
}

func TestCarried(t *testing.T) {
	m := mesh.Mesh{Self: "a", Shares: []mesh.Share{{Prefix: lan,
		Carriers: []mesh.Carrier{{Peer: "b", Metric: 50}, {Peer: "c", Metric: 100}}}}}
	peers := []control.Peer{{Name: "b", State: control.Down, Address: fibre.String()},
		{Name: "c", State: control.Up, Address: fibre.String(),
			Addresses: []control.PeerAddress{{Address: fibre.String()}, {Address: radio.String(), Active: true}}}}
	var shared, alone, own control.Route
	Carried(&shared, m, lan, "c", peers)
	want := control.Route{Peer: "c", Prefix: lan.String(), State: control.Up, Address: radio.String(),
		Carriers: []control.Carrier{{Peer: "b", Metric: 50, State: control.Down},
			{Peer: "c", Metric: 100, State: control.Up, Active: true}}}
	if !reflect.DeepEqual(shared, want) {
		t.Errorf("shared: %+v", shared)
	}
	Carried(&alone, m, wan, "b", peers)
	want = control.Route{Peer: "b", Prefix: wan.String(), State: control.Down, Address: fibre.String()}
	if !reflect.DeepEqual(alone, want) {
		t.Errorf("of one node: %+v", alone)
	}
	Carried(&own, m, wan, "a", peers)
	if want := (control.Route{Peer: "a", Prefix: wan.String()}); !reflect.DeepEqual(own, want) {
		t.Errorf("of this node: %+v", own)
	}
}

func TestEndpoints(t *testing.T) {
	if got := Endpoints(node("b", fibre, radio).Addresses); !reflect.DeepEqual(got,
		[]string{fibre.String(), radio.String()}) || Address(node("b", radio)) != "2001:db8::3" {
		t.Errorf("%q", got)
	}
	if got := Endpoints(nil); got == nil || len(got) != 0 || Address(node("b")) != "" {
		t.Errorf("of names that are not resolved: %q, %q", got, Address(node("b")))
	}
}
