package udp

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
)

func open(t testing.TB, local string) (*Conn, netip.AddrPort) {
	t.Helper()
	c, err := Open(netip.MustParseAddrPort(local))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// readAll reads until n datagrams have come.
func readAll(t testing.TB, c *Conn, n int) (all []packet.Packet) {
	t.Helper()
	r := c.NewReceiver(8)
	for len(all) < n {
		ps := packet.NewBatch(8)
		got, err := r.Read(ps)
		if err != nil || got < 1 {
			t.Fatalf("Read: %d, %v", got, err)
		}
		all = append(all, ps[:got]...)
	}
	return all
}

func TestBatchesArrive(t *testing.T) {
	for _, local := range []string{"127.0.0.1:0", "[::1]:0"} {
		a, from := open(t, local)
		b, to := open(t, local)
		var ps []packet.Packet
		for i := range 20 { // more than the sender's batch
			ps = append(ps, packet.Packet{Data: []byte{byte(i), 1, 2}, Addr: to, TOS: uint8(i * 4 % 256)})
		}
		ps[3].Data = make([]byte, 60000)
		ps[3].Data[0] = 3
		ps[5].TOS = 0xb9
		if n, err := a.NewSender(8).Write(ps); n != len(ps) || err != nil {
			t.Fatalf("%s: Write: %d, %v", local, n, err)
		}
		for i, p := range readAll(t, b, len(ps)) {
			if p.Data[0] != byte(i) || len(p.Data) != len(ps[i].Data) || p.Addr != from || p.TOS != ps[i].TOS {
				t.Errorf("%s: %d: %d bytes, first %d, from %s, TOS %#x, want %#x", local, i, len(p.Data), p.Data[0], p.Addr, p.TOS, ps[i].TOS)
			}
		}
	}
}

// A refused packet is reported at its place; those before it have left, those
// behind it have not.
func TestRefusalsAreReportedInPlace(t *testing.T) {
	a, _ := open(t, "127.0.0.1:0")
	b, to := open(t, "127.0.0.1:0")
	good := packet.Packet{Data: []byte("x"), Addr: to}
	s := a.NewSender(4)
	for name, bad := range map[string]packet.Packet{
		"another family": {Data: []byte("x"), Addr: netip.MustParseAddrPort("[::1]:9")},
		"no address":     {Data: []byte("x")},
		"too large":      {Data: make([]byte, packet.MaxSize), Addr: to},
	} {
		for at := range 6 {
			ps := []packet.Packet{good, good, good, good, good, good}
			ps[at] = bad
			if n, err := s.Write(ps); n != at || err == nil || name == "too large" && !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("%s at %d: %d, %v", name, at, n, err)
			}
			readAll(t, b, at)
		}
	}
}

func TestCloseWakesRead(t *testing.T) {
	c, _ := open(t, "127.0.0.1:0")
	r := c.NewReceiver(1)
	done := make(chan error)
	go func() {
		_, err := r.Read(packet.NewBatch(1))
		done <- err
	}()
	c.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if _, err := c.NewSender(1).Write([]packet.Packet{{Data: []byte("x"), Addr: c.local}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	_, local := open(t, "127.0.0.1:0")
	if _, err := Open(local); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "ss -ulnp") {
		t.Errorf("Open: %v", err)
	}
}

// An address that is not here yet can be bound already.
func TestMissingAddress(t *testing.T) {
	for _, local := range []string{"203.0.113.9:0", "[2001:db8::9]:0"} {
		open(t, local)
	}
}

func TestBuffersAndOverflows(t *testing.T) {
	c, to := open(t, "127.0.0.1:0")
	receive, send, err := c.Buffers()
	if err != nil || receive < 1<<17 || send < 1<<17 {
		t.Errorf("Buffers: %d, %d, %v", receive, send, err)
	}
	s, _ := open(t, "127.0.0.1:0")
	sender := s.NewSender(1)
	big := []packet.Packet{{Data: make([]byte, 60000), Addr: to}}
	for range receive/60000 + 50 {
		if _, err := sender.Write(big); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := c.Overflows(); err != nil || n == 0 {
		t.Errorf("Overflows: %d, %v", n, err)
	}
}

func TestPathMTU(t *testing.T) {
	for _, local := range []string{"127.0.0.1:0", "[::1]:0"} {
		c, to := open(t, local)
		if mtu, err := c.PathMTU(to); err != nil || mtu < 1<<15 {
			t.Errorf("%s: %d, %v", local, mtu, err)
		}
	}
	c, _ := open(t, "127.0.0.1:0")
	if _, err := c.PathMTU(netip.MustParseAddrPort("[::1]:1")); err == nil {
		t.Error("a path of another family")
	}
}

func TestBatchesDoNotAllocate(t *testing.T) {
	a, _ := open(t, "127.0.0.1:0")
	b, to := open(t, "127.0.0.1:0")
	s, r := a.NewSender(4), b.NewReceiver(4)
	in := packet.NewBatch(4)
	out := []packet.Packet{{Data: []byte("x"), Addr: to, TOS: 4}, {Data: []byte("y"), Addr: to}}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.Write(out); err != nil {
			t.Error(err)
		}
		if _, err := r.Read(in); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
