package link

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

// is compares settings below /proc/sys/net, as in "ipv4.ip_forward=1".
func is(t *testing.T, settings ...string) {
	t.Helper()
	for _, s := range settings {
		key, want, _ := strings.Cut(s, "=")
		got, err := os.ReadFile("/proc/sys/net/" + strings.ReplaceAll(key, ".", "/"))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v, want %s", key, got, err, want)
		}
	}
}

func TestForwardingSwitches(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link add name a type bridge", "link add name b type bridge"))
		for _, key := range []string{"ipv4.ip_forward", "ipv6.conf.all.forwarding"} {
			must(t, n.Sysctl(key, "0"))
		}
		must(t, n.Sysctl("ipv4.conf.a.forwarding", "1"))
		must(t, n.Sysctl("ipv6.conf.default.forwarding", "1"))
		for _, v6 := range []bool{false, true} {
			s, err := ForwardingSwitches(v6)
			b, known := s.Devices[Index("b")]
			if err != nil || s.All || s.Default != v6 || s.Devices[Index("a")] == v6 || b || !known {
				t.Errorf("IPv6 %v: %+v, %v", v6, s, err)
			}
		}
		must(t, n.Sysctl("ipv4.ip_forward", "1"))
		if s, err := ForwardingSwitches(false); err != nil || !s.All || !s.Default || !s.Devices[Index("b")] {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

func TestSetForwarding4(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.Sysctl("ipv4.ip_forward", "0"))
		must(t, n.IP("link add name a type bridge", "link add name b type bridge"))
		must(t, SetForwarding4(Interface{Index("a"), "a"}, true))
		is(t, "ipv4.ip_forward=0", "ipv4.conf.default.forwarding=0", "ipv4.conf.a.forwarding=1",
			"ipv4.conf.b.forwarding=0")
		must(t, SetForwarding4(Interface{Index: Index("a")}, false))
		is(t, "ipv4.ip_forward=0", "ipv4.conf.a.forwarding=0")
		for _, on := range []bool{true, false} {
			if err := SetForwarding4(Interface{4242, "gone"}, on); !errors.Is(err, unix.ENODEV) {
				t.Errorf("%v", err)
			}
		}
	})
}

// Only the global switch of IPv6 is turned, and of interfaces that of the TUN. One
// that somebody made a router's stays it.
func TestForwarding6(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.Sysctl("ipv6.conf.all.forwarding", "0"))
		must(t, n.IP("link add name a type bridge", "link add b.1 type bridge", "link add name r type bridge"))
		must(t, tun.Create("mesh0"))
		must(t, n.Sysctl("ipv6.conf.r.forwarding", "1"))
		must(t, n.Sysctl("ipv6.conf.r.accept_ra", "0"))
		same := []string{"ipv6.conf.default.forwarding=0", "ipv6.conf.a.forwarding=0",
			"ipv6.conf.r.forwarding=1", "ipv6.conf.default.accept_ra=1",
			"ipv6.conf.a.accept_ra=1", "ipv6.conf.all.accept_ra=1", "ipv6.conf.r.accept_ra=0", "ipv4.ip_forward=0"}
		must(t, n.Sysctl("ipv4.ip_forward", "0"))
		is(t, same...)
		for range 2 {
			must(t, OpenForwarding6("mesh0"))
			is(t, append(same, "ipv6.conf.all.forwarding=1", "ipv6.conf.mesh0.forwarding=1")...)
			if got := setting("ipv6", "b.1", "forwarding") + setting("ipv6", "all", "forwarding"); got != "0" {
				t.Errorf("%q", got)
			}
		}
		must(t, n.IP("link add tun1 type bridge"))
		must(t, SetRouter6("tun1"))
		is(t, append(same, "ipv6.conf.tun1.forwarding=1", "ipv6.conf.tun1.accept_ra=1")...)
		if changed, err := CloseForwarding6(); err != nil || !changed {
			t.Errorf("%v, %v", changed, err)
		}
		is(t, append(same, "ipv6.conf.all.forwarding=0")...)
		if changed, err := CloseForwarding6(); err != nil || changed {
			t.Errorf("%v, %v", changed, err)
		}
		// Somebody else turns it on meanwhile.
		must(t, OpenForwarding6("mesh0"))
		must(t, n.Sysctl("ipv6.conf.all.forwarding", "0"))
		must(t, n.Sysctl("ipv6.conf.all.forwarding", "1"))
		if changed, err := CloseForwarding6(); err != nil || changed {
			t.Errorf("%v, %v", changed, err)
		}
		is(t, "ipv6.conf.all.forwarding=1")
	})
}

// A host that has its default route from router advertisements keeps it, and keeps listening.
func TestForwarding6KeepsTheDefaultRoute(t *testing.T) {
	neighbour := nstest.ForTest(t)
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.Sysctl("ipv6.conf.all.forwarding", "0"))
		must(t, n.Sysctl("ipv6.conf.default.accept_dad", "0"))
		must(t, neighbour.Sysctl("ipv6.conf.default.accept_dad", "0"))
		must(t, n.IP("link add eth0 type veth peer name eth0 netns "+neighbour.Name,
			"link add name r type bridge", "link set eth0 up"))
		must(t, neighbour.IP("link set eth0 up"))
		must(t, n.Sysctl("ipv6.conf.r.forwarding", "1")) // whoever restores that must not purge routes
		routed := func() bool {
			return strings.Contains(output(t, n, "ip", "-6", "route"), "default via fe80::")
		}
		advertise(t, neighbour, routed)
		for _, step := range []func() error{
			func() error { return OpenForwarding6("none") },
			func() error { _, err := CloseForwarding6(); return err },
		} {
			must(t, step())
			if !routed() {
				t.Error("the default route is gone")
			}
			is(t, "ipv6.conf.eth0.accept_ra=1", "ipv6.conf.r.forwarding=1")
		}
		must(t, OpenForwarding6("none"))
		output(t, n, "ip", "-6", "route", "flush", "proto", "ra")
		advertise(t, neighbour, routed)
	})
}

// advertise sends router advertisements (RFC 4861, section 4.2) until somebody heard one.
func advertise(t *testing.T, n *nstest.Namespace, heard func() bool) {
	t.Helper()
	var socket *net.IPConn
	must(t, n.Do(func() (err error) {
		socket, err = net.ListenIP("ip6:ipv6-icmp", &net.IPAddr{IP: net.IPv6unspecified})
		return err
	}))
	if socket == nil {
		return
	}
	defer socket.Close()
	raw, err := socket.SyscallConn()
	must(t, err)
	var index int
	must(t, n.Do(func() error { index = Index("eth0"); return nil }))
	must(t, raw.Control(func(fd uintptr) {
		must(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255))
		must(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index))
	}))
	advertisement := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0} // a router for 1800 s
	for deadline := time.Now().Add(20 * time.Second); !heard(); time.Sleep(50 * time.Millisecond) {
		// Refused until there is an address.
		_, _ = socket.WriteToIP(advertisement, &net.IPAddr{IP: net.ParseIP("ff02::1")})
		if time.Now().After(deadline) {
			t.Error("nobody hears router advertisements")
			return
		}
	}
}

func TestWatchForwarding(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, n.IP("link add name a type bridge"))
		for _, key := range []string{"ipv4.ip_forward", "ipv6.conf.all.forwarding"} {
			must(t, n.Sysctl(key, "0"))
		}
		ctx, cancel := context.WithCancel(context.Background())
		news, ended := make(chan struct{}, 100), make(chan error, 1)
		go func() {
			ended <- n.Do(func() error { return WatchForwarding(ctx, func() { news <- struct{}{} }) })
		}()
		// The first may come before it listens.
		for value := 1; ; value = 1 - value {
			must(t, n.Sysctl("ipv4.conf.a.forwarding", string(rune('0'+value))))
			select {
			case <-news:
			case <-time.After(4 * settle):
				continue
			}
			break
		}
		must(t, n.Sysctl("ipv4.conf.a.forwarding", "0"))
		for len(news) > 0 {
			<-news
		}
		for _, key := range []string{"ipv4.ip_forward", "ipv6.conf.a.forwarding", "ipv6.conf.all.forwarding"} {
			must(t, n.Sysctl(key, "1"))
			select {
			case <-news:
			case <-time.After(20 * time.Second):
				t.Errorf("no news of %s", key)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestFindCrossing(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, tun.Create("mesh0"))
		must(t, n.IP(
			"link add eth0 type veth peer name e0", "link set eth0 up", "link set e0 up",
			"addr add 172.18.0.2/16 dev eth0",
			"link add wan type veth peer name w0", "link set wan up", "link set w0 up",
			"addr add 192.0.2.2/24 dev wan", "route add default via 192.0.2.1",
			"link add vpn type bridge", "link set vpn up", "route add 128.0.0.0/1 dev vpn",
			"link add cni0 type bridge", "link set cni0 up", "addr add 10.244.2.1/24 dev cni0",
			"link add v1 type veth peer name p1", "link set v1 up", "link set p1 up",
			"link set v1 master cni0",
			"link add lan type bridge", "link set lan up", "addr add 192.168.7.1/24 dev lan",
			"link add other type bridge", "link set other up", "addr add 192.168.9.1/24 dev other",
			"link set mesh0 up", "route add 10.244.0.0/16 dev mesh0 proto 85",
			"link add ours type bridge", "link set ours alias meshd",
		))
		c, err := FindCrossing("mesh0", prefixes("10.244.0.0/16"), prefixes("10.244.2.0/24"),
			prefixes("192.168.7.0/24"), []int{Index("eth0")})
		if err != nil {
			t.Error(err)
		}
		for _, test := range []struct {
			what string
			got  []Interface
			want string
		}{
			{"pods", c.Pods, "cni0"}, {"sides", c.Sides, "eth0 lan vpn wan"},
			{"rest", c.Rest, "e0 other p1 w0"}, {"all", c.All(), "cni0 eth0 lan vpn wan"},
		} {
			var names []string
			for _, one := range test.got {
				names = append(names, one.Name)
				if one.Index != Index(one.Name) {
					t.Errorf("%+v", one)
				}
			}
			if got := strings.Join(names, " "); got != test.want {
				t.Errorf("%s: %q, want %q", test.what, got, test.want)
			}
		}
	})
}

func TestSysctlName(t *testing.T) {
	for device, want := range map[string]string{
		"eth0": "net.ipv4.conf.eth0.forwarding", "eth0.7": "net/ipv4/conf/eth0.7/forwarding",
	} {
		if got := SysctlName("ipv4", device, "forwarding"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for _, device := range []string{"", ".", "..", "all", "default", "../../kernel", "a/b"} {
		if path, err := confPath("ipv6", device, "forwarding"); err == nil {
			t.Errorf("%q has the path %s", device, path)
		}
	}
}
