package udp

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
)

// mmsghdr is struct mmsghdr of <sys/socket.h>, which x/sys lacks.
type mmsghdr struct {
	header unix.Msghdr
	length uint32 // received bytes
}

// controlSize has room for the ancillary data of a message: a TOS or traffic class, and the size of
// the packets, both numbers of at most 4 bytes.
var controlSize = 2 * unix.CmsgSpace(4)

// messages is the kernel's view of a batch, allocated once and used for every call. The kernel gets
// pointers into it, so its slices are never reallocated.
type messages struct {
	headers []mmsghdr
	vectors []unix.Iovec            // parts of them for each message
	parts   int                     // the largest number of pieces in a message
	names   []unix.RawSockaddrInet6 // addresses; large enough for both families
	control [][]byte                // controlSize each, aligned for a Cmsghdr
	v6      bool
}

// newMessages returns n messages of at most parts pieces each.
func newMessages(n, parts int, v6 bool) *messages {
	m := &messages{
		headers: make([]mmsghdr, n),
		vectors: make([]unix.Iovec, n*parts),
		parts:   parts,
		names:   make([]unix.RawSockaddrInet6, n),
		control: make([][]byte, n),
		v6:      v6,
	}
	words := (controlSize + 7) / 8
	memory := make([]uint64, n*words) // of uint64, for the alignment
	for i := range m.headers {
		m.control[i] = unsafe.Slice((*byte)(unsafe.Pointer(&memory[i*words])), controlSize)
		h := &m.headers[i].header
		h.Name = (*byte)(unsafe.Pointer(&m.names[i]))
		h.Iov = &m.vectors[i*parts]
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

// received stores message i into d, into whose Buf it was received.
func (m *messages) received(i int, d *packet.Datagram) {
	d.Data = d.Buf[:min(int(m.headers[i].length), len(d.Buf))]
	d.Addr = address(&m.names[i])
	d.TOS, d.Size = ancillary(m.control[i][:min(int(m.headers[i].header.Controllen), controlSize)])
}

// ancillary reads the TOS and the size of merged packets from a message's control data; size is 0 if
// the message is one packet. Linux passes IP_TOS as one byte (ip_cmsg_recv_tos), and IPV6_TCLASS and
// UDP_GRO as an int (udp_cmsg_recv).
func ancillary(control []byte) (tos uint8, size int) {
	for len(control) >= unix.CmsgLen(0) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		length := int(h.Len)
		if length < unix.CmsgLen(1) || length > len(control) {
			break
		}
		data := control[unix.CmsgLen(0):length]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS:
			tos = data[0]
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			tos = uint8(binary.NativeEndian.Uint32(data))
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			size = int(binary.NativeEndian.Uint32(data) & 0xffff)
		}
		control = control[min(unix.CmsgSpace(len(data)), len(control)):]
	}
	return tos, size
}

// post prepares message i to send b. It returns false if the address of b is of another family than
// the socket, or if b has too many parts.
func (m *messages) post(i int, b *packet.Burst) bool {
	if b.Addr.Addr().Is4() == m.v6 || !b.Addr.IsValid() || len(b.Parts) > m.parts {
		return false
	}
	vectors := m.vectors[i*m.parts:]
	for j, part := range b.Parts {
		vectors[j].Base = unsafe.SliceData(part)
		vectors[j].SetLen(len(part))
	}
	h := &m.headers[i].header
	h.SetIovlen(len(b.Parts))
	name := &m.names[i]
	if m.v6 {
		*name = unix.RawSockaddrInet6{
			Family: unix.AF_INET6, Port: packet.NetworkOrder(b.Addr.Port()), Addr: b.Addr.Addr().As16(),
		}
		h.Namelen = unix.SizeofSockaddrInet6
	} else {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(name)) = unix.RawSockaddrInet4{
			Family: unix.AF_INET, Port: packet.NetworkOrder(b.Addr.Port()), Addr: b.Addr.Addr().As4(),
		}
		h.Namelen = unix.SizeofSockaddrInet4
	}
	m.setControl(i, b)
	return true
}

// setControl adds the TOS to message i, unless it is 0, and the size of the packets, if there are
// several.
func (m *messages) setControl(i int, b *packet.Burst) {
	used := 0
	put := func(level, kind int32, length int) []byte {
		c := (*unix.Cmsghdr)(unsafe.Pointer(&m.control[i][used]))
		c.Level, c.Type = level, kind
		c.SetLen(unix.CmsgLen(length))
		data := m.control[i][used+unix.CmsgLen(0):]
		used += unix.CmsgSpace(length)
		return data
	}
	if b.TOS != 0 && m.v6 {
		binary.NativeEndian.PutUint32(put(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4), uint32(b.TOS))
	} else if b.TOS != 0 {
		binary.NativeEndian.PutUint32(put(unix.IPPROTO_IP, unix.IP_TOS, 4), uint32(b.TOS))
	}
	if b.Packets > 1 {
		binary.NativeEndian.PutUint16(put(unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(b.Size))
	}
	h := &m.headers[i].header
	h.Control = nil
	if used > 0 {
		h.Control = &m.control[i][0]
	}
	h.SetControllen(used)
}

// call makes the system call trap, recvmmsg(2) or sendmmsg(2), for the messages from from to to, the
// latter excluded. It does not wait. It returns the number of messages that were transferred.
func (m *messages) call(trap, fd uintptr, from, to int) (int, error) {
	first := unsafe.Pointer(&m.headers[from])
	for {
		n, _, errno := unix.Syscall6(trap, fd, uintptr(first), uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// getsockopt reads an option whose value is an array of numbers.
func getsockopt(fd, level, option int, values []uint32) error {
	size := uint32(len(values) * 4)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&values[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
