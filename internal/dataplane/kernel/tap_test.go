package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/nstest"
)

// attachers are the ways to attach a tap.
var attachers = map[string]func(link.TCXOptions) (link.Link, error){
	"tcx":    link.AttachTCX,
	"filter": func(link.TCXOptions) (link.Link, error) { return nil, ebpf.ErrNotSupported },
}

// overTUN returns two hosts with a TUN between them. Sockets take what comes in, among them that of the first
// host at port 7002.
func overTUN(t *testing.T) (hosts [2]*nstest.Namespace, at7002 net.PacketConn) {
	t.Helper()
	hosts = [2]*nstest.Namespace{nstest.ForTest(t), nstest.ForTest(t)}
	relay, err := nstest.NewRelay(hosts[0], hosts[1], "tun0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Close() })
	for i, n := range hosts {
		if err := n.IP(fmt.Sprintf("addr add 10.244.%d.1/15 dev tun0", i),
			fmt.Sprintf("addr add 10.244.%d.2/15 dev tun0", i),
			fmt.Sprintf("addr add fd00:%d::1/16 dev tun0 nodad", i), "link set tun0 up"); err != nil {
			t.Fatal(err)
		}
		for port := 7001; port <= 7003; port++ {
			if err := n.Do(func() error {
				c, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
				if i == 0 && port == 7002 {
					at7002 = c
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return hosts, at7002
}

// sendText sends a datagram.
func sendText(t *testing.T, n *nstest.Namespace, from, to, text string) {
	t.Helper()
	if err := n.Do(func() error {
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}).Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(text))
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// tapped returns what a tap has: the way, the length, and the end of what was kept of each packet.
func tapped(t *testing.T, p dataplane.Tap, enough int) string {
	t.Helper()
	var all []string
	for until := time.Now().Add(nstest.Patience); len(all) < enough; {
		c, err := p.Next(until)
		if err != nil {
			t.Fatalf("%v after %q", err, all)
		}
		way := ">"
		if c.Incoming {
			way = "<"
		}
		if age := time.Since(c.At); age < -time.Second || age > time.Minute {
			t.Errorf("a copy is %v old", age)
		}
		all = append(all, fmt.Sprintf("%s%d %s", way, c.Length, c.Bytes[len(c.Bytes)-4:]))
	}
	if p.Waiting() {
		t.Errorf("more than %q", all)
	}
	return strings.Join(all, ", ")
}

// Of what passes the TUN, a tap has what it asks for.
func TestTap(t *testing.T) {
	hosts, at7002 := overTUN(t)
	mesh := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/15"), netip.MustParsePrefix("fd00::/16")}
	large := strings.Repeat("x", 1300) + "larg"
	for name, test := range map[string]struct {
		o    dataplane.TapOptions
		want string
	}{
		"all peers": {dataplane.TapOptions{Peer: mesh}, ">32 out1, >32 out2, >52 six1, >1332 larg, <32 in_1"},
		"one peer": {dataplane.TapOptions{Peer: []netip.Prefix{netip.MustParsePrefix("10.244.1.2/32"),
			netip.MustParsePrefix("fd00:1::/64")}}, ">32 out2, >52 six1"},
		"host":   {dataplane.TapOptions{Host: netip.MustParseAddr("10.244.0.2")}, ">32 out2"},
		"IPv6":   {dataplane.TapOptions{Host: netip.MustParseAddr("fd00:1::1")}, ">52 six1"},
		"port":   {dataplane.TapOptions{Port: 7002}, ">32 out2, <32 in_1"},
		"second": {dataplane.TapOptions{Port: 7001, Host: netip.MustParseAddr("10.244.1.1"), Place: 1}, ">32 out1"},
		"snap":   {dataplane.TapOptions{Port: 7003, Snap: 28 + 1300, Peer: mesh[:1]}, ">1332 xxxx"},
	} {
		for how, attach := range attachers {
			t.Run(name+" "+how, func(t *testing.T) {
				if test.o.Snap == 0 {
					test.o.Snap = 65535
				}
				var p dataplane.Tap
				if err := hosts[0].Do(func() (err error) {
					p, err = openTap("tun0", test.o, attach)
					return err
				}); err != nil {
					t.Fatal(err)
				}
				sendText(t, hosts[0], "10.244.0.1", "10.244.1.1:7001", "out1")
				sendText(t, hosts[0], "10.244.0.2", "10.244.1.2:7002", "out2")
				sendText(t, hosts[0], "fd00:0::1", "[fd00:1::1]:7003", "six1")
				sendText(t, hosts[0], "10.244.0.1", "10.244.1.1:7003", large)
				sendText(t, hosts[1], "10.244.1.1", "10.244.0.1:7002", "in_1")
				// What comes in takes its time. It must not come into the next tap.
				if _, _, err := at7002.ReadFrom(make([]byte, 10)); err != nil {
					t.Fatal(err)
				}
				enough := strings.Count(test.want, ",") + 1
				if got := tapped(t, p, enough); got != test.want {
					t.Errorf("%q, want %q", got, test.want)
				}
				if kept, lost, err := p.Counts(); err != nil || kept != uint64(enough) || lost != 0 {
					t.Errorf("%d kept, %d lost, %v", kept, lost, err)
				}
				if _, err := p.Next(time.Now()); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%v", err)
				}
				if err := hosts[0].Do(p.Close); err != nil {
					t.Error(err)
				}
				for _, way := range []string{"ingress", "egress"} {
					out, _ := hosts[0].Run("tc", "filter", "show", "dev", "tun0", way)
					if strings.Contains(out, "direct-action") {
						t.Errorf("left behind: %s", out)
					}
				}
			})
		}
	}
}

// Who does not read loses copies, which are counted, and no packet.
func TestTapOverflows(t *testing.T) {
	hosts, _ := overTUN(t)
	var p dataplane.Tap
	if err := hosts[0].Do(func() (err error) {
		p, err = OpenTap("tun0", dataplane.TapOptions{Snap: 65535, Port: 7001})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer hosts[0].Do(p.Close)
	const packets = 3000 // of 2 KiB each, in a ring of 4 MiB
	if err := hosts[0].Do(func() error {
		c, err := net.Dial("udp", "10.244.1.1:7001")
		if err != nil {
			return err
		}
		defer c.Close()
		for range packets {
			if _, err := c.Write(make([]byte, 1200)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	kept, lost, err := p.Counts()
	if err != nil || kept == 0 || lost == 0 || kept+lost != packets {
		t.Errorf("%d kept, %d lost, %v", kept, lost, err)
	}
	for range kept {
		if _, err := p.Next(time.Now().Add(nstest.Patience)); err != nil {
			t.Fatal(err)
		}
	}
}

// The service has CAP_BPF and CAP_NET_ADMIN alone.
func TestTapAsService(t *testing.T) {
	if how := os.Getenv("MESH_TAP"); how != "" { // the interface has Ethernet headers, which do not matter here
		p, err := openTap("lo", dataplane.TapOptions{Snap: 65535, Place: 1}, attachers[how])
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		c, err := net.Dial("udp", "127.0.0.1:7001")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("text")); err != nil {
			t.Fatal(err)
		}
		if c, err := p.Next(time.Now().Add(nstest.Patience)); err != nil || c.Length < 32 {
			t.Errorf("%+v, %v", c, err)
		}
		return
	}
	n := nstest.ForTest(t)
	if err := n.IP("link set lo up"); err != nil {
		t.Fatal(err)
	}
	for how := range attachers {
		t.Run(how, func(t *testing.T) {
			cmd := n.Command("setpriv", "--bounding-set", "-all,+net_admin,+bpf", os.Args[0], "-test.run",
				"^TestTapAsService$")
			cmd.Env = append(os.Environ(), "MESH_TAP="+how)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func FuzzCopy(f *testing.F) {
	f.Add(make([]byte, 24))
	f.Add([]byte(strings.Repeat("\x01\x00\x00\x00", 10)))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer budget.Of(t)()
		if c, ok := copyOf(b, time.Time{}); ok && len(c.Bytes) > len(b)-24 {
			t.Errorf("%d bytes of %d", len(c.Bytes), len(b))
		}
	})
}
