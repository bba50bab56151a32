package packet

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"
)

func TestEcho(t *testing.T) {
	for _, addresses := range [][2]string{{"10.244.2.0", "10.244.1.0"}, {"fd00::1", "fd00::2"}} {
		src, dst := netip.MustParseAddr(addresses[0]), netip.MustParseAddr(addresses[1])
		for _, reply := range []bool{false, true} {
			prefix := []byte("before")
			b := Echo{Src: src, Dst: dst, Reply: reply, ID: 1, Seq: 2, Payload: []byte("odd")}.Append(prefix)
			if !bytes.HasPrefix(b, prefix) {
				t.Errorf("%x", b)
			}
			b = b[len(prefix):]
			h, ok := Parse(b)
			if !ok || !ValidChecksum(b) || h.TTL != 64 || len(b) != EchoHeaders(dst.Is6())+3 {
				t.Fatalf("%+v %v: %x", h, ok, b)
			}
			e, ok := ParseEcho(b)
			want := Echo{Src: src, Dst: dst, Reply: reply, ID: 1, Seq: 2, Payload: []byte("odd")}
			if !ok || !reflect.DeepEqual(e, want) {
				t.Errorf("%+v %v", e, ok)
			}
			for i := range b { // any other byte makes it something else, or of other people
				if i == 8 && dst.Is4() || i == 7 || i < 4 || dst.Is4() && i < 20 && i != 9 && (i < 6 || i > 8) {
					continue // the IP header has rules of its own
				}
				b[i] ^= 0x21
				if _, fits := Parse(b); fits {
					if e, ok := ParseEcho(b); ok {
						t.Errorf("byte %d changed, and still %+v", i, e)
					}
				}
				b[i] ^= 0x21
			}
		}
	}
	fragment := Echo{Src: pod1, Dst: pod2, Payload: []byte("abcd")}.Append(nil)
	fragment[6] = 0x20
	if _, ok := ParseEcho(fragment); ok {
		t.Error("a first fragment passes for an echo")
	}
}
