package nft

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// An owner is a socket that owns tables of a Keeper: no other program can change them, and `nft flush
// ruleset` leaves them alone (NFT_TABLE_F_OWNER, Linux 5.12). They persist (NFT_TABLE_F_PERSIST, Linux 6.9):
// they stay when the socket is closed, as other tables do, and the next run takes them over with their rules
// in force.
type owner struct {
	conn *nftables.Conn // lasts
	raw  *netlink.Conn  // the same socket
}

// errCannotOwn says that the kernel has no tables that persist without their owner.
var errCannotOwn = errors.New("the kernel has no tables that outlive their owner")

// Flags of enum nft_table_flags (linux/netfilter/nf_tables.h).
const (
	tableOwner   = 0x2
	tablePersist = 0x4
)

// flagsOf returns the flags of a table of the kernel's. The library takes the bytes for those of a number of
// this machine.
func flagsOf(t *nftables.Table) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, t.Flags))
}

// newOwner returns an owner of no table.
//
// The first socket of a process in a namespace gets the number of the process, and so does the next one as
// soon as it is closed: the kernel gives the number away before it takes from its last socket what that owned
// (netlink_release, nft_rcv_nl_event). Tables of a socket with that number would be lost whenever another
// goroutine closes one at this time. All further sockets have random numbers, and the owner is one of them.
func newOwner() (*owner, error) {
	first, err := dialOwner()
	if err != nil || first.raw.PID() != uint32(os.Getpid()) {
		return first, err
	}
	o, err := dialOwner() // while the number is taken
	if err := errors.Join(err, first.close()); err != nil {
		return nil, err
	}
	return o, nil
}

// dialOwner opens the next socket, whatever its number is.
func dialOwner() (*owner, error) {
	var raw *netlink.Conn
	conn, err := open(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw = c
		return nil
	}))
	if err != nil {
		return nil, err
	}
	return &owner{conn, raw}, nil
}

// claim makes a table the owner's, and makes it if it does not exist. The rules of a table that has lost its
// owner stay in force. A table of a run that could not own it is replaced by an empty one. The error is
// errCannotOwn if the kernel cannot do that, and EPERM if the table belongs to another process.
func (o *owner) claim(id ID) error {
	table, err := find(o.conn, id)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	const flags = tableOwner | tablePersist
	messages := []netlink.Message{tableMessage(unix.NFT_MSG_NEWTABLE, netlink.Create, id, id.attributes(flags))}
	if err == nil && flagsOf(table)&flags == 0 {
		gone := tableMessage(unix.NFT_MSG_DELTABLE, 0, id, id.attributes(0))
		messages = append([]netlink.Message{gone}, messages...)
	}
	err = inOneBatch(o.raw, messages)
	for again := 0; errors.Is(err, unix.EPERM) && again < mostAgain; again++ {
		err = inOneBatch(o.raw, messages) // the socket of the run before was closed a moment ago
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return errCannotOwn
	}
	return err
}

// empty adds to the transaction that all rules and chains of a claimed table go, and all sets but some.
func (o *owner) empty(id ID, but []string) error {
	table := id.table()
	chains, err := o.conn.ListChainsOfTableFamily(id.family)
	if err != nil {
		return err
	}
	sets, err := o.conn.GetSets(table)
	if err != nil {
		return err
	}
	o.conn.FlushTable(table)
	for _, c := range chains {
		if c.Table.Name == id.name {
			o.conn.DelChain(&nftables.Chain{Table: table, Name: c.Name})
		}
	}
	for _, s := range sets {
		if !slices.Contains(but, s.Name) {
			o.conn.DelSet(&nftables.Set{Table: table, Name: s.Name})
		}
	}
	return nil
}

// remove adds to the transaction that a table goes, if it exists.
func (o *owner) remove(id ID) error {
	_, err := find(o.conn, id)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		o.conn.DelTable(id.table())
	}
	return err
}

// close gives up all tables, which stay.
func (o *owner) close() error { return o.conn.CloseLasting() }

// NewOwner returns a Keeper whose tables other programs cannot change as long as this process lives, where
// the kernel can do that (Linux 6.9). Elsewhere it is as NewKeeper, see Owns. It does not touch the kernel.
func NewOwner(ids ...ID) *Keeper {
	k := NewKeeper(ids...)
	k.owns = true
	return k
}

// Owns tells whether other programs cannot change the tables, as of the last Set.
func (k *Keeper) Owns() bool { return k.owns && k.owner != nil }

// Close gives up the ownership of tables. They stay in force, and a later Set takes them over again.
func (k *Keeper) Close() error {
	o := k.owner
	k.owner = nil
	if o == nil {
		return nil
	}
	return o.close()
}

// connect returns the connection to write by: the owner's, if there has to be one.
func (k *Keeper) connect() (conn *nftables.Conn, err error) {
	if !k.owns {
		return open()
	}
	if k.owner == nil {
		if k.owner, err = newOwner(); err != nil {
			return nil, err
		}
	}
	return k.owner.conn, nil
}

// send sends a transaction, if all of it could be added. After an error, messages may be left over, or their
// answers, so the owner begins anew: its tables wait for it.
func (k *Keeper) send(conn *nftables.Conn, err error) error {
	if err == nil {
		err = conn.Flush()
	}
	if err != nil && k.owner != nil {
		err = errors.Join(err, k.Close())
	}
	return err
}

// write replaces the tables, and returns the generation of their sets of ranges.
func (k *Keeper) write(conn *nftables.Conn, tables []Table) (names int, err error) {
	if conn, err = k.claim(conn, tables); err == nil && k.owns {
		names, err = k.owner.ahead(tables)
	}
	if err == nil {
		err = k.replaceBy(conn, inGeneration(tables, names))
	}
	return names, k.send(conn, err)
}

// claim makes the tables the owner's. Where the kernel cannot do that, it returns another connection.
func (k *Keeper) claim(conn *nftables.Conn, tables []Table) (*nftables.Conn, error) {
	if !k.owns {
		return conn, nil
	}
	for _, t := range tables {
		err := k.owner.claim(t.ID)
		if errors.Is(err, errCannotOwn) {
			k.owns = false
			if err = k.Close(); err == nil {
				return open()
			}
		}
		if err != nil {
			return conn, err
		}
	}
	return conn, nil
}

// replaceBy adds to a transaction that the tables are replaced. Those of an owner stay, with the sets that it
// has made ahead.
func (k *Keeper) replaceBy(conn *nftables.Conn, tables []Table) (err error) {
	for _, id := range k.ids {
		i := slices.IndexFunc(tables, func(t Table) bool { return t.ID == id })
		switch {
		case k.owns && i < 0:
			err = k.owner.remove(id)
		case k.owns:
			err = k.owner.empty(id, tables[i].lateNames())
		default:
			// Adding before deleting makes the deletion succeed if there is no table.
			conn.AddTable(id.table())
			conn.DelTable(id.table())
			if i >= 0 {
				conn.AddTable(id.table())
			}
		}
		if err == nil && i >= 0 {
			err = tables[i].add(conn, k.owns)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// untouched tells whether the kernel's tables are those of the last Set without a look into them: nobody else
// can have changed what belongs to the owner that wrote them.
func (k *Keeper) untouched(conn *nftables.Conn, tables []Table) (bool, error) {
	if !k.Owns() {
		return false, nil
	}
	for _, t := range tables {
		have, err := find(conn, t.ID)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return false, err
		}
		if err != nil || flagsOf(have) != k.flags() {
			return false, nil
		}
	}
	return true, nil
}

// inOneBatch sends messages about tables as one transaction. The last one asks for an answer.
func inOneBatch(conn *netlink.Conn, messages []netlink.Message) error {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES
	last := &messages[len(messages)-1].Header
	last.Flags |= netlink.Acknowledge
	begin := nfMessage(unix.NFNL_MSG_BATCH_BEGIN, netlink.Request, unix.NFPROTO_UNSPEC, subsystem)
	end := nfMessage(unix.NFNL_MSG_BATCH_END, netlink.Request, unix.NFPROTO_UNSPEC, subsystem)
	all := slices.Concat([]netlink.Message{begin}, messages, []netlink.Message{end})
	if _, err := conn.SendMessages(all); err != nil {
		return err
	}
	_, err := conn.Receive()
	return err
}

// tableMessage returns a message about a table.
func tableMessage(kind int, flags netlink.HeaderFlags, id ID, attributes []byte) netlink.Message {
	of := netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind)
	return nfMessage(of, netlink.Request|flags, byte(id.family), 0, attributes)
}

// attributes returns the attributes of a message about the table.
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

// nfMessage returns a message that begins with struct nfgenmsg: family, version 0, resource.
func nfMessage(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, resource uint16,
	attributes ...[]byte) netlink.Message {
	data := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	for _, a := range attributes {
		data = append(data, a...)
	}
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: flags}, Data: data}
}
