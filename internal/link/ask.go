package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// This file asks the kernel which way a packet takes (RTM_GETROUTE, `ip route get`). The kernel
// follows all rules and tables. With RTM_F_FIB_MATCH it answers with the route that it found,
// with table and hops, and not with the one hop that the packet would take.

// A question is a packet whose way is asked.
type question struct {
	to       netip.Addr
	from     netip.Addr // the zero Addr leaves the choice to the kernel
	in       int        // index of the interface by which it comes in; 0: this host sends it
	inName   string     // its name, which rules select by
	mark     uint32
	fromPort uint16 // of UDP; 0 with toPort 0: of no protocol
	toPort   uint16
}

// proto returns the protocol that rules select by.
func (q question) proto() uint8 {
	if q.fromPort|q.toPort == 0 {
		return 0
	}
	return unix.IPPROTO_UDP
}

// An asker is a socket for questions: 10,000 of them take a tenth of a second, and opening a
// socket for each would double that. It belongs to one goroutine.
type asker struct {
	fd     int
	seq    uint32
	buffer []byte // for one answer, which is a page at most (NLMSG_GOODSIZE)
}

// openAsker opens the socket. The caller closes it.
func openAsker() (*asker, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	patience := unix.Timeval{Sec: 2} // the kernel answers at once, or not at all
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &asker{fd: fd, buffer: make([]byte, 1<<16)}, nil
}

func (a *asker) close() { unix.Close(a.fd) }

// ask returns the route that the kernel finds for a packet. If it finds none, or one that
// refuses packets, the error has an errno: see refused.
func (a *asker) ask(q question) (netlink.Route, error) {
	// Without the second flag the kernel says "main" for every IPv4 route (inet_rtm_getroute).
	return a.get(q, unix.RTM_F_FIB_MATCH|unix.RTM_F_LOOKUP_TABLE)
}

// hop returns the hop that the kernel would use now, with the source address that it chooses
// and the path's MTU as far as it is known.
func (a *asker) hop(q question) (netlink.Route, error) { return a.get(q, unix.RTM_F_LOOKUP_TABLE) }

// get sends one RTM_GETROUTE and reads the answer.
func (a *asker) get(q question, flags uint32) (netlink.Route, error) {
	request := q.request(flags)
	a.seq++
	request.Seq = a.seq
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	err := unix.Sendto(a.fd, request.Serialize(), 0, kernel)
	var n int
	for err == nil {
		if n, _, err = unix.Recvfrom(a.fd, a.buffer, 0); err != nil {
			break
		}
		answer, mine, refusal := answerTo(a.seq, a.buffer[:n])
		if !mine {
			continue // the late answer to a question that timed out
		}
		if err = refusal; err == nil {
			return parseRoute(answer)
		}
	}
	return netlink.Route{}, fmt.Errorf("ask the kernel for the route to %s: %w", q.to, err)
}

// answerTo returns the body of the kernel's answer to the request numbered seq, or its error.
// mine is false for the answer to another request.
func answerTo(seq uint32, datagram []byte) (body []byte, mine bool, err error) {
	if len(datagram) < unix.SizeofNlMsghdr+4 {
		return nil, true, errShort
	}
	size, kind := binary.NativeEndian.Uint32(datagram), binary.NativeEndian.Uint16(datagram[4:])
	body = datagram[unix.SizeofNlMsghdr:]
	switch {
	case binary.NativeEndian.Uint32(datagram[8:]) != seq:
		return nil, false, nil
	case kind == unix.NLMSG_ERROR:
		return nil, true, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	case kind != unix.RTM_NEWROUTE || int(size) > len(datagram) || size < unix.SizeofNlMsghdr:
		return nil, true, errShort
	}
	return datagram[unix.SizeofNlMsghdr:size], true, nil
}

// request is the question as a message: struct rtmsg and attributes.
func (q question) request(flags uint32) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	message := &nl.RtMsg{}
	message.Family = uint8(familyOf(q.to.Is6()))
	message.Dst_len, message.Flags = uint8(q.to.BitLen()), flags
	request.AddData(message)
	request.AddData(nl.NewRtAttr(unix.RTA_DST, q.to.AsSlice()))
	if q.from.IsValid() {
		message.Src_len = uint8(q.from.BitLen())
		request.AddData(nl.NewRtAttr(unix.RTA_SRC, q.from.AsSlice()))
	}
	if q.in != 0 {
		request.AddData(nl.NewRtAttr(unix.RTA_IIF, nl.Uint32Attr(uint32(q.in))))
	}
	if q.mark != 0 {
		request.AddData(nl.NewRtAttr(unix.RTA_MARK, nl.Uint32Attr(q.mark)))
	}
	if q.proto() != 0 {
		request.AddData(nl.NewRtAttr(unix.RTA_IP_PROTO, []byte{q.proto()}))
		request.AddData(nl.NewRtAttr(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, q.fromPort)))
		request.AddData(nl.NewRtAttr(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, q.toPort)))
	}
	return request
}

// refused reports whether the kernel answered that it would drop the packet: it has no route,
// or a rule or a route refuses (fib_props in net/ipv4/fib_semantics.c). EXDEV is not among
// the errors: rp_filter refuses the source then, whatever the route.
func refused(err error) bool {
	for _, no := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.ESRCH} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// attributes calls note for each attribute (struct rtattr) of a message, until one is an error.
// The library's own parser panics on a last attribute whose padding is cut off.
func attributes(b []byte, note func(kind uint16, value []byte) error) error {
	for len(b) >= unix.SizeofRtAttr {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < unix.SizeofRtAttr || size > len(b) {
			return errShort
		}
		if err := note(kind&^unix.NLA_F_NESTED, b[unix.SizeofRtAttr:size]); err != nil {
			return err
		}
		b = b[padded(size, len(b)):]
	}
	return nil
}

// padded rounds a size up to where the next element begins, but not beyond the end.
func padded(size, end int) int {
	return min(end, (size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1))
}

// parseRoute reads the kernel's answer as far as this package uses it. Addresses are copies.
func parseRoute(message []byte) (r netlink.Route, err error) {
	if len(message) < unix.SizeofRtMsg {
		return r, errShort
	}
	// The bytes are those of struct rtmsg in linux/rtnetlink.h.
	r.Family, r.Table, r.Type = int(message[0]), int(message[4]), int(message[7])
	r.Protocol = netlink.RouteProtocol(message[5])
	err = attributes(message[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
		return noteRoute(&r, kind, value, message[1])
	})
	return r, err
}

// noteRoute takes over one attribute of a route, whose destination has toBits bits.
func noteRoute(r *netlink.Route, kind uint16, value []byte, toBits uint8) error {
	switch kind {
	case unix.RTA_DST:
		p, err := prefixOf(value, toBits)
		if err != nil {
			return err
		}
		r.Dst = toIPNet(p)
	case unix.RTA_GATEWAY:
		r.Gw = slices.Clone(value)
	case unix.RTA_PREFSRC:
		r.Src = slices.Clone(value)
	case unix.RTA_OIF:
		return noteNumber(&r.LinkIndex, value)
	case unix.RTA_TABLE:
		return noteNumber(&r.Table, value)
	case unix.RTA_METRICS:
		return attributes(value, func(kind uint16, value []byte) error {
			if kind != unix.RTAX_MTU {
				return nil
			}
			return noteNumber(&r.MTU, value)
		})
	case unix.RTA_MULTIPATH:
		return noteHops(r, value)
	}
	return nil
}

// noteNumber takes over a number of 32 bits.
func noteNumber(to *int, value []byte) error {
	if len(value) < 4 {
		return errShort
	}
	*to = int(int32(binary.NativeEndian.Uint32(value)))
	return nil
}

// noteHops takes over RTA_MULTIPATH: a list of struct rtnexthop, each with attributes.
func noteHops(r *netlink.Route, value []byte) error {
	for len(value) > 0 {
		if len(value) < unix.SizeofRtNexthop {
			return errShort
		}
		size := int(binary.NativeEndian.Uint16(value))
		if size < unix.SizeofRtNexthop || size > len(value) {
			return errShort
		}
		hop := &netlink.NexthopInfo{LinkIndex: int(int32(binary.NativeEndian.Uint32(value[4:])))}
		err := attributes(value[unix.SizeofRtNexthop:size], func(kind uint16, value []byte) error {
			if kind == unix.RTA_GATEWAY {
				hop.Gw = slices.Clone(value)
			}
			return nil
		})
		if err != nil {
			return err
		}
		r.MultiPath = append(r.MultiPath, hop)
		value = value[padded(size, len(value)):]
	}
	return nil
}
