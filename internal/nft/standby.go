package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Standby is a table that holds rules a second time, where nobody but this process can change
// them: the kernel gives a table with NFT_TABLE_F_OWNER (Linux 5.12) to the socket that made it,
// `nft flush ruleset` passes it by, and closing the socket removes it. Its methods may be called from
// any goroutine.
type Standby struct {
	mu   sync.Mutex
	conn *nftables.Conn // owner of the table; nil if there is none
	want *Table         // what was asked for last, also where the kernel refused
}

// Set makes the table match. It changes nothing when it does already; else, for a moment there is
// none. It is no error if the kernel knows no owners of tables, or if another process owns the table:
// there is none then.
func (b *Standby) Set(t Table) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.want != nil && reflect.DeepEqual(*b.want, t) {
		return nil
	}
	if err := b.close(); err != nil {
		return err
	}
	var raw *netlink.Conn
	conn, err := open(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw = c
		return nil
	}))
	if err != nil {
		return err
	}
	err = ownTable(raw, t.ID)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		b.want = &t
		return conn.CloseLasting()
	}
	if err == nil {
		err = t.add(conn)
	}
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		return errors.Join(err, conn.CloseLasting())
	}
	b.conn, b.want = conn, &t
	return nil
}

// Close removes the table.
func (b *Standby) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.close()
}

func (b *Standby) close() error {
	conn := b.conn
	b.conn, b.want = nil, nil
	if conn == nil {
		return nil
	}
	if err := conn.CloseLasting(); err != nil {
		return fmt.Errorf("remove standby rules: %w", err)
	}
	return nil
}

// tableOwner is NFT_TABLE_F_OWNER of enum nft_table_flags in
// linux/netfilter/nf_tables.h.
const tableOwner = 0x2

// ownTable makes an empty table that belongs to the connection, in place of one
// that belongs to nobody. The nftables library cannot set flags of tables
// (google/nftables issue 316).
func ownTable(conn *netlink.Conn, id ID) error {
	const (
		newTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE
		delTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE
	)
	request := []netlink.Message{
		nfMessage(unix.NFNL_MSG_BATCH_BEGIN, netlink.Request, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		nfMessage(newTable, netlink.Request|netlink.Create, byte(id.family), 0, id.attributes(0)),
		nfMessage(delTable, netlink.Request, byte(id.family), 0, id.attributes(0)),
		nfMessage(newTable, netlink.Request|netlink.Create|netlink.Acknowledge, byte(id.family), 0, id.attributes(tableOwner)),
		nfMessage(unix.NFNL_MSG_BATCH_END, netlink.Request, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
	}
	if _, err := conn.SendMessages(request); err != nil {
		return err
	}
	_, err := conn.Receive()
	return err
}

// attributes returns those of a table message.
func (id ID) attributes(flags uint32) []byte {
	attributes := netlink.NewAttributeEncoder()
	attributes.ByteOrder = binary.BigEndian
	attributes.String(unix.NFTA_TABLE_NAME, id.name)
	attributes.Uint32(unix.NFTA_TABLE_FLAGS, flags)
	b, err := attributes.Encode()
	if err != nil {
		panic(err) // a name and a number always fit
	}
	return b
}

// nfMessage is a message with its struct nfgenmsg: family, version 0, resource.
func nfMessage(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, resource uint16, attributes ...[]byte) netlink.Message {
	data := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	for _, a := range attributes {
		data = append(data, a...)
	}
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: flags}, Data: data}
}
