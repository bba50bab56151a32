package speed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/plan"
)

const device = "mesh0"

// A node is one of two hosts, with a Keeper.
type node struct {
	*Keeper
	host     *nstest.Namespace
	plan     atomic.Pointer[plan.Plan]
	measured chan string
}

// two returns two hosts, a and b, with a pair of veth in the place of the tunnel. b answers if open is set.
func two(t *testing.T, open bool) (a, b *node) {
	t.Helper()
	hosts := [2]*nstest.Namespace{nstest.ForTest(t), nstest.ForTest(t)}
	must(t, hosts[0].IP("link add "+device+" type veth peer name "+device+" netns "+hosts[1].Name))
	var peers []mesh.Peer
	for i, name := range []string{"a", "b"} {
		must(t, hosts[i].IP(fmt.Sprintf("addr add 10.244.%d.0/32 dev %s", i, device), "link set "+device+" up",
			"link set lo up", fmt.Sprintf("route add 10.244.%d.0/24 dev %s", 1-i, device)))
		peers = append(peers, mesh.Peer{Name: name, Subnets: []mesh.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i))}})
	}
	var nodes []*node
	for i, name := range []string{"a", "b"} {
		n := &node{host: hosts[i], measured: make(chan string, 100)}
		n.use(name, peers, i == 1 && open)
		n.Keeper = New(Options{Log: slog.New(slog.DiscardHandler), Plan: n.plan.Load,
			Measured: func(peer string, _ time.Time) { n.measured <- peer }})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		for _, one := range n.Tasks() {
			go func() { done <- n.host.Do(func() error { return one.Run(ctx) }) }()
		}
		t.Cleanup(func() {
			cancel()
			for range n.Tasks() {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
		nodes = append(nodes, n)
	}
	return nodes[0], nodes[1]
}

// use has a node follow a plan.
func (n *node) use(self string, peers []mesh.Peer, open bool) {
	p := &plan.Plan{Config: &config.Config{Probe: config.Probe{Speed: open}}, Self: config.Node{Name: self},
		Link:   link.Settings{Interface: device, MTU: 1500},
		Engine: dataplane.Wanted{Mesh: mesh.Mesh{Self: self, Peers: peers}}}
	p.Peer, _ = p.Engine.Mesh.Peer(self)
	n.plan.Store(p)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ask measures from a node, until the other one listens.
func (n *node) ask(ctx context.Context, r control.SpeedRequest, each func(control.SpeedProgress)) (
	result control.Speed, err error) {
	for until := time.Now().Add(nstest.Patience); ; time.Sleep(20 * time.Millisecond) {
		err = n.host.Do(func() error {
			var ok bool
			if result, ok, err = n.Ask(ctx, r, each); err == nil && !ok {
				err = errors.New("no such peer")
			}
			return err
		})
		if code(err) != "refused" || time.Now().After(until) {
			return result, err
		}
	}
}

// code returns that of a refusal; empty for another error.
func code(err error) string {
	if r, ok := errors.AsType[*control.Refusal](err); ok {
		return r.Code
	}
	return ""
}

func TestBothWays(t *testing.T) {
	a, b := two(t, true)
	var ways []string
	got, err := a.ask(t.Context(), control.SpeedRequest{Peer: "b", Seconds: 4}, func(p control.SpeedProgress) {
		ways = append(ways, p.Way)
		if p.BPS <= 0 {
			t.Errorf("%+v", p)
		}
	})
	must(t, err)
	for name, w := range map[string]control.SpeedWay{"out": got.Out, "in": got.In} {
		if w.BPS <= 0 || w.Bytes == 0 || w.Segments == 0 || w.RTTMS == nil || w.Sent == 0 ||
			w.Received+w.Lost != w.Sent || w.Received == 0 || w.BPS > 1.2*float64(DefRate) {
			t.Errorf("%s: %+v", name, w)
		}
	}
	if all := strings.Join(ways, " "); all != "out in" { // each load takes 1.6 s
		t.Errorf("told of %q", all)
	}
	for _, n := range []struct {
		*node
		peer string
	}{{a, "b"}, {b, "a"}} {
		if peer := <-n.measured; peer != n.peer {
			t.Errorf("%q was measured", peer)
		}
	}
}

func TestLimit(t *testing.T) {
	a, _ := two(t, true)
	got, err := a.ask(t.Context(), control.SpeedRequest{Peer: "b", Seconds: 2, LimitBPS: 8e6},
		func(control.SpeedProgress) {})
	must(t, err)
	// What is sent within 0.8 s, as the sender counts it; how long the receiver waited is the machine's matter.
	if most := uint64(8e6/8*0.8) + maxData; got.Out.Bytes > most || got.In.Bytes > most || got.Out.Bytes == 0 {
		t.Errorf("%+v", got)
	}
}

func TestRefused(t *testing.T) {
	a, _ := two(t, false)
	var err error
	must(t, a.host.Do(func() error {
		_, _, err = a.Ask(t.Context(), control.SpeedRequest{Peer: "b", Seconds: 1}, nil)
		return nil
	}))
	if code(err) != "refused" {
		t.Errorf("%v", err)
	}
	if _, ok, err := a.Ask(t.Context(), control.SpeedRequest{Peer: "a"}, nil); ok || err != nil {
		t.Errorf("itself: %v, %v", ok, err)
	}
	for name, r := range map[string]control.SpeedRequest{"long": {Peer: "b", Seconds: 31},
		"short": {Peer: "b", Seconds: 0.5}, "negative": {Peer: "b", Seconds: -1},
		"fast": {Peer: "b", LimitBPS: MaxRate + 1}, "slow": {Peer: "b", LimitBPS: 1}} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := a.Ask(t.Context(), r, nil); err == nil || code(err) != "" {
				t.Errorf("%v", err)
			}
		})
	}
}

// One measurement at a time takes part of a host; the end of the asker ends it.
func TestOneAtATime(t *testing.T) {
	a, b := two(t, true)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := a.ask(ctx, control.SpeedRequest{Peer: "b", Seconds: 30}, func(control.SpeedProgress) {})
		ended <- err
	}()
	<-b.measured // it runs
	if _, err := a.ask(t.Context(), control.SpeedRequest{Peer: "b", Seconds: 1}, nil); code(err) != "busy" {
		t.Errorf("a second one of the asker: %v", err)
	}
	must(t, a.host.Do(func() error { // of another asker on the same host, as if it were a third one
		conn, err := dial(t.Context(), pair{netip.MustParseAddr("10.244.0.0"),
			netip.MustParseAddr("10.244.1.0")}, device)
		if err != nil {
			return err
		}
		defer conn.Close()
		var h hello
		if err := readMessage(conn, &h); err != nil || !h.Busy {
			t.Errorf("a second one of the answerer: %+v, %v", h, err)
		}
		return nil
	}))
	cancel()
	if err := <-ended; err == nil {
		t.Error("a measurement that was ended has a result")
	}
	<-b.measured // it has ended there, too
	for until := time.Now().Add(nstest.Patience); ; time.Sleep(20 * time.Millisecond) {
		_, err := a.ask(t.Context(), control.SpeedRequest{Peer: "b", Seconds: 1}, func(control.SpeedProgress) {})
		if err == nil {
			break
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

// Whoever has no TUN address of a node gets no word.
func TestStranger(t *testing.T) {
	a, b := two(t, true)
	must(t, a.host.IP("addr add 10.244.0.9/32 dev "+device))
	if _, err := a.ask(t.Context(), control.SpeedRequest{Peer: "b", Seconds: 1},
		func(control.SpeedProgress) {}); err != nil { // it listens
		t.Fatal(err)
	}
	silent := func(n *nstest.Namespace, own string) {
		t.Helper()
		must(t, n.Do(func() error {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(own)}, Timeout: nstest.Patience}
			conn, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("10.244.1.0:%d", Port))
			if err != nil {
				return err
			}
			defer conn.Close()
			if n, err := conn.Read(make([]byte, 100)); n > 0 || err == nil {
				t.Errorf("%s gets %d bytes", own, n)
			}
			return nil
		}))
	}
	silent(a.host, "10.244.0.9")
	silent(b.host, "10.244.1.0") // the host itself
	pod := nstest.ForTest(t)
	must(t, b.host.IP("link add cni0 type veth peer name eth0 netns "+pod.Name,
		"addr add 10.244.1.1/24 dev cni0", "link set cni0 up"))
	must(t, pod.IP("addr add 10.244.1.7/24 dev eth0", "link set eth0 up", "route add default via 10.244.1.1"))
	must(t, pod.Do(func() error {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("10.244.1.0:%d", Port), nstest.Patience)
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a pod is let in: %v", err)
		}
		if err == nil {
			conn.Close()
		}
		return nil
	}))
}

func FuzzFrames(f *testing.F) {
	var b bytes.Buffer
	_ = writeMessage(&b, hello{Version: version, Token: make([]byte, tokenSize), Port: 1})
	f.Add(b.Bytes())
	h := header(kindData, maxData+1)
	f.Add(h[:])
	f.Add([]byte(`m` + "\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer budget.Of(t)()
		for _, m := range []message{&hello{}, &request{}, &receipt{}, &train{}} {
			if readMessage(bytes.NewReader(b), m) != nil {
				continue
			}
			var again bytes.Buffer
			if err := errors.Join(writeMessage(&again, m), readMessage(&again, m)); err != nil {
				t.Errorf("%T %+v: %v", m, m, err)
			}
			if r, ok := m.(*request); ok && r.longest() > MaxTime+2*graceTime+2*answerTime {
				t.Errorf("%+v takes %v", r, r.longest())
			}
		}
		if kind, n, err := readHeader(bytes.NewReader(b)); err == nil && n > maxData {
			t.Errorf("a frame %q of %d bytes", kind, n)
		}
	})
}

func FuzzDatagram(f *testing.F) {
	f.Add(make([]byte, datagramHead), 1)
	f.Fuzz(func(t *testing.T, b []byte, of int) {
		defer budget.Of(t)()
		token := make([]byte, tokenSize)
		if n, ok := numberOf(b, token, of); ok && (n < 0 || n >= of || !bytes.HasPrefix(b, token)) {
			t.Errorf("% x is number %d of %d", b, n, of)
		}
	})
}
