package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Bare sends datagrams without a UDP checksum, from an address and port of this host, as the programs
// of the kernel engine do. It needs no CAP_NET_RAW.
//
// It never receives: it is bound to the loopback address, so it takes nothing away from the socket that
// has the port, and each datagram names its source (IP_PKTINFO). Its methods may be called by several
// goroutines at once.
type Bare struct {
	conn    *net.UDPConn
	control []byte // names the source address
}

// OpenBare returns a Bare that sends from an address and a port; 0 stands for any port. It fails if
// another socket has the port on the loopback address, or on all addresses without sharing it.
func OpenBare(from netip.AddrPort) (*Bare, error) {
	network, local := "udp4", netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if from.Addr().Is6() {
		network, local = "udp6", netip.IPv6Loopback()
	}
	var optionErr error
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		err := raw.Control(func(fd uintptr) { optionErr = setBare(int(fd), from.Addr().Is6()) })
		return errors.Join(err, optionErr)
	}}
	conn, err := lc.ListenPacket(context.Background(), network, netip.AddrPortFrom(local, from.Port()).String())
	if err != nil {
		return nil, fmt.Errorf("open a socket without checksums: %w", err)
	}
	return &Bare{conn: conn.(*net.UDPConn), control: sourceControl(from.Addr())}, nil
}

// setBare prepares a socket before it is bound.
func setBare(fd int, v6 bool) error {
	if err := setMark(fd); err != nil {
		return err
	}
	options := []option{
		{"SO_NO_CHECK", unix.SOL_SOCKET, unix.SO_NO_CHECK},
		{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT}, // with sockets on all addresses that share, too
		{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND},   // the loopback interface may be down
	}
	if v6 {
		options = []option{
			{"UDP_NO_CHECK6_TX", unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX},
			{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT},
			{"IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND},
		}
	}
	for _, o := range options {
		if err := o.turnOn(fd); err != nil {
			return err
		}
	}
	return (&Conn{v6: v6}).discoverPath(fd, true)
}

// sourceControl returns the ancillary data that names the source of a datagram.
func sourceControl(from netip.Addr) []byte {
	if from.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16()})
}

// Send sends one packet to an address. EMSGSIZE: it is larger than the path.
func (b *Bare) Send(packet []byte, to netip.AddrPort) error {
	_, _, err := b.conn.WriteMsgUDPAddrPort(packet, b.control, to)
	if err != nil {
		return fmt.Errorf("send to %s without a checksum: %w", to, err)
	}
	return nil
}

// Close closes the socket.
func (b *Bare) Close() error { return b.conn.Close() }
