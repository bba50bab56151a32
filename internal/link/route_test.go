package link

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A route for a prefix of the mesh is in the way, unless it is the TUN's or a backstop.
func TestConflict(t *testing.T) {
	const tun = 9
	wanted := prefixes("10.244.0.0/16", "fd00::/48", "0.0.0.0/0")
	for name, test := range map[string]struct {
		route netlink.Route
		want  bool
		ours  bool
	}{
		"the network of an address": {with(by("10.244.0.0/16", 2), func(r *netlink.Route) {
			r.Protocol = unix.RTPROT_KERNEL
		}), true, false},
		"another prefix": {by("10.244.0.0/17", 2), false, false},
		"the TUN's":      {by("10.244.0.0/16", tun), false, false},
		"another's":      {by("10.244.0.0/16", 2), true, false},
		"IPv6":           {by("fd00::/48", 2), true, false},
		"blackhole": {with(by("10.244.0.0/16", 0), func(r *netlink.Route) { r.Type = unix.RTN_BLACKHOLE }),
			true, false},
		"of an older mesh": {with(by("10.244.0.0/16", 2), func(r *netlink.Route) { r.Protocol = Protocol }),
			true, true},
		"a backstop": {*backstop(wanted[0]), false, false},
		"a default route without a prefix": {with(by("0.0.0.0/0", 2), func(r *netlink.Route) { r.Dst = nil }),
			true, false},
	} {
		t.Run(name, func(t *testing.T) {
			e, found := errors.AsType[*RouteError](conflict([]netlink.Route{test.route}, tun, wanted, nil))
			if found != test.want {
				t.Fatalf("%+v, want one: %v", e, test.want)
			}
			if host := test.route.Protocol == unix.RTPROT_KERNEL || test.route.Dst == nil; found && e.Host != host {
				t.Errorf("%+v, want one that the host lives by: %v", e, host)
			}
			if found && (e.Ours != test.ours || e.Prefix != destination(test.route)) {
				t.Errorf("%+v, want ours: %v", e, test.ours)
			}
		})
	}
}

// Prefixes survive the way to the library and back; an IPv4 prefix is never a mapped one.
func TestPrefixConversion(t *testing.T) {
	for _, p := range prefixes("0.0.0.0/0", "10.1.2.0/23", "10.1.2.3/32", "::/0", "fd00::/48", "fd00::1/128") {
		t.Run(p.Addr().String(), func(t *testing.T) {
			if got := toPrefix(toIPNet(p)); got != p {
				t.Errorf("%s became %s", p, got)
			}
		})
	}
	long := &net.IPNet{IP: net.ParseIP("10.1.2.3"), Mask: net.CIDRMask(24, 32)} // in 16 bytes
	if got := toPrefix(long); got != netip.MustParsePrefix("10.1.2.3/24") {
		t.Errorf("%s", got)
	}
	if got := toPrefix(nil); got.IsValid() {
		t.Errorf("nil became %s", got)
	}
}

// The library shows default routes in two ways; both are the whole family.
func TestDestination(t *testing.T) {
	for name, test := range map[string]struct {
		route netlink.Route
		want  string
	}{
		"a prefix":                  {by("10.0.0.0/8", 1), "10.0.0.0/8"},
		"IPv4 of length 0":          {by("0.0.0.0/0", 1), "0.0.0.0/0"},
		"IPv4 without a prefix":     {netlink.Route{Family: netlink.FAMILY_V4}, "0.0.0.0/0"},
		"IPv6 without a prefix":     {netlink.Route{Family: netlink.FAMILY_V6}, "::/0"},
		"a family that is not said": {netlink.Route{}, "0.0.0.0/0"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := destination(test.route); got.String() != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// A route is described as `ip route` prints it. Devices with index 0 do not exist.
func TestDescribe(t *testing.T) {
	gateway := func(r *netlink.Route) { r.Gw = net.IPv4(192, 0, 2, 9) }
	kind := func(kind int) func(*netlink.Route) { return func(r *netlink.Route) { r.Type = kind } }
	hops := func(r *netlink.Route) {
		r.MultiPath = []*netlink.NexthopInfo{{Gw: net.IPv4(192, 0, 2, 8)}, {Gw: net.IPv4(192, 0, 2, 9)}}
	}
	for want, route := range map[string]netlink.Route{
		"10.0.0.0/8 proto boot":                             by("10.0.0.0/8", 0),
		"10.0.0.0/8 via 192.0.2.9 proto boot":               with(by("10.0.0.0/8", 0), gateway),
		"10.0.0.0/8 via 192.0.2.8 via 192.0.2.9 proto boot": with(by("10.0.0.0/8", 0), hops),
		"blackhole fd00::/48 proto boot":                    with(by("fd00::/48", 0), kind(unix.RTN_BLACKHOLE)),
		"throw 10.0.0.0/8 proto boot":                       with(by("10.0.0.0/8", 0), kind(unix.RTN_THROW)),
		"unreachable 10.0.0.0/8 proto " + "86":              *backstop(netip.MustParsePrefix("10.0.0.0/8")),
	} {
		t.Run(route.Dst.String()+" "+want, func(t *testing.T) {
			if got := describe(route); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// A backstop loses against every other route and belongs to no interface.
func TestBackstopRoute(t *testing.T) {
	for _, p := range prefixes("10.0.0.0/8", "fd00::/48") {
		r := *backstop(p)
		if !isBackstop(r) || destination(r) != p || r.LinkIndex != 0 || r.Priority != backstopMetric {
			t.Errorf("%+v", r)
		}
		if r.Protocol = Protocol; isBackstop(r) {
			t.Error("the mesh's own route passes for a backstop")
		}
	}
}

// A dump that was interrupted is repeated, another error is not.
func TestRetry(t *testing.T) {
	failing := errors.New("no such thing")
	for name, test := range map[string]struct {
		errs  []error
		calls int
		want  error
	}{
		"at once":             {[]error{nil}, 1, nil},
		"after interruptions": {[]error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted, nil}, 3, nil},
		"another error":       {[]error{failing, nil}, 1, failing},
		"always interrupted": {slices.Repeat([]error{netlink.ErrDumpInterrupted}, 20), 10,
			netlink.ErrDumpInterrupted},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			_, err := retry(func() ([]int, error) { calls++; return nil, test.errs[calls-1] })
			if calls != test.calls || !errors.Is(err, test.want) {
				t.Errorf("%d calls, %v, want %d, %v", calls, err, test.calls, test.want)
			}
		})
	}
}
