package user

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/mesh"
)

// What is about a peer's own port is kept for the peer; all else is of nobody.
func TestTroublesAreOfPeers(t *testing.T) {
	b, c := netip.MustParseAddrPort("172.18.0.3:8285"), netip.MustParseAddrPort("172.18.0.4:9000")
	router := netip.MustParseAddr("172.18.0.1")
	for _, test := range []struct {
		name string
		do   func(u *Engine)
		want map[string]mesh.Trouble
	}{
		{"nothing", func(*Engine) {}, nil},
		{"a refusal", func(u *Engine) { u.Refused(b, unix.ENETUNREACH); u.Refused(b, unix.EPERM) },
			map[string]mesh.Trouble{"b": {Refused: mesh.Refusal{Address: b,
				Errno: uint32(unix.EPERM), Cause: "operation not permitted", Count: 2, InARow: 2}}}},
		{"an ICMP error", func(u *Engine) { u.Reported(udp.PathError{To: c, Offender: router, Type: 3, Code: 1}) },
			map[string]mesh.Trouble{"c": {Reported: mesh.PathError{Address: c,
				Means: mesh.HostUnreachable, Offender: router, Count: 1}}}},
		{"one that is no obstacle", func(u *Engine) {
			u.Reported(udp.PathError{To: c, Offender: router, Type: 3, Code: 4})
		}, nil},
		{"another port of a peer", func(u *Engine) {
			u.Reported(udp.PathError{To: netip.AddrPortFrom(c.Addr(), 8285), Offender: router, Type: 3, Code: 3})
		}, nil},
		{"this node itself", func(u *Engine) {
			u.Refused(netip.MustParseAddrPort("172.18.0.2:8285"), unix.EPERM)
		}, nil},
		{"a stranger", func(u *Engine) { u.Refused(netip.MustParseAddrPort("172.18.0.9:8285"), unix.EPERM) }, nil},
		{"a peer that is gone", func(u *Engine) {
			u.Refused(b, unix.EPERM)
			m := threeNodes()
			m.Peers = m.Peers[:1]
			if err := u.setMesh(m); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"a port that the peer had", func(u *Engine) {
			u.Refused(b, unix.EPERM)
			m := threeNodes()
			m.Peers = slices.Clone(m.Peers)
			for i := range m.Peers {
				if m.Peers[i].Underlay().AddrPort == b {
					m.Peers[i].Addresses[0].AddrPort = netip.AddrPortFrom(b.Addr(), 9285)
				}
			}
			if err := u.setMesh(m); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			test.do(r.Engine)
			got := r.Read().Troubles
			for name, trouble := range got {
				if trouble.Refused.Last.IsZero() && trouble.Reported.Last.IsZero() {
					t.Errorf("%s: no time: %+v", name, trouble)
				}
				trouble.Refused.Last, trouble.Reported.Last = time.Time{}, time.Time{}
				if trouble != test.want[name] {
					t.Errorf("%s: %+v, want %+v", name, trouble, test.want[name])
				}
			}
			if len(got) != len(test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// Strangers are named with what they sent, and nothing is sent to them.
func TestStrangersAreNamed(t *testing.T) {
	addr := netip.MustParseAddr
	for _, test := range []struct {
		name, from string
		packet     []byte
		want       mesh.Stranger
	}{
		{"an unknown sender", "172.18.0.9:8285", udp4("10.244.1.5", "10.244.0.7", 9, 0), mesh.Stranger{
			Address: addr("172.18.0.9"), Reason: mesh.UnknownSender,
			InnerSource: addr("10.244.1.5"), InnerDestination: addr("10.244.0.7")}},
		{"no IP packet", "172.18.0.9:5", []byte("hello"), mesh.Stranger{
			Address: addr("172.18.0.9"), Reason: mesh.UnknownSender}},
		{"no payload", "172.18.0.9:5", nil, mesh.Stranger{
			Address: addr("172.18.0.9"), Reason: mesh.UnknownSender}},
		{"this node's own address", "172.18.0.2:8285", udp4("10.244.0.5", "10.244.0.7", 9, 0), mesh.Stranger{
			Address: addr("172.18.0.2"), Reason: mesh.UnknownSender,
			InnerSource: addr("10.244.0.5"), InnerDestination: addr("10.244.0.7")}},
		{"another node's pod", "172.18.0.3:8285", udp4("10.244.2.5", "10.244.0.7", 9, 0), mesh.Stranger{
			Address: addr("172.18.0.3"), Reason: mesh.SpoofedSource, Peer: "b",
			InnerSource: addr("10.244.2.5"), InnerDestination: addr("10.244.0.7")}},
		{"not for this node", "172.18.0.3:8285", udp4("10.244.1.5", "10.244.2.7", 9, 0), mesh.Stranger{
			Address: addr("172.18.0.3"), Reason: mesh.WrongDestination, Peer: "b",
			InnerSource: addr("10.244.1.5"), InnerDestination: addr("10.244.2.7")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.receive(test.from, 0, test.packet)
			r.receive(test.from, 0, test.packet)
			all := r.Read().Strangers
			if len(all) != 1 || all[0].Last.IsZero() {
				t.Fatalf("%+v", all)
			}
			test.want.Packets, all[0].Last = 2, time.Time{}
			if all[0] != test.want {
				t.Errorf("%+v, want %+v", all[0], test.want)
			}
			if len(r.wire.sent) > 0 || len(r.tun.written) > 0 {
				t.Error("something was sent")
			}
		})
	}
	t.Run("whoever is accepted", func(t *testing.T) {
		r := newRig(t)
		r.receive("172.18.0.3:8285", 0, udp4("10.244.1.5", "10.244.0.7", 9, 0))
		if all := r.Read().Strangers; len(all) != 0 {
			t.Errorf("%+v", all)
		}
	})
}

// A flood takes no memory, and one that goes on sending stays among the last, with its count.
func TestStrangersAreBounded(t *testing.T) {
	var s strangers
	address := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)) }
	for i := range 100 {
		now := time.Unix(int64(i), 0)
		s.note(address(200), mesh.UnknownSender, "", nil, now)
		s.note(address(i), mesh.UnknownSender, "", nil, now.Add(time.Millisecond))
	}
	all := s.read()
	if len(all) != strangersKept || all[0].Address != address(99) {
		t.Fatalf("%+v", all)
	}
	if one := all[1]; one.Address != address(200) || one.Packets != 100 {
		t.Errorf("who goes on: %+v", one)
	}
	one := address(200)
	if n := testing.AllocsPerRun(100, func() {
		s.note(one, mesh.SpoofedSource, "b", nil, time.Unix(200, 0))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
