package kernel

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/user"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/mesh"
)

// userEngine is the user engine between ends that a test holds.
type userEngine struct {
	*user.Engine
	feed      chan packet.Datagram
	idle      chan struct{} // the loop from the wire asks for more
	stop      chan struct{}
	delivered [][]byte
	tun       fedTun
	sent      int // packets
	bursts    []packet.Burst
}

func (u *userEngine) Read(ds []packet.Datagram) (int, error) {
	select {
	case u.idle <- struct{}{}:
	case <-u.stop:
		return 0, os.ErrDeadlineExceeded
	}
	select {
	case d := <-u.feed:
		ds[0].Data, ds[0].Addr, ds[0].TOS, ds[0].Size = d.Data, d.Addr, d.TOS, 0
		return 1, nil
	case <-u.stop:
		return 0, os.ErrDeadlineExceeded
	}
}

func (u *userEngine) PathMTU(netip.AddrPort) (int, error) { return 1500, nil }
func (u *userEngine) Offloads() []string                  { return nil }
func (u *userEngine) Write(bs []packet.Burst) (int, error) {
	u.sent += len(bs)
	for _, b := range bs { // their memory is the engine's
		b.Parts = [][]byte{bytes.Join(b.Parts, nil)}
		u.bursts = append(u.bursts, b)
	}
	return len(bs), nil
}
func (u *userEngine) WriteFragmented(*packet.Burst, int) error { return nil }
func (u *userEngine) Wake() error                              { return nil }
func (u *userEngine) Writer() func(parts [][]byte) error       { return u.write }
func (u *userEngine) write(parts [][]byte) error {
	_, b, _ := virtio.Parse(bytes.Join(parts, nil))
	u.delivered = append(u.delivered, b)
	return nil
}

// fedTun is the TUN of an engine.
type fedTun struct {
	*userEngine
	feed chan []byte
	idle chan struct{} // the loop from the TUN asks for more
	stop chan struct{}
}

func (f *fedTun) Read(memory []byte, frames [][]byte) (int, error) {
	select {
	case f.idle <- struct{}{}:
	case <-f.stop:
		return 0, os.ErrDeadlineExceeded
	}
	select {
	case b := <-f.feed:
		frames[0] = append(append(memory[:0], make([]byte, virtio.HeaderSize)...), b...)
		return 1, nil
	case <-f.stop:
		return 0, os.ErrDeadlineExceeded
	}
}

func (f *fedTun) Wake() error { close(f.stop); return nil }

// quietWire is the engine's socket; closing stop wakes its reader.
type quietWire struct{ *userEngine }

func (q quietWire) Wake() error { close(q.stop); return nil }

func newUserEngine(t *testing.T, m mesh.Mesh) *userEngine {
	u := &userEngine{feed: make(chan packet.Datagram), idle: make(chan struct{}), stop: make(chan struct{})}
	u.Engine = user.New(dataplane.Options{Log: slog.New(slog.DiscardHandler)})
	u.tun = fedTun{u, make(chan []byte), make(chan struct{}), make(chan struct{})}
	loops, err := u.Replace([]user.Worker{{
		Tun: &u.tun, Sockets: []user.Socket{{Bind: m.Peers[0].Underlay().AddrPort, Wire: quietWire{u},
			Receiver: u, Sender: u, Echoes: func() user.Sender { return u }}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.SetMesh(wantedOver(m, "", dataplane.Socket)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	for _, loop := range loops {
		go func() { ended <- loop.Run(t.Context()) }()
	}
	<-u.idle
	<-u.tun.idle
	t.Cleanup(func() {
		if err := u.Stop(); err != nil {
			t.Error(err)
		}
		for range loops {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return u
}

// A verdict is what became of a datagram.
type verdict struct {
	delivered string // the inner packet; empty if none
	drop      string // reason and peer; empty if it was not counted
}

// receive has the user engine decide.
func (u *userEngine) receive(from netip.AddrPort, tos uint8, payload []byte) verdict {
	before := u.Engine.Read()
	u.delivered = nil
	u.feed <- packet.Datagram{Data: bytes.Clone(payload), Addr: from, TOS: tos}
	<-u.idle
	v := verdict{drop: counted(before.Peers, u.Engine.Read().Peers)}
	if len(u.delivered) == 1 {
		v.delivered = string(u.delivered[0])
	}
	return v
}

// send has the user engine decide about a packet from the TUN, and returns why it was dropped,
// "sent", or nothing.
func (u *userEngine) send(b []byte) string {
	before := u.Engine.Read()
	u.sent, u.bursts = 0, nil
	u.tun.feed <- b
	<-u.tun.idle
	if u.sent > 0 {
		return "sent"
	}
	after := u.Engine.Read()
	for _, reason := range mesh.Reasons() {
		if after.Totals.Drops[reason] != before.Totals.Drops[reason] {
			return reason.String()
		}
	}
	return ""
}

// counted names the drop between two readings.
func counted(before, after map[string]mesh.Traffic) string {
	for name, t := range after {
		for _, reason := range mesh.Reasons() {
			if t.Drops[reason] != before[name].Drops[reason] {
				return name + " " + reason.String()
			}
		}
	}
	return ""
}
