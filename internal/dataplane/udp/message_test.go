package udp

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
)

// What a message is to carry is in its control data as the kernel reads it.
func TestControlRoundTrip(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, test := range []struct {
			tos     uint8
			packets int
			size    int
		}{{0, 1, 0}, {0xb9, 1, 0}, {0, 2, 1472}, {3, 64, 1}} {
			t.Run(fmt.Sprintf("IPv6 %v, TOS %#x, %d packets", v6, test.tos, test.packets), func(t *testing.T) {
				m := newMessages(3, 2, v6)
				b := packet.Burst{TOS: test.tos, Packets: test.packets, Size: test.size}
				m.setControl(1, &b)
				h := &m.headers[1].header
				used := int(h.Controllen)
				if (h.Control != nil) != (used > 0) || used > controlSize {
					t.Fatalf("%d bytes at %p", used, h.Control)
				}
				tos, size := readControl(m.control[1][:used])
				if tos != test.tos || size != test.size {
					t.Errorf("TOS %#x, size %d", tos, size)
				}
			})
		}
	}
}

// readControl is the oracle of setControl: it reads what sendmsg(2) is given with x/sys.
func readControl(control []byte) (tos uint8, size int) {
	all, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, -1
	}
	for _, c := range all {
		switch {
		case c.Header.Type == unix.UDP_SEGMENT && c.Header.Level == unix.SOL_UDP:
			size = int(*(*uint16)(unsafe.Pointer(&c.Data[0])))
		default:
			tos = uint8(*(*uint32)(unsafe.Pointer(&c.Data[0])))
		}
	}
	return tos, size
}

// A message goes to the address of its burst, with its parts in order; the place of one that was
// refused is used again.
func TestPost(t *testing.T) {
	four, six := netip.MustParseAddrPort("172.18.0.3:8285"), netip.MustParseAddrPort("[2001:db8::3]:9000")
	parts := func(words ...string) (b packet.Burst) {
		for _, w := range words {
			b.Parts = append(b.Parts, []byte(w))
		}
		return b
	}
	for name, test := range map[string]struct {
		v6   bool
		to   netip.AddrPort
		b    packet.Burst
		want bool
	}{
		"IPv4":                {false, four, parts("one"), true},
		"IPv6":                {true, six, parts("one"), true},
		"parts":               {false, four, parts("one", "", "two"), true},
		"too many parts":      {false, four, parts("1", "2", "3", "4"), false},
		"IPv6 on IPv4":        {false, six, parts("one"), false},
		"IPv4 on IPv6":        {true, four, parts("one"), false},
		"without an address":  {false, netip.AddrPort{}, parts("one"), false},
		"a mapped one (IPv6)": {true, netip.MustParseAddrPort("[::ffff:10.0.0.1]:1"), parts("one"), true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMessages(2, 3, test.v6)
			test.b.Addr = test.to
			if got := m.post(1, &test.b); got != test.want {
				t.Fatalf("%v, want %v", got, test.want)
			}
			if !test.want {
				return
			}
			got := address(&m.names[1])
			if got.Addr().Unmap() != test.to.Addr().Unmap() || got.Port() != test.to.Port() {
				t.Errorf("to %s, want %s", got, test.to)
			}
			var sent []byte
			h := &m.headers[1].header
			for _, v := range unsafe.Slice(h.Iov, int(h.Iovlen)) {
				sent = append(sent, unsafe.Slice(v.Base, int(v.Len))...)
			}
			if !bytes.Equal(sent, bytes.Join(test.b.Parts, nil)) {
				t.Errorf("sent %q", sent)
			}
		})
	}
}

// Two sockets are in each other's way if packets could be for either.
func TestOverlap(t *testing.T) {
	for pair, want := range map[string]bool{
		"127.0.0.1:1 127.0.0.1:1": true, "0.0.0.0:1 127.0.0.1:1": true, "127.0.0.1:1 0.0.0.0:1": true,
		"127.0.0.1:1 127.0.0.2:1": false, "127.0.0.1:1 127.0.0.1:2": false, "0.0.0.0:1 [::1]:1": false,
		"[::]:1 [::1]:1": true, "[::1]:1 [::2]:1": false, "0.0.0.0:1 [::]:1": false,
	} {
		t.Run(pair, func(t *testing.T) {
			a, b, _ := strings.Cut(pair, " ")
			if got := overlap(netip.MustParseAddrPort(a), netip.MustParseAddrPort(b)); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}
