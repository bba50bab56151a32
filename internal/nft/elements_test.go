package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/nstest"
)

// The elements of each kind of set are those that the library reads, which is slower.
func TestReadElements(t *testing.T) {
	var ips []netip.Addr
	var endpoints []netip.AddrPort
	for i := range 3000 { // more than one message
		ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		ips, endpoints = append(ips, ip), append(endpoints, netip.AddrPortFrom(ip, uint16(i)))
	}
	both, both6 := IPv4.InBoth(), IPv6.InBoth()
	made := Table{ID: two, Sets: []Set{
		both.Addresses("a", ips), both.Endpoints("e", endpoints), both.Addresses("none", nil),
		both6.Endpoints("e", []netip.AddrPort{netip.MustParseAddrPort("[fd00::1]:8285")}),
		both.Prefixes("p", prefixes("10.0.0.0/24", "10.0.2.0/24", "255.0.0.0/8")),
		Interfaces("i", []string{"lo", "eth0"}), SameInterfaces("s", []string{"lo", "a-name-of-15-by"}),
	}}
	nstest.Inside(t, func(t *testing.T, _ *nstest.Namespace) {
		if _, err := NewKeeper(two).Set([]Table{made}); err != nil {
			t.Error(err)
			return
		}
		conn, err := open()
		if err != nil {
			t.Error(err)
			return
		}
		for _, s := range made.Sets {
			listed, err := conn.GetSetElements(s.in(two.table()))
			var want []string
			for _, e := range listed {
				want = append(want, fmt.Sprintf("%x %v", e.Key, e.IntervalEnd))
			}
			all, readErr := readElements(two, s.name, int(s.key.Bytes))
			var got []string
			for _, e := range all {
				got = append(got, fmt.Sprintf("%x %v", e.key[:s.key.Bytes], e.end))
			}
			slices.Sort(want)
			slices.Sort(got)
			if err := errors.Join(err, readErr); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %d elements, want %d, %v", s.name, len(got), len(want), err)
			}
		}
		if _, err := readElements(two, "a4", 16); !errors.Is(err, errAnotherKey) {
			t.Errorf("addresses as if they were longer: %v", err)
		}
		if _, err := readElements(two, "unknown", 4); !errors.Is(err, unix.ENOENT) {
			t.Errorf("no such set: %v", err)
		}
	})
}

// listOf is a message that lists an element with a key.
func listOf(key ...byte) []byte {
	put := func(kind uint16, value []byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(value)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		return append(append(b, value...), make([]byte, -len(value)&(unix.NLA_ALIGNTO-1))...)
	}
	value := put(unix.NFTA_SET_ELEM_KEY, put(unix.NFTA_DATA_VALUE, key))
	flags := put(unix.NFTA_SET_ELEM_FLAGS, []byte{0, 0, 0, unix.NFT_SET_ELEM_INTERVAL_END})
	one := put(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, append(value, flags...))
	return append(make([]byte, genHeader), put(unix.NFTA_SET_ELEM_LIST_ELEMENTS, one)...)
}

// Whatever a message holds, it is read in time, and only keys of the wanted length are taken.
func FuzzElements(f *testing.F) {
	f.Add(listOf(10, 0, 0, 1), 4)
	f.Add(listOf(), 4)
	f.Add(listOf(make([]byte, 80)...), longestKey)
	f.Add([]byte{1, 0, 0}, 4)
	f.Add(append(listOf(10, 0, 0, 1), 200, 0, 3, 0), 4) // an attribute that is longer than the rest
	f.Fuzz(func(t *testing.T, data []byte, length int) {
		defer budget.Of(t)()
		if length < 1 || length > longestKey {
			return
		}
		all, err := appendElements(nil, netlink.Message{Data: data}, length)
		if err != nil && !errors.Is(err, errAnotherKey) || len(all) > len(data) {
			t.Errorf("%d elements of %d bytes, %v", len(all), len(data), err)
		}
		for _, e := range all {
			if slices.ContainsFunc(e.key[length:], func(b byte) bool { return b != 0 }) {
				t.Errorf("a key of %d bytes: %x", length, e.key)
			}
		}
	})
}

// The key and the flag of an element are read.
func TestElementOfMessage(t *testing.T) {
	all, err := appendElements(nil, netlink.Message{Data: listOf(10, 0, 0, 1)}, 4)
	want := element{key: [longestKey]byte{10, 0, 0, 1}, end: true}
	if err != nil || !slices.Equal(all, []element{want}) {
		t.Errorf("%v, %v", all, err)
	}
}
