package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Log reads what rules with LogTo send to one group of NFLOG. Read belongs to one goroutine; Close
// may be called from any and ends it. It needs CAP_NET_ADMIN.
type Log struct {
	conn  *netlink.Conn
	group uint16
}

// Messages and attributes of linux/netfilter/nfnetlink_log.h. x/sys/unix does not have them.
const (
	logPacket = unix.NFNL_SUBSYS_ULOG << 8
	logConfig = unix.NFNL_SUBSYS_ULOG<<8 + 1

	logConfigCommand = 1 // NFULA_CFG_CMD
	logConfigMode    = 2 // NFULA_CFG_MODE
	logConfigQueue   = 5 // NFULA_CFG_QTHRESH
	logBind          = 1 // NFULNL_CFG_CMD_BIND
	logCopyPacket    = 2 // NFULNL_COPY_PACKET

	logOut     = 5 // NFULA_IFINDEX_OUTDEV
	logPayload = 9 // NFULA_PAYLOAD
)

const (
	// logGroups is how many groups OpenLog tries: another program may have bound some.
	logGroups = 16
	// logBuffer bounds what waits in the socket, in bytes. More is lost, and Read goes on.
	logBuffer = 256 << 10
)

// OpenLog binds to the first free group from one on. Of each packet the kernel copies at most size
// bytes. The error is EPERM if all groups tried belong to other programs.
func OpenLog(first uint16, size uint32) (*Log, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open NFLOG: %w", err)
	}
	for group := first; group < first+logGroups; group++ {
		if err = bindLog(conn, group, size); err == nil {
			return &Log{conn, group}, nil
		}
		// The kernel says EPERM of a group that another socket has bound (nfulnl_recv_config).
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return nil, errors.Join(fmt.Errorf("bind to a group of NFLOG: %w", err), conn.Close())
}

// bindLog binds to one group, and asks for each packet at once: the kernel would collect some.
func bindLog(conn *netlink.Conn, group uint16, size uint32) error {
	mode := append(binary.BigEndian.AppendUint32(nil, size), logCopyPacket, 0)
	for _, a := range []netlink.Attribute{
		{Type: logConfigCommand, Data: []byte{logBind}},
		{Type: logConfigMode, Data: mode},
		{Type: logConfigQueue, Data: binary.BigEndian.AppendUint32(nil, 1)},
	} {
		data, err := netlink.MarshalAttributes([]netlink.Attribute{a})
		if err != nil {
			return err
		}
		message := nfMessage(logConfig, netlink.Request|netlink.Acknowledge, unix.AF_UNSPEC, group, data)
		if _, err := conn.Execute(message); err != nil {
			return err
		}
	}
	return conn.SetReadBuffer(logBuffer)
}

// Group returns the number of the group, for LogTo.
func (l *Log) Group() uint16 { return l.group }

// Close ends Read, and leaves the group to others.
func (l *Log) Close() error { return l.conn.Close() }

// Read calls take for each packet that a rule has logged, with the index of the interface by which the
// packet would leave; 0: unknown. take must not keep the packet. Packets that were lost because
// this process is slow are no error. Read returns nil when ctx ends.
func (l *Log) Read(ctx context.Context, take func(packet []byte, out int)) error {
	stop := context.AfterFunc(ctx, func() { l.conn.Close() }) // ends Receive
	defer stop()
	for {
		messages, err := l.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // messages were lost
			continue
		case err != nil:
			return fmt.Errorf("read NFLOG: %w", err)
		}
		for _, m := range messages {
			if packet, out := logged(m); packet != nil {
				take(packet, out)
			}
		}
	}
}

// logged returns the packet of a message of NFLOG; nil if the message has none.
func logged(m netlink.Message) (packet []byte, out int) {
	if m.Header.Type != logPacket {
		return nil, 0
	}
	for _, a := range attributes(m) {
		switch {
		case a.Type == logPayload:
			packet = a.Data
		case a.Type == logOut && len(a.Data) == 4:
			out = int(binary.BigEndian.Uint32(a.Data))
		}
	}
	return packet, out
}

// LogTo sends a packet to a group of NFLOG, at most rate packets a second. The rule goes on only for
// packets within the rate.
func LogTo(group uint16, rate uint64) Exprs {
	return Exprs{
		// [ limit rate 500/second burst 500 type packets flags 0x0 ]
		&expr.Limit{Type: expr.LimitTypePkts, Rate: rate, Unit: expr.LimitTimeSecond, Burst: uint32(rate)},
		// [ log group 28005 snaplen 0 qthreshold 0 ]
		&expr.Log{Key: 1 << unix.NFTA_LOG_GROUP, Group: group},
	}
}
