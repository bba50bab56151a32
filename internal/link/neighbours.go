package link

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A NeighbourTable is one of the kernel's tables of neighbours: ARP's or that of IPv6. All network
// namespaces of a host share its limit and its statistics.
type NeighbourTable struct {
	Name  string // "arp_cache", "ndisc_cache"
	Limit uint32 // entries, gc_thresh3
	Fulls uint64 // how often an entry was refused since the boot, because there was no room
}

// Numbers of include/uapi/linux/neighbour.h, which x/sys lacks.
const (
	ndtaName    = 1
	ndtaThresh3 = 4
	ndtaStats   = 7
	// ndtsTableFulls is where ndts_table_fulls begins in struct ndt_stats: the 11th number (Linux 4.3).
	ndtsTableFulls = 10 * 8
)

// neighbourTableHeader is struct ndtmsg: the family and padding.
type neighbourTableHeader struct{ family uint8 }

func (h neighbourTableHeader) Len() int          { return 4 }
func (h neighbourTableHeader) Serialize() []byte { return []byte{h.family, 0, 0, 0} }

// NeighbourTables reads the tables of both families. It needs no capability.
func NeighbourTables() (tables []NeighbourTable, err error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETNEIGHTBL, unix.NLM_F_DUMP)
	request.AddData(neighbourTableHeader{unix.AF_UNSPEC})
	messages, err := request.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, fmt.Errorf("read the neighbour tables: %w", err)
	}
	for _, m := range messages {
		if t, ok := neighbourTable(m); ok {
			tables = append(tables, t)
		}
	}
	return tables, nil
}

// neighbourTable reads one message. Those about the parameters of an interface have no statistics.
func neighbourTable(message []byte) (t NeighbourTable, ok bool) {
	header := neighbourTableHeader{}.Len()
	if len(message) < header {
		return t, false
	}
	// By hand: the module's parser panics where the last attribute is not padded.
	for rest := message[header:]; len(rest) >= unix.SizeofRtAttr; {
		length, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
		if length < unix.SizeofRtAttr || length > len(rest) {
			return t, false
		}
		value := rest[unix.SizeofRtAttr:length]
		switch {
		case kind == ndtaName:
			t.Name = string(bytes.TrimRight(value, "\x00"))
		case kind == ndtaThresh3 && len(value) >= 4:
			t.Limit = binary.NativeEndian.Uint32(value)
		case kind == ndtaStats && len(value) >= ndtsTableFulls+8:
			t.Fulls, ok = binary.NativeEndian.Uint64(value[ndtsTableFulls:]), true
		}
		rest = rest[min((length+3)&^3, len(rest)):] // RTA_ALIGN
	}
	return t, ok && t.Name != ""
}
