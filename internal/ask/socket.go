package ask

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file has the sockets: UDP, bound to an address of the TUN and to the encrypted interface.

// A kind is what a payload of package probe says that it is.
type kind uint8

const (
	other kind = iota // nothing of meshd's
	question
	answer
)

// kindOf returns the kind of a payload; see package probe for its layout. Whoever gets it looks at the rest.
func kindOf(b []byte) kind {
	const at = 8
	switch {
	case len(b) <= at:
		return other
	case b[at] == 'q':
		return question
	case b[at] == 'a':
		return answer
	}
	return other
}

// A socket is one of this node's. Only Run reads it and closes it; others may write while it is open.
type socket struct {
	own  netip.Addr
	fd   int
	file *os.File
	raw  syscall.RawConn
}

// number returns the descriptor for poll(2), which ignores that of none.
func (s *socket) number() int32 {
	if s == nil {
		return -1
	}
	return int32(s.fd)
}

// listen opens a socket. Datagrams are never fragmented by this host: one that is larger than the interface's
// MTU is EMSGSIZE, as it is for pods.
func listen(own netip.Addr, device string) (*socket, error) {
	family, level, discover, errs := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_RECVERR
	if own.Is6() {
		family, level, discover, errs = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_RECVERR
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := &socket{own: own, fd: fd, file: os.NewFile(uintptr(fd), "probes")}
	err = unix.BindToDevice(fd, device)
	for _, o := range [][3]int{{level, discover, unix.IP_PMTUDISC_PROBE}, {level, errs, 1}} {
		err = errors.Join(err, unix.SetsockoptInt(fd, o[0], o[1], o[2]))
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(own, Port)))
	}
	if err == nil {
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

// attempts is how often a call is made that fails for an earlier datagram: an ICMP error makes the next call
// on the socket fail, whatever it is about (sock_error in net/core/sock.c). Run takes the errors themselves.
const attempts = 3

// write sends one datagram. It may be called from any goroutine.
func (s *socket) write(payload []byte, to netip.AddrPort) (err error) {
	closed := s.raw.Control(func(fd uintptr) {
		for range attempts {
			err = unix.Sendto(int(fd), payload, 0, sockaddr(to))
			switch err {
			case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EPROTO, unix.EACCES, unix.EINTR:
				continue
			}
			return
		}
	})
	return errors.Join(err, closed)
}

// read takes one datagram, and tells where it comes from.
func (s *socket) read(b []byte) (n int, from netip.AddrPort, err error) {
	for range attempts {
		var at unix.Sockaddr
		if n, at, err = unix.Recvfrom(s.fd, b, unix.MSG_DONTWAIT); err == nil {
			return n, addrPort(at), nil
		}
		if errors.Is(err, unix.EAGAIN) {
			return 0, from, err
		}
	}
	return 0, from, err
}

// indexOf returns the number of an interface; ENODEV without one. It costs microseconds, however many
// interfaces there are.
func indexOf(device string) (int, error) {
	request, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return 0, err
	}
	return int(request.Uint32()), nil
}

// readError takes one error about a datagram that was sent, with its payload and where it went. refused tells
// that its host answered that nobody listens there (ICMP "port unreachable"). A REJECT of this host's own
// firewall says the same, in the name of this host.
func (s *socket) readError(b []byte) (n int, to netip.AddrPort, refused bool, err error) {
	control := make([]byte, 512)
	n, length, _, at, err := unix.Recvmsg(s.fd, b, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return 0, to, false, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:length])
	if err != nil {
		return 0, to, false, err
	}
	for _, m := range messages {
		isError := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR ||
			m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if isError && len(m.Data) >= int(unsafe.Sizeof(unix.SockExtendedErr{})) {
			e := (*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0]))
			refused = e.Origin != unix.SO_EE_ORIGIN_LOCAL && syscall.Errno(e.Errno) == unix.ECONNREFUSED &&
				offender(m.Data[unsafe.Sizeof(*e):]) == addrPort(at).Addr()
		}
	}
	return n, addrPort(at), refused, nil
}

// offender reads who has sent an ICMP error: the sockaddr behind a sock_extended_err (SO_EE_OFFENDER);
// invalid if the kernel does not tell.
func offender(b []byte) netip.Addr {
	if len(b) < unix.SizeofSockaddrInet4 {
		return netip.Addr{}
	}
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET:
		return netip.AddrFrom4([4]byte(b[4:8]))
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		return netip.AddrFrom16([16]byte(b[8:24]))
	}
	return netip.Addr{}
}

// sockaddr and addrPort convert addresses; another family than IP gives the zero value.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch at := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(at.Addr), uint16(at.Port))
	}
	return netip.AddrPort{}
}
