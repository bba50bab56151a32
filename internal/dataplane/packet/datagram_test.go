package packet

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// A datagram is told from what is none, and its payload is what its own length says.
func TestParseDatagram(t *testing.T) {
	udp := func(port uint16, size int, payload string) []byte {
		b := make([]byte, UDPHeaderLen)
		binary.BigEndian.PutUint16(b[2:], port)
		binary.BigEndian.PutUint16(b[4:], uint16(size))
		return append(b, payload...)
	}
	fragment := ip4(pod1, pod2, ProtoUDP, udp(7, 13, "hello"))
	fragment[6] = 0x20 // more fragments
	for _, test := range []struct {
		name    string
		packet  []byte
		payload string
		ok      bool
	}{
		{"IPv4", ip4(pod1, pod2, ProtoUDP, udp(7, 13, "hello")), "hello", true},
		{"IPv4 with options", ip4(pod1, pod2, ProtoUDP, udp(7, 13, "hello"), 1, 1, 1, 0), "hello", true},
		{"IPv6", ip6(six1, six2, ProtoUDP, udp(7, 13, "hello")), "hello", true},
		{"shorter than its packet", ip4(pod1, pod2, ProtoUDP, udp(7, 10, "hello")), "he", true},
		{"empty", ip4(pod1, pod2, ProtoUDP, udp(7, 8, "")), "", true},
		{"another port", ip4(pod1, pod2, ProtoUDP, udp(8, 13, "hello")), "", false},
		{"another protocol", ip4(pod1, pod2, ProtoTCP, udp(7, 13, "hello")), "", false},
		{"longer than its packet", ip4(pod1, pod2, ProtoUDP, udp(7, 14, "hello")), "", false},
		{"no room for a length", ip4(pod1, pod2, ProtoUDP, udp(7, 7, "")), "", false},
		{"cut", ip4(pod1, pod2, ProtoUDP, udp(7, 8, "")[:7]), "", false},
		{"a fragment", fragment, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, ok := Parse(test.packet)
			if !ok {
				t.Fatal("it is no packet")
			}
			src, dst, payload, ok := ParseDatagram(test.packet, 7)
			if ok != test.ok || !bytes.Equal(payload, []byte(test.payload)) || ok && (src != h.Src || dst != h.Dst) {
				t.Errorf("%q from %s to %s, %v", payload, src, dst, ok)
			}
		})
	}
}
