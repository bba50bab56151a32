package packet

import (
	"bytes"
	"testing"
)

// The packets of a datagram are of its size, but for the last.
func TestNext(t *testing.T) {
	for name, test := range map[string]struct {
		data string
		size int
		want []string
	}{
		"one":             {"abcdef", 0, []string{"abcdef"}},
		"merged":          {"abcdef", 2, []string{"ab", "cd", "ef"}},
		"shorter last":    {"abcde", 2, []string{"ab", "cd", "e"}},
		"larger than all": {"ab", 100, []string{"ab"}},
		"none":            {"", 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := NewDatagrams(1)[0]
			d.Data, d.Size = d.Buf[:copy(d.Buf, test.data)], test.size
			for i := 0; ; i++ {
				b, ok := d.Next()
				if !ok {
					if i != len(test.want) {
						t.Errorf("%d packets", i)
					}
					return
				}
				if i >= len(test.want) || string(b) != test.want[i] {
					t.Fatalf("packet %d is %q, want %q", i, b, test.want)
				}
				if cap(b) != len(b) {
					t.Errorf("packet %d can grow into the next one", i)
				}
			}
		})
	}
}

// Datagrams do not share memory.
func TestDatagramsAreApart(t *testing.T) {
	ds := NewDatagrams(3)
	for i, d := range ds {
		if len(d.Buf) != MaxSize || cap(d.Buf) != MaxSize {
			t.Errorf("datagram %d has %d of %d bytes", i, len(d.Buf), cap(d.Buf))
		}
		for j := range d.Buf {
			d.Buf[j] = byte(i)
		}
	}
	for i, d := range ds {
		if want := bytes.Repeat([]byte{byte(i)}, MaxSize); !bytes.Equal(d.Buf, want) {
			t.Errorf("another datagram wrote to that of %d", i)
		}
	}
}

// burst returns one of packets of these sizes, each in two parts.
func burst(sizes ...int) (b Burst) {
	for i, size := range sizes {
		whole := bytes.Repeat([]byte{byte(i)}, size)
		b.Add(whole[:size/3], whole[size/3:])
	}
	return b
}

// What may join a burst: packets of one size, a shorter one at the end, within the limits.
func TestFits(t *testing.T) {
	many := func(n, size int) []int {
		sizes := make([]int, n)
		for i := range sizes {
			sizes[i] = size
		}
		return sizes
	}
	for name, test := range map[string]struct {
		burst []int
		size  int
		want  bool
	}{
		"equal":                  {[]int{100}, 100, true},
		"shorter":                {[]int{100, 100}, 1, true},
		"longer":                 {[]int{100}, 101, false},
		"behind a shorter one":   {[]int{100, 99}, 99, false},
		"as many as a message":   {many(MaxBurst-1, 100), 100, true},
		"more than a message":    {many(MaxBurst, 100), 100, false},
		"as large as a message":  {[]int{MaxBurstBytes - 10000, 9000}, 1000, false},
		"up to the last byte":    {many(44, 1456), MaxBurstBytes - 44*1456, true},
		"one byte more than fit": {many(44, 1456), MaxBurstBytes - 44*1456 + 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := burst(test.burst...)
			if got := b.Fits(test.size); got != test.want {
				t.Errorf("%v, want %v; %d packets, %d bytes", got, test.want, b.Packets, b.Bytes)
			}
		})
	}
}

// Split gives each packet back, however it was put together.
func TestSplit(t *testing.T) {
	for name, sizes := range map[string][]int{
		"one": {10}, "equal ones": {9, 9, 9}, "a shorter last one": {9, 9, 4}, "the shortest": {1, 1}, "none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			b := burst(sizes...)
			b.TOS = 0xb8
			i := 0
			for one := range b.Split {
				packet := bytes.Join(one.Parts, nil)
				if !bytes.Equal(packet, bytes.Repeat([]byte{byte(i)}, sizes[i])) {
					t.Errorf("packet %d is % x", i, packet)
				}
				if one.Packets != 1 || one.Bytes != sizes[i] || one.Size != sizes[i] || one.TOS != b.TOS {
					t.Errorf("packet %d: %+v", i, one)
				}
				i++
			}
			if i != len(sizes) {
				t.Errorf("%d packets, want %d", i, len(sizes))
			}
		})
	}
	b := burst(5, 5, 5)
	for range b.Split { // a caller may stop
		break
	}
}

// A superpacket is told from merged packets by the length that its first header claims.
func TestIsWhole(t *testing.T) {
	claim4 := func(length, protocol byte) []byte {
		b := make([]byte, 100)
		b[0], b[3], b[9] = 0x45, length, protocol
		return b
	}
	claim6 := func(length, protocol byte) []byte {
		b := make([]byte, 100)
		b[0], b[5], b[6] = 0x60, length, protocol
		return b
	}
	for name, test := range map[string]struct {
		data []byte
		size int
		want bool
	}{
		"superpacket":           {claim4(100, ProtoUDP), 30, true},
		"superpacket of IPv6":   {claim6(60, ProtoUDP), 30, true},
		"merged":                {claim4(50, ProtoUDP), 50, false},
		"merged, IPv6":          {claim6(10, ProtoUDP), 50, false},
		"TCP":                   {claim4(100, ProtoTCP), 30, false},
		"TCP over IPv6":         {claim6(60, ProtoTCP), 30, false},
		"one packet":            {claim4(100, ProtoUDP), 0, false},
		"one packet, of a size": {claim4(100, ProtoUDP), 100, false},
		"another protocol":      {make([]byte, 100), 30, false},
		"short":                 {claim4(30, ProtoUDP)[:30], 10, false},
		"none":                  {nil, 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			if d := (&Datagram{Data: test.data, Size: test.size}); d.IsWhole() != test.want {
				t.Errorf("%v", !test.want)
			}
		})
	}
}
