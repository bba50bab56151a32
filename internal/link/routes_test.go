package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

// made makes the TUN and a second one that stands for the encrypted interface, which this package cannot
// make on a kernel without WireGuard.
func made(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		must(t, tun.Create(name, Claim))
	}
}

// ways returns what `ip route` shows of meshd's routes, both families, without what no link is told by.
func ways(t *testing.T, n *nstest.Namespace) (lines []string) {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		out := output(t, n, "ip", family, "route", "show", "proto", "85")
		for line := range strings.Lines(out) {
			for _, word := range []string{" scope link", " linkdown", " pref medium"} {
				line = strings.ReplaceAll(line, word, "")
			}
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// settled sets twice, and checks that the second time changes nothing.
func settled(t *testing.T, s Settings) (changed []string) {
	t.Helper()
	changed, err := Set(s)
	must(t, err)
	if again, err := Set(s); err != nil || len(again) > 0 {
		t.Errorf("a second Set: %q, %v", again, err)
	}
	return changed
}

// A route of meshd's that differs is replaced, whatever differs in it.
func TestRoutesAreReplaced(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		made(t, "mesh0")
		s := Settings{Interface: "mesh0", MTU: 1400, Addresses: addrs("10.244.2.0", "fd00:0:0:2::")}
		four, six := netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:0:0:1::/64")
		for _, test := range []struct {
			name      string
			four, six Route
			want      []string // of `ip route`
		}{
			{"plain", Route{}, Route{}, []string{"10.244.1.0/24 dev mesh0", "fd00:0:0:1::/64 dev mesh0 metric 1024"}},
			{"source", Route{Source: s.Addresses[0]}, Route{Source: s.Addresses[1]}, []string{
				"10.244.1.0/24 dev mesh0 src 10.244.2.0", "fd00:0:0:1::/64 dev mesh0 src fd00:0:0:2:: metric 1024"}},
			{"metric", Route{Metric: 8285}, Route{Metric: 8285}, []string{
				"10.244.1.0/24 dev mesh0 metric 8285", "fd00:0:0:1::/64 dev mesh0 metric 8285"}},
			{"MTU", Route{Metric: 8285, MTU: 1300}, Route{Metric: 8285, MTU: 1300}, []string{
				"10.244.1.0/24 dev mesh0 metric 8285 mtu 1300", "fd00:0:0:1::/64 dev mesh0 metric 8285 mtu 1300"}},
			{"all", Route{Source: s.Addresses[0], MTU: 1280}, Route{Source: s.Addresses[1], MTU: 1280}, []string{
				"10.244.1.0/24 dev mesh0 src 10.244.2.0 mtu 1280",
				"fd00:0:0:1::/64 dev mesh0 src fd00:0:0:2:: metric 1024 mtu 1280"}},
			{"plain again", Route{}, Route{}, []string{
				"10.244.1.0/24 dev mesh0", "fd00:0:0:1::/64 dev mesh0 metric 1024"}},
		} {
			sub(t, n, test.name, func(t *testing.T) {
				test.four.Prefix, test.six.Prefix = four, six
				s.Routes = []Route{test.four, test.six}
				changed := settled(t, s)
				if routes := len(changed); routes < 2 {
					t.Errorf("changes %q", changed)
				}
				if got := ways(t, n); fmt.Sprint(got) != fmt.Sprint(test.want) {
					t.Errorf("routes\n%q, want\n%q", got, test.want)
				}
			})
		}
	})
}

// What a person or a crash has left besides is removed, and a foreign route over the interface counts.
func TestRoutesAreMended(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		made(t, "mesh0")
		s := Settings{Interface: "mesh0", MTU: 1400, Addresses: addrs("10.244.2.0", "fd00:0:0:2::"),
			Routes: RoutesTo(prefixes("10.244.1.0/24", "fd00:0:0:1::/64")...)}
		settled(t, s)
		want := fmt.Sprint(ways(t, n))
		for _, damage := range [][]string{
			{"route add 10.244.1.0/24 dev mesh0 proto 85 metric 7",
				"route add fd00:0:0:1::/64 dev mesh0 proto 85 metric 7"},
			{"route replace 10.244.1.0/24 dev mesh0 proto 85 mtu 1300", "route del fd00:0:0:1::/64 dev mesh0"},
			{"route add 10.9.0.0/16 dev mesh0 proto 85"},
			{"addr del 10.244.2.0/32 dev mesh0", "addr del fd00:0:0:2::/128 dev mesh0"},
			{"link set mesh0 down"},
		} {
			must(t, n.IP(damage...))
			if changed := settled(t, s); len(changed) == 0 {
				t.Errorf("%q: nothing changed", damage)
			}
			if got := fmt.Sprint(ways(t, n)); got != want {
				t.Errorf("%q: routes %s, want %s", damage, got, want)
			}
		}
		must(t, n.IP("route del 10.244.1.0/24 dev mesh0", "route add 10.244.1.0/24 dev mesh0"))
		if changed, err := Set(s); err != nil || len(changed) > 0 {
			t.Errorf("a person's route over the TUN: %q, %v", changed, err)
		}
	})
}

// Of two interfaces of meshd's the one with the better metric has a prefix, and taking it over or giving
// it back leaves no moment without a route: every packet leaves by one of the two.
func TestRoutesPassFromOneInterfaceToTheOther(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link set lo up"))
		made(t, "mesh0", "meshd-wg")
		shared := prefixes("10.244.1.0/24", "192.168.7.0/24", "fd00:0:0:1::/64")
		floor := Settings{Interface: "mesh0", MTU: 1400, Addresses: addrs("10.244.2.0", "fd00:0:0:2::"),
			Routes: RoutesTo(shared...), Beside: []string{"meshd-wg"}}
		sealed := Settings{Interface: "meshd-wg", Kind: Encrypted, MTU: 1400, Addresses: floor.Addresses,
			Beside: []string{"mesh0"}}
		for _, p := range shared {
			source := floor.Addresses[0]
			if p.Addr().Is6() {
				source = floor.Addresses[1]
			}
			sealed.Routes = append(sealed.Routes, Route{Prefix: p, Source: source, MTU: 1300})
		}
		lowered := floor
		lowered.Routes = nil
		for _, p := range shared {
			lowered.Routes = append(lowered.Routes, Route{Prefix: p, Metric: 8285})
		}
		bare := sealed
		bare.Routes = nil
		settled(t, floor)
		settled(t, bare)
		lost := unrouted(t, n)
		for range 20 {
			for _, s := range []Settings{ // lowered first, taken over at once, and both ways back
				lowered, sealed, bare, floor, sealed, lowered, floor, bare,
			} {
				must(t, set(s))
			}
		}
		if gone := lost(); len(gone) > 0 {
			t.Errorf("prefixes without a route for a moment: %q", gone)
		}
		must(t, set(lowered))
		settled(t, sealed)
		settled(t, lowered)
		got := fmt.Sprint(ways(t, n))
		for _, want := range []string{"10.244.1.0/24 dev meshd-wg src 10.244.2.0 mtu 1300",
			"10.244.1.0/24 dev mesh0 metric 8285", "fd00:0:0:1::/64 dev mesh0 metric 8285",
			"fd00:0:0:1::/64 dev meshd-wg src fd00:0:0:2:: metric 1024 mtu 1300"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %s", want, got)
			}
		}
		if err := CheckRoutes("mesh0", shared, "meshd-wg"); err != nil {
			t.Errorf("routes of the interface beside: %v", err)
		}
		if err := CheckRoutes("mesh0", shared); !errors.Is(err, ErrEarlier) {
			t.Errorf("without knowing of the interface: %v", err)
		}
		must(t, n.IP("route add 192.168.7.0/24 dev lo metric 9"))
		if err := CheckRoutes("mesh0", shared, "meshd-wg"); err == nil || errors.Is(err, ErrEarlier) {
			t.Errorf("a foreign route: %v", err)
		}
	})
}

// unrouted follows the kernel's messages about meshd's routes, each of which has at least one now. The
// function that it returns names those that had none between two messages.
func unrouted(t *testing.T, n *nstest.Namespace) (prefixes func() []string) {
	t.Helper()
	updates, done, gone := make(chan netlink.RouteUpdate, 4096), make(chan struct{}), make(chan []string)
	must(t, netlink.RouteSubscribeWithOptions(updates, done, netlink.RouteSubscribeOptions{ListExisting: true}))
	end := netip.MustParsePrefix("198.51.100.0/24")
	go func() {
		var lost []string
		have := map[netip.Prefix]map[int]bool{} // by metric
		for u := range updates {
			p := destination(u.Route)
			if p == end {
				break
			}
			if have[p] == nil {
				have[p] = map[int]bool{}
			}
			if u.Protocol != Protocol {
				continue
			}
			if u.Type == unix.RTM_NEWROUTE {
				have[p][u.Priority] = true
				continue
			}
			if delete(have[p], u.Priority); len(have[p]) == 0 {
				lost = append(lost, p.String())
			}
		}
		close(done)
		for range updates { // until the library closes it
		}
		gone <- lost
	}()
	return func() []string {
		must(t, n.IP("route add 198.51.100.0/24 dev lo"))
		return <-gone
	}
}

// 10,000 routes are set once, and found as wanted by one dump.
func TestTenThousandRoutes(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		made(t, "mesh0")
		s := Settings{Interface: "mesh0", Kind: Encrypted, MTU: 1400, Addresses: addrs("10.255.0.1"), Loose: true}
		for i := range 10_000 {
			var ip [4]byte
			binary.BigEndian.PutUint32(ip[:], 10<<24+uint32(i)<<8)
			p := netip.PrefixFrom(netip.AddrFrom4(ip), 24)
			s.Routes = append(s.Routes, Route{Prefix: p, Source: s.Addresses[0]})
		}
		if changed := settled(t, s); len(changed) < len(s.Routes) {
			t.Errorf("%d changes", len(changed))
		}
		s.Routes[4711].MTU = 1300
		want := "route " + s.Routes[4711].String() + " was 10.18.103.0/24 src 10.255.0.1"
		if changed := settled(t, s); len(changed) != 1 || changed[0] != want {
			t.Errorf("%q", changed)
		}
		s.Routes = s.Routes[:5000]
		if changed := settled(t, s); len(changed) != 5000 || len(ways(t, n)) != 5000 {
			t.Errorf("%d changes, %d routes", len(changed), len(ways(t, n)))
		}
	})
}
