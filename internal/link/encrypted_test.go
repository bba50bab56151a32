package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

// Where the kernel has WireGuard its interface is made; where it has not, the error says so. What is there
// under the name stays.
func TestMakeEncrypted(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		switch made, err := MakeEncrypted("meshd-wg"); {
		case errors.Is(err, ErrNoWireGuard):
			if made || Exists("meshd-wg") {
				t.Errorf("made %v, although %v", made, err)
			}
			must(t, tun.Create("meshd-wg", Claim)) // as the helper does
		case err != nil || !made:
			t.Fatalf("MakeEncrypted: %v, %v", made, err)
		}
		if made, err := MakeEncrypted("meshd-wg"); made || err != nil {
			t.Errorf("of one that is meshd's: %v, %v", made, err)
		}
		must(t, n.IP("link add mesh1 type bridge"))
		if made, err := MakeEncrypted("mesh1"); made || !errors.Is(err, ErrForeign) {
			t.Errorf("of another program's: %v, %v", made, err)
		}
	})
}

// The encrypted interface accepts what is answered by the other one, and has no use for packets with this
// host's own source.
func TestSetEncrypted(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.Sysctl("ipv4.conf.default.rp_filter", "1"))
		must(t, n.Sysctl("ipv4.conf.default.accept_local", "0"))
		made(t, "mesh0", "meshd-wg")
		s := Settings{Interface: "meshd-wg", Kind: Encrypted, MTU: 1408, Loose: true,
			Addresses: addrs("10.244.2.0", "fd00:0:0:2::")}
		if changed := settled(t, s); !slices.Contains(changed, "rp_filter was 1") {
			t.Errorf("changes %q", changed)
		}
		is(t, "ipv4.conf.meshd-wg.rp_filter=2")
		is(t, "ipv4.conf.meshd-wg.accept_local=0")
		is(t, "ipv4.conf.mesh0.rp_filter=1")
		s.Loose = false
		if changed := settled(t, s); !slices.Contains(changed, "rp_filter was 2") {
			t.Errorf("changes on the way back %q", changed)
		}
		is(t, "ipv4.conf.meshd-wg.rp_filter=1")
		must(t, n.Sysctl("ipv4.conf.meshd-wg.rp_filter", "2")) // of the host's own will
		if changed := settled(t, s); len(changed) > 0 {
			t.Errorf("changes %q", changed)
		}
		if out := output(t, n, "ip", "addr", "show", "meshd-wg"); strings.Contains(out, "fe80") {
			t.Errorf("a link-local address\n%s", out)
		}
		must(t, n.IP("link add other type bridge"))
		if _, err := Set(Settings{Interface: "other", Kind: Encrypted}); !errors.Is(err, ErrNotTUN) {
			t.Errorf("Set of a bridge: %v", err)
		}
	})
}

// One address is on both interfaces. When either of them goes, the other still answers for it, and routes
// with it as their source stay.
func TestAddressOnBothInterfaces(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link set lo up", "link add u0 type veth peer name v0", "link set u0 up", "link set v0 up",
			"addr add 192.0.2.1/24 dev u0"))
		ours := addrs("10.244.2.0", "fd00:0:0:2::")
		wanted := []Settings{
			{Interface: "mesh0", MTU: 1400, Addresses: ours, Beside: []string{"meshd-wg"},
				Routes: []Route{{Prefix: netip.MustParsePrefix("10.244.0.0/16")}}},
			{Interface: "meshd-wg", Kind: Encrypted, MTU: 1400, Addresses: ours, Beside: []string{"mesh0"},
				Routes: []Route{{Prefix: netip.MustParsePrefix("10.244.1.0/24"), Source: ours[0]},
					{Prefix: netip.MustParsePrefix("fd00:0:0:1::/64"), Source: ours[1]}}},
		}
		var local []netip.Addr
		for _, gone := range []string{"", "mesh0", "meshd-wg"} {
			if gone != "" {
				must(t, n.IP("link del "+gone))
				got, err := LocalAddresses()
				if must(t, err); !slices.Equal(sortedAddrs(got), sortedAddrs(local)) {
					t.Errorf("without %s: local %s, want %s", gone, got, local)
				}
				for _, ip := range ours {
					if _, err := n.Run("ping", "-c", "1", "-W", "5", ip.String()); err != nil {
						t.Errorf("without %s: %s does not answer: %v", gone, ip, err)
					}
				}
			}
			if gone == "mesh0" && len(ways(t, n)) != 2 {
				t.Errorf("routes of the other interface: %q", ways(t, n))
			}
			for _, s := range wanted {
				if !Exists(s.Interface) {
					made(t, s.Interface)
				}
			}
			for _, s := range wanted {
				settled(t, s)
			}
			var err error
			local, err = LocalAddresses()
			must(t, err)
			for _, ip := range ours {
				if n := len(slices.DeleteFunc(slices.Clone(local), func(a netip.Addr) bool { return a != ip })); n != 1 {
					t.Errorf("%s is listed %d times", ip, n)
				}
			}
		}
	})
}

func sortedAddrs(ips []netip.Addr) []netip.Addr {
	ips = slices.Clone(ips)
	slices.SortFunc(ips, netip.Addr.Compare)
	return ips
}

// Without encryption the interface goes; one that the helper has open is left to it, without anything that
// leads packets there.
func TestRemoveEncrypted(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		s := Settings{Interface: "meshd-wg", Kind: Encrypted, MTU: 1400, Addresses: addrs("10.244.2.0"),
			Routes: RoutesTo(prefixes("10.244.1.0/24")...)}
		removes := func(what string, want bool) {
			t.Helper()
			if removed, err := RemoveEncrypted("meshd-wg"); removed != want || err != nil {
				t.Errorf("%s: %v, %v", what, removed, err)
			}
		}
		removes("none", false)
		made(t, "meshd-wg")
		must(t, set(s))
		removes("an idle one", true)
		if Exists("meshd-wg") {
			t.Error("it is still there")
		}
		made(t, "meshd-wg")
		helper, err := tun.Open("meshd-wg", true)
		must(t, err)
		must(t, set(s))
		removes("the helper's", true)
		if out := output(t, n, "ip", "addr", "show", "meshd-wg"); strings.Contains(out, "inet") ||
			strings.Contains(out, "UP") || len(ways(t, n)) > 0 {
			t.Errorf("left: %s, %q", out, ways(t, n))
		}
		removes("again", false)
		must(t, set(s)) // encrypted anew
		must(t, helper.Close())
		must(t, n.IP("link del meshd-wg", "link add meshd-wg type bridge"))
		if removes("another program's", false); !Exists("meshd-wg") {
			t.Error("another program's interface is gone")
		}
	})
}

// What the host's routes say of peers, pods and other programs is the same with the encrypted interface as
// without it.
func TestUnderlayBesideEncrypted(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		p := crossroads(t, n)
		p.Beside = []string{"meshd-wg"}
		must(t, n.IP("route add default via 172.18.0.1", "rule add pref 7000 lookup 77"))
		look := func() string {
			t.Helper()
			u, err := FindUnderlay(datagrams("172.18.0.2", "2001:db8::2"),
				at(8285, addrs("172.18.0.3", "203.0.113.1", "2001:db8::3", "10.244.2.9")...))
			must(t, err)
			c, err := FindCrossing("mesh0", p.Networks, p.Own, nil, u.Devices)
			must(t, err)
			shadows, err := Shadows("mesh0", p.Others, p.Beside...)
			must(t, err)
			diverted, err := FindDiversions(p)
			must(t, err)
			loop, _ := errors.AsType[*LoopError](CheckUnderlay(p.Networks, addrs("172.18.0.3", "10.244.2.9")))
			c.Rest = nil // the veth's other ends, and no interface of meshd's
			return fmt.Sprint(u, c, shadows, diverted, *loop)
		}
		before := look()
		made(t, "meshd-wg")
		s := Settings{Interface: "meshd-wg", Kind: Encrypted, MTU: 1408, Loose: true, Beside: []string{"mesh0"},
			Addresses: addrs("10.244.1.0", "fd00:0:0:1::")}
		for _, prefix := range p.Others {
			source := s.Addresses[0]
			if prefix.Addr().Is6() {
				source = s.Addresses[1]
			}
			s.Routes = append(s.Routes, Route{Prefix: prefix, Source: source})
		}
		must(t, set(s))
		if after := look(); after != before {
			t.Errorf("%s\nbecame\n%s", before, after)
		}
		must(t, n.IP("route add default dev eth1 table 53", "rule add pref 7 iif meshd-wg lookup 53"))
		got, err := FindDiversions(p)
		if err != nil || len(got) != 1 || !got[0].Inbound || got[0].By != "eth1" {
			t.Errorf("a rule about the encrypted interface: %+v, %v", got, err)
		}
	})
}

// Each thing that happens to the encrypted interface is told.
func TestWatchEncrypted(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		made(t, "mesh0")
		s := Settings{Interface: "meshd-wg", Kind: Encrypted, MTU: 1408, Addresses: addrs("10.244.1.0"),
			Routes: RoutesTo(prefixes("10.244.2.0/24")...)}
		for _, damage := range []string{"link del meshd-wg", "link set meshd-wg down",
			"addr del 10.244.1.0/32 dev meshd-wg", "route del 10.244.2.0/24 dev meshd-wg",
			"route change 10.244.2.0/24 dev meshd-wg proto 85 mtu 1300"} {
			sub(t, n, damage, func(t *testing.T) {
				if !Exists("meshd-wg") {
					made(t, "meshd-wg")
				}
				must(t, set(s))
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				calls := 0
				err := Watch(ctx, func() bool {
					if calls++; calls == 1 {
						must(t, n.IP(damage))
					}
					return calls < 2
				})
				if err != nil || ctx.Err() != nil {
					t.Errorf("%d calls, %v, %v", calls, err, ctx.Err())
				}
			})
		}
	})
}
