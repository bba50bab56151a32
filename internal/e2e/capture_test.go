package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// taken is what a capture has begun to write; it is read once the capture has ended.
type taken struct {
	file  bytes.Buffer
	began chan struct{} // closed with the first block
	ended chan error
	end   context.CancelFunc
}

// Write implements io.Writer.
func (c *taken) Write(b []byte) (int, error) {
	if c.file.Len() == 0 {
		defer close(c.began)
	}
	return c.file.Write(b)
}

// begin starts a capture, and returns when it copies packets.
func begin(t *testing.T, d *nstest.Daemon, r control.CaptureRequest) *taken {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &taken{began: make(chan struct{}), ended: make(chan error, 1), end: cancel}
	t.Cleanup(cancel)
	asker := client(t, d)
	go func() {
		_, err := asker.Capture(ctx, r, c)
		c.ended <- err
	}()
	select {
	case <-c.began:
	case err := <-c.ended:
		t.Fatalf("the capture ended: %v", err)
	}
	return c
}

// payloads returns those of UDP in the file once the capture has ended, each with its way, and what the file
// says of lost packets.
func (c *taken) payloads(t *testing.T) (all []string, lost uint64) {
	t.Helper()
	select {
	case err := <-c.ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the capture does not end")
	}
	r, err := pcapgo.NewNgReader(&c.file, pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.LinkType() != layers.LinkTypeRaw {
		t.Errorf("link type %v", r.LinkType())
	}
	for {
		b, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p := gopacket.NewPacket(b, layers.LinkTypeRaw, gopacket.Default)
		udp, ok := p.TransportLayer().(*layers.UDP)
		if !ok || info.Length != len(b) {
			t.Errorf("%v, %d bytes", p, info.Length)
			continue
		}
		all = append(all, fmt.Sprintf("%s %s", p.NetworkLayer().NetworkFlow(), udp.Payload))
	}
	if i, err := r.Interface(0); err == nil && i.Statistics.PacketsDropped != pcapgo.NgNoValue64 {
		lost = i.Statistics.PacketsDropped
	}
	slices.Sort(all)
	return all, lost
}

// echoing has a pod send each datagram back until the test ends.
func echoing(t *testing.T, pod *nstest.Namespace) {
	t.Helper()
	if err := pod.Do(func() error {
		c, err := net.ListenPacket("udp4", ":7000")
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 2000)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = c.WriteTo(b[:n], from)
			}
		}()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// converse has a pod send datagrams to a pod that sends them back, and returns what a capture should have.
func converse(t *testing.T, pod *nstest.Namespace, from, to string, count int) (want []string) {
	t.Helper()
	if err := pod.Do(func() error {
		c, err := net.Dial("udp4", to+":7000")
		if err != nil {
			return err
		}
		defer c.Close()
		b := make([]byte, 2000)
		for i := range count {
			text := fmt.Sprintf("%s %d %s", to, i, strings.Repeat("x", 50*i))
			want = append(want, fmt.Sprintf("%s->%s %s", from, to, text), fmt.Sprintf("%s->%s %s", to, from, text))
			if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
				return err
			}
			if _, err := c.Write([]byte(text)); err != nil {
				return err
			}
			if n, err := c.Read(b); err != nil || string(b[:n]) != text {
				return fmt.Errorf("%q came back: %w", b[:n], err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	return want
}

// A capture has exactly what pods of a peer and of this node sent to each other, and packets keep their way.
func TestCapture(t *testing.T) { eachEngine(t, nstest.Waiting, testCapture) }

func testCapture(t *testing.T) {
	m := newMesh(t)
	for _, name := range []string{"worker", "worker2"} {
		waitPeer(t, m.cp, name, "up", isIn(control.Up))
	}
	pod, ip := m.PodCP, "10.244.0.2"
	echoing(t, m.PodW)
	echoing(t, m.PodW2a)
	converse(t, pod, ip, "10.244.1.2", 1) // neighbours are known, and peers are known to be meshd
	before := status(t, m.cp)

	const each = 20
	one := begin(t, m.cp, control.CaptureRequest{Peer: "worker", Port: 7000, Count: 2 * each})
	all := begin(t, m.cp, control.CaptureRequest{Host: "10.244.2.2", Port: 7000})
	_, err := client(t, m.cp).Capture(t.Context(), control.CaptureRequest{}, io.Discard)
	if r, ok := errors.AsType[*control.Refusal](err); !ok || r.Code != "busy" {
		t.Errorf("a third capture: %v", err)
	}
	wanted := converse(t, pod, ip, "10.244.1.2", each)
	other := converse(t, pod, ip, "10.244.2.2", each)
	if got, lost := one.payloads(t); !slices.Equal(got, wanted) || lost != 0 { // it ends by its count
		t.Errorf("%d of %d packets, %d lost: %.300q", len(got), len(wanted), lost, got)
	}
	// The last of them are written within the time of a look.
	time.AfterFunc(2*time.Second, all.end)
	if got, lost := all.payloads(t); !slices.Equal(got, other) || lost != 0 {
		t.Errorf("%d of %d packets of the other one, %d lost: %.300q", len(got), len(other), lost, got)
	}

	after := status(t, m.cp)
	was, is := before.Dataplane, after.Dataplane
	if is.Engine != was.Engine || is.Receive != was.Receive || is.Captured {
		t.Errorf("packets moved by %+v, and now by %+v", was, is)
	}
	if n := after.Dataplane.Handed["capture"] - before.Dataplane.Handed["capture"]; n != 0 {
		t.Errorf("%d packets went by user space for the capture", n)
	}
	for _, p := range after.Health.Problems {
		t.Errorf("%+v", p)
	}
	// The command, for a program that stops when it has enough.
	cmd := m.ControlPlane.Command("sh", "-c", fmt.Sprintf(
		"%s capture -n 4 --port 7000 worker --socket %s | tcpdump -nr - 2>&1", m.binary, m.cp.Socket))
	out := make(chan string, 1)
	go func() {
		b, err := cmd.CombinedOutput()
		out <- fmt.Sprintf("%s %v", b, err)
	}()
	if err := m.cp.WaitEvent("capture_began", "interface", "mesh0"); err != nil {
		t.Fatal(err)
	}
	var said string
	for until := time.Now().Add(patience); said == "" && time.Now().Before(until); {
		converse(t, pod, ip, "10.244.1.2", 2)
		select {
		case said = <-out:
		case <-time.After(100 * time.Millisecond):
		}
	}
	if strings.Count(said, "10.244.1.2.7000") != 4 || !strings.Contains(said, "captured 4 packets, lost 0") {
		t.Errorf("%s", said)
	}
}

// Where packets travel encrypted, a capture has them as pods see them, and the speed is that of the tunnel.
func TestSealedSpeedAndCapture(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	s := newSealed(t)
	doc := s.file() + "[probe]\nspeed = true\n"
	var daemons []*nstest.Daemon
	for _, h := range s.Hosts()[:2] {
		s.helper(h)
		daemons = append(daemons, s.run(h, doc))
	}
	cp := daemons[0]
	waitPeer(t, cp, "worker", "up", isIn(control.Up))
	echoing(t, s.PodW)
	converse(t, s.PodCP, "10.244.0.2", "10.244.1.2", 1)
	c := begin(t, cp, control.CaptureRequest{Peer: "worker", Port: 7000, Count: 10})
	wanted := converse(t, s.PodCP, "10.244.0.2", "10.244.1.2", 5)
	if got, lost := c.payloads(t); !slices.Equal(got, wanted) || lost != 0 {
		t.Errorf("%d of %d packets, %d lost: %.300q", len(got), len(wanted), lost, got)
	}
	eventually(t, "worker listens", func() bool {
		out, err := s.Worker.Run("ss", "-Hltn", "sport = :8287")
		return err == nil && strings.Contains(out, "10.244.1.0")
	}, daemons[1].Log)
	measure(t, cp, "worker", "1")
}
