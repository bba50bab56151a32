package filter

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

var update = flag.Bool("update", false, "rewrite testdata/*.nft")

const testMark = 0x1000

func endpoints(ss ...string) (all []netip.AddrPort) {
	for _, s := range ss {
		all = append(all, netip.MustParseAddrPort(s))
	}
	return all
}

// What `nft list` says of the guard, and that whatever somebody does to it is found and mended.
func TestGuardAsNftShowsIt(t *testing.T) {
	for name, binds := range map[string][]netip.AddrPort{
		"v4": endpoints("172.18.0.3:8285"), "v6": endpoints("[fd10::3]:8285"),
		"everywhere": endpoints("0.0.0.0:8285"),
		"several":    endpoints("172.18.0.3:8285", "[fd10::3]:9000", "10.9.0.3:9000"),
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				g := NewGuard()
				s := GuardSettings{
					Nodes: endpoints("172.18.0.3:8285", "172.18.0.4:9000", "[fd10::3]:8285"),
					Binds: binds,
					TUN:   "mesh0", PodLinks: []string{"cni0", "veth-a"}, Mark: testMark,
				}
				if s.OnePort = name == "several"; name == "v4" {
					s.Closed = map[bool][]string{false: {"eth0", "lan0"}, true: {"eth0"}}
				}
				for _, want := range []bool{true, false} {
					if changed, err := g.Set(s); err != nil || changed != want {
						t.Errorf("Set: %v, %v, want %v", changed, err, want)
					}
				}
				got, file := ruleset(t, n), "testdata/guard-"+name+".nft"
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if want, err := os.ReadFile(file); err != nil || got != string(want) {
					t.Errorf("got:\n%s\nwant:\n%s", got, want)
				}
				for _, damage := range []string{
					"flush ruleset", "flush chain inet meshd-filter input; delete chain inet meshd-filter input",
					"flush chain inet meshd-filter output", "delete element inet meshd-filter inside { cni0 }",
					"delete element inet meshd-filter nodes4 { 172.18.0.4 . 9000 }",
					"add chain inet meshd-filter more { type filter hook output priority -301; }",
					"insert rule inet meshd-filter output accept", "add table inet meshd-filter { flags dormant; }",
				} {
					run(t, n, "nft", damage)
					for _, want := range []bool{true, false} {
						if changed, err := g.Set(s); err != nil || changed != want {
							t.Errorf("after %q: %v, %v, want %v", damage, changed, err, want)
						}
					}
					if whole := ruleset(t, n); whole != got {
						t.Errorf("after %q:\n%s", damage, whole)
					}
				}
				for _, want := range []bool{true, false} {
					if removed, err := CleanUp(); err != nil || removed != want || ruleset(t, n) != "" {
						t.Errorf("CleanUp: %v, %v, left:\n%s", removed, err, ruleset(t, n))
					}
				}
			})
		})
	}
}

// Only a socket with the mark reaches a node's port from this host; other ports are open to all. The
// count of what was dropped outlives the rules.
func TestGuardOutput(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := n.IP("link add u0 type veth peer name v0", "addr add 172.18.0.3/24 dev u0", "link set u0 up",
			"link set v0 up", "addr add fd10::3/64 dev u0 nodad",
			"neigh add 172.18.0.4 lladdr 02:00:00:00:00:04 dev u0",
			"neigh add fd10::4 lladdr 02:00:00:00:00:04 dev u0"); err != nil {
			t.Fatal(err)
		}
		g := NewGuard()
		s := GuardSettings{
			Nodes: endpoints("172.18.0.3:8285", "172.18.0.4:9000", "[fd10::4]:9000"),
			Binds: endpoints("172.18.0.3:8285"), TUN: "mesh0", Mark: testMark,
		}
		if _, err := g.Set(s); err != nil {
			t.Fatal(err)
		}
		dropped := uint64(0)
		for _, test := range []struct {
			to   string
			mark int
			pass bool
		}{
			{"172.18.0.4:9000", testMark, true}, {"172.18.0.4:9000", 0, false},
			{"172.18.0.4:9000", testMark | 1, false}, {"172.18.0.4:8285", 0, true},
			{"172.18.0.3:8285", 0, false}, {"172.18.0.3:8285", testMark, false},
			{"[fd10::4]:9000", testMark, true}, {"[fd10::4]:9000", 0, false}, {"[fd10::4]:9001", 0, true},
		} {
			if !test.pass {
				dropped++
			}
			send(t, test.to, test.mark)
			if got, _, err := g.Drops(); err != nil || got != dropped {
				t.Errorf("to %s with mark %#x: %d dropped, %v, want %d", test.to, test.mark, got, err, dropped)
				dropped = got
			}
		}
		run(t, n, "nft", "flush ruleset")
		for range 2 {
			if got, _, err := g.Drops(); err != nil || got != dropped {
				t.Errorf("after a flush: %d dropped, %v, want %d", got, err, dropped)
			}
			if _, err := g.Set(s); err != nil {
				t.Fatal(err)
			}
		}
		send(t, "172.18.0.4:9000", 0)
		if got, _, err := g.Drops(); err != nil || got != dropped+1 {
			t.Errorf("with new rules: %d dropped, %v, want %d", got, err, dropped+1)
		}
	})
}

// routed are a router and a host on each side of it, with two addresses of each family.
func routed(t *testing.T) (router, left, right *nstest.Namespace) {
	t.Helper()
	router, left, right = nstest.ForTest(t), nstest.ForTest(t), nstest.ForTest(t)
	for _, side := range []struct {
		n    *nstest.Namespace
		name string
		net  int
	}{{left, "left", 1}, {right, "right", 2}} {
		with := func(format string) string { return strings.ReplaceAll(format, "N", strconv.Itoa(side.net)) }
		if err := errors.Join(
			router.IP(fmt.Sprintf("link add %s type veth peer name eth0 netns %s", side.name, side.n.Name),
				"link set "+side.name+" up", with("addr add 10.9.N.1/24 dev ")+side.name,
				with("addr add fd09:N::1/64 nodad dev ")+side.name),
			side.n.IP("link set eth0 up", with("addr add 10.9.N.2/24 dev eth0"), with("addr add 10.9.N.3/24 dev eth0"),
				with("addr add fd09:N::2/64 dev eth0 nodad"), with("addr add fd09:N::3/64 dev eth0 nodad"),
				with("route add default via 10.9.N.1"), with("route add default via fd09:N::1")),
		); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(router.Sysctl("ipv4.ip_forward", "1"), router.Sysctl("ipv6.conf.all.forwarding", "1"))
	if err != nil {
		t.Fatal(err)
	}
	return router, left, right
}

// say sends a datagram from an address of a host.
func say(t *testing.T, n *nstest.Namespace, from string, to netip.AddrPort, payload string) {
	t.Helper()
	if err := n.Do(func() error {
		dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.Dial("udp", to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(payload))
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// A host that routes between others lets a node's datagrams pass to another node, and nobody else's;
// nor those that claim to be a node's and come from a pod of the router, or through its TUN.
func TestGuardForward(t *testing.T) {
	router, left, right := routed(t)
	g := NewGuard()
	guard := func(podLinks ...string) {
		t.Helper()
		if err := router.Do(func() error {
			_, err := g.Set(GuardSettings{
				Nodes: endpoints("10.9.1.2:8285", "10.9.2.2:8285", "[fd09:1::2]:8285", "[fd09:2::2]:8285"),
				Binds: endpoints("10.9.1.1:8285"), TUN: "mesh0", PodLinks: podLinks, Mark: testMark,
			})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name, from, to string
		podLinks       []string
		pass           bool
	}{
		{"from a node", "10.9.1.2", "10.9.2.2", nil, true},
		{"from somebody else", "10.9.1.3", "10.9.2.2", nil, false},
		{"from somebody else to no node", "10.9.1.3", "10.9.2.3", nil, true},
		{"from a node's address behind a pod's link", "10.9.1.2", "10.9.2.2", []string{"left"}, false},
		{"from a node over IPv6", "fd09:1::2", "fd09:2::2", nil, true},
		{"from somebody else over IPv6", "fd09:1::3", "fd09:2::2", nil, false},
		{"from a node's address behind a pod's link over IPv6", "fd09:1::2", "fd09:2::2", []string{"left"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			guard(test.podLinks...)
			to := netip.AddrPortFrom(netip.MustParseAddr(test.to), 8285)
			got := listen(t, right, to)
			say(t, left, test.from, to, "tried")
			run(t, left, "ping", "-c", "1", "-W", "5", test.to) // both neighbours are found before the rules change
			if err := router.Do(func() error { _, err := CleanUp(); return err }); err != nil {
				t.Fatal(err)
			}
			say(t, left, test.from, to, "last") // arrives in any case, and behind the other
			buf := make([]byte, 100)
			n, err := got.Read(buf)
			if first := string(buf[:n]); err != nil || (first == "tried") != test.pass {
				t.Errorf("the first that arrived is %q, %v", first, err)
			}
		})
	}
}

// listen opens a UDP socket in a namespace.
func listen(t *testing.T, n *nstest.Namespace, at netip.AddrPort) (conn *net.UDPConn) {
	t.Helper()
	if err := n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// send sends one datagram with a mark; that it is dropped on the way may be an error or none.
func send(t *testing.T, to string, mark int) {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if controlErr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
		}); controlErr != nil {
			return controlErr
		}
		return err
	}}
	conn, err := dialer.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("x"))
}
