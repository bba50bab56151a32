package packet

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"
)

var (
	router4 = netip.MustParseAddr("10.244.1.0")
	router6 = netip.MustParseAddr("fd00:10:244:1::")
)

func TestErrorBytes(t *testing.T) {
	udp := ip4(pod1, pod2, 17, []byte{0, 1, 0, 2, 0, 8, 0, 0})
	tests := []struct {
		name    string
		problem Problem
		want    string // ICMP header, hex, checksum included
	}{
		{"time exceeded", TimeExceeded, "0b00f4f400000000"},
		{"no route", NoRoute, "0300fcf400000000"},
		{"too big", TooBig, "0304f77800000578"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := Error(make([]byte, 1280), router4, test.problem, 1400, udp)
			if got == nil {
				t.Fatal("no answer")
			}
			want := "45c0003800004000" + "4001" + hex.EncodeToString(got[10:12]) + "0af40100" + "0af40102"
			if hex.EncodeToString(got[:20]) != want || slowSum(got[:20]) != 0 {
				t.Errorf("IP header % x", got[:20])
			}
			if hex.EncodeToString(got[20:28]) != test.want || slowSum(got[20:]) != 0 {
				t.Errorf("ICMP header % x, sum %#x", got[20:28], slowSum(got[20:]))
			}
			if !bytes.Equal(got[28:], udp) {
				t.Errorf("quotes % x", got[28:])
			}
		})
	}
	six := ip6(six1, six2, 17, []byte{0, 1, 0, 2, 0, 8, 0, 0})
	for problem, want := range map[Problem]string{TimeExceeded: "0300", NoRoute: "0100", TooBig: "0200"} {
		got := Error(make([]byte, 1280), router6, problem, 1280, six)
		pseudo := append(bytes.Clone(got[8:40]), 0, 0, 0, byte(len(got)-40), 0, 0, 0, 58)
		pseudo = append(pseudo, got[40:]...)
		if hex.EncodeToString(got[40:42]) != want || slowSum(pseudo) != 0 || !bytes.Equal(got[48:], six) {
			t.Errorf("IPv6 %d: % x, sum %#x", problem, got, slowSum(pseudo))
		}
		if problem == TooBig && hex.EncodeToString(got[44:48]) != "00000500" {
			t.Errorf("IPv6 MTU: % x", got[44:48])
		}
	}
}

func TestErrorQuotesWithinLimits(t *testing.T) {
	four, six := ip4(pod1, pod2, 17, make([]byte, 1400)), ip6(six1, six2, 17, make([]byte, 1400))
	if got := Error(make([]byte, 1280), router4, TooBig, 1400, four); len(got) != 576 {
		t.Errorf("IPv4 error of %d bytes", len(got))
	}
	if got := Error(make([]byte, 1280), router6, TooBig, 1400, six); len(got) != 1280 {
		t.Errorf("IPv6 error of %d bytes", len(got))
	}
}

// A question is a packet about which an error may be sent, or not.
type question struct {
	name string
	b    []byte
	want bool
}

// questions are packets of both families.
func questions() []question {
	ip := netip.MustParseAddr
	icmp := func(kind byte) []byte { return []byte{kind, 0, 0, 0, 0, 0, 0, 0} }
	later := ip4(pod1, pod2, 17, make([]byte, 8))
	later[7] = 1
	first := ip4(pod1, pod2, 17, make([]byte, 8))
	first[6] = 0x20
	six := func(next byte, payload ...byte) []byte { return ip6(six1, six2, next, payload) }
	authenticated := []byte{58, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	fragment := []byte{17, 0, 0, 1, 0, 0, 0, 0}
	laterFragment := []byte{17, 0, 0, 9, 0, 0, 0, 0}
	options := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }

	return []question{
		{"UDP", ip4(pod1, pod2, 17, make([]byte, 8)), true},
		{"echo request", ip4(pod1, pod2, 1, icmp(8)), true},
		{"echo reply", ip4(pod1, pod2, 1, icmp(0)), true},
		{"timestamp", ip4(pod1, pod2, 1, icmp(13)), true},
		{"unreachable", ip4(pod1, pod2, 1, icmp(3)), false},
		{"redirect", ip4(pod1, pod2, 1, icmp(5)), false},
		{"time exceeded behind options", ip4(pod1, pod2, 1, icmp(11), 1, 1, 1, 0), false},
		{"parameter problem", ip4(pod1, pod2, 1, icmp(12)), false},
		{"ICMP without a type", ip4(pod1, pod2, 1, nil), false},
		{"first fragment", first, true},
		{"later fragment", later, false},
		{"to multicast", ip4(pod1, ip("224.0.0.251"), 17, nil), false},
		{"to broadcast", ip4(pod1, ip("255.255.255.255"), 17, nil), false},
		{"from nobody", ip4(ip("0.0.0.0"), pod2, 17, nil), false},
		{"from this network", ip4(ip("0.1.2.3"), pod2, 17, nil), false},
		{"from multicast", ip4(ip("224.0.0.1"), pod2, 17, nil), false},
		{"from loopback", ip4(ip("127.0.0.1"), pod2, 17, nil), false},
		{"from class E", ip4(ip("250.0.0.1"), pod2, 17, nil), false},
		{"IPv6 UDP", six(17, make([]byte, 8)...), true},
		{"IPv6 short payload", six(17, 1), true},
		{"IPv6 echo request", six(58, icmp(128)...), true},
		{"IPv6 unreachable", six(58, icmp(1)...), false},
		{"IPv6 redirect", six(58, icmp(137)...), false},
		{"IPv6 ICMP without a type", six(58), false},
		{"IPv6 unreachable behind options", six(0, append(options(58), icmp(1)...)...), false},
		{"IPv6 echo behind options", six(60, append(options(58), icmp(128)...)...), true},
		{"IPv6 unreachable behind AH", six(51, append(authenticated, icmp(1)...)...), false},
		{"IPv6 first fragment", six(44, append(fragment, make([]byte, 8)...)...), true},
		{"IPv6 later fragment", six(44, append(laterFragment, make([]byte, 8)...)...), false},
		{"IPv6 options cut", six(0, 58, 0, 0, 0), false},
		{"IPv6 options longer than the packet", six(0, 58, 9, 0, 0, 0, 0, 0, 0), false},
		{"IPv6 no next header", six(59), true},
		{"IPv6 to multicast", ip6(six1, ip("ff02::1"), 17, nil), false},
		{"IPv6 from nobody", ip6(ip("::"), six2, 17, nil), false},
	}
}

// Errors are sent about what RFC 1122 and RFC 4443 allow, and about nothing else.
func TestWhatIsAnswered(t *testing.T) {
	for _, test := range questions() {
		t.Run(test.name, func(t *testing.T) {
			src := router4
			if test.b[0]>>4 == 6 {
				src = router6
			}
			if got := Error(make([]byte, 1280), src, NoRoute, 0, test.b) != nil; got != test.want {
				t.Errorf("answered %v, want %v", got, test.want)
			}
		})
	}
	if Error(make([]byte, 1280), router6, NoRoute, 0, ip4(pod1, pod2, 17, nil)) != nil {
		t.Error("answered IPv4 from an IPv6 address")
	}
	if Error(make([]byte, 1280), netip.Addr{}, NoRoute, 0, ip4(pod1, pod2, 17, nil)) != nil {
		t.Error("answered without an address")
	}
}
