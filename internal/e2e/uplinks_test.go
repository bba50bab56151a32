package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// secondUplink gives hosts eth1, on a network of its own, where each has the address 2001:db8:99::N, N being
// the last byte of its address on eth0. It returns that network's switch; the port of a host has its name.
func (w *world) secondUplink(hosts map[int]*nstest.Host) *nstest.Namespace {
	w.t.Helper()
	second, err := w.Lab.Empty("second")
	if err == nil {
		err = second.IP("link add br0 type bridge", "link set br0 up")
	}
	if err != nil {
		w.t.Fatal(err)
	}
	for n, h := range hosts {
		port := fmt.Sprintf("p%d", n)
		err := errors.Join(h.IP("link add eth1 type veth peer name "+port+" netns "+second.Name,
			fmt.Sprintf("addr add 2001:db8:99::%d/64 dev eth1 nodad", n), "link set eth1 up"),
			second.IP("link set "+port+" master br0", "link set "+port+" up"))
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return second
}

// twoUplinks is the demo's file without the control-plane, where worker and worker2 have a second address.
func twoUplinks(t testing.TB) string {
	head, nodes, _ := strings.Cut(demoFile(t), "[[node]]")
	_, nodes, _ = strings.Cut(nodes, "[[node]]")
	return strings.NewReplacer(`"172.18.0.4"`, `["172.18.0.4", "2001:db8:99::4"]`,
		`"172.18.0.3"`, `["172.18.0.3", "2001:db8:99::3"]`).Replace(head + "[[node]]" + nodes)
}

// active returns the address of a peer that packets go to.
func active(p control.Peer) string {
	i := slices.IndexFunc(p.Addresses, func(a control.PeerAddress) bool { return a.Active })
	if i < 0 {
		return ""
	}
	return p.Addresses[i].Address
}

// timed is packets of which it is known when they arrived.
type timed struct {
	t testing.TB
	*flow
	stop chan struct{}
	sent chan error

	mu       sync.Mutex
	arrivals []arrival // in their order
}

// arrival is one packet that arrived.
type arrival struct {
	number uint64
	at     time.Time
}

// startTimed sends packets from one namespace to another, and returns once they arrive.
func startTimed(t testing.TB, from, to *nstest.Namespace, source, target string, rate int) *timed {
	t.Helper()
	s := &timed{t: t, flow: newFlow(t, from, to, source, target), stop: make(chan struct{}),
		sent: make(chan error, 1)}
	go s.note()
	go func() { s.sent <- steady(func() error { return s.send(rate, s.stop) }) }()
	eventually(t, "packets arrive", func() bool { return s.since(time.Time{}) > 0 }, func() string { return "" })
	return s
}

// note notes what arrives until the end does.
func (s *timed) note() {
	r, ds := s.in.NewReceiver(64), packet.NewDatagrams(64)
	for {
		n, err := r.Read(ds)
		if err != nil {
			s.over <- err
			return
		}
		now := time.Now()
		s.mu.Lock()
		for i := range ds[:n] {
			number := binary.BigEndian.Uint64(ds[i].Data)
			if number == end {
				s.mu.Unlock()
				s.over <- nil
				return
			}
			s.arrivals = append(s.arrivals, arrival{number, now})
		}
		s.mu.Unlock()
	}
}

// since returns how many packets have arrived after a time.
func (s *timed) since(at time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := len(s.arrivals)
	for i > 0 && s.arrivals[i-1].at.After(at) {
		i--
	}
	return len(s.arrivals) - i
}

// finish ends the stream. It returns how many packets were lost, the longest time in which none arrived, and
// when that began.
func (s *timed) finish() (lost uint64, gap time.Duration, began time.Time) {
	s.t.Helper()
	close(s.stop)
	if err := <-s.sent; err != nil {
		s.t.Fatal(err)
	}
	for i := range s.arrivals[1:] {
		if d := s.arrivals[i+1].at.Sub(s.arrivals[i].at); d > gap {
			gap, began = d, s.arrivals[i].at
		}
	}
	return s.flow.sent - uint64(len(s.arrivals)), gap, began
}

// holes tells of the first packets that were lost, one after another: how many, from which number on, and
// when the ones before had arrived.
func (s *timed) holes() string {
	const most = 8
	at := make([]time.Time, s.flow.sent) // by number
	for _, a := range s.arrivals {
		at[a.number] = a.at
	}
	var all []string
	for i := 0; i < len(at) && len(all) < most; i++ {
		n := 0
		for i+n < len(at) && at[i+n].IsZero() {
			n++
		}
		if n > 0 {
			after := "the start"
			if i > 0 {
				after = at[i-1].UTC().Format("05.000")
			}
			all = append(all, fmt.Sprintf("%d from %d on, after %s", n, i, after))
		}
		i += n
	}
	return strings.Join(all, ", ")
}

// waitLong waits for an event that comes after half a minute by design.
func waitLong(t testing.TB, d *nstest.Daemon, kind string) {
	t.Helper()
	err := d.WaitEvent(kind)
	for range 2 {
		if err != nil {
			err = d.WaitEvent(kind)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The address that packets go to falls silent: they go to the other one, of another family, without a word
// from the network; and back, without a loss, once the first has been well for long.
func TestUplinkFails(t *testing.T) { eachEngine(t, nstest.Waiting, testUplinkFails) }

func testUplinkFails(t *testing.T) {
	w := newWorld(t)
	w.secondUplink(map[int]*nstest.Host{3: w.Worker2, 4: w.Worker})
	doc := twoUplinks(t)
	w2, one := w.own(w.Worker2, doc), w.own(w.Worker, doc)
	for d, other := range map[*nstest.Daemon]string{w2: "worker", one: "worker2"} {
		waitStatus(t, d, "both addresses answer", func(s control.Status) bool {
			all := peer(t, s, other).Addresses
			return len(all) == 2 && all[0].State == "up" && all[1].State == "up" && all[0].Active
		})
	}
	before := w.overflows()
	s := startTimed(t, w.PodW2b, w.PodW, "10.244.2.3:7000", "10.244.1.2:7000", 2000)
	run(t, w.Lab.Switch(), dropOnPath("")[0], dropOnPath("")[1:]...)
	for _, d := range []*nstest.Daemon{w2, one} {
		if err := d.WaitEvent("address_left"); err != nil {
			t.Fatal(err)
		}
	}
	moved := time.Now()
	eventually(t, "packets go the other way", func() bool { return s.since(moved) > 100 },
		func() string { return fmt.Sprintf("%+v", status(t, w2)) })
	waitStatus(t, w2, "status says so", func(s control.Status) bool {
		p := peer(t, s, "worker")
		return active(p) == "[2001:db8:99::4]:8285" && p.State == "up" && p.Address == "172.18.0.4:8285" &&
			p.Addresses[0].State != "up" && slices.Equal(peerProblems(s, "worker"), []string{"address_silent"})
	})
	run(t, w.Lab.Switch(), healPath[0], healPath[1:]...)
	waitLong(t, w2, "address_preferred")
	back := s.since(time.Time{})
	eventually(t, "packets go on", func() bool { return s.since(time.Time{}) > back+100 },
		func() string { return fmt.Sprintf("%+v", status(t, w2)) })
	lost, gap, _ := s.finish()
	full := w.overflows().since(before)[0] // a TUN's queue is full where this machine is busy
	t.Logf("%d packets were lost, none arrived for %v, %d in full queues", lost, gap.Round(time.Millisecond),
		full)
	if most := uint64(gap.Seconds()*2000) + full + 200; lost > most {
		t.Errorf("%d packets were lost in %v: some besides those of the dead path", lost, gap)
	}
	waitStatus(t, w2, "all is well", func(s control.Status) bool {
		return active(peer(t, s, "worker")) == "172.18.0.4:8285" && s.Health.Level == control.OK
	})
}
