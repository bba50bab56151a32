package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// This file reads the host's IPsec policies (xfrm). The kernel applies them to packets that
// sockets send and receive, but not to packets that BPF programs redirect from one interface
// to another. If a policy applies to the mesh's datagrams, the datagrams have to go through
// sockets, or they would leave unencrypted.

// Directions of a policy (XFRM_POLICY_IN, XFRM_POLICY_OUT in linux/xfrm.h). Policies of single
// sockets have other numbers and do not apply to meshd's sockets.
const (
	policyIn  = 0
	policyOut = 1
)

// policyNames are the directions as `ip xfrm policy` prints them.
var policyNames = map[uint8]string{policyIn: "in", policyOut: "out"}

// A Policy is an IPsec policy that applies to the mesh's datagrams.
type Policy struct {
	Name  string           // as `ip xfrm policy` identifies it
	Peers []netip.AddrPort // to or from which it applies
}

// Policed returns the IPsec policies that apply to datagrams between some of this node's own addresses and
// some of the peers' ones, in the kernel's order. The default for packets without a policy is among them if
// it is to block: it applies to all peers.
//
// Outgoing datagrams go to a peer's port and incoming ones to a port of this node; the port at the other
// end can be any.
func Policed(own, peers []netip.AddrPort) (all []Policy, err error) {
	request := nl.NewNetlinkRequest(nl.XFRM_MSG_GETPOLICY, unix.NLM_F_DUMP)
	messages, err := request.Execute(unix.NETLINK_XFRM, nl.XFRM_MSG_NEWPOLICY)
	if noXfrm(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list IPsec policies: %w", err)
	}
	for _, m := range messages {
		if len(m) < nl.SizeofXfrmUserpolicyInfo {
			continue
		}
		p := nl.DeserializeXfrmUserpolicyInfo(m)
		if about := policedPeers(p, own, peers); len(about) > 0 {
			name := fmt.Sprintf("dir %s index %d", policyNames[p.Dir], p.Index)
			all = append(all, Policy{name, about})
		}
	}
	blocks, err := blockedByDefault()
	if blocks {
		all = append(all, Policy{"default block", peers})
	}
	return all, err
}

// noXfrm reports whether an error means that the kernel has no IPsec.
func noXfrm(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.EAFNOSUPPORT)
}

// policedPeers returns the peers to whose datagrams a policy applies.
func policedPeers(p *nl.XfrmUserpolicyInfo, own, peers []netip.AddrPort) (about []netip.AddrPort) {
	s := &p.Sel
	if p.Dir > policyOut || s.Proto != 0 && s.Proto != unix.IPPROTO_UDP {
		return nil
	}
	here, there, hereBits, thereBits := s.Saddr, s.Daddr, s.PrefixlenS, s.PrefixlenD
	if p.Dir == policyIn {
		here, there, hereBits, thereBits = there, here, thereBits, hereBits
	}
	var at []netip.AddrPort // those of our own to which it applies
	for _, local := range own {
		if covers(s.Family, here, hereBits, local.Addr()) && (p.Dir == policyOut || coversPort(s, local.Port())) {
			at = append(at, local)
		}
	}
	if len(at) == 0 {
		return nil
	}
	for _, peer := range peers {
		if (p.Dir == policyIn || coversPort(s, peer.Port())) && covers(s.Family, there, thereBits, peer.Addr()) {
			about = append(about, peer)
		}
	}
	return about
}

// covers reports whether a selector's address and length match ip, as addr_match in
// include/net/xfrm.h does.
func covers(family uint16, address nl.XfrmAddress, bits uint8, ip netip.Addr) bool {
	switch {
	case family == unix.AF_INET && !ip.Is4(), family == unix.AF_INET6 && !ip.Is6():
		return false
	case bits == 0:
		return true
	}
	of := netip.AddrFrom16(address)
	if ip.Is4() {
		of = netip.AddrFrom4([4]byte(address[:4]))
	}
	p, err := of.Prefix(int(bits))
	return err == nil && p.Contains(ip)
}

// coversPort reports whether a selector's destination port and mask match a port. The
// selector's numbers are in network byte order (__be16), which the library does not convert.
func coversPort(s *nl.XfrmSelector, port uint16) bool {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return (binary.NativeEndian.Uint16(b[:])^s.Dport)&s.DportMask == 0
}

// The message that asks for the default of packets without a policy, since Linux 5.15. The
// answer is struct xfrm_userpolicy_default: a byte each for in, fwd and out.
const (
	getDefault    = 0x28 // XFRM_MSG_GETDEFAULT
	defaultBlocks = 1    // XFRM_USERPOLICY_BLOCK
)

// blockedByDefault tells whether packets without a policy are blocked, which `ip xfrm policy
// getdefault` shows.
func blockedByDefault() (bool, error) {
	request := nl.NewNetlinkRequest(getDefault, unix.NLM_F_REQUEST)
	request.AddRawData(make([]byte, 4))
	messages, err := request.Execute(unix.NETLINK_XFRM, 0)
	if errors.Is(err, unix.EINVAL) || noXfrm(err) { // before Linux 5.15
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the default of IPsec: %w", err)
	}
	for _, m := range messages {
		if len(m) >= 3 && (m[0] == defaultBlocks || m[2] == defaultBlocks) {
			return true, nil
		}
	}
	return false, nil
}

// WatchPolicies calls changed once at the start and then after each change of an IPsec
// policy. Lost messages count as a change. It blocks until ctx ends, and then returns nil; it
// returns an error if the kernel's messages cannot be read. If the kernel has no IPsec,
// WatchPolicies waits for the end of ctx without a call.
func WatchPolicies(ctx context.Context, changed func()) error {
	if err := watchGroup(ctx, unix.NETLINK_XFRM, nl.XFRMNLGRP_POLICY, changed); err != nil {
		return fmt.Errorf("watch IPsec policies: %w", err)
	}
	return nil
}
