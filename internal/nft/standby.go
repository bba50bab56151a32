package nft

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Standby is a table that holds rules a second time, where other programs cannot change them.
// A table with NFT_TABLE_F_OWNER (Linux 5.12) belongs to the socket that made it: `nft flush
// ruleset` leaves it alone, and closing the socket removes it. The zero Standby is ready for
// use. It belongs to one goroutine, but for Counters.
type Standby struct {
	conn *nftables.Conn // the owner of the table; nil: there is no table
	want *Table         // the argument of the last Set, also if the kernel refused it

	mu    sync.Mutex         // held for arithmetic alone
	table *Table             // what stands in the kernel; nil: nothing
	past  map[string]Counter // sums of rules that stand no more, by name
}

// Stands reports whether the table of the last Set is in the kernel, and not only wanted.
func (b *Standby) Stands() bool { return b.conn != nil }

// Counters returns what rules have matched since the first Set, by name; boxes are not counted. It may be
// called from any goroutine. What a table counts between the last reading and its end is part of the sum.
func (b *Standby) Counters() (map[string]Counter, error) {
	b.mu.Lock()
	table := b.table
	b.mu.Unlock()
	var now map[string]Counter
	if table != nil {
		var err error
		if now, err = readNow([]Table{*table}, false); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.table != table { // what was read is in past by now
		now = nil
	}
	return sum(b.past, now), nil
}

// sum returns what several readings count together.
func sum(readings ...map[string]Counter) map[string]Counter {
	all := map[string]Counter{}
	for _, counters := range readings {
		for name, c := range counters {
			all[name] = all[name].plus(c)
		}
	}
	return all
}

// stand notes which table is in the kernel from now on; last is what the one before has counted.
func (b *Standby) stand(t *Table, last map[string]Counter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.table, b.past = t, sum(b.past, last)
}

// Set makes the table match t. It does nothing if the last call had an equal table; otherwise
// no table exists for a moment. If the kernel does not support owners of tables, or if another
// process owns the table, Set returns nil and there is no standby table.
func (b *Standby) Set(t Table) error {
	if b.want != nil && reflect.DeepEqual(*b.want, t) {
		return nil
	}
	had := b.conn != nil
	if err := b.Close(); err != nil {
		return err
	}
	err := b.make(t)
	// The table before may be there for a moment after its socket was closed.
	for again := 0; had && errors.Is(err, unix.EPERM) && again < mostAgain; again++ {
		err = b.make(t)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		b.want = &t
		return nil
	}
	return err
}

// mostAgain is how often a table is made again; each time is a few messages to the kernel.
const mostAgain = 20

// make makes the table. There is none of b's.
func (b *Standby) make(t Table) error {
	o, err := newOwner()
	if err != nil {
		return err
	}
	conn := o.conn
	err = ownTable(o.raw, t.ID)
	if err == nil {
		err = t.addSets(conn, true)
	}
	if err == nil {
		err = conn.Flush() // the kernel publishes them late, see ahead.go
	}
	if err == nil {
		err = t.add(conn, true)
	}
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		return errors.Join(err, conn.CloseLasting())
	}
	b.conn, b.want = conn, &t
	b.stand(&t, nil)
	return nil
}

// Close removes the table. A later Set makes it again.
func (b *Standby) Close() error {
	conn, table := b.conn, b.want
	b.conn, b.want = nil, nil
	if conn == nil {
		return nil
	}
	last, err := read(conn, []Table{*table}, false)
	if err != nil { // the counts since the last reading are lost with the rules
		last = nil
	}
	b.stand(nil, last)
	if err := conn.CloseLasting(); err != nil {
		return fmt.Errorf("remove standby rules: %w", err)
	}
	return nil
}

// ownTable makes an empty table that belongs to the connection. It replaces a table of that name
// without an owner, such as one from a saved ruleset. The nftables library cannot set flags of
// tables (google/nftables issue 316), so the messages are made here.
func ownTable(conn *netlink.Conn, id ID) error {
	return inOneBatch(conn, []netlink.Message{
		// Creating before deleting makes the deletion succeed if there is no table.
		tableMessage(unix.NFT_MSG_NEWTABLE, netlink.Create, id, id.attributes(0)),
		tableMessage(unix.NFT_MSG_DELTABLE, 0, id, id.attributes(0)),
		tableMessage(unix.NFT_MSG_NEWTABLE, netlink.Create, id, id.attributes(tableOwner)),
	})
}
