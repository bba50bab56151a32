package udp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// What a Bare sends has no UDP checksum, and leaves from the port of a socket that receives, which
// loses nothing to it.
func TestBare(t *testing.T) {
	for _, test := range []struct{ name, from, to string }{
		{"IPv4", "10.0.0.1:8285", "10.0.0.2:9000"}, {"IPv6", "[fd00::1]:8285", "[fd00::2]:9000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Share(t, nstest.Waiting)
			n := nstest.ForTest(t)
			if err := n.IP("link set lo up", "address add 10.0.0.1/32 dev lo", "address add 10.0.0.2/32 dev lo",
				"address add fd00::1/128 dev lo nodad", "address add fd00::2/128 dev lo nodad"); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Run("nft", "add table inet f; add chain inet f in { type filter hook input priority 0; }; "+
				"add rule inet f in udp dport 9000 udp checksum != 0 drop"); err != nil {
				t.Fatal(err)
			}
			if err := n.Do(func() error { return sendBare(t, test.from, test.to) }); err != nil {
				t.Error(err)
			}
		})
	}
}

func sendBare(t *testing.T, from, to string) error {
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	own, err := Open(src, true)
	if err != nil {
		return err
	}
	defer own.Close()
	receiver, err := Open(dst, false) // takes what has no checksum over IPv6, too
	if err != nil {
		return err
	}
	defer receiver.Close()
	b, err := OpenBare(src)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Send([]byte("without"), dst); err != nil {
		return err
	}
	buf := make([]byte, 100)
	deadline := time.Now().Add(10 * time.Second)
	if err := receiver.udp.SetReadDeadline(deadline); err != nil {
		return err
	}
	count, at, err := receiver.udp.ReadFromUDPAddrPort(buf)
	if err != nil {
		return err
	}
	if string(buf[:count]) != "without" || at != src {
		t.Errorf("%q from %s, want it from %s", buf[:count], at, src)
	}
	// The socket that has the port on its address receives what is for it.
	other, err := net.Dial("udp", from)
	if err != nil {
		return err
	}
	defer other.Close()
	for range 20 {
		if _, err := other.Write([]byte("x")); err != nil {
			return err
		}
		if err := own.udp.SetReadDeadline(deadline); err != nil {
			return err
		}
		if _, _, err := own.udp.ReadFromUDPAddrPort(buf); err != nil {
			return err
		}
	}
	return nil
}
