package link

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

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
