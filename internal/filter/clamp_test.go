package filter

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/nstest"
)

// What `nft list` says of the clamp, and that whatever somebody does to it is found and mended.
func TestClampAsNftShowsIt(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		g, l := NewGuard(), NewLast()
		s := ClampSettings{Interfaces: []string{"mesh0", "meshd-wg"}, MTU: 1472, Narrow: map[int][]netip.Prefix{
			1252: prefixes("10.244.1.0/24", "192.168.1.0/24", "fd00:10:244:1::/64"), 1400: prefixes("10.244.2.0/24")}}
		set := func(what string, want bool) {
			t.Helper()
			in, err := g.Set(GuardSettings{TUN: "mesh0", Clamp: s})
			out, outErr := l.Clamp(s)
			if err := errors.Join(err, outErr); err != nil || (in || out) != want {
				t.Errorf("%s: changed %v, %v, %v, want %v", what, in, out, err, want)
			}
		}
		set("at first", true)
		set("again", false)
		got, file := clampRules(t, n), "testdata/clamp.nft"
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || got != string(want) {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
		for _, damage := range []string{
			"flush ruleset", "flush chain inet meshd-filter from-mesh",
			"delete element inet meshd-last mtu1252v4 { 192.168.1.0/24 }",
			"insert rule inet meshd-last last accept",
		} {
			run(t, n, "nft", damage)
			set("after "+damage, true)
			set("after "+damage+", again", false)
			if whole := clampRules(t, n); whole != got {
				t.Errorf("after %q:\n%s", damage, whole)
			}
		}
		s.Narrow = nil
		set("no path is narrow", true)
		if list := clampRules(t, n); strings.Contains(list, "1252") || !strings.Contains(list, "1432") {
			t.Errorf("no path is narrow:\n%s", list)
		}
		if removed, err := CleanUp(); err != nil || !removed || clampRules(t, n) != "" {
			t.Errorf("CleanUp: %v, %v\n%s", removed, err, clampRules(t, n))
		}
	})
}

// clampRules lists both tables with rules of the clamp, in an order of our own.
func clampRules(t *testing.T, n *nstest.Namespace) (all string) {
	t.Helper()
	for _, table := range []string{TableName, nft.LastTable} {
		if list, err := n.Run("nft", "-s", "list", "table", "inet", table); err == nil {
			all += list
		}
	}
	return all
}

// However many sizes paths have, the rules are few, and none promises more than a path carries.
func TestClampOfManySizes(t *testing.T) {
	narrow := map[int][]netip.Prefix{}
	for i := range 900 {
		narrow[576+i] = prefixes(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))
	}
	groups := grouped(narrow)
	if len(groups) > maxGroups || len(narrow) != 900 {
		t.Errorf("%d groups of %d", len(groups), len(narrow))
	}
	at := map[netip.Prefix]int{}
	for mtu, ps := range groups {
		for _, p := range ps {
			at[p] = mtu
		}
	}
	for mtu, ps := range narrow {
		if got := at[ps[0]]; got == 0 || got > mtu || got < mtu-64 {
			t.Errorf("%d bytes fit, in the group of %d", mtu, got)
		}
	}
}

// Segments that open connections are lowered both ways, in both families; higher and lower sizes of the
// application stay as they are where they fit.
func TestClampLowersSegments(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := n.IP("link set lo up", "addr add 10.244.2.0/32 dev lo",
			"addr add 10.244.1.0/32 dev lo"); err != nil {
			t.Fatal(err)
		}
		if err := n.Sysctl("ipv4.tcp_timestamps", "0"); err != nil { // they would make segments smaller
			t.Fatal(err)
		}
		s := ClampSettings{Interfaces: []string{"meshd-wg", "lo"}, MTU: 1472,
			Narrow: map[int][]netip.Prefix{1252: prefixes("10.244.1.0/24")}}
		for name, set := range map[string]func(ClampSettings) error{
			"to the mesh": func(s ClampSettings) error { _, err := NewLast().Clamp(s); return err },
			"from the mesh": func(s ClampSettings) error {
				_, err := NewGuard().Set(GuardSettings{TUN: "mesh0", Clamp: s})
				return err
			},
		} {
			if _, err := CleanUp(); err != nil {
				t.Fatal(err)
			}
			if err := set(s); err != nil {
				t.Fatal(err)
			}
			for _, test := range []struct {
				to   string
				want int
			}{{"10.244.2.0", 1432}, {"::1", 1412}, {"10.244.1.0", 1212}} {
				if got := segmentSize(t, test.to); got != test.want {
					t.Errorf("%s: segments to %s have %d bytes, want %d", name, test.to, got, test.want)
				}
			}
		}
	})
}

// segmentSize connects to an address of this namespace and returns the largest segment that may be sent.
func segmentSize(t *testing.T, to string) int {
	t.Helper()
	address := netip.MustParseAddr(to)
	family, at := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: 9000, Addr: [4]byte(address.AsSlice())})
	if address.Is6() {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Port: 9000, Addr: address.As16()}
	}
	open := func(use func(fd int, a unix.Sockaddr) error) (fd int) {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = use(fd, at)
		}
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	listens := open(func(fd int, a unix.Sockaddr) error {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, a))
	})
	defer unix.Close(listens)
	if err := unix.Listen(listens, 1); err != nil {
		t.Fatal(err)
	}
	connects := open(unix.Connect)
	defer unix.Close(connects)
	size, err := unix.GetsockoptInt(connects, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	if err != nil {
		t.Fatal(err)
	}
	return size
}
