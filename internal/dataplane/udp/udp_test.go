package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

func listen(t testing.TB, local string) (*Conn, netip.AddrPort) {
	t.Helper()
	nstest.Require(t) // the mark takes root's capabilities
	c, err := Open(netip.MustParseAddrPort(local), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// one returns a burst of one packet.
func one(to netip.AddrPort, data []byte) packet.Burst {
	b := packet.Burst{Addr: to}
	b.Add(data)
	return b
}

// readAll reads until n datagrams have come, or fails after a while.
func readAll(t testing.TB, c *Conn, n int) (all []packet.Datagram) {
	t.Helper()
	if err := c.udp.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r := c.NewReceiver(8)
	for len(all) < n {
		ps := packet.NewDatagrams(8)
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
		a, from := listen(t, local)
		b, to := listen(t, local)
		var ps []packet.Burst
		for i := range 20 { // more than the sender's batch
			data := []byte{byte(i), 1, 2}
			if i == 3 {
				data = append(data, make([]byte, 60000)...)
			}
			ps = append(ps, one(to, data))
			ps[i].TOS = uint8(i * 4 % 256)
		}
		ps[5].TOS = 0xb9
		if n, err := a.NewSender(8).Write(ps); n != len(ps) || err != nil {
			t.Fatalf("%s: Write: %d, %v", local, n, err)
		}
		for i, p := range readAll(t, b, len(ps)) {
			if p.Data[0] != byte(i) || len(p.Data) != ps[i].Bytes || p.Addr != from || p.TOS != ps[i].TOS {
				t.Errorf("%s: %d: %d bytes, first %d, from %s, TOS %#x, want %#x",
					local, i, len(p.Data), p.Data[0], p.Addr, p.TOS, ps[i].TOS)
			}
		}
	}
}

// A refused packet is reported at its place; those before it have left, those
// behind it have not.
func TestRefusalsAreReportedInPlace(t *testing.T) {
	a, _ := listen(t, "127.0.0.1:0")
	b, to := listen(t, "127.0.0.1:0")
	good := one(to, []byte("x"))
	s := a.NewSender(4)
	for name, bad := range map[string]packet.Burst{
		"another family": one(netip.MustParseAddrPort("[::1]:9"), []byte("x")),
		"no address":     one(netip.AddrPort{}, []byte("x")),
		"too large":      one(to, make([]byte, packet.MaxSize)),
		"too many parts": {Addr: to, Size: 1, Packets: 1, Bytes: 1000, Parts: make([][]byte, 1000)},
	} {
		t.Run(name, func(t *testing.T) {
			for at := range 6 {
				ps := []packet.Burst{good, good, good, good, good, good}
				ps[at] = bad
				n, err := s.Write(ps)
				if n != at || err == nil || name == "too large" && !errors.Is(err, unix.EMSGSIZE) {
					t.Errorf("at %d: %d, %v", at, n, err)
				}
				readAll(t, b, at)
			}
		})
	}
}

func TestCloseWakesRead(t *testing.T) {
	c, _ := listen(t, "127.0.0.1:0")
	r := c.NewReceiver(1)
	done := make(chan error)
	go func() {
		_, err := r.Read(packet.NewDatagrams(1))
		done <- err
	}()
	c.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	_, err := c.NewSender(1).Write([]packet.Burst{one(c.local, []byte("x"))})
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	_, local := listen(t, "127.0.0.1:0")
	if _, err := Open(local, true); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("Open: %v", err)
	}
}

// A socket of an earlier process is known by the address that it is bound to.
func TestAdopt(t *testing.T) {
	for _, local := range []string{"127.0.0.1:0", "[::1]:0"} {
		a, at := listen(t, local)
		_, other := listen(t, local)
		for name, c := range map[string]struct {
			among []netip.AddrPort
			fits  bool
		}{
			"its address":      {[]netip.AddrPort{at}, true},
			"the second":       {[]netip.AddrPort{other, at}, true},
			"another":          {[]netip.AddrPort{other}, false},
			"another port":     {[]netip.AddrPort{netip.AddrPortFrom(at.Addr(), other.Port())}, false},
			"all of a family":  {[]netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())}, false},
			"none at all":      {nil, false},
			"the zero address": {[]netip.AddrPort{{}}, false},
		} {
			t.Run(local+" "+name, func(t *testing.T) {
				file, err := a.udp.File()
				if err != nil {
					t.Fatal(err)
				}
				adopted, err := Adopt(file, c.among, true, false)
				if c.fits != (err == nil) || c.fits && adopted.Local() != at {
					t.Errorf("%v, %v", adopted, err)
				}
				if err == nil {
					defer adopted.Close()
				}
				if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
					t.Errorf("the file is open: %v", err)
				}
			})
		}
	}
}

// An address that is not here yet can be bound already.
func TestMissingAddress(t *testing.T) {
	for _, local := range []string{"203.0.113.9:0", "[2001:db8::9]:0"} {
		listen(t, local)
	}
}

func TestBuffersAndDrops(t *testing.T) {
	c, to := listen(t, "127.0.0.1:0")
	receive, send, err := c.Buffers()
	if err != nil || receive < 1<<17 || send < 1<<17 {
		t.Errorf("Buffers: %d, %d, %v", receive, send, err)
	}
	before, err := NoRoom()
	if err != nil {
		t.Error(err)
	}
	s, _ := listen(t, "127.0.0.1:0")
	sender := s.NewSender(1)
	big := []packet.Burst{one(to, make([]byte, 60000))}
	for range receive/60000 + 50 {
		if _, err := sender.Write(big); err != nil {
			t.Fatal(err)
		}
	}
	drops, err := c.Drops()
	full, fullErr := NoRoom()
	if err != nil || fullErr != nil || drops == 0 || full-before < uint64(drops) {
		t.Errorf("%d drops, %d for want of room, %v, %v", drops, full-before, err, fullErr)
	}
}

func TestPathMTU(t *testing.T) {
	for _, local := range []string{"127.0.0.1:0", "[::1]:0"} {
		c, to := listen(t, local)
		if mtu, err := c.PathMTU(to); err != nil || mtu < 1<<15 {
			t.Errorf("%s: %d, %v", local, mtu, err)
		}
	}
	c, _ := listen(t, "127.0.0.1:0")
	if _, err := c.PathMTU(netip.MustParseAddrPort("[::1]:1")); err == nil {
		t.Error("a path of another family")
	}
}

func TestBatchesDoNotAllocate(t *testing.T) {
	a, _ := listen(t, "127.0.0.1:0")
	b, to := listen(t, "127.0.0.1:0")
	s, r := a.NewSender(4), b.NewReceiver(4)
	in := packet.NewDatagrams(4)
	out := []packet.Burst{one(to, []byte("x")), one(to, []byte("y"))}
	out[0].TOS = 4
	out[0].Add([]byte("z"))
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

// Several packets in one message arrive as they were, whether the receiver gets
// them merged or one by one, in both families.
func TestBurstsArrive(t *testing.T) {
	for _, local := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, merged := range []bool{true, false} {
			a, from := listen(t, local)
			b, err := Open(netip.MustParseAddrPort(local), merged)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			burst := packet.Burst{Addr: b.udp.LocalAddr().(*net.UDPAddr).AddrPort(), TOS: 0xb8}
			for i := range 20 {
				burst.Add([]byte{byte(i), 1}, make([]byte, 1000))
			}
			burst.Add([]byte{20}) // a shorter last one
			if n, err := a.NewSender(1).Write([]packet.Burst{burst}); n != 1 || err != nil {
				t.Fatalf("Write: %d, %v", n, err)
			}
			messages := 1
			if !merged {
				messages = 21
			}
			count := 0
			for _, d := range readAll(t, b, messages) {
				if d.Addr != from || d.TOS != 0xb8 {
					t.Errorf("from %s, TOS %#x", d.Addr, d.TOS)
				}
				for p, ok := d.Next(); ok; p, ok = d.Next() {
					want := 1002
					if count == 20 {
						want = 1
					}
					if p[0] != byte(count) || len(p) != want {
						t.Errorf("packet %d: %d bytes, first %d", count, len(p), p[0])
					}
					count++
				}
			}
			if count != 21 {
				t.Errorf("%s, merged %v: %d packets", local, merged, count)
			}
		}
	}
}

// Every offload that an older kernel does not know is left out, alone.
func TestOffloadsAreProbed(t *testing.T) {
	nstest.Require(t)
	defer func(f func(int, int, int, int) error) { setOption = f }(setOption)
	real := setOption
	for name, test := range map[string]struct {
		refuse int
		want   string
	}{
		"all": {0, "udp_gso udp_gro"}, "no GSO": {unix.UDP_SEGMENT, "udp_gro"}, "no GRO": {unix.UDP_GRO, "udp_gso"},
	} {
		t.Run(name, func(t *testing.T) {
			setOption = func(fd, level, option, value int) error {
				if option == test.refuse {
					return unix.ENOPROTOOPT
				}
				return real(fd, level, option, value)
			}
			c, err := Open(netip.MustParseAddrPort("127.0.0.1:0"), true)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(c.Offloads(), " "); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			c.Close()
		})
	}
	c, err := Open(netip.MustParseAddrPort("127.0.0.1:0"), false)
	if err != nil || len(c.Offloads()) != 0 {
		t.Errorf("off: %v, %v", c.Offloads(), err)
	}
	c.Close()
}

// A group shares its port among its members and with nobody else.
func TestGroup(t *testing.T) {
	nstest.Require(t)
	group, err := OpenGroup(netip.MustParseAddrPort("127.0.0.1:0"), true, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	local := group[0].udp.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, c := range group {
		defer c.Close()
		if got := c.udp.LocalAddr().(*net.UDPAddr).AddrPort(); got != local {
			t.Errorf("%s and %s", got, local)
		}
	}
	if _, err := OpenGroup(local, true, 2, nil); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second group: %v", err)
	}
}

// All addresses and one of them can be had beside each other by one process, as
// when the node's own address comes to the host later; packets go to the latter.
func TestBesideAllAddresses(t *testing.T) {
	nstest.Require(t)
	every, err := OpenGroup(netip.MustParseAddrPort("0.0.0.0:0"), true, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer every[0].Close()
	port := every[0].udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	one := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	every[0].local = netip.AddrPortFrom(every[0].local.Addr(), one.Port())
	if _, err := OpenGroup(one, true, 1, nil); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("beside a stranger's: %v", err)
	}
	beside, err := OpenGroup(one, true, 1, every)
	if err != nil {
		t.Fatal(err)
	}
	defer beside[0].Close()
	sender, err := net.Dial("udp4", one.String())
	if err == nil {
		_, err = sender.Write([]byte("x"))
	}
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 9)
	if err := beside[0].udp.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := beside[0].udp.Read(b); n != 1 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func FuzzAncillary(f *testing.F) {
	f.Add([]byte{})
	m := newMessages(1, 1, false)
	b := packet.Burst{TOS: 3, Packets: 2, Size: 1472}
	m.setControl(0, &b)
	f.Add(m.control[0])
	f.Fuzz(func(t *testing.T, control []byte) {
		defer budget.Of(t)()
		aligned := make([]uint64, len(control)/8+1)
		c := unsafe.Slice((*byte)(unsafe.Pointer(&aligned[0])), len(control))
		copy(c, control)
		if _, size := ancillary(c); size < 0 || size > 0xffff {
			t.Errorf("size %d", size)
		}
	})
}
