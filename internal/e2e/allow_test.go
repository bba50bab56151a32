package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// Rules say who may reach a pod, on each engine and encrypted: what they allow passes with its answers, what
// they do not is dropped and counted, and open connections follow the rules of today in both directions.
// Neither probes nor other destinations notice.
func TestAllow(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) {
		m := newMesh(t)
		testAllow(t, m.world, demoFile(t), []*nstest.Daemon{m.cp, m.w, m.w2})
	})
}

func TestAllowSealed(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	s := newSealed(t)
	all := s.runAll(s.file())
	testAllow(t, s.world, s.file(), all)
}

// testAllow has the pod of worker reach one of worker2, the host of the last daemon.
func testAllow(t *testing.T, w *world, doc string, daemons []*nstest.Daemon) {
	const web = "[[allow]]\nname = \"web\"\nfrom = [\"worker\"]\nto = [\"worker2\"]\n"
	d := daemons[len(daemons)-1]
	rules := func(proto string) control.Status {
		t.Helper()
		var s control.Status
		for _, one := range daemons {
			s = rewrite(t, one, doc+proto)
		}
		if s.Config.Error != "" {
			t.Fatal(s.Config.Error)
		}
		return s
	}
	client, server := listen(t, w.PodW, "10.244.1.2:7000"), listen(t, w.PodW2b, "10.244.2.3:7000")
	stream, peer := connect(t, w.PodW, w.PodW2b, "10.244.2.3:7001")
	ask := func(text string) { send(t, client, "10.244.2.3:7000", []byte(text)) }
	reply := func(text string) { send(t, server, "10.244.1.2:7000", []byte(text)) }
	arrives := func(conn *net.UDPConn, want string) {
		t.Helper()
		if got, _ := receive(t, conn); string(got) != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	echo := func() {
		t.Helper()
		if err := errors.Join(exchange(stream, peer), exchange(peer, stream)); err != nil {
			t.Fatal(err)
		}
	}
	dropped := func(least uint64) {
		t.Helper()
		waitStatus(t, d, "drops are counted", func(s control.Status) bool {
			return s.Allow.Dropped >= least && s.Totals.Drops["not_allowed"] == s.Allow.Dropped
		})
	}
	ask("no rules")
	arrives(server, "no rules")
	echo()

	rules(web + "proto = [\"udp/7000\", \"tcp/7000-7100\"]\n")
	ask("allowed")
	arrives(server, "allowed")
	reply("answer")
	arrives(client, "answer")
	echo()
	s := waitStatus(t, d, "packets are counted", func(s control.Status) bool {
		return len(s.Allow.Rules) == 1 && s.Allow.Rules[0].Packets >= 4
	})
	before := s.Allow.Dropped
	if out, err := w.PodW.Run("ping", "-c", "1", "-W", "1", "10.244.2.3"); err == nil {
		t.Error(out)
	}
	dropped(before + 1)
	run(t, w.PodW2a, "ping", "-c", "1", "-W", "5", "10.244.2.3") // of the same host
	run(t, w.PodW2a, "ping", "-c", "1", "-W", "5", "10.244.1.2") // no rule is about worker
	run(t, w.PodW, "ping", "-c", "1", "-W", "5", "10.244.2.0")   // the TUN
	run(t, w.Worker2.Namespace, "ping", "-c", "1", "10.244.2.3") // this host itself

	// The rule for TCP goes: the open connection is held, in both directions, and the other one is not.
	before = rules(web + "proto = [\"udp/7000\"]\n").Allow.Dropped
	ask("still")
	arrives(server, "still")
	_, err := peer.Write([]byte("from the pod"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := stream.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes passed", n)
	}
	dropped(before + 1)
	rules(web + "proto = [\"udp/7000\", \"tcp/7001\"]\n") // and comes back, before TCP gives up
	if err := exchanged(stream, "from the pod"); err != nil {
		t.Error(err)
	}
	waitStatus(t, d, "healthy", func(s control.Status) bool { return s.Health.Level == control.OK })

	s = rules("")
	if len(s.Allow.Rules) != 0 {
		t.Errorf("%+v", s.Allow)
	}
	run(t, w.PodW, "ping", "-c", "1", "-W", "5", "10.244.2.3")
	if list := run(t, d.Host.Namespace, "nft", "list", "ruleset"); strings.Contains(list, "meshd-allow") {
		t.Error(list)
	}
}

// connect opens a TCP connection between two pods, and returns both ends.
func connect(t *testing.T, from, to *nstest.Namespace, address string) (client, server net.Conn) {
	t.Helper()
	var l net.Listener
	err := to.Do(func() (err error) { l, err = net.Listen("tcp", address); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err = from.Do(func() (err error) {
		client, err = net.DialTimeout("tcp", netip.MustParseAddrPort(address).String(), 10*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// exchange sends a few bytes one way, and waits for them.
func exchange(from, to net.Conn) error {
	if _, err := from.Write([]byte("hello")); err != nil {
		return err
	}
	return exchanged(to, "hello")
}

// exchanged waits for some bytes.
func exchanged(conn net.Conn, want string) error {
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		more, err := conn.Read(got[n:])
		if err != nil {
			return err
		}
		n += more
	}
	if string(got) != want {
		return fmt.Errorf("%q, want %q", got, want)
	}
	return nil
}
