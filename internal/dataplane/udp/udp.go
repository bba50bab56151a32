// Package udp is the wire: UDP sockets that send and receive batches of inner packets. Each
// datagram carries one bare packet.
//
//	message   an element of a batch, as in recvmmsg(2) and sendmmsg(2): one datagram, or
//	          several of one size, which the kernel segments (GSO) or has merged (GRO)
//	control   ancillary data of a message: the TOS of the outer header, the packet size
//	path MTU  what the kernel has learned about the path to an address
//	errors    ICMP errors about datagrams of the socket, and refusals of this host
//	mark      the packet mark by which the host's rules know meshd's datagrams
package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
)

// bufferSize is the requested size in bytes of the socket's buffer for each direction. It holds 12
// ms at 10 Gbit/s: enough until the receiver is scheduled on a busy machine. The kernel accounts
// about twice the payload, and sets the limit to twice what is requested (sock_setsockopt).
const bufferSize = 16 << 20

// Mark is the packet mark (SO_MARK) of meshd's datagrams while they are on this host. A firewall can
// tell them by it from datagrams that other programs and pods send to a node's port. A mark does
// not leave the host, nor the network namespace.
//
// The whole mark is bit 12. These bits are used by other programs: kube-proxy 0x4000 and 0x8000,
// the CNI plugin portmap 0x2000, Cilium 0x0f00, Tailscale 0xff0000, Calico 0xffff0000, wg-quick
// 0xca6c.
const Mark uint32 = 0x1000

// A Conn is a bound socket. Several receivers and one sender made from it may be in use at the same
// time, each in one goroutine. Close and Wake may be called from any goroutine.
type Conn struct {
	udp   *net.UDPConn
	raw   syscall.RawConn
	local netip.AddrPort // as asked for; the port may be 0
	v6    bool
	gso   bool // both as the kernel has agreed
	gro   bool

	watcher atomic.Pointer[Watcher] // nil: errors of paths are read and forgotten
}

// Names of offloads, as status shows them.
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

// setOption is setsockopt(2) for the offloads. Tests replace it to make the kernel refuse.
var setOption = unix.SetsockoptInt

// offload turns on the offloads that the kernel supports, or turns them off. An adopted socket may
// have had them on.
func (c *Conn) offload(fd int, want bool) {
	if !want {
		_ = setOption(fd, unix.SOL_UDP, unix.UDP_GRO, 0) // fails if the kernel does not know it
		return
	}
	c.gso = setOption(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0) == nil
	c.gro = setOption(fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
}

// Open binds a UDP socket to local. The host need not have the address yet (IP_FREEBIND): sending
// works as soon as it has. An unspecified address receives on all addresses of its family.
//
// Datagrams carry Mark, which needs CAP_NET_ADMIN: without it Open fails with EPERM, and so do
// OpenGroup and Adopt. Datagrams leave with "don't fragment": a path that is too small shows as
// EMSGSIZE, and pods can be told, instead of being hidden by fragments.
//
// With offload, a message may carry several packets, as far as the kernel supports it.
func Open(local netip.AddrPort, offload bool) (*Conn, error) { return open(local, offload) }

// OpenGroup is Open for n sockets, all bound to local: the kernel assigns each sender, by address
// and port, to one of them (SO_REUSEPORT). beside are sockets of this process that may be bound to
// the same port already; they then share it. After an error no socket of the group is open.
func OpenGroup(local netip.AddrPort, offload bool, n int, beside []*Conn) (group []*Conn, err error) {
	defer func() {
		if err != nil {
			for _, c := range group {
				c.Close()
			}
			group = nil
		}
	}()
	var sharing []func(fd int) error
	for _, c := range beside {
		if overlap(c.local, local) {
			sharing = []func(int) error{share}
			if err := c.control(share); err != nil {
				return nil, fmt.Errorf("share UDP %s: %w", local, err)
			}
		}
	}
	for range n {
		// The first socket is bound without sharing, so that it fails if another program has the port.
		// From then on it shares.
		c, err := open(local, offload, sharing...)
		if err != nil {
			return group, err
		}
		group = append(group, c)
		if sharing == nil && n > 1 {
			sharing = []func(int) error{share}
			local = netip.AddrPortFrom(local.Addr(), uint16(c.udp.LocalAddr().(*net.UDPAddr).Port))
			if err := c.control(share); err != nil {
				return group, fmt.Errorf("share UDP %s: %w", local, err)
			}
		}
	}
	return group, nil
}

// Adopt takes over a socket that another process, such as an earlier meshd, has bound to one of some
// addresses; Local tells which. Datagrams that wait in it will be received. Adopt closes the file in any
// case.
//
// With apart the socket is one of OpenApart's: its port is not that of its address in locals.
func Adopt(file *os.File, locals []netip.AddrPort, offload, apart bool) (*Conn, error) {
	conn, err := net.FilePacketConn(file) // duplicates the descriptor
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("take over a socket: %w", err)
	}
	c := &Conn{}
	var ok bool
	if c.udp, ok = conn.(*net.UDPConn); ok {
		c.local = c.udp.LocalAddr().(*net.UDPAddr).AddrPort()
		c.v6 = !c.local.Addr().Is4()
	}
	at := slices.IndexFunc(locals, func(l netip.AddrPort) bool {
		return l == c.local && !apart || l.Addr() == c.local.Addr() && l.Port() != c.local.Port() && apart
	})
	if at < 0 {
		err := fmt.Errorf("take over a socket: it is bound to %s, not to one of %s", conn.LocalAddr(), locals)
		return nil, errors.Join(err, conn.Close())
	}
	if c.raw, err = c.udp.SyscallConn(); err == nil {
		err = c.control(func(fd int) error {
			c.offload(fd, offload)
			if err := c.setOptions(fd); err != nil || !apart {
				return err
			}
			return setApart(fd, locals[at])
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over the socket of %s: %w", c.local, err), conn.Close())
	}
	return c, nil
}

// Local returns the address that Open or OpenGroup was asked for, or the one that an adopted socket is
// bound to.
func (c *Conn) Local() netip.AddrPort { return c.local }

// overlap reports whether the kernel allows sockets on both only if they share the port: an
// unspecified address stands for all addresses of its family.
func overlap(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().Is4() == b.Addr().Is4() &&
		(a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}

// share lets other sockets of this user be bound to the same address.
func share(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }

// open binds a socket, which is first prepared by functions.
func open(local netip.AddrPort, offload bool, prepare ...func(fd int) error) (*Conn, error) {
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
			for _, f := range prepare {
				sockErr = errors.Join(sockErr, f(int(fd)))
			}
		}); err != nil {
			return err
		}
		return sockErr
	}}
	conn, err := lc.ListenPacket(context.Background(), network, local.String())
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("bind UDP %s: %w: is flannel or another meshd running? "+
			"`ss -ulnp sport = :%d` shows it", local, unix.EADDRINUSE, local.Port())
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

// setMark sets the mark of everything that a socket sends.
func setMark(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(Mark))
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("set SO_MARK: %w: meshd needs the capability CAP_NET_ADMIN", err)
	}
	if err != nil {
		return fmt.Errorf("set SO_MARK: %w", err)
	}
	return nil
}

// An option is a socket option that must be on.
type option struct {
	name          string
	level, number int
}

// Options of sockets, by family.
var (
	options4 = []option{
		{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND},
		{"IP_RECVTOS", unix.IPPROTO_IP, unix.IP_RECVTOS},
		// Without it, the kernel tells a socket that is not connected nothing of ICMP errors.
		{"IP_RECVERR", unix.IPPROTO_IP, unix.IP_RECVERR},
	}
	options6 = []option{
		{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY},
		{"IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND},
		{"IPV6_RECVTCLASS", unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS},
		{"IPV6_RECVERR", unix.IPPROTO_IPV6, unix.IPV6_RECVERR},
		// The kernel engine sends outer headers without a checksum (RFC 6935): the inner packet has
		// its own.
		{"UDP_NO_CHECK6_RX", unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX},
	}
)

// setOptions prepares a socket: before it is bound, or after it was adopted.
func (c *Conn) setOptions(fd int) error {
	if err := setMark(fd); err != nil {
		return err
	}
	if err := setBuffers(fd); err != nil {
		return err
	}
	options := options4
	if c.v6 {
		options = options6
	}
	for _, o := range options {
		if err := o.turnOn(fd); err != nil {
			return err
		}
	}
	return c.discoverPath(fd, true)
}

// turnOn sets the option to 1 if it is not: once a socket is bound, the kernel refuses to set
// IPV6_V6ONLY, even to its present value.
func (o option) turnOn(fd int) error {
	if now, err := unix.GetsockoptInt(fd, o.level, o.number); err == nil && now == 1 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, o.level, o.number, 1); err != nil {
		return fmt.Errorf("set %s: %w", o.name, err)
	}
	return nil
}

// setBuffers asks for buffers of bufferSize. The FORCE options exceed net.core.rmem_max and
// wmem_max, but need CAP_NET_ADMIN in the initial user namespace. The plain options are cut to
// these limits silently; Buffers shows it.
func setBuffers(fd int) error {
	for _, direction := range []struct{ force, plain int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, direction.force, bufferSize) == nil {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, direction.plain, bufferSize); err != nil {
			return fmt.Errorf("set buffer size: %w", err)
		}
	}
	return nil
}

// fragmentsOf sets the size of the fragments that the kernel makes; 0: that of the device. IPv4 has no
// such option.
func (c *Conn) fragmentsOf(fd, mtu int) error {
	if !c.v6 {
		return nil
	}
	if mtu != 0 {
		mtu = max(mtu, packet.MinMTU6)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU, mtu); err != nil {
		return fmt.Errorf("set size of fragments: %w", err)
	}
	return nil
}

// discoverPath sets whether the kernel refuses packets that are larger than the device carries (and sends
// the others with "don't fragment") or sends them in fragments. What ICMP says of the path is ignored
// (IP_PMTUDISC_PROBE, ip(7)): anybody may say it, and probes find the size.
func (c *Conn) discoverPath(fd int, discover bool) error {
	level, option, mode := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if c.v6 {
		level, option, mode = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT
	}
	if discover { // IPV6_PMTUDISC_PROBE is the same number
		mode = unix.IP_PMTUDISC_PROBE
	}
	if err := unix.SetsockoptInt(fd, level, option, mode); err != nil {
		return fmt.Errorf("set path MTU discovery: %w", err)
	}
	return nil
}

// Buffers returns the sizes of the receive and send buffers in bytes, as the kernel accounts them.
// BuffersWanted is the size that was asked for.
func (c *Conn) Buffers() (receive, send int, err error) {
	controlErr := c.raw.Control(func(fd uintptr) {
		if receive, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil {
			send, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		}
	})
	return receive, send, errors.Join(controlErr, err)
}

// BuffersWanted is what Buffers returns if the kernel has granted everything.
const BuffersWanted = 2 * bufferSize

// Drops returns how many received datagrams the kernel has dropped since Open: because the buffer was full,
// see NoRoom, or because it refused them for an IPsec policy or a wrong UDP checksum.
func (c *Conn) Drops() (uint32, error) {
	const drops = 8 // SK_MEMINFO_DROPS in include/uapi/linux/sock_diag.h
	var info [drops + 1]uint32
	err := c.control(func(fd int) error { return getsockopt(fd, unix.SOL_SOCKET, unix.SO_MEMINFO, info[:]) })
	return info[drops], err
}

// PathMTU returns the MTU in bytes that the kernel assumes for the path to an address, outer headers
// included: that of the link, or less after an ICMP error. It takes five system calls, among them
// one for a socket.
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
	if err := setMark(fd); err != nil { // a rule of the host may route by the mark (ip-rule(8))
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

// sockaddr converts an address for x/sys.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Descriptor calls f with the file descriptor, which stays open meanwhile.
func (c *Conn) Descriptor(f func(fd uintptr)) error { return c.raw.Control(f) }

// Wake ends the Read in progress, or else the next one. It may be called from any goroutine.
func (c *Conn) Wake() error { return c.udp.SetReadDeadline(time.Unix(1, 0)) }

// Close closes the socket and ends every Read in progress with net.ErrClosed.
func (c *Conn) Close() error { return c.udp.Close() }

// control calls f with the file descriptor, which stays open meanwhile, and returns f's error.
func (c *Conn) control(f func(fd int) error) error {
	var err error
	if controlErr := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}
