package link

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"

	"example.org/meshd/internal/nstest"
)

func TestPoliced(t *testing.T) {
	local, peers := netip.MustParseAddrPort("172.18.0.3:8285"), []netip.AddrPort{
		netip.MustParseAddrPort("172.18.0.4:9000"), netip.MustParseAddrPort("172.18.0.5:8285"),
	}
	one, other := peers[:1], peers[1:]
	const esp = " tmpl src 172.18.0.3 dst 172.18.0.4 proto esp mode transport"
	for _, test := range []struct {
		name, policy string
		want         []netip.AddrPort
	}{
		{"ESP out", "src 172.18.0.3 dst 172.18.0.4 proto udp dport 9000 dir out" + esp, one},
		{"ESP in", "src 172.18.0.4 dst 172.18.0.3 proto udp dport 8285 dir in" + esp, one},
		{"in, by the peer's source port",
			"src 172.18.0.4 dst 172.18.0.3 proto udp sport 9000 dir in" + esp, one},
		{"block", "src 172.18.0.0/16 dst 172.18.0.5 dir out action block", other},
		{"everything", "src 0.0.0.0/0 dst 0.0.0.0/0 dir in" + esp, peers},
		{"another port", "src 172.18.0.3 dst 172.18.0.4 proto udp dport 8285 dir out" + esp, nil},
		{"another protocol", "src 172.18.0.3 dst 172.18.0.4 proto tcp dir out" + esp, nil},
		{"another host", "src 172.18.0.3 dst 172.18.0.9 dir out" + esp, nil},
		{"another direction", "src 172.18.0.4 dst 172.18.0.3 dir fwd" + esp, nil},
		{"others' packets", "src 172.18.0.4 dst 172.18.0.5 dir out" + esp, nil},
		{"the other way round", "src 172.18.0.4 dst 172.18.0.3 dir out" + esp, nil},
		{"IPv6 alone", "src ::/0 dst ::/0 dir out action block", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				got, err := Policed([]netip.AddrPort{local}, peers)
				if err != nil || len(got) > 0 {
					t.Errorf("without a policy: %v, %v", got, err)
				}
				output(t, n, "sh", "-c", "ip xfrm policy add "+test.policy)
				got, err = Policed([]netip.AddrPort{local}, peers)
				var about []netip.AddrPort
				for _, p := range got {
					about = append(about, p.Peers...)
				}
				if err != nil || !slices.Equal(about, test.want) {
					t.Errorf("%v, %v, want %v", got, err, test.want)
				}
			})
		})
	}
	t.Run("blocked by default", func(t *testing.T) {
		nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
			for _, which := range []string{"in", "out"} {
				output(t, n, "ip", "xfrm", "policy", "setdefault", which, "block")
				got, err := Policed([]netip.AddrPort{local}, peers)
				if err != nil || len(got) != 1 || !slices.Equal(got[0].Peers, peers) {
					t.Errorf("%s: %v, %v", which, got, err)
				}
				output(t, n, "ip", "xfrm", "policy", "setdefault", which, "accept")
				if got, err := Policed([]netip.AddrPort{local}, peers); err != nil || len(got) > 0 {
					t.Errorf("%s again: %v, %v", which, got, err)
				}
			}
		})
	})
}

// A range of ports is a port with a mask.
func TestPolicedPortRange(t *testing.T) {
	for port, mask := range map[uint16]uint16{8192: 0xe000, 8285: 0xffff, 0: 0} {
		s := selector(port, mask)
		if !coversPort(&s, 8285) {
			t.Errorf("%d/%#x does not cover 8285", port, mask)
		}
	}
	for port, mask := range map[uint16]uint16{8192: 0xffff, 16384: 0xe000, 9000: 0xfff0} {
		s := selector(port, mask)
		if coversPort(&s, 8285) {
			t.Errorf("%d/%#x covers 8285", port, mask)
		}
	}
}

// selector returns one of a port and a mask.
func selector(port, mask uint16) (s nl.XfrmSelector) {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	s.Dport = binary.NativeEndian.Uint16(b[:])
	binary.BigEndian.PutUint16(b[:], mask)
	s.DportMask = binary.NativeEndian.Uint16(b[:])
	return s
}

func TestWatchPolicies(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		steps := []string{
			"ip xfrm policy add src 172.18.0.3 dst 172.18.0.4 dir out action block", "ip xfrm policy flush",
			"ip xfrm policy setdefault in block",
		}
		step := 0
		err := WatchPolicies(ctx, func() {
			if step < len(steps) {
				output(t, n, "sh", "-c", steps[step])
			} else {
				cancel()
			}
			step++
		})
		if err != nil || step <= len(steps) {
			t.Errorf("%d changes were told, %v", step, err)
		}
	})
}
