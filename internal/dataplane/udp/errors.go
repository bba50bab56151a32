package udp

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
)

// A PathError is an ICMP error about a datagram that this host sent, as the kernel queued it
// (IP_RECVERR, ip(7)). Whoever knows a node's address can forge one: it is a hint, never a fact.
type PathError struct {
	To         netip.AddrPort // where the datagram was sent
	Offender   netip.Addr     // who sent the error; invalid if the kernel does not tell
	Type, Code uint8          // of ICMP, or of ICMPv6 if To is an IPv6 address
}

// A Watcher hears why datagrams do not reach their destination. Its methods are called by the packet
// loops and by whoever sends echoes, several at once: they must not wait.
type Watcher interface {
	// Refused tells that this host itself did not send a datagram: EPERM for a firewall, ENETUNREACH
	// without a route, ENOBUFS for a full queue of the device or a full neighbour table. A full buffer
	// of the socket and a datagram that is too large are not told: they say nothing about the peer.
	Refused(to netip.AddrPort, why syscall.Errno)
	// Reported tells of an ICMP error.
	Reported(e PathError)
}

// Watch has w hear of errors of this socket from now on. It may be called at any time.
func (c *Conn) Watch(w Watcher) { c.watcher.Store(&w) }

// Bounds of one look at the error queue, and of what one call does about errors of others. An ICMP
// error costs whoever sends it more than it costs us, so in practice a second attempt succeeds.
const (
	errorsRead    = 64
	errorAttempts = 16
	// quietAttempts is how many attempts that fail without an ICMP error make the error one of the
	// datagram itself. Another goroutine may have read the ICMP error that the first one stands for.
	quietAttempts = 3
)

// mayBeOfOthers tells whether an error may be about an earlier datagram. With IP_RECVERR, an ICMP error
// about any datagram of a socket makes the next call on it fail, whatever that call is about
// (sock_error in net/core/sock.c). These are the errors of icmp_err_convert and tab_unreach.
func mayBeOfOthers(err error) bool {
	switch err {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENONET,
		unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EPROTO, unix.EACCES, unix.EMSGSIZE:
		return true
	}
	return false
}

// aboutPeer tells whether a refusal says something about the way to the peer, so that a Watcher hears it.
func aboutPeer(err error) (why syscall.Errno, ok bool) {
	switch why, ok = err.(syscall.Errno); why {
	case unix.EAGAIN, unix.EMSGSIZE, unix.EINVAL, unix.EIO, unix.EAFNOSUPPORT:
		return why, false
	}
	return why, ok
}

// refused tells the watcher of a datagram that this host did not send.
func (c *Conn) refused(to netip.AddrPort, err error) {
	if why, ok := aboutPeer(err); ok {
		if w := c.watcher.Load(); w != nil {
			(*w).Refused(to, why)
		}
	}
}

// ReadErrors tells the watcher of ICMP errors that wait. They wait in the memory of the receive buffer,
// so the packet loops read them as soon as they notice; ReadErrors is for those that no call noticed.
func (c *Conn) ReadErrors() error {
	return c.raw.Control(func(fd uintptr) { c.readErrors(fd) })
}

// readErrors reads the error queue without waiting and returns how many ICMP errors it held. Errors of
// this host itself, such as EMSGSIZE, are in the queue as well, and the call has told of them already.
func (c *Conn) readErrors(fd uintptr) (icmp int) {
	// Each is on the stack of the caller: several goroutines may read at once.
	var name unix.RawSockaddrInet6
	var control [32]uint64 // of uint64, for the alignment
	for range errorsRead {
		var h unix.Msghdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&name)), unix.SizeofSockaddrInet6
		h.Control = (*byte)(unsafe.Pointer(&control[0]))
		h.SetControllen(len(control) * 8)
		_, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&h)),
			unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno != 0 {
			break
		}
		bytes := unsafe.Slice((*byte)(unsafe.Pointer(&control[0])), len(control)*8)
		e, ok := pathError(bytes[:min(int(h.Controllen), len(bytes))])
		if !ok {
			continue
		}
		icmp++
		e.To = address(&name)
		if w := c.watcher.Load(); w != nil {
			(*w).Reported(e)
		}
	}
	return icmp
}

// pathError reads the ICMP error from the control data of a message of the error queue: struct
// sock_extended_err, and behind it the address of whoever sent the ICMP error. It returns false if the
// message is about something else.
func pathError(control []byte) (e PathError, ok bool) {
	const size = int(unsafe.Sizeof(unix.SockExtendedErr{}))
	for len(control) >= unix.CmsgLen(0) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		length := int(h.Len)
		if length < unix.CmsgLen(0) || length > len(control) {
			break
		}
		data := control[unix.CmsgLen(0):length]
		ours := h.Level == unix.IPPROTO_IP && h.Type == unix.IP_RECVERR ||
			h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_RECVERR
		if ours && len(data) >= size {
			extended := (*unix.SockExtendedErr)(unsafe.Pointer(&data[0]))
			e.Type, e.Code = extended.Type, extended.Code
			e.Offender = offender(data[size:])
			return e, extended.Origin == unix.SO_EE_ORIGIN_ICMP || extended.Origin == unix.SO_EE_ORIGIN_ICMP6
		}
		control = control[min(unix.CmsgSpace(len(data)), len(control)):]
	}
	return PathError{}, false
}

// offender reads the sockaddr behind a sock_extended_err (SO_EE_OFFENDER); invalid if there is none.
func offender(b []byte) netip.Addr {
	if len(b) < unix.SizeofSockaddrInet4 {
		return netip.Addr{}
	}
	var name unix.RawSockaddrInet6 // large enough for both families
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&name)), unix.SizeofSockaddrInet6), b)
	switch {
	case name.Family == unix.AF_INET:
	case name.Family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
	default:
		return netip.Addr{}
	}
	return address(&name).Addr()
}

// address returns the address in a sockaddr of either family.
func address(name *unix.RawSockaddrInet6) netip.AddrPort {
	if name.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), packet.HostOrder(four.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), packet.HostOrder(name.Port))
}
