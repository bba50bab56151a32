package rules

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/nstest"
)

// A connection of a pod to the outside is masqueraded also if it begins while a daemon starts again. The
// kernel decides that once, by its first packet, and sets of intervals are empty for a moment after their
// transaction.
func TestConnectionsBeginWhileDaemonsStart(t *testing.T) {
	pod, outside := nstest.ForTest(t), nstest.ForTest(t)
	keep(t, func(k *keeping) {
		if err := errors.Join(
			k.n.IP("link add pod type veth peer name eth0 netns "+pod.Name, "link set pod up",
				"addr add 10.244.2.1/24 dev pod", "link add out type veth peer name eth0 netns "+outside.Name,
				"link set out up", "addr add 192.0.2.1/24 dev out"),
			pod.IP("link set eth0 up", "addr add 10.244.2.2/24 dev eth0", "route add default via 10.244.2.1"),
			outside.IP("link set eth0 up", "addr add 192.0.2.2/24 dev eth0", "route add default via 192.0.2.1"),
			k.n.Sysctl("ipv4.ip_forward", "1")); err != nil {
			k.Fatal(err)
		}
		w := wanted("10.244.0.0/16")
		in, err := listenIn(outside)
		if err != nil {
			k.Fatal(err)
		}
		// The rules that the first of all daemons finds are those of one that has ended.
		if _, err := masq.New().Set(*w.Masquerade); err != nil {
			k.Fatal(err)
		}
		var bare, all int
		stop, ended, sent := make(chan struct{}), make(chan error, 1), make(chan error, 1)
		go func() { ended <- count(in, &bare, &all) }()
		go func() { sent <- pod.Do(func() error { return connections(stop) }) }()
		for range 60 { // daemons, one after the other
			next := New(slog.New(slog.DiscardHandler))
			ctx, cancel := context.WithCancel(k.ctx)
			kept := make(chan error, 1)
			go func() { kept <- k.n.Do(func() error { return next.Keep(ctx) }) }()
			_, err := next.Set(ctx, w, true)
			cancel()
			if err = errors.Join(err, <-kept); err != nil {
				k.Error(err)
			}
		}
		close(stop)
		if err := errors.Join(<-sent, in.Close()); err != nil {
			k.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			k.Error(err)
		}
		if bare > 0 || all == 0 {
			k.Errorf("%d of %d connections kept the pod's address", bare, all)
		}
	})
}

// listenIn opens a socket in a namespace.
func listenIn(n *nstest.Namespace) (conn *net.UDPConn, err error) {
	err = n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 9000})
		return err
	})
	return conn, err
}

// connections begins connections until stop is closed, each with one packet from a port of its own.
func connections(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		conn, err := net.Dial("udp4", "192.0.2.2:9000")
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte("x"))
		if err = errors.Join(err, conn.Close()); err != nil {
			return err
		}
	}
}

// count counts the connections that arrive until the socket is closed, and those of them that come from a
// pod's address.
func count(in *net.UDPConn, bare, all *int) error {
	pods, buf := netip.MustParsePrefix("10.244.2.0/24"), make([]byte, 100)
	for {
		_, from, err := in.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		*all++
		if pods.Contains(from.Addr().Unmap()) {
			*bare++
		}
	}
}
