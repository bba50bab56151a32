package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OpenApart is Open for the address of own at another port than own's, which the kernel itself has; 0
// stands for any port that is free. A program hands datagrams to the socket that were sent to own. Others
// do not reach it, see only. Local returns the port that it got.
func OpenApart(own netip.AddrPort, port uint16, offload bool) (*Conn, error) {
	prepare := func(fd int) error { return setApart(fd, own) }
	c, err := open(netip.AddrPortFrom(own.Addr(), port), offload, prepare)
	if err != nil {
		return nil, err
	}
	c.local = netip.AddrPortFrom(own.Addr(), uint16(c.udp.LocalAddr().(*net.UDPAddr).Port))
	return c, nil
}

// setApart prepares a socket for datagrams to own that a program hands to it. NAT takes from a datagram the
// socket that it was handed to, unless that is transparent (nf_nat_ipv4_local_in in net/netfilter).
func setApart(fd int, own netip.AddrPort) error {
	transparent := option{"IP_TRANSPARENT", unix.IPPROTO_IP, unix.IP_TRANSPARENT}
	if own.Addr().Is6() {
		transparent = option{"IPV6_TRANSPARENT", unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT}
	}
	return errors.Join(transparent.turnOn(fd), only(fd, own.Port()))
}

// only has a socket accept datagrams that were sent to a port, whatever port it has itself, and datagrams
// with the mark of meshd. Those a program of the kernel engine has sent to the socket's own port, since they
// were fragments, and a socket is forgotten when those are put together. Nobody else can mark a datagram
// that comes in, but who has CAP_NET_ADMIN.
func only(fd int, port uint16) error {
	const (
		load     = unix.BPF_LD | unix.BPF_ABS
		equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret      = unix.BPF_RET | unix.BPF_K
		destined = 2          // offset of the destination's port in the UDP header, where a filter begins
		markOf   = 0xfffff014 // SKF_AD_OFF + SKF_AD_MARK of linux/filter.h
		all      = 0xffffffff // bytes to keep
	)
	filter := []unix.SockFilter{
		{Code: load | unix.BPF_H, K: destined},
		{Code: equal, Jt: 2, K: uint32(port)},
		{Code: load | unix.BPF_W, K: markOf},
		{Code: equal, Jf: 1, K: Mark},
		{Code: ret, K: all},
		{Code: ret, K: 0},
	}
	p := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.SliceData(filter))}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &p); err != nil {
		return fmt.Errorf("attach a filter to a socket: %w", err)
	}
	return nil
}
