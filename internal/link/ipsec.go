package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// IPsec policies (xfrm) of the host. The kernel asks them for what sockets send and receive, and not
// for what programs redirect from one interface to another: where one is about the mesh's own
// datagrams, those have to go through sockets.

// Directions of a policy (XFRM_POLICY_IN, XFRM_POLICY_OUT in linux/xfrm.h). Those of single sockets,
// which have other numbers, say nothing of our sockets.
const (
	policyIn  = 0
	policyOut = 1
)

var policyNames = map[uint8]string{policyIn: "in", policyOut: "out"}

// Policed describes the first IPsec policy, in or out, that is about datagrams between local and one
// of the peers, as `ip xfrm policy` knows it, or the default for packets without a policy, where that
// is to block. It is empty if there is none. The direction out goes to a peer's port, the direction in
// comes to that of local; the other port may be any one.
func Policed(local netip.AddrPort, peers []netip.AddrPort) (string, error) {
	messages, err := nl.NewNetlinkRequest(nl.XFRM_MSG_GETPOLICY, unix.NLM_F_DUMP).Execute(unix.NETLINK_XFRM, nl.XFRM_MSG_NEWPOLICY)
	if noXfrm(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list IPsec policies: %w", err)
	}
	for _, m := range messages {
		if len(m) < nl.SizeofXfrmUserpolicyInfo {
			continue
		}
		p := nl.DeserializeXfrmUserpolicyInfo(m)
		if peer, about := policedPeer(p, local, peers); about {
			return fmt.Sprintf("the IPsec policy dir %s index %d covers %s", policyNames[p.Dir], p.Index, peer), nil
		}
	}
	return blockedByDefault()
}

// noXfrm tells whether an error means that the kernel has no IPsec.
func noXfrm(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)
}

// policedPeer returns the first peer whose datagrams a policy is about.
func policedPeer(p *nl.XfrmUserpolicyInfo, local netip.AddrPort, peers []netip.AddrPort) (peer netip.AddrPort, about bool) {
	s := &p.Sel
	if s.Proto != 0 && s.Proto != unix.IPPROTO_UDP {
		return peer, false
	}
	own, other, ownBits, otherBits := s.Saddr, s.Daddr, s.PrefixlenS, s.PrefixlenD
	if p.Dir == policyIn {
		own, other, ownBits, otherBits = other, own, otherBits, ownBits
	}
	if p.Dir > policyOut || !covers(s.Family, own, ownBits, local.Addr()) {
		return peer, false
	}
	for _, peer := range peers {
		to := peer.Port()
		if p.Dir == policyIn {
			to = local.Port()
		}
		if coversPort(s, to) && covers(s.Family, other, otherBits, peer.Addr()) {
			return peer, true
		}
	}
	return peer, false
}

// covers tells whether an address is one of a selector's, as addr_match does in include/net/xfrm.h.
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

// coversPort tells whether a destination port is one of a selector's, whose numbers are in the order
// of the network.
func coversPort(s *nl.XfrmSelector, port uint16) bool {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return (binary.NativeEndian.Uint16(b[:])^s.Dport)&s.DportMask == 0
}

// Messages about what becomes of packets without a policy (Linux 5.15): struct
// xfrm_userpolicy_default, a byte each for in, fwd and out.
const (
	getDefault    = 0x28 // XFRM_MSG_GETDEFAULT
	defaultBlocks = 1    // XFRM_USERPOLICY_BLOCK
)

// blockedByDefault describes a default that blocks; empty if packets pass.
func blockedByDefault() (string, error) {
	request := nl.NewNetlinkRequest(getDefault, unix.NLM_F_REQUEST)
	request.AddRawData(make([]byte, 4))
	messages, err := request.Execute(unix.NETLINK_XFRM, 0)
	if errors.Is(err, unix.EINVAL) || noXfrm(err) { // before Linux 5.15
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the default of IPsec: %w", err)
	}
	for _, m := range messages {
		if len(m) >= 3 && (m[0] == defaultBlocks || m[2] == defaultBlocks) {
			return "IPsec blocks packets without a policy (`ip xfrm policy getdefault`)", nil
		}
	}
	return "", nil
}

// WatchPolicies calls changed once at the start and then whenever a policy of IPsec comes, goes or
// changes, until ctx ends (nil) or the kernel's messages cannot be read. Messages that are lost count
// as a change. Where the kernel has no IPsec, it only waits for the end.
func WatchPolicies(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_XFRM)
	if noXfrm(err) {
		<-ctx.Done()
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch IPsec policies: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "xfrm")
	defer socket.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (nl.XFRMNLGRP_POLICY - 1)}); err != nil {
		return fmt.Errorf("watch IPsec policies: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	changed()
	for buf := make([]byte, 1<<14); ; {
		_, err := socket.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS):
			changed()
		default:
			return fmt.Errorf("watch IPsec policies: %w", err)
		}
	}
}
