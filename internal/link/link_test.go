package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func addrs(ss ...string) (as []netip.Addr) {
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// at gives addresses a port.
func at(port uint16, as ...netip.Addr) (all []netip.AddrPort) {
	for _, a := range as {
		all = append(all, netip.AddrPortFrom(a, port))
	}
	return all
}

// datagrams are those of a node whose socket has no mark.
func datagrams(from ...string) Datagrams {
	return Datagrams{From: at(8285, addrs(from...)...)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func output(t *testing.T, n *nstest.Namespace, name string, args ...string) string {
	t.Helper()
	out, err := n.Run(name, args...)
	must(t, err)
	return out
}

// sub runs a named part of a test inside the namespace: the goroutine of t.Run is outside.
func sub(t *testing.T, n *nstest.Namespace, name string, body func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		must(t, n.Do(func() error { body(t); return nil }))
	})
}

// state is everything Set may change, as iproute2 shows it, less what changes by itself. A new veth
// gets its carrier and its addresses a moment after it was set up (linkwatch_event): state waits.
func state(t *testing.T, n *nstest.Namespace) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		out := output(t, n, "ip", "-d", "addr") + output(t, n, "ip", "route") + output(t, n, "ip", "-6", "route")
		changing := strings.Contains(out, "LOWERLAYERDOWN") || strings.Contains(out, "tentative")
		if !changing || time.Now().After(deadline) {
			return regexp.MustCompile(`(valid_lft|preferred_lft) \S+`).ReplaceAllString(out, "")
		}
	}
}

// meshIsSet checks what iproute2 shows of the TUN of TestSetAndCleanUp.
func meshIsSet(t *testing.T, n *nstest.Namespace) {
	t.Helper()
	got := output(t, n, "ip", "-d", "addr", "show", "mesh0")
	for _, want := range []string{"POINTOPOINT,MULTICAST,NOARP,UP", "mtu 1472", "qlen 500", "link/none",
		"alias meshd", "multi_queue", "persist on",
		"inet 10.244.2.0/32 scope global mesh0", "inet6 fd00:0:0:2::/128 scope global"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "fe80") {
		t.Errorf("a link-local address\n%s", got)
	}
}

// Set makes the TUN as it is wanted, once and again, and CleanUp leaves the host as it was.
func TestSetAndCleanUp(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.Sysctl("ipv6.conf.default.accept_dad", "0")) // else addresses change for a second
		must(t, n.IP("link add foreign type veth peer name other", "addr add 192.0.2.1/24 dev foreign",
			"link set foreign up", "link set other up"))
		before := state(t, n)
		must(t, tun.Create("mesh0"))
		must(t, Claim("mesh0"))
		s := Settings{
			Interface: "mesh0", MTU: 1472,
			Addresses: addrs("10.244.2.0", "fd00:0:0:2::"),
			Routes:    RoutesTo(prefixes("10.244.0.0/16", "fd00::/48", "192.168.7.0/24")...),
		}
		must(t, set(s))
		meshIsSet(t, n)
		const routes = "10.244.0.0/16 proto 85 scope link linkdown \n192.168.7.0/24 proto 85 scope link linkdown \n"
		if got := output(t, n, "ip", "route", "show", "dev", "mesh0"); got != routes {
			t.Errorf("IPv4 routes\n%s", got)
		}
		got := output(t, n, "ip", "-6", "route", "show", "proto", "85")
		if !strings.HasPrefix(got, "fd00::/48 dev mesh0 ") {
			t.Errorf("IPv6 routes\n%s", got)
		}
		is(t, "ipv4.conf.mesh0.accept_local=1")

		once := state(t, n)
		must(t, set(s))
		if twice := state(t, n); twice != once {
			t.Errorf("a second Set changed\n%s\ninto\n%s", once, twice)
		}

		must(t, n.IP("link set mesh0 alias another")) // it was made anew, or somebody has marked it
		if changed, err := Set(s); err != nil || len(changed) != 1 || state(t, n) != once {
			t.Errorf("%q, %v, %s", changed, err, state(t, n))
		}

		s.MTU, s.Addresses, s.Routes = 1400, addrs("10.245.1.0"), RoutesTo(prefixes("10.245.0.0/16")...)
		must(t, set(s))
		got = state(t, n)
		for _, gone := range []string{"10.244", "fd00", "192.168.7"} {
			if strings.Contains(got, gone) {
				t.Errorf("%s is still there\n%s", gone, got)
			}
		}
		for _, want := range []string{"mtu 1400", "inet 10.245.1.0/32", "10.245.0.0/16 dev mesh0"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}

		for _, want := range [][]string{{"mesh0"}, nil} {
			if removed, err := CleanUp(""); err != nil || !slices.Equal(removed, want) {
				t.Errorf("CleanUp: %v, %v", removed, err)
			}
		}
		if after := state(t, n); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	})
}

func TestForeignRouteIsRefused(t *testing.T) {
	for route, culprit := range map[string]string{
		"10.244.0.0/16 via 192.0.2.9 proto static metric 50": "10.244.0.0/16 via 192.0.2.9 dev foreign " +
			"proto static",
		"10.244.0.0/16 nexthop via 192.0.2.8 nexthop via 192.0.2.9": "10.244.0.0/16 via 192.0.2.8 " +
			"dev foreign via 192.0.2.9 dev foreign proto boot",
		"blackhole 10.244.0.0/16": "blackhole 10.244.0.0/16 proto boot",
		"unreachable fd00::/48":   "unreachable fd00::/48 dev lo proto boot",
		"fd00::/48 dev foreign":   "fd00::/48 dev foreign proto boot",
	} {
		t.Run(strings.ReplaceAll(route, "/", "_"), func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				must(t, n.IP("link add foreign type veth peer name other", "addr add 192.0.2.1/24 dev foreign",
					"link set foreign up", "link set other up", "route add "+route))
				must(t, tun.Create("mesh0"))
				before := state(t, n)
				err := set(Settings{Interface: "mesh0", MTU: 1472,
					Addresses: addrs("10.244.2.0", "fd00:0:0:1::"),
					Routes:    RoutesTo(prefixes("10.244.0.0/16", "fd00::/48")...)})
				other, ok := errors.AsType[*RouteError](err)
				if !ok || other.Route != culprit || other.Ours {
					t.Errorf("Set: %v", err)
				}
				if after := state(t, n); after != before {
					t.Errorf("the refused Set changed\n%s\ninto\n%s", before, after)
				}
			})
		})
	}
}

func TestCheckInterface(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		check := func(name string, fresh bool, want error) {
			t.Helper()
			if got, err := CheckInterface(name); got != fresh || !errors.Is(err, want) {
				t.Errorf("CheckInterface(%s) = %v, %v, want %v, %v", name, got, err, fresh, want)
			}
		}
		must(t, n.IP("link add mesh1 type bridge", "tuntap add mesh2 mode tun multi_queue"))
		check("mesh0", true, nil)
		check("mesh1", false, ErrForeign)
		check("mesh2", false, ErrForeign)
		must(t, tun.Create("mesh0"))
		must(t, Claim("mesh0"))
		must(t, Claim("mesh0"))
		check("mesh0", false, nil)
		must(t, set(Settings{Interface: "mesh0", MTU: 1472}))
		check("mesh0", false, nil)
		q, err := tun.Open("mesh0", true)
		must(t, err)
		check("mesh0", false, ErrInUse)
		made(t, "meshd-wg")
		if removed, err := CleanUp(""); !errors.Is(err, ErrInUse) || removed != nil || !Exists("meshd-wg") {
			t.Errorf("CleanUp of one in use: %v, %v, the other is there: %v", removed, err, Exists("meshd-wg"))
		}
		must(t, n.IP("link del meshd-wg"))
		must(t, q.Close())
		for _, name := range []string{"mesh2", "mesh1"} { // not ours
			if removed, err := CleanUp(name); err != nil || removed != nil {
				t.Errorf("CleanUp(%s): %v, %v", name, removed, err)
			}
		}
		if removed, err := CleanUp("mesh0"); err != nil || !slices.Equal(removed, []string{"mesh0"}) {
			t.Errorf("CleanUp: %v, %v", removed, err)
		}
	})
}

func TestUnderlayInsideTheNetwork(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link add u0 type veth peer name v0", "link set u0 up", "link set v0 up",
			"addr add 10.50.0.1/24 dev u0", "route add default via 10.50.0.254"))
		cidr := prefixes("10.0.0.0/8")
		if err := CheckUnderlay(cidr, addrs("10.50.0.2", "192.0.2.1")); err != nil {
			t.Errorf("a peer on the link: %v", err)
		}
		err := CheckUnderlay(cidr, addrs("10.60.0.1"))
		if e, ok := errors.AsType[*LoopError](err); !ok || e.Prefix != cidr[0] || e.Node != addrs("10.60.0.1")[0] {
			t.Errorf("a peer behind the default route: %v", err)
		}
		must(t, n.IP("route add 10.60.0.0/16 via 10.50.0.254"))
		if err := CheckUnderlay(cidr, addrs("10.60.0.1")); err != nil {
			t.Errorf("a peer with a route: %v", err)
		}
	})
}

func TestShadows(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link add u0 type veth peer name v0", "link set u0 up", "link set v0 up",
			"addr add 192.0.2.1/24 dev u0", "route add default via 192.0.2.9", "addr add 10.244.3.65/26 dev u0",
			"route add 10.244.2.0/24 via 192.0.2.9", "route add 10.244.3.7/32 dev u0",
			"route add 10.244.4.0/24 dev u0"))
		got, err := Shadows("mesh0", prefixes("10.244.2.0/24", "10.244.3.0/24"))
		want := []Shadow{{"10.244.2.0/24 via 192.0.2.9 dev u0 proto boot", false},
			{"10.244.3.7/32 dev u0 proto boot", false}, {"10.244.3.64/26 dev u0 proto kernel", true}}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v", got, err)
		}
	})
}

// Hundreds of addresses at once overflow the kernel's message queue: that is a
// change like any other.
func TestWatchSurvivesABurst(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		lines := []string{"link add u0 type veth peer name v0", "link set u0 up", "link set v0 up"}
		for i := range 3000 {
			lines = append(lines, fmt.Sprintf("addr add 10.%d.%d.1/32 dev u0", i/250, i%250))
		}
		last := netip.MustParseAddr(fmt.Sprintf("10.%d.%d.1", 2999/250, 2999%250))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		burst := false
		err := Watch(ctx, func() bool {
			local, err := LocalAddresses()
			must(t, err)
			if !burst {
				burst = true
				must(t, n.IP(lines...))
			}
			return !slices.Contains(local, last)
		})
		if err != nil || ctx.Err() != nil {
			t.Errorf("%v, %v", err, ctx.Err())
		}
	})
}

// A TUN that another program has put in the place of meshd's stays as it is: marked, it would be taken for
// meshd's for ever, which cannot use it.
func TestExchangedTUNStaysForeign(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		for _, name := range []string{"mesh0", "meshd-wg"} {
			must(t, n.IP("tuntap add "+name+" mode tun"))
			if err := Claim(name); !errors.Is(err, ErrNotTUN) {
				t.Errorf("Claim: %v", err)
			}
			for _, kind := range []Kind{TUN, Encrypted} {
				changed, err := Set(Settings{Interface: name, Kind: kind, MTU: 1400,
					Addresses: []netip.Addr{netip.MustParseAddr("10.244.2.0")}})
				if !errors.Is(err, ErrNotTUN) || changed != nil {
					t.Errorf("Set: %q, %v", changed, err)
				}
			}
			if removed, err := Vacate(name); err != nil || !removed {
				t.Errorf("Vacate: %v, %v", removed, err)
			}
		}
	})
}

func TestSetNeedsATUN(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link add mesh0 type bridge"))
		if _, err := Set(Settings{Interface: "mesh0"}); !errors.Is(err, ErrNotTUN) {
			t.Errorf("Set: %v", err)
		}
		if _, err := Set(Settings{Interface: "mesh9"}); err == nil {
			t.Error("Set without an interface")
		}
		if removed, err := CleanUp("mesh0"); err != nil || removed != nil {
			t.Errorf("CleanUp took a bridge: %v, %v", removed, err)
		}
	})
}

func TestUnderlayMTU(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link add u0 type veth peer name v0", "link add u1 type veth peer name v1",
			"link set u0 mtu 9000 up", "link set v0 up", "link set u1 mtu 1400 up", "link set v1 up",
			"addr add 172.18.0.2/24 dev u0", "addr add 172.19.0.2/24 dev u1",
			"route add 172.20.0.0/24 via 172.18.0.9 mtu 1300", "route add default via 172.18.0.1",
			"addr add 2001:db8::2/64 dev u1 nodad"))
		tests := []struct {
			name, local string
			peers       []netip.Addr
			want        int
		}{
			{"no peer", "172.18.0.2", nil, 9000},
			{"by one interface", "172.18.0.2", addrs("172.18.0.3", "203.0.113.1"), 9000},
			{"by two interfaces", "172.18.0.2", addrs("172.18.0.3", "172.19.0.3"), 1400},
			{"by a route with an MTU", "172.18.0.2", addrs("172.20.0.3"), 1300},
			{"IPv6", "2001:db8::2", addrs("2001:db8::3"), 1400},
			{"no route", "198.51.100.1", addrs("2001:db9::3"), 1500},
			{"loopback", "127.0.0.1", nil, 1500},
		}
		for _, test := range tests {
			sub(t, n, test.name, func(t *testing.T) {
				got, err := FindUnderlay(datagrams(test.local), at(8285, test.peers...))
				if err != nil || got.MTU != test.want {
					t.Errorf("%+v, %v, want MTU %d", got, err, test.want)
				}
			})
		}
	})
}

func TestWatch(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link add u0 type veth peer name v0", "link set u0 up", "link set v0 up"))
		wanted := netip.MustParseAddr("172.18.0.2")
		calls := 0
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := Watch(ctx, func() bool {
			calls++
			local, err := LocalAddresses()
			must(t, err)
			if calls == 1 {
				must(t, n.IP("addr add 172.18.0.2/24 dev u0"))
			}
			return !slices.Contains(local, wanted)
		})
		if err != nil || calls < 2 || ctx.Err() != nil {
			t.Errorf("%d calls, %v", calls, err)
		}
	})
}

func TestOverflows(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, tun.Create("mesh0"))
		must(t, Claim("mesh0"))
		must(t, set(Settings{Interface: "mesh0", MTU: 1472, Addresses: addrs("10.244.2.0"),
			Routes: RoutesTo(prefixes("10.244.0.0/16")...)}))
		q, err := tun.Open("mesh0", true)
		must(t, err)
		defer q.Close()
		if _, err := n.Run("ping", "-c", "600", "-l", "600", "-W", "1", "-q", "10.244.1.1"); err == nil {
			t.Error("ping was answered")
		}
		if got, err := Overflows("mesh0"); err != nil || got < 50 || got > 100 {
			t.Errorf("%d packets over a queue of 500: %d overflows, %v", 600, got, err)
		}
	})
}

// set is Set for tests that only want its error.
func set(s Settings) error {
	_, err := Set(s)
	return err
}

// Interfaces that are down come before those without a carrier; those that carry packets, and those that are
// gone, are left out.
func TestIdle(t *testing.T) {
	ns := nstest.ForTest(t)
	must(t, ns.IP("link add works type veth peer name too", "link set works up", "link set too up",
		"link add off type bridge", "link add unplugged type veth peer name other", "link set unplugged up"))
	err := ns.Do(func() error {
		var all []int
		for _, name := range []string{"unplugged", "works", "off"} {
			all = append(all, Index(name))
		}
		want := []IdleDevice{{"off", false}, {"unplugged", true}}
		if got := Idle(append(all, 9999)); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		return nil
	})
	must(t, err)
}
