package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// A translated is a connection whose client is not seen by the pod at its end, and a connection must not
// break while a mesh goes over to encryption.
type translated struct {
	name string
	*stream
}

// open opens a connection from a namespace to a pod, maybe from a source and by another address.
func (l *live) open(name string, from *nstest.Namespace, source, to, pod string) translated {
	l.t.Helper()
	listener, s := listenTCP(l.t.(*testing.T), l.PodW, pod), &stream{}
	err := from.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: dialPatience}
		s.Conn, err = d.Dial("tcp", to)
		return err
	})
	if err == nil {
		s.server, err = listener.Accept()
	}
	if err != nil {
		l.t.Fatalf("%s: %v", name, err)
	}
	l.t.Cleanup(func() { s.Close() })
	if seen := s.server.RemoteAddr().(*net.TCPAddr).IP.String(); seen != "10.244.2.0" {
		l.t.Errorf("%s is seen as %s", name, seen)
	}
	return translated{name, s}
}

// unread is what sockets on the way of a stream had no room for: those of the engine and of WireGuard on the
// host that it goes to, and that of the pod.
func (w *world) unread() (o overflows) {
	w.t.Helper()
	for i, way := range [2][]*nstest.Namespace{{w.Worker.Namespace, w.PodW}, {w.Worker2.Namespace, w.PodW2a}} {
		for _, n := range way {
			packets, err := receiveErrors(n)
			if err != nil {
				w.t.Fatal(err)
			}
			o[i] += packets
		}
	}
	return o
}

// receiveErrors returns how many datagrams the UDP sockets of a namespace had no room for.
func receiveErrors(n *nstest.Namespace) (packets uint64, err error) {
	err = n.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var rows [][]string // the names, and the numbers
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "Udp: ") {
				rows = append(rows, strings.Fields(line))
			}
		}
		if len(rows) != 2 || !slices.Contains(rows[0], "RcvbufErrors") {
			return fmt.Errorf("no RcvbufErrors in %q", text)
		}
		_, err = fmt.Sscan(rows[1][slices.Index(rows[0], "RcvbufErrors")], &packets)
		return err
	})
	return packets, err
}

// paced starts a download from worker's pod, of so many bytes a second: TCP alone would fill all queues, and
// packets of others would be lost in them.
func (l *live) paced(rate int) (finish func()) {
	l.t.Helper()
	t := l.t.(*testing.T)
	s, err := dialStream(l.PodW2b, l.PodW, "10.244.1.2:7002")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	raw, err := s.server.(*net.TCPConn).SyscallConn()
	if err == nil {
		failed := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, rate)
		})
		err = errors.Join(err, failed)
	}
	if err != nil {
		t.Fatal(err)
	}
	finish = download(t, s)
	if err := s.deadline(3*time.Minute + 6**switchPause); err != nil {
		t.Fatal(err)
	}
	return finish
}

// connect opens one connection of each kind to worker's pod by way of worker2: of the host itself, and of a
// client outside to a NodePort of kube-proxy's and to a port that is forwarded without its mark. The returned
// function fails the test unless all of them work.
func (l *live) connect() (alive func(after string)) {
	l.t.Helper()
	t := l.t.(*testing.T)
	outside, err := l.Lab.Host("outside", "172.18.0.77/16")
	if err != nil {
		t.Fatal(err)
	}
	kubeProxy(t, l.Worker2, "32000", "10.244.1.2:7004", true)
	run(t, l.Worker2.Namespace, "iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "32001",
		"-j", "DNAT", "--to-destination", "10.244.1.2:7005")
	all := []translated{
		l.open("a connection of the host", l.Worker2.Namespace, "172.18.0.3", "10.244.1.2:7003", "10.244.1.2:7003"),
		l.open("a NodePort", outside.Namespace, "172.18.0.77", "172.18.0.3:32000", "10.244.1.2:7004"),
		l.open("a forwarded port", outside.Namespace, "172.18.0.77", "172.18.0.3:32001", "10.244.1.2:7005"),
	}
	return func(after string) {
		t.Helper()
		for _, one := range all {
			if err := one.echo(after); err != nil {
				t.Errorf("%s after %s: %v", one.name, after, err)
			}
		}
	}
}

// forged sends bare datagrams to worker2, which has switched, in the name of worker, which has, too, and of
// control-plane, which lags. It returns how many of them have to be dropped as cleartext.
func (l *live) forged() (lies int) {
	l.t.Helper()
	t := l.t.(*testing.T)
	const to, many, port = "172.18.0.3", 20, 7100
	is := func(s control.Status, name, state string) bool { return peer(t, s, name).WireGuard.State == state }
	before := waitStatus(t, l.all[first], "one has switched, and one lags", func(s control.Status) bool {
		return is(s, "worker", control.WireGuardSealed) && is(s, "control-plane", control.WireGuardLagging)
	}).Totals.Drops
	stranger, err := l.Lab.Host("stranger", "172.18.0.9/16")
	if err != nil {
		t.Fatal(err)
	}
	raw, victim := rawBy(t, stranger.Namespace, "eth0"), listen(t, l.PodW2b, "10.244.2.3:7100")
	send := func(node, pod, payload string) {
		t.Helper()
		b := udpPacket(node, to, 8285, 64, string(udpPacket(pod, "10.244.2.3", port, 62, payload)))
		binary.BigEndian.PutUint16(b[20:], 8285)
		if err := raw(b); err != nil {
			t.Fatal(err)
		}
	}
	for range many {
		send("172.18.0.4", "10.244.1.2", "a lie of one that has switched")
		send("172.18.0.2", "10.244.1.2", "a lie of one that lags, about one that has switched")
	}
	waitStatus(t, l.all[first], "the lies are counted", func(s control.Status) bool {
		d := s.Totals.Drops
		return d["cleartext"] == before["cleartext"]+many && d["spoofed_source"] == before["spoofed_source"]+many
	})
	send("172.18.0.2", "10.244.0.2", "good")
	if payload, from := receive(t, victim); string(payload) != "good" || from.Addr().String() != "10.244.0.2" {
		t.Errorf("delivered %q from %s", payload, from)
	}
	return many
}
