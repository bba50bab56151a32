// Package udp is the wire: one UDP socket that sends and receives batches of
// inner packets, bare, one to a datagram.
//
//	message   one of a batch, as recvmmsg(2) and sendmmsg(2) know it: a datagram,
//	          or several of one size that the kernel cuts or has merged
//	control   ancillary data of a message: TOS of the outer header, packet size
//	path MTU  what the kernel has learned about the way to an address
package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is asked of the kernel for each direction, in bytes: 10 Gbit/s for
// 12 ms on receiving, time to be scheduled on a busy machine. The kernel books
// about twice the payload, and sets the buffer's limit to twice what is asked.
const bufferSize = 16 << 20

// Mark is what every datagram of meshd carries as its packet mark (SO_MARK, struct
// sk_buff's mark) as long as it is on this host, so that a firewall can tell it from
// datagrams that other programs and pods send to a node's port. A packet mark does not
// leave the host, nor its network namespace.
//
// It is the whole mark, of bit 12 alone. Others use these bits: kube-proxy 0x4000 and
// 0x8000, the CNI plugin portmap 0x2000, Cilium 0x0f00, Tailscale 0xff0000, Calico
// 0xffff0000, wg-quick 0xca6c.
const Mark uint32 = 0x1000

// A Conn is the bound socket. Receivers and senders made from it may work at
// the same time, each in one goroutine; Close wakes them all.
type Conn struct {
	udp   *net.UDPConn
	raw   syscall.RawConn
	local netip.AddrPort
	v6    bool
	gso   bool
	gro   bool
}

// Names of offloads.
const (
	GSO = "udp_gso" // one message sends many packets (UDP_SEGMENT, Linux 4.18)
	GRO = "udp_gro" // one message receives many packets (Linux 5.0)
)

// Offloads returns the names of the offloads in use.
func (c *Conn) Offloads() (names []string) {
	if c.gso {
		names = append(names, GSO)
	}
	if c.gro {
		names = append(names, GRO)
	}
	return names
}

// setOption is setsockopt(2) for the offloads; tests put refusals in its place.
var setOption = unix.SetsockoptInt

// offload asks for what the kernel can do, which differs by its age, or for
// nothing.
func (c *Conn) offload(fd int, want bool) {
	if !want {
		// A kernel that does not know it refuses, and that is well, too.
		_ = setOption(fd, unix.SOL_UDP, unix.UDP_GRO, 0)
		return
	}
	c.gso = setOption(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0) == nil
	c.gro = setOption(fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
}

// Open binds the UDP socket of the mesh to local. The address may be missing on
// this host for now (IP_FREEBIND): sending works as soon as it is there. An
// unspecified address listens on all addresses of its family.
//
// Datagrams carry Mark, which takes CAP_NET_ADMIN: without it Open fails, and so do
// OpenGroup and Adopt. They leave with "don't fragment", so that a smaller path shows as
// EMSGSIZE and is told to the pods instead of being hidden by fragments.
//
// With offload, several packets may be in one message, as far as the kernel
// knows how to.
func Open(local netip.AddrPort, offload bool) (*Conn, error) { return open(local, offload, false) }

// OpenGroup is Open for n sockets, all bound to local: the kernel gives each what
// comes from some of the senders' addresses and ports (SO_REUSEPORT). Sockets of
// this process that are bound there already share the port with them.
func OpenGroup(local netip.AddrPort, offload bool, n int, beside []*Conn) (group []*Conn, err error) {
	defer func() {
		if err != nil {
			for _, c := range group {
				c.Close()
			}
			group = nil
		}
	}()
	shared := false
	for _, c := range beside {
		if overlap(c.local, local) {
			shared = true
			if err := c.control(share); err != nil {
				return nil, fmt.Errorf("share UDP %s: %w", local, err)
			}
		}
	}
	for range n {
		// The first is bound alone, so that it fails where another program has
		// the port, and shares it from then on.
		c, err := open(local, offload, shared)
		if err != nil {
			return group, err
		}
		group = append(group, c)
		if !shared && n > 1 {
			shared = true
			local = netip.AddrPortFrom(local.Addr(), uint16(c.udp.LocalAddr().(*net.UDPAddr).Port))
			if err := c.control(share); err != nil {
				return group, fmt.Errorf("share UDP %s: %w", local, err)
			}
		}
	}
	return group, nil
}

// Adopt takes over a socket bound to local that another process opened, such as
// an earlier meshd: what waits in it is received as if nothing had happened. The
// file is closed in any case.
func Adopt(file *os.File, local netip.AddrPort, offload bool) (*Conn, error) {
	conn, err := net.FilePacketConn(file) // has a descriptor of its own
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("take over the socket of %s: %w", local, err)
	}
	c := &Conn{local: local, v6: !local.Addr().Is4()}
	var ok bool
	if c.udp, ok = conn.(*net.UDPConn); !ok || c.udp.LocalAddr().(*net.UDPAddr).AddrPort() != local {
		return nil, errors.Join(fmt.Errorf("take over the socket of %s: it is bound to %s", local, conn.LocalAddr()), conn.Close())
	}
	if c.raw, err = c.udp.SyscallConn(); err == nil {
		err = c.control(func(fd int) error {
			c.offload(fd, offload)
			return c.setOptions(fd)
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over the socket of %s: %w", local, err), conn.Close())
	}
	return c, nil
}

// overlap tells whether the kernel lets only one socket be bound to both, unless
// they share the port: an unspecified address is all of its family.
func overlap(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().Is4() == b.Addr().Is4() &&
		(a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}

func share(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }

func open(local netip.AddrPort, offload, shared bool) (*Conn, error) {
	c := &Conn{local: local, v6: !local.Addr().Is4()}
	network := "udp4"
	if c.v6 {
		network = "udp6"
	}
	var sockErr error
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		if err := raw.Control(func(fd uintptr) {
			sockErr = c.setOptions(int(fd))
			c.offload(int(fd), offload)
			if shared {
				sockErr = errors.Join(sockErr, share(int(fd)))
			}
		}); err != nil {
			return err
		}
		return sockErr
	}}
	conn, err := lc.ListenPacket(context.Background(), network, local.String())
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("bind UDP %s: %w: is flannel or another meshd running? `ss -ulnp sport = :%d` shows it", local, unix.EADDRINUSE, local.Port())
	}
	if err != nil {
		return nil, fmt.Errorf("bind UDP %s: %w", local, err)
	}
	c.udp = conn.(*net.UDPConn)
	if c.raw, err = c.udp.SyscallConn(); err != nil {
		c.udp.Close()
		return nil, fmt.Errorf("bind UDP %s: %w", local, err)
	}
	return c, nil
}

// setMark has what a socket sends carry Mark.
func setMark(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(Mark))
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("set SO_MARK: %w: the capability CAP_NET_ADMIN is needed", err)
	}
	if err != nil {
		return fmt.Errorf("set SO_MARK: %w", err)
	}
	return nil
}

// setOptions prepares the socket before it is bound.
func (c *Conn) setOptions(fd int) error {
	if err := setMark(fd); err != nil {
		return err
	}
	for _, direction := range []struct{ force, plain int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		// FORCE passes net.core.{r,w}mem_max but needs CAP_NET_ADMIN in the
		// first user namespace; the plain option is cut to the limit silently.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, direction.force, bufferSize) != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, direction.plain, bufferSize); err != nil {
				return fmt.Errorf("set buffer size: %w", err)
			}
		}
	}
	options := []struct {
		name          string
		level, option int
		value         int
	}{
		{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
		{"IP_RECVTOS", unix.IPPROTO_IP, unix.IP_RECVTOS, 1},
	}
	if c.v6 {
		options = options[:0]
		options = append(options, []struct {
			name          string
			level, option int
			value         int
		}{
			{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{"IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1},
			{"IPV6_RECVTCLASS", unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1},
			// The kernel engine sends none (RFC 6935); the inner packet has its own.
			{"UDP_NO_CHECK6_RX", unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1},
		}...)
	}
	for _, o := range options {
		// IPV6_V6ONLY of an adopted socket cannot be set any more, not even to what it is.
		if now, err := unix.GetsockoptInt(fd, o.level, o.option); err == nil && now == o.value {
			continue
		}
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			return fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	return c.discoverPath(fd, true)
}

// discoverPath sets whether the socket reports packets that are larger than the
// path (always "don't fragment") or cuts them (never).
func (c *Conn) discoverPath(fd int, discover bool) error {
	level, option, mode := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if c.v6 {
		level, option, mode = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT
	}
	if discover { // IP_PMTUDISC_DO and IPV6_PMTUDISC_DO are the same number
		mode = unix.IP_PMTUDISC_DO
	}
	if err := unix.SetsockoptInt(fd, level, option, mode); err != nil {
		return fmt.Errorf("set path MTU discovery: %w", err)
	}
	return nil
}

// Buffers returns what the kernel granted for receiving and sending, in bytes
// of its own bookkeeping.
func (c *Conn) Buffers() (receive, send int, err error) {
	controlErr := c.raw.Control(func(fd uintptr) {
		if receive, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil {
			send, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		}
	})
	return receive, send, errors.Join(controlErr, err)
}

// BuffersWanted is what Buffers returns when the kernel grants everything.
const BuffersWanted = 2 * bufferSize

// Overflows returns how many datagrams the kernel dropped since Open because
// the receive buffer was full (or the UDP checksum wrong).
func (c *Conn) Overflows() (uint32, error) {
	const drops = 8 // SK_MEMINFO_DROPS in include/uapi/linux/sock_diag.h
	var info [drops + 1]uint32
	err := c.control(func(fd int) error { return getsockopt(fd, unix.SOL_SOCKET, unix.SO_MEMINFO, info[:]) })
	return info[drops], err
}

// PathMTU returns the MTU in bytes that the kernel believes the way to an
// address has, with the outer headers: the link's, or less after an ICMP
// message said so. It costs a few system calls.
func (c *Conn) PathMTU(to netip.AddrPort) (int, error) {
	domain, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU
	if c.v6 {
		domain, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("find path MTU to %s: %w", to, err)
	}
	defer unix.Close(fd)
	if err := setMark(fd); err != nil { // a rule of the host may route by it
		return 0, fmt.Errorf("find path MTU to %s: %w", to, err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return 0, fmt.Errorf("find path MTU to %s: %w", to, err)
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0, fmt.Errorf("find path MTU to %s: %w", to, err)
	}
	return mtu, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Descriptor calls f with the file descriptor, which stays open meanwhile.
func (c *Conn) Descriptor(f func(fd uintptr)) error { return c.raw.Control(f) }

// Wake ends the Read in progress, or the next one.
func (c *Conn) Wake() error { return c.udp.SetReadDeadline(time.Unix(1, 0)) }

// Close closes the socket and wakes every Read in progress.
func (c *Conn) Close() error { return c.udp.Close() }

// control runs f with the socket kept open.
func (c *Conn) control(f func(fd int) error) error {
	var err error
	if controlErr := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}
