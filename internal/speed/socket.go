package speed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file has the sockets. All are bound to an address of the TUN and to the interface by which packets of
// other nodes come in: a pod of this host, or a neighbour in the underlay, cannot reach them, whatever
// address they send from.

// bound returns what binds a socket to an interface. Linux 5.7 allows that without CAP_NET_RAW.
func bound(device string, options ...[3]int) func(_, _ string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) (err error) {
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.BindToDevice(int(fd), device)
			for _, o := range options {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), o[0], o[1], o[2]))
			}
		}), err)
	}
}

// listen listens for connections of other nodes. TCP_SYNCNT has the kernel answer each SYN once, and once
// more: by a forged one a third host gets no more packets than the default of six.
func listen(ctx context.Context, own netip.Addr, device string) (*net.TCPListener, error) {
	config := net.ListenConfig{Control: bound(device, [3]int{unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1})}
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, "tcp", netip.AddrPortFrom(own, Port).String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// dial connects to another node.
func dial(ctx context.Context, between pair, device string) (*net.TCPConn, error) {
	d := net.Dialer{Control: bound(device), Timeout: answerTime,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(between.own, 0))}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(between.peer, Port).String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// datagramSocket returns a socket for datagrams, and its port.
func datagramSocket(ctx context.Context, own netip.Addr, device string) (*net.UDPConn, uint16, error) {
	config := net.ListenConfig{Control: bound(device)}
	c, err := config.ListenPacket(ctx, "udp", netip.AddrPortFrom(own, 0).String())
	if err != nil {
		return nil, 0, err
	}
	udp := c.(*net.UDPConn)
	_ = udp.SetReadBuffer(1 << 20) // as much as the host allows
	return udp, udp.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}

// known returns what the kernel knows of what was sent on the connection.
func (l *line) known() (t train, err error) {
	raw, err := l.tcp.SyscallConn()
	if err != nil {
		return t, err
	}
	var info *unix.TCPInfo
	failed := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err = errors.Join(failed, err); err != nil {
		return t, fmt.Errorf("read TCP_INFO: %w", err)
	}
	// What was sent again though it had come is no loss: the receiver says so (RFC 2883).
	lost := uint64(info.Total_retrans)
	return train{Segments: uint64(info.Data_segs_out), Retransmitted: lost - min(lost, uint64(info.Dsack_dups)),
		RTTMicros: int64(info.Rtt)}, nil
}

// indexOf returns the number of an interface; 0 without one. net.InterfaceByName would list all.
func indexOf(device string) int {
	request, err := unix.NewIfreq(device)
	if err != nil {
		return 0
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request) != nil {
		return 0
	}
	return int(request.Uint32())
}
