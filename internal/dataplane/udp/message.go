package udp

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
)

// mmsghdr is struct mmsghdr of <sys/socket.h>, which x/sys does not have.
type mmsghdr struct {
	header unix.Msghdr
	length uint32 // bytes received
}

// controlSize holds one TOS or traffic class, the only ancillary data in use.
var controlSize = unix.CmsgSpace(4)

// messages is the kernel's view of a batch, laid out once and used for every
// call. Nothing in it moves: the kernel gets pointers into it.
type messages struct {
	headers []mmsghdr
	vectors []unix.Iovec
	names   []unix.RawSockaddrInet6 // large enough for both families
	control [][]byte                // controlSize each, aligned for a Cmsghdr
	v6      bool
}

func newMessages(n int, v6 bool) *messages {
	m := &messages{
		headers: make([]mmsghdr, n),
		vectors: make([]unix.Iovec, n),
		names:   make([]unix.RawSockaddrInet6, n),
		control: make([][]byte, n),
		v6:      v6,
	}
	words := (controlSize + 7) / 8
	memory := make([]uint64, n*words)
	for i := range m.headers {
		m.control[i] = unsafe.Slice((*byte)(unsafe.Pointer(&memory[i*words])), controlSize)
		h := &m.headers[i].header
		h.Name = (*byte)(unsafe.Pointer(&m.names[i]))
		h.Iov = &m.vectors[i]
		h.SetIovlen(1)
	}
	return m
}

// expect prepares message i to receive into buf.
func (m *messages) expect(i int, buf []byte) {
	m.vectors[i].Base = &buf[0]
	m.vectors[i].SetLen(len(buf))
	h := &m.headers[i].header
	h.Namelen = unix.SizeofSockaddrInet6
	h.Control = &m.control[i][0]
	h.SetControllen(controlSize)
}

// received stores message i into p, whose Buf it was received into.
func (m *messages) received(i int, p *packet.Packet) {
	p.Data = p.Buf[:min(int(m.headers[i].length), len(p.Buf))]
	p.Addr = m.sender(i)
	p.TOS = m.tos(i)
}

// sender returns the source address of message i.
func (m *messages) sender(i int) netip.AddrPort {
	name := &m.names[i]
	if name.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), hostOrder(four.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), hostOrder(name.Port))
}

// tos returns the TOS that message i carries; 0 if the kernel told none. Linux
// sends IP_TOS as one byte (ip_cmsg_recv_tos) and IPV6_TCLASS as an int.
func (m *messages) tos(i int) uint8 {
	if int(m.headers[i].header.Controllen) < unix.CmsgLen(1) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&m.control[i][0]))
	data := m.control[i][unix.CmsgLen(0):]
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS:
		return data[0]
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS:
		return uint8(*(*int32)(unsafe.Pointer(&data[0])))
	}
	return 0
}

// post prepares message i to send p; false if p's address is of another family
// than the socket.
func (m *messages) post(i int, p *packet.Packet) bool {
	if p.Addr.Addr().Is4() == m.v6 || !p.Addr.IsValid() {
		return false
	}
	m.vectors[i].Base = unsafe.SliceData(p.Data)
	m.vectors[i].SetLen(len(p.Data))
	h := &m.headers[i].header
	name := &m.names[i]
	if m.v6 {
		*name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(p.Addr.Port()), Addr: p.Addr.Addr().As16()}
		h.Namelen = unix.SizeofSockaddrInet6
	} else {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(name)) = unix.RawSockaddrInet4{
			Family: unix.AF_INET, Port: networkOrder(p.Addr.Port()), Addr: p.Addr.Addr().As4(),
		}
		h.Namelen = unix.SizeofSockaddrInet4
	}
	m.setTOS(i, p.TOS)
	return true
}

// setTOS gives message i the TOS to leave with; none is needed for 0.
func (m *messages) setTOS(i int, tos uint8) {
	h := &m.headers[i].header
	if tos == 0 {
		h.Control = nil
		h.SetControllen(0)
		return
	}
	c := (*unix.Cmsghdr)(unsafe.Pointer(&m.control[i][0]))
	c.Level, c.Type = unix.IPPROTO_IP, unix.IP_TOS
	if m.v6 {
		c.Level, c.Type = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
	}
	c.SetLen(unix.CmsgLen(4))
	*(*int32)(unsafe.Pointer(&m.control[i][unix.CmsgLen(0)])) = int32(tos)
	h.Control = &m.control[i][0]
	h.SetControllen(controlSize)
}

// call runs recvmmsg(2) or sendmmsg(2), neither of which waits, on messages
// from up to to.
func (m *messages) call(trap, fd uintptr, from, to int) (int, error) {
	for {
		n, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&m.headers[from])), uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// Ports stand in network order in a sockaddr, whatever the machine's.

func networkOrder(port uint16) (raw uint16) {
	b := (*[2]byte)(unsafe.Pointer(&raw))
	b[0], b[1] = byte(port>>8), byte(port)
	return raw
}

func hostOrder(raw uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&raw))
	return uint16(b[0])<<8 | uint16(b[1])
}

// getsockopt reads an option that is an array of numbers.
func getsockopt(fd, level, option int, values []uint32) error {
	size := uint32(len(values) * 4)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&values[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
