package ask

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

const device = "meshd-wg"

// payload is one of package probe's, of a kind.
func payload(kind byte, text string) []byte {
	b := append([]byte("meshd\x00\x01\n"), kind)
	return append(b, text...)
}

// two returns two hosts with the encrypted interface between them, which a pair of veth stands for, and the
// meshes that each of them knows.
func two(t *testing.T) (hosts [2]*nstest.Namespace, meshes [2]mesh.Mesh) {
	hosts = [2]*nstest.Namespace{nstest.ForTest(t), nstest.ForTest(t)}
	must(t, hosts[0].IP("link add "+device+" type veth peer name "+device+" netns "+hosts[1].Name))
	var peers []mesh.Peer
	for i, name := range []string{"a", "b"} {
		peers = append(peers, mesh.Peer{Name: name, Subnets: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", i))}})
	}
	for i, name := range []string{"a", "b"} {
		meshes[i] = mesh.Mesh{Self: name, Peers: peers}
		dress(t, hosts[i], i)
	}
	return hosts, meshes
}

// dress gives the interface of a host its addresses and routes.
func dress(t *testing.T, n *nstest.Namespace, i int) {
	t.Helper()
	must(t, n.IP(fmt.Sprintf("addr replace 10.244.%d.0/32 dev %s", i, device),
		fmt.Sprintf("addr replace fd00:%d::/128 dev %s nodad", i, device), "link set "+device+" up",
		fmt.Sprintf("route replace 10.244.%d.0/24 dev %s", 1-i, device),
		fmt.Sprintf("route replace fd00:%d::/64 dev %s", 1-i, device)))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs a Carrier on a host until the test ends. heard gets what it hears.
func start(t *testing.T, n *nstest.Namespace, m mesh.Mesh, reply bool) (
	c *Carrier, heard chan dataplane.Echo) {
	t.Helper()
	heard = make(chan dataplane.Echo, 100)
	c = New(Options{Log: slog.New(slog.DiscardHandler), Interface: device,
		Heard: func(string) time.Time { return time.Unix(7, 0) },
		Hear: func(e dataplane.Echo, _ time.Time) ([]byte, bool) {
			got := e
			got.Payload = append([]byte(nil), e.Payload...)
			heard <- got
			if !reply || e.Reply {
				return nil, true
			}
			return payload('a', string(e.Payload[9:])), true
		}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Do(func() error { return c.Run(ctx) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c.Set(m)
	return c, heard
}

// await waits for an echo with a text.
func await(t *testing.T, heard <-chan dataplane.Echo, text string) dataplane.Echo {
	t.Helper()
	for {
		select {
		case e := <-heard:
			if strings.HasSuffix(string(e.Payload), text) {
				return e
			}
		case <-time.After(nstest.Patience):
			t.Fatalf("%q is not heard", text)
		}
	}
}

// sent sends until there is a socket.
func sent(t *testing.T, c *Carrier, e dataplane.Echo) {
	t.Helper()
	for until := time.Now().Add(nstest.Patience); ; time.Sleep(5 * time.Millisecond) {
		err := c.SendEcho(e)
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

func TestQuestionAndAnswer(t *testing.T) {
	hosts, meshes := two(t)
	a, atA := start(t, hosts[0], meshes[0], true)
	b, atB := start(t, hosts[1], meshes[1], true)
	sent(t, b, dataplane.Echo{Peer: "a", Payload: payload('a', "ready")})
	await(t, atA, "ready")
	sent(t, a, dataplane.Echo{Peer: "b", Payload: payload('q', "one")})
	if e := await(t, atB, "one"); e.Peer != "a" || e.Reply {
		t.Errorf("the question came as %+v", e)
	}
	if e := await(t, atA, "one"); e.Peer != "b" || !e.Reply {
		t.Errorf("the answer came as %+v", e)
	}
	if got := a.Heard("b"); time.Since(got) > time.Minute || !a.HeardBy("b")[0].Socket.Equal(got) {
		t.Errorf("heard at %v", got)
	}
	if got := a.Heard("stranger"); !got.Equal(time.Unix(7, 0)) { // what WireGuard says
		t.Errorf("heard at %v", got)
	}
	large := dataplane.Echo{Peer: "b", Payload: append(payload('q', ""), make([]byte, 1500)...)}
	if err := a.SendEcho(large); err == nil {
		t.Error("a datagram larger than the interface was sent")
	}
	if err := a.SendEcho(dataplane.Echo{Peer: "nobody", Payload: payload('q', "")}); err == nil {
		t.Error("a stranger was asked")
	}
}

// A host without meshd answers that nobody listens: that is heard as a reply with the question in it.
func TestRefusal(t *testing.T) {
	hosts, meshes := two(t)
	a, atA := start(t, hosts[0], meshes[0], true)
	sent(t, a, dataplane.Echo{Peer: "b", Payload: payload('q', "refused")})
	if e := await(t, atA, "refused"); e.Peer != "b" || !e.Reply || e.Payload[8] != 'q' {
		t.Errorf("the refusal came as %+v", e)
	}
	for range 20 { // an error of one call is not that of the next
		sent(t, a, dataplane.Echo{Peer: "b", Payload: payload('q', "again")})
	}
	await(t, atA, "again")
}

// A firewall on the way says "port unreachable", too, which tells nothing of the peer behind it.
func TestRejectOnTheWay(t *testing.T) {
	nstest.RequirePrograms(t, "`make deps` installs it", "nft")
	hosts, meshes := two(t)
	m := meshes[0]
	m.Peers = append(m.Peers, mesh.Peer{Name: "c",
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}})
	must(t, hosts[0].IP("route add 10.244.2.0/24 via 10.244.1.0 dev "+device+" onlink"))
	must(t, hosts[1].IP("route add 10.244.2.0/24 dev "+device))
	must(t, hosts[1].Sysctl("ipv4.ip_forward", "1"))
	_, err := hosts[1].Run("nft", "add table ip t; add chain ip t f { type filter hook forward priority 0; }; "+
		"add rule ip t f udp dport 8286 counter reject with icmp port-unreachable")
	must(t, err)
	rejects, err := hosts[0].Capture(device)
	must(t, err)
	defer rejects.Close()
	a, atA := start(t, hosts[0], m, true)
	isReject := func(b []byte) bool { // Ethernet, IPv4, ICMP: destination unreachable, port
		return len(b) > 36 && b[12] == 8 && b[13] == 0 && b[23] == 1 && b[34] == 3 && b[35] == 3
	}
	for until := time.Now().Add(nstest.Patience); ; {
		sent(t, a, dataplane.Echo{Peer: "c", Payload: payload('q', "rejected")})
		if _, err := rejects.Next(50*time.Millisecond, isReject); err == nil {
			break
		}
		if time.Now().After(until) {
			t.Fatal("nothing is rejected")
		}
	}
	for until := time.Now().Add(nstest.Patience); ; { // b itself has no meshd, and says so once a second
		sent(t, a, dataplane.Echo{Peer: "b", Payload: payload('q', "refused")})
		select {
		case e := <-atA:
			if e.Peer != "b" {
				t.Errorf("heard %q of %s", e.Payload, e.Peer)
			}
			return
		case <-time.After(50 * time.Millisecond):
			if time.Now().After(until) {
				t.Fatal("nothing is heard")
			}
		}
	}
}

// listener returns a socket of another program.
func listener(t *testing.T, n *nstest.Namespace, at string) (c net.PacketConn) {
	t.Helper()
	must(t, n.Do(func() (err error) { c, err = net.ListenPacket("udp4", at); return err }))
	return c
}

// A port that another program has is told, and taken once it is free, without anybody's call.
func TestPortTaken(t *testing.T) {
	hosts, meshes := two(t)
	other := listener(t, hosts[0], "0.0.0.0:8286")
	a, atA := start(t, hosts[0], meshes[0], true)
	for until := time.Now().Add(nstest.Patience); len(a.Conditions()) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nothing is told")
		}
	}
	if c := a.Conditions()[0]; c.Kind != mesh.ProbePortTaken || c.Remedy == "" {
		t.Errorf("%+v", c)
	}
	must(t, other.Close())
	sent(t, a, dataplane.Echo{Peer: "b", Payload: payload('q', "free")})
	await(t, atA, "free")
	if all := a.Conditions(); len(all) > 0 {
		t.Errorf("%+v", all)
	}
}

// Probes that the peer has to forward go to another address of it.
func TestForwarded(t *testing.T) {
	hosts, meshes := two(t)
	must(t, hosts[1].IP("addr add 10.244.1.254/32 dev "+device))
	there := listener(t, hosts[1], "10.244.1.254:8286")
	defer there.Close()
	a, _ := start(t, hosts[0], meshes[0], true)
	sent(t, a, dataplane.Echo{Peer: "b", Forwarded: true, Payload: payload('q', "forwarded")})
	b := make([]byte, 100)
	must(t, there.SetReadDeadline(time.Now().Add(nstest.Patience)))
	n, from, err := there.ReadFrom(b)
	if err != nil || string(b[:n]) != string(payload('q', "forwarded")) || from.String() != "10.244.0.0:8286" {
		t.Errorf("%q from %v: %v", b[:n], from, err)
	}
}

// The sockets follow the interface: one that was deleted and made anew, and other addresses.
func TestInterfaceMadeAnew(t *testing.T) {
	hosts, meshes := two(t)
	a, _ := start(t, hosts[0], meshes[0], true)
	_, atB := start(t, hosts[1], meshes[1], true)
	sent(t, a, dataplane.Echo{Peer: "b", Payload: payload('q', "before")})
	must(t, hosts[0].IP("link del "+device))
	must(t, hosts[0].IP("link add "+device+" type veth peer name "+device+" netns "+hosts[1].Name))
	for i, n := range hosts {
		dress(t, n, i)
	}
	for until := time.Now().Add(nstest.Patience); ; time.Sleep(5 * time.Millisecond) {
		_ = a.SendEcho(dataplane.Echo{Peer: "b", Payload: payload('q', "after")})
		select {
		case e := <-atB:
			if strings.HasSuffix(string(e.Payload), "after") {
				return
			}
		default:
		}
		if time.Now().After(until) {
			t.Fatal("nothing is heard on the new interface")
		}
	}
}

// What comes from elsewhere, or is nothing of meshd's, is not heard.
func TestStrangersAreNotHeard(t *testing.T) {
	hosts, meshes := two(t)
	b, atB := start(t, hosts[1], meshes[1], true)
	sent(t, b, dataplane.Echo{Peer: "a", Payload: payload('q', "open")})
	must(t, hosts[0].IP("addr add 10.244.0.9/32 dev "+device))
	for _, from := range []string{"10.244.0.0:8286", "10.244.0.9:8286", "10.244.0.0:9"} {
		must(t, hosts[0].Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Bind(fd, sockaddr(netip.MustParseAddrPort(from))); err != nil {
				return err
			}
			to := sockaddr(netip.MustParseAddrPort("10.244.1.0:8286"))
			text := "of " + from
			if err := unix.Sendto(fd, []byte(text), 0, to); err != nil { // nothing of meshd's
				return err
			}
			return unix.Sendto(fd, payload('q', text), 0, to)
		}))
	}
	if e := await(t, atB, "of 10.244.0.0:8286"); e.Peer != "a" {
		t.Errorf("heard %+v", e)
	}
	sent(t, b, dataplane.Echo{Peer: "a", Payload: payload('q', "last")}) // refused: nobody listens at a
	for {
		e := <-atB
		if strings.HasSuffix(string(e.Payload), "last") {
			return
		}
		if strings.Contains(string(e.Payload), "of 10.244.0.9") || strings.Contains(string(e.Payload), "0:9") {
			t.Errorf("heard %q", e.Payload)
		}
	}
}

func FuzzKindOf(f *testing.F) {
	f.Add([]byte("meshd\x00\x01\nq"))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer budget.Of(t)()
		if k := kindOf(b); (k == question) != (len(b) > 8 && b[8] == 'q') {
			t.Errorf("%x is %v", b, k)
		}
	})
}

func FuzzOffender(f *testing.F) {
	f.Add([]byte{})
	f.Add(append([]byte{2, 0, 0, 0}, make([]byte, 12)...))
	f.Add(append([]byte{10, 0}, make([]byte, 26)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer budget.Of(t)()
		if a := offender(b); a.IsValid() && (a.Is4() && len(b) < 16 || a.Is6() && len(b) < 28) {
			t.Errorf("% x is %s", b, a)
		}
	})
}

// A node that was never heard has no time at which it was.
func TestNeverHeard(t *testing.T) {
	c := New(Options{Interface: device, Heard: func(string) time.Time { return time.Time{} }})
	c.Set(mesh.Mesh{Self: "a", Peers: []mesh.Peer{
		{Name: "a", Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")}},
		{Name: "b", Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}}})
	if got := c.Heard("b"); !got.IsZero() {
		t.Errorf("heard at %v", got)
	}
}
