package e2e

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// plain is a host that speaks the reference's wire as the reference does: a TUN with one
// queue, one packet for each system call, a TTL less on either side, and a kernel that
// answers.
type plain struct {
	tun  *os.File
	conn *net.UDPConn
}

// stop ends it; its TUN goes with it.
func (p *plain) stop() {
	p.tun.Close()
	p.conn.Close()
}

// flannel starts one on a host, with the TUN's address and the host's own. It ends with
// the test.
func flannel(t *testing.T, h *nstest.Host, address, self string, peers map[string]string) *plain {
	t.Helper()
	p := &plain{}
	if err := h.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq("flannel0")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, request), unix.SetNonblock(fd,
			true)); err != nil {
			return err
		}
		p.tun = os.NewFile(uintptr(fd), "flannel0")
		p.conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(self), Port: 8285})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	if err := h.IP("addr add "+address+"/32 dev flannel0", "link set flannel0 mtu 1472 up",
		"route add 10.244.0.0/16 dev flannel0"); err != nil {
		t.Fatal(err)
	}
	go func() {
		for b := make([]byte, 65536); ; {
			n, err := p.tun.Read(b)
			if err != nil {
				return
			}
			if n < 20 || b[0]>>4 != 4 {
				continue
			}
			packet.DecrementTTL(b[:n])
			dst := netip.AddrFrom4([4]byte(b[16:20]))
			for prefix, host := range peers {
				if netip.MustParsePrefix(prefix).Contains(dst) {
					_, _ = p.conn.WriteToUDP(b[:n], &net.UDPAddr{IP: net.ParseIP(host), Port: 8285})
				}
			}
		}
	}()
	go func() {
		for b := make([]byte, 65536); ; {
			n, err := p.conn.Read(b)
			if err != nil {
				return
			}
			packet.DecrementTTL(b[:n])
			_, _ = p.tun.Write(b[:n])
		}
	}()
	return p
}

// One host of the mesh runs the reference's plain loop, and works both ways: pings with the
// reference's TTL, TCP whose segments meshd merges and cuts, and datagrams in pieces.
func TestMixedMesh(t *testing.T) { eachEngine(t, nstest.Busy, testMixedMesh) }

func testMixedMesh(t *testing.T) {
	w := newWorld(t).fast()
	flannel(t, w.Worker, "10.244.1.0", "172.18.0.4",
		map[string]string{"10.244.0.0/24": "172.18.0.2", "10.244.2.0/24": "172.18.0.3"})
	d := w.own(w.Worker2, demoFile(t))
	w.own(w.ControlPlane, demoFile(t))
	for _, way := range []struct {
		from, to *nstest.Namespace
		address  string
	}{{w.PodW2b, w.PodW, "10.244.1.2"}, {w.PodW, w.PodW2b, "10.244.2.3"}, {w.PodCP, w.PodW, "10.244.1.2"},
		{w.PodCP, w.PodW2b, "10.244.2.3"}} {
		out := run(t, way.from, "ping", "-c", "2", "-i", "0.2", way.address)
		contains(t, out, "ttl=60", " 0% packet loss")
		contains(t, run(t, way.from, "ping", "-c", "1", "-s", "4000", way.address), " 0% packet loss")
		transfer(t, way.from, way.to, way.address+":9000", 16<<20)
	}
	if s := status(t,
		d); s.Totals.Drops["spoofed_source"]+s.Totals.Drops["unknown_sender"]+s.Totals.Drops["malformed"] != 0 {
		t.Errorf("%v", s.Totals.Drops)
	}
}

// visitors tells who connects to an address, and closes.
func visitors(t *testing.T, n *nstest.Namespace, address string) <-chan string {
	t.Helper()
	l := listenTCP(t, n, address)
	seen := make(chan string, 16)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(seen)
				return
			}
			seen <- conn.RemoteAddr().(*net.TCPAddr).IP.String()
			conn.Close()
		}
	}()
	return seen
}
