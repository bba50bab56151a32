package tun

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

func up(t *testing.T, n *nstest.Namespace) *Queue {
	t.Helper()
	if err := Create("mesh0"); err != nil {
		t.Fatal(err)
	}
	if err := n.IP("addr add 10.244.2.0/32 dev mesh0", "link set mesh0 mtu 1472 addrgenmode none", "link set mesh0 up", "route add 10.244.0.0/16 dev mesh0"); err != nil {
		t.Fatal(err)
	}
	q, err := Open("mesh0")
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestPacketsPass(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		defer q.Close()
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 244, 2, 0), Port: 7000})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for i := range 3 {
			if _, err := conn.WriteTo([]byte{byte(i)}, &net.UDPAddr{IP: net.IPv4(10, 244, 1, 2), Port: 7001}); err != nil {
				t.Fatal(err)
			}
		}
		ps := packet.NewBatch(8)
		size, err := q.Read(ps)
		if err != nil || size != 3 {
			t.Fatalf("Read: %d, %v", size, err)
		}
		for i, p := range ps[:size] {
			h, ok := packet.Parse(p.Data)
			if !ok || h.Dst.String() != "10.244.1.2" || p.Data[28] != byte(i) {
				t.Errorf("packet %d: %+v % x", i, h, p.Data)
			}
			// Send it back: swap addresses and ports, which keeps both checksums.
			for b := range 4 {
				p.Data[12+b], p.Data[16+b] = p.Data[16+b], p.Data[12+b]
			}
			source := binary.BigEndian.Uint16(p.Data[20:])
			copy(p.Data[20:22], p.Data[22:24])
			binary.BigEndian.PutUint16(p.Data[22:], source)
		}
		if written, err := q.Write(ps[:size]); err != nil || written != size {
			t.Fatalf("Write: %d, %v", written, err)
		}
		buf := make([]byte, 10)
		for i := range 3 {
			if got, from, err := conn.ReadFrom(buf); err != nil || got != 1 || buf[0] != byte(i) || from.String() != "10.244.1.2:7001" {
				t.Errorf("reply %d: % x from %v, %v", i, buf[:got], from, err)
			}
		}
	})
}

// From the moment a queue is attached, nothing that is sent is lost, also on a
// device that was up without one.
func TestFirstPacketPasses(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		up(t, n).Close()
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 244, 1, 2), Port: 7001})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		ps := packet.NewBatch(1)
		for i := range 50 {
			q, err := Open("mesh0")
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := conn.Write([]byte{byte(i)}); err != nil {
				t.Error(err)
			}
			if err := q.file.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Error(err)
			}
			if _, err := q.Read(ps); err != nil || ps[0].Data[28] != byte(i) {
				t.Errorf("attachment %d: %v, % x", i, err, ps[0].Data)
			}
			q.Close()
		}
	})
}

func TestCloseWakesRead(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		done := make(chan error)
		go func() {
			_, err := q.Read(packet.NewBatch(1))
			done <- err
		}()
		q.Close()
		if err := <-done; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read: %v", err)
		}
	})
}

func TestDeletedDeviceEndsRead(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		defer q.Close()
		done := make(chan error)
		go func() {
			_, err := q.Read(packet.NewBatch(1))
			done <- err
		}()
		if err := n.IP("link del mesh0"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err == nil || errors.Is(err, os.ErrClosed) {
			t.Errorf("Read: %v", err)
		}
	})
}

func TestDeviceOutlivesItsQueues(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		up(t, n).Close()
		q := func() *Queue { // taken over with its address and routes
			if err := Create("mesh0"); err != nil {
				t.Fatal(err)
			}
			q, err := Open("mesh0")
			if err != nil {
				t.Fatal(err)
			}
			return q
		}()
		defer q.Close()
		if out, err := n.Run("ip", "route", "show", "dev", "mesh0"); err != nil || !strings.HasPrefix(out, "10.244.0.0/16 scope link") {
			t.Errorf("%q, %v", out, err)
		}
	})
}

func TestForeignInterfaceIsExplained(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := n.IP("link add mesh0 type bridge", "tuntap add mesh1 mode tun"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"mesh0", "mesh1"} {
			if err := Create(name); err == nil || !strings.Contains(err.Error(), "`ip link del "+name+"`") {
				t.Errorf("Create(%s): %v", name, err)
			}
		}
	})
}

func TestReadDoesNotAllocate(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		defer q.Close()
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 244, 1, 2), Port: 7001})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ps, payload := packet.NewBatch(4), make([]byte, 64)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := conn.Write(payload); err != nil {
				t.Error(err)
			}
			if _, err := q.Read(ps); err != nil {
				t.Error(err)
			}
			if err := q.WriteOne(ps[0].Data); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
