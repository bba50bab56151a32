package link

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Which routes lead to pods, and so make an interface one of the pods'.
func TestLeadsTo(t *testing.T) {
	subnets, networks := prefixes("10.244.2.0/24", "fd00:0:0:2::/64"), prefixes("10.244.0.0/16", "fd00::/48")
	gateway := func(r *netlink.Route) { r.Gw = net.IPv4(192, 0, 2, 9) }
	for name, test := range map[string]struct {
		route netlink.Route
		want  bool
	}{
		"the subnet":                   {by("10.244.2.0/24", 2), true},
		"a part of it":                 {by("10.244.2.7/32", 2), true},
		"a part by a gateway":          {with(by("10.244.2.128/25", 2), gateway), true},
		"wider, on a link":             {by("10.244.2.0/23", 2), true},
		"the whole network, on a link": {by("10.244.0.0/16", 2), true},
		"wider, by a gateway":          {with(by("10.244.2.0/23", 2), gateway), false},
		"wider than the network":       {by("10.0.0.0/8", 2), false},
		"another subnet":               {by("10.244.3.0/24", 2), false},
		"the default route":            {by("0.0.0.0/0", 2), false},
		"IPv6":                         {by("fd00:0:0:2::/64", 2), true},
		"another IPv6 subnet":          {by("fd00:0:0:3::/64", 2), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := leadsTo(test.route, subnets, networks); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// VPNs replace the default route by two halves.
func TestTakesAll(t *testing.T) {
	for prefix, want := range map[string]bool{
		"0.0.0.0/0": true, "0.0.0.0/1": true, "128.0.0.0/1": true, "::/0": true, "8000::/1": true,
		"64.0.0.0/2": false, "2000::/3": false,
	} {
		if got := takesAll(by(prefix, 2)); got != want {
			t.Errorf("%s: %v, want %v", prefix, got, want)
		}
	}
}

// device returns an interface of a kind.
func device(kind string, index int, name string, change ...func(*netlink.LinkAttrs)) netlink.Link {
	attrs := netlink.LinkAttrs{Index: index, Name: name}
	for _, c := range change {
		c(&attrs)
	}
	return &netlink.GenericLink{LinkAttrs: attrs, LinkType: kind}
}

// Interfaces that do not route packets themselves are in no list.
func TestRouters(t *testing.T) {
	master := func(index int) func(*netlink.LinkAttrs) {
		return func(a *netlink.LinkAttrs) { a.MasterIndex = index }
	}
	var names []string
	for _, l := range routers([]netlink.Link{
		device("device", 1, "lo", func(a *netlink.LinkAttrs) { a.RawFlags = unix.IFF_LOOPBACK }),
		device("veth", 2, "eth0"),
		device("bridge", 3, "cni0"),
		device("veth", 4, "port", master(3)),
		device("vrf", 5, "blue"),
		device("veth", 6, "inside", master(5)),
		device("tuntap", 7, "ours", func(a *netlink.LinkAttrs) { a.Alias = alias }),
		device("veth", 8, "elsewhere", master(99)), // the master is in another namespace
	}) {
		names = append(names, l.Attrs().Name)
	}
	if got, want := strings.Join(names, " "), "eth0 cni0 blue inside"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Each interface is in one list, in the order of names. One that leads to pods and elsewhere is
// the pods'.
func TestSorted(t *testing.T) {
	all := []netlink.Link{device("veth", 4, "d"), device("veth", 3, "c"), device("veth", 2, "b"),
		device("veth", 1, "a"), device("tuntap", 9, "mesh0")}
	got := sorted(all, "mesh0", map[int]bool{3: true, 4: true}, map[int]bool{1: true, 3: true})
	want := Crossing{
		Pods: []Interface{{3, "c"}, {4, "d"}}, Sides: []Interface{{1, "a"}}, Rest: []Interface{{2, "b"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if names := strings.Join(got.PodNames(), " "); names != "c d" {
		t.Errorf("pods' names: %q", names)
	}
	if all := got.All(); len(all) != 3 || all[2].Name != "a" {
		t.Errorf("all: %+v", all)
	}
}

// attribute returns a netlink attribute with a number.
func attribute(kind uint16, value int32) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.SizeofRtAttr+4)
	b = binary.NativeEndian.AppendUint16(b, kind)
	return binary.NativeEndian.AppendUint32(b, uint32(value))
}

// The kernel's messages about switches: of all, of the default, and of one interface.
func TestNoteOfASwitch(t *testing.T) {
	message := func(index, on int32) []byte {
		b := append(make([]byte, sizeOfNetconfMessage), attribute(netconfIfindex, index)...)
		return append(b, attribute(netconfForwarding, on)...)
	}
	for name, test := range map[string]struct {
		message []byte
		want    Switches
		err     bool
	}{
		"all":             {message(netconfAll, 1), Switches{All: true}, false},
		"the default":     {message(netconfDefault, 1), Switches{Default: true}, false},
		"an interface":    {message(7, 1), Switches{Devices: map[int]bool{7: true}}, false},
		"one that is off": {message(7, 0), Switches{Devices: map[int]bool{7: false}}, false},
		"too short":       {[]byte{2, 0}, Switches{}, true},
		"cut short":       {message(7, 1)[:9], Switches{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got := Switches{Devices: map[int]bool{}}
			if err := got.note(test.message); (err != nil) != test.err {
				t.Fatal(err)
			}
			if len(got.Devices) == 0 {
				got.Devices = nil
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// A selector of an IPsec policy covers the addresses that share its first bits.
func TestCovers(t *testing.T) {
	address := func(s string) (a nl.XfrmAddress) {
		copy(a[:], netip.MustParseAddr(s).AsSlice())
		return a
	}
	for name, test := range map[string]struct {
		family  uint16
		address string
		bits    uint8
		ip      string
		want    bool
	}{
		"one address":             {unix.AF_INET, "172.18.0.3", 32, "172.18.0.3", true},
		"another":                 {unix.AF_INET, "172.18.0.3", 32, "172.18.0.4", false},
		"a network":               {unix.AF_INET, "172.18.0.0", 16, "172.18.9.9", true},
		"host bits are no matter": {unix.AF_INET, "172.18.0.3", 16, "172.18.9.9", true},
		"all of the family":       {unix.AF_INET, "0.0.0.0", 0, "172.18.9.9", true},
		"the other family":        {unix.AF_INET6, "::", 0, "172.18.9.9", false},
		"IPv6":                    {unix.AF_INET6, "2001:db8::", 32, "2001:db8::7", true},
		"IPv6 beside":             {unix.AF_INET6, "2001:db8::", 32, "2001:db9::7", false},
		"IPv4 and an IPv6 ip":     {unix.AF_INET, "0.0.0.0", 0, "2001:db9::7", false},
		"too many bits":           {unix.AF_INET, "172.18.0.3", 64, "172.18.0.3", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := covers(test.family, address(test.address), test.bits, netip.MustParseAddr(test.ip))
			if got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// Only IPsec that is missing counts as such.
func TestNoXfrm(t *testing.T) {
	for _, err := range []error{unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT} {
		if !noXfrm(err) {
			t.Errorf("%v", err)
		}
	}
	for _, err := range []error{nil, unix.EPERM, errors.New("x")} {
		if noXfrm(err) {
			t.Errorf("%v", err)
		}
	}
}

// A setting that does not exist is empty, one that does is read without the line's end.
func TestSetting(t *testing.T) {
	if got := setting("ipv4", "lo", "forwarding"); got != "0" && got != "1" {
		t.Errorf("%q", got)
	}
	for _, name := range []string{"no-such-interface", "all", "..", ""} {
		if got := setting("ipv4", name, "forwarding"); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
