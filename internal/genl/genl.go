// Package genl asks the kernel by generic netlink, for which other packages have no words of their own.
package genl

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// header is the size of struct genlmsghdr, which messages begin with: command, version, and two bytes that
// have to be zero.
const header = 4

// Family returns the number of a family of messages, such as "fou". Without one the error is fs.ErrNotExist.
// The question has the kernel load a module that brings the family, if there is one and loading is not locked
// (ctrl_getfamily in net/netlink/genetlink.c); the kernel starts modprobe by itself, so this works for
// services that may not load modules (ProtectKernelModules=).
func Family(name string) (number int, err error) {
	answers, err := Ask(nl.GENL_ID_CTRL, 0, nl.GENL_CTRL_CMD_GETFAMILY, nl.GENL_CTRL_VERSION,
		nl.NewRtAttr(nl.GENL_CTRL_ATTR_FAMILY_NAME, nl.ZeroTerminated(name)))
	if err != nil {
		return 0, fmt.Errorf("find %q in the kernel: %w", name, err)
	}
	for _, attributes := range answers {
		for _, a := range attributes {
			if a.Attr.Type == nl.GENL_CTRL_ATTR_FAMILY_ID && len(a.Value) >= 2 {
				return int(binary.NativeEndian.Uint16(a.Value)), nil
			}
		}
	}
	return 0, fmt.Errorf("find %q in the kernel: it tells no number", name)
}

// Ask sends a message to a family and returns the attributes of each answer. flags are those of netlink(7),
// such as unix.NLM_F_ACK for a change. Where a list changed while it was read, the error is
// netlink.ErrDumpInterrupted. It speaks for the network namespace of the calling thread.
//
// The header is written here: nl.Genlmsg has two of its four bytes, and sends the next two as they are in
// memory.
func Ask(family, flags int, command, version uint8, attributes ...*nl.RtAttr) (
	answers [][]syscall.NetlinkRouteAttr, err error,
) {
	message := []byte{command, version, 0, 0}
	for _, a := range attributes {
		message = append(message, a.Serialize()...)
	}
	request := nl.NewNetlinkRequest(family, flags)
	request.AddRawData(message)
	all, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		if len(b) < header {
			return nil, fmt.Errorf("an answer of %d bytes: %w", len(b), unix.EBADMSG)
		}
		one, err := nl.ParseRouteAttr(b[header:])
		if err != nil {
			return nil, err
		}
		answers = append(answers, one)
	}
	return answers, nil
}
