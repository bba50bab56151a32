package masq

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The standby table, `inet meshd`, holds the rules a second time, behind the
// ordinary ones, where nobody but this process can change them: the kernel gives
// a table with NFT_TABLE_F_OWNER (Linux 5.12) to the socket that made it, `nft
// flush ruleset` passes it by, and closing the socket removes it.
//
// It decides only while the ordinary tables are damaged. Without it the kernel
// would stop translating with its last NAT chain, and the next segment of a busy
// connection would reach the outside with the pod's address, or the host without
// a connection to belong to, which answers with a reset.
//
// The ordinary tables remain the ones that count, are seen and are repaired:
// they last while the daemon is restarted, and exist on older kernels.
type standby struct {
	conn *nftables.Conn // owner of the table; nil if there is none
	set  *Settings      // what was asked for last, also where the kernel refused
}

// StandBy makes the standby rules match what Set was given last, so that damage
// to the others is not felt until Set is called again. It changes nothing when
// they do already. It is no error if the kernel knows no owners of tables, or
// if another process owns the table: there are no standby rules then.
func (m *Masq) StandBy() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set == nil || m.standby.set != nil && m.standby.set.equal(*m.set) {
		return nil
	}
	if err := m.standby.renew(*m.set); err != nil {
		return fmt.Errorf("set standby rules: %w", err)
	}
	return nil
}

// Close gives up what only lasts as long as the process: the standby rules. The
// others stay in force.
func (m *Masq) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.standby.close()
}

// standbyFamilies are the families in the table of both: its rules look at the
// protocol first, and its sets have a number in their name.
func standbyFamilies() []family {
	both := make([]family, 0, len(families))
	for i, f := range families {
		f.suffix = []string{"4", "6"}[i]
		f.guard = []expr.Any{
			// [ meta load nfproto => reg 1 ]
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			// [ cmp eq reg 1 0x00000002 ]
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(f.table)}},
		}
		f.table = nftables.TableFamilyINet
		both = append(both, f)
	}
	return both
}

// renew puts a new table in place of the old one; for a moment there is none.
func (b *standby) renew(s Settings) error {
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
	err = ownTable(raw)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		b.set = &s
		return conn.CloseLasting()
	}
	if err == nil {
		err = fillStandby(conn, s)
	}
	if err != nil {
		return errors.Join(err, conn.CloseLasting())
	}
	b.conn, b.set = conn, &s
	return nil
}

func fillStandby(conn *nftables.Conn, s Settings) error {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	for _, f := range standbyFamilies() {
		if len(f.prefixesOf(s.Mesh)) == 0 {
			continue
		}
		chain := f.chain(table)
		chain.Priority = nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource + 1)
		if err := f.fill(conn, chain, s); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// close removes the table.
func (b *standby) close() error {
	conn := b.conn
	b.conn, b.set = nil, nil
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
func ownTable(conn *netlink.Conn) error {
	const (
		newTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE
		delTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE
	)
	request := []netlink.Message{
		nfMessage(unix.NFNL_MSG_BATCH_BEGIN, netlink.Request, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		nfMessage(newTable, netlink.Request|netlink.Create, unix.NFPROTO_INET, 0, named(0)),
		nfMessage(delTable, netlink.Request, unix.NFPROTO_INET, 0, named(0)),
		nfMessage(newTable, netlink.Request|netlink.Create|netlink.Acknowledge, unix.NFPROTO_INET, 0, named(tableOwner)),
		nfMessage(unix.NFNL_MSG_BATCH_END, netlink.Request, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
	}
	if _, err := conn.SendMessages(request); err != nil {
		return err
	}
	_, err := conn.Receive()
	return err
}

// named returns the attributes of a table message.
func named(flags uint32) []byte {
	attributes := netlink.NewAttributeEncoder()
	attributes.ByteOrder = binary.BigEndian
	attributes.String(unix.NFTA_TABLE_NAME, tableName)
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
