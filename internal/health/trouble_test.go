package health_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/health"
	"example.org/meshd/internal/mesh"
)

// What this host refuses counts whatever probes say. What an ICMP error says counts only where probes
// fail, so that whoever forges one changes nothing about a peer that answers.
func TestOfTroubles(t *testing.T) {
	self, router := netip.MustParseAddr("172.18.0.2"), netip.MustParseAddr("172.18.0.1")
	worker := netip.MustParseAddr("172.18.0.4")
	refused := func(errno uint32, row uint64, ago time.Duration) mesh.Trouble {
		return mesh.Trouble{Refused: mesh.Refusal{
			Errno: errno, Cause: "no", Count: 9, InARow: row, Last: at(1000).Add(-ago)}}
	}
	says := func(m mesh.PathMeaning, by netip.Addr, ago time.Duration) mesh.Trouble {
		return mesh.Trouble{Reported: mesh.PathError{Means: m, Offender: by, Count: 1, Last: at(1000).Add(-ago)}}
	}
	both := refused(1, 2, 0)
	both.Reported = says(mesh.PortClosed, worker, 0).Reported
	for _, test := range []struct {
		name    string
		fails   bool
		trouble mesh.Trouble
		kinds   []mesh.Kind
		mention string // of the remedy
	}{
		{"nothing", true, mesh.Trouble{}, nil, ""},
		{"a firewall here", false, refused(1, 2, 0), []mesh.Kind{mesh.SendRefused}, "port 8285"},
		{"once", false, refused(1, 1, 0), nil, ""},
		{"once, and no answer", true, refused(1, 1, 0), []mesh.Kind{mesh.SendRefused}, "port 8285"},
		{"half a minute ago", true, refused(1, 9, 31*time.Second), nil, ""},
		{"no route", false, refused(101, 2, 0), []mesh.Kind{mesh.SendRefused}, "ip route get 172.18.0.4"},
		{"an error without a remedy", false, refused(5, 2, 0), []mesh.Kind{mesh.SendRefused}, ""},
		{"a full queue", false, refused(105, 99, 0), nil, ""},
		{"nothing passes a full queue", true, refused(105, 99, 0), []mesh.Kind{mesh.SendRefused}, "tc -s"},

		{"forged for a peer that answers", false, says(mesh.PortClosed, worker, 0), nil, ""},
		{"no program listens", true, says(mesh.PortClosed, worker, 0),
			[]mesh.Kind{mesh.PeerPortClosed}, "compare `port`"},
		{"no program listened", true, says(mesh.PortClosed, worker, 31*time.Second), nil, ""},
		{"a router has no route", true, says(mesh.HostUnreachable, router, 0),
			[]mesh.Kind{mesh.PeerUnknown}, "routes of 172.18.0.1"},
		{"nothing answers on the link", true, says(mesh.HostUnreachable, self, 0),
			[]mesh.Kind{mesh.NoNeighbour}, "cable"},
		{"a firewall there", true, says(mesh.Prohibited, worker, 0),
			[]mesh.Kind{mesh.PeerForbidden}, "firewall of 172.18.0.4"},
		{"a loop", true, says(mesh.RoutingLoop, router, 0), []mesh.Kind{mesh.PeerLoop}, "traceroute"},
		{"nobody knows who says so", true, says(mesh.HostUnreachable, netip.Addr{}, 0),
			[]mesh.Kind{mesh.PeerUnknown}, "routes of a router"},
		{"something else", true, says(mesh.OtherError, router, 0), nil, ""},
		{"both", true, both, []mesh.Kind{mesh.SendRefused, mesh.PeerPortClosed}, "port 8285"},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint := func(a netip.Addr) mesh.Endpoint {
				return mesh.Endpoint{AddrPort: netip.AddrPortFrom(a, 8285)}
			}
			m := mesh.Mesh{Self: "self", Peers: []mesh.Peer{
				{Name: "self", Addresses: []mesh.Endpoint{endpoint(self)}},
				{Name: "worker", Addresses: []mesh.Endpoint{endpoint(worker)}}}}
			got := health.OfTroubles(m, map[string]mesh.Trouble{"worker": test.trouble},
				func(string) health.Standing { return health.Standing{Fails: test.fails} }, at(1000))
			var kinds []mesh.Kind
			for _, c := range got {
				kinds = append(kinds, c.Kind)
				if c.Peer != "worker" || c.Severity != mesh.Degraded || c.Cause == "" {
					t.Errorf("%+v", c)
				}
			}
			if !reflect.DeepEqual(kinds, test.kinds) {
				t.Fatalf("%v, want %v", kinds, test.kinds)
			}
			if len(got) > 0 && (!strings.Contains(got[0].Remedy, test.mention) ||
				test.mention == "" && got[0].Remedy != "") {
				t.Errorf("remedy %q, want %q in it", got[0].Remedy, test.mention)
			}
		})
	}
}

// Errors about an address that packets do not use, or about a peer in maintenance, are no alarm.
func TestTroublesThatMatterLess(t *testing.T) {
	used, spare := netip.MustParseAddrPort("172.18.0.4:8285"), netip.MustParseAddrPort("192.0.2.4:8286")
	refused := func(to netip.AddrPort) mesh.Trouble {
		return mesh.Trouble{Refused: mesh.Refusal{
			Address: to, Errno: 1, Cause: "no", Count: 9, InARow: 9, Last: at(1000)}}
	}
	says := func(to netip.AddrPort) mesh.Trouble {
		return mesh.Trouble{Reported: mesh.PathError{Address: to, Means: mesh.Prohibited, Count: 1, Last: at(1000)}}
	}
	fails := health.Standing{Fails: true}
	for _, test := range []struct {
		name     string
		standing health.Standing
		trouble  mesh.Trouble
		kinds    []mesh.Kind
		severity mesh.Severity
		mention  string // of the remedy
	}{
		{"refused where packets go", health.Standing{Fails: true, Via: used}, refused(used),
			[]mesh.Kind{mesh.SendRefused}, mesh.Degraded, "port 8285"},
		{"refused where packets went", health.Standing{Via: used}, refused(spare), nil, 0, ""},
		{"refused at one, and which is used is not known", fails, refused(spare),
			[]mesh.Kind{mesh.SendRefused}, mesh.Degraded, "port 8286"},
		{"reported where packets go", health.Standing{Fails: true, Via: spare}, says(spare),
			[]mesh.Kind{mesh.PeerForbidden}, mesh.Degraded, "port 8286"},
		{"reported where packets went", health.Standing{Fails: true, Via: spare}, says(used), nil, 0, ""},
		{"refused in maintenance", health.Standing{Maintained: true}, refused(used),
			[]mesh.Kind{mesh.SendRefused}, mesh.Info, "port 8285"},
		{"reported in maintenance", health.Standing{Fails: true, Maintained: true}, says(used), nil, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := mesh.Mesh{Self: "self", Peers: []mesh.Peer{{Name: "self"},
				{Name: "worker", Addresses: []mesh.Endpoint{{AddrPort: used}, {AddrPort: spare}}}}}
			got := health.OfTroubles(m, map[string]mesh.Trouble{"worker": test.trouble},
				func(string) health.Standing { return test.standing }, at(1000))
			var kinds []mesh.Kind
			for _, c := range got {
				kinds = append(kinds, c.Kind)
				if c.Severity != test.severity || !strings.Contains(c.Remedy, test.mention) {
					t.Errorf("%+v", c)
				}
			}
			if !reflect.DeepEqual(kinds, test.kinds) {
				t.Errorf("%v, want %v", kinds, test.kinds)
			}
		})
	}
}

// What cannot be sent to a peer in maintenance degrades nothing; what a peer says that it must not does.
func TestLossesInMaintenance(t *testing.T) {
	for _, test := range []struct {
		name       string
		reason     mesh.Drop
		maintained bool
		want       mesh.Severity
	}{
		{"in service", mesh.SendError, false, mesh.Degraded}, {"in maintenance", mesh.SendError, true, mesh.Info},
		{"lies", mesh.SpoofedSource, true, mesh.Degraded},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w health.Watch
			standing := func(string) health.Standing { return health.Standing{Maintained: test.maintained} }
			for second := range 20 {
				var one mesh.Traffic
				one.Drops[test.reason] = uint64(100 * second)
				w.Take(health.Counted{Peers: map[string]mesh.Traffic{"worker": one}}, standing, at(int64(second)))
			}
			if got := w.Conditions(); len(got) != 1 || got[0].Kind != mesh.DropsGrowing ||
				got[0].Severity != test.want {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Strangers are named, and never alarm.
func TestOfStrangers(t *testing.T) {
	one, two := netip.MustParseAddr("172.18.0.9"), netip.MustParseAddr("172.18.0.10")
	for _, test := range []struct {
		name      string
		strangers []mesh.Stranger
		cause     string
	}{
		{"none", nil, ""},
		{"some", []mesh.Stranger{
			{Address: two, Reason: mesh.UnknownSender, Packets: 3, Last: at(999)},
			{Address: one, Reason: mesh.UnknownSender, Packets: 10, Last: at(1000)},
		}, "10 packets from 172.18.0.9, 3 packets from 172.18.0.10"},
		{"long ago", []mesh.Stranger{{Address: one, Reason: mesh.UnknownSender, Packets: 3, Last: at(900)}}, ""},
		{"a node", []mesh.Stranger{{Address: one, Reason: mesh.SpoofedSource, Packets: 3, Last: at(1000)}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := health.OfStrangers(test.strangers, at(1000))
			if test.cause == "" {
				if len(got) != 0 {
					t.Errorf("%+v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Cause != test.cause || got[0].Severity != mesh.Info ||
				got[0].Kind != mesh.UnknownSenders {
				t.Errorf("%+v, want %q", got, test.cause)
			}
		})
	}
}
