package nft

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// A Table is what one table of ours should be, whole: what else is in it is damage.
type Table struct {
	ID     ID
	Sets   []Set
	Chains []Chain
}

// An ID names a table.
type ID struct {
	family nftables.TableFamily
	name   string
}

// Table returns the ID of a table of the family.
func (f Family) Table(name string) ID { return ID{f.table, name} }

// Both returns the ID of a table of both families.
func Both(name string) ID { return ID{nftables.TableFamilyINet, name} }

func (id ID) table() *nftables.Table { return &nftables.Table{Family: id.family, Name: id.name} }

// A Chain is a base chain, with a policy of accept.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     *Hook
	Priority nftables.ChainPriority
	Rules    []Rule
}

// What chains can be: types, hooks and priorities, in the words of nft(8).
const (
	Filter = nftables.ChainTypeFilter
	NAT    = nftables.ChainTypeNAT
)

// Priorities of chains.
var (
	Raw       = *nftables.ChainPriorityRaw
	SourceNAT = *nftables.ChainPriorityNATSource
)

// A Hook is a place on the way of packets where chains are.
type Hook = nftables.ChainHook

// Hooks of chains.
var (
	Input       = nftables.ChainHookInput
	Forward     = nftables.ChainHookForward
	Output      = nftables.ChainHookOutput
	Postrouting = nftables.ChainHookPostrouting
)

// A Rule is one line of a chain. Its name stands in the rule's comment. Rules may share one.
type Rule struct {
	Name  string
	Exprs Exprs
}

func (c Chain) in(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{Table: t, Name: c.Name, Type: c.Type, Hooknum: c.Hook, Priority: &c.Priority}
}

// add adds what the table should be to a transaction.
func (t Table) add(conn *nftables.Conn) error {
	table := t.ID.table()
	for _, s := range t.Sets {
		if err := s.add(conn, table); err != nil {
			return err
		}
	}
	for _, c := range t.Chains {
		chain := conn.AddChain(c.in(table))
		for _, r := range c.Rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.Exprs, UserData: comment(r.Name)})
		}
	}
	return nil
}

func comment(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }

// A Counter is what the rules of one name have matched.
type Counter struct{ Packets, Bytes uint64 }

func (c *Counter) add(o Counter) {
	c.Packets += o.Packets
	c.Bytes += o.Bytes
}

// A Keeper keeps some tables as they should be. Its methods may be called from any goroutine.
type Keeper struct {
	ids []ID

	mu     sync.Mutex
	began  bool // Set was called: what is in the kernel may be ours
	wanted []Table
	past   map[string]Counter // of rules that are gone, by name
	last   map[string]Counter // as read last, of the rules that are there
}

// NewKeeper returns a Keeper for tables with these IDs, which has not touched the kernel.
func NewKeeper(ids ...ID) *Keeper {
	return &Keeper{ids: ids, past: map[string]Counter{}, last: map[string]Counter{}}
}

// Set makes the kernel's tables match. Those of the Keeper's IDs that are not among them are removed.
// All of it is one transaction, so that there is no moment without rules. It changes nothing where
// the kernel has what is wanted, so it may be called as often as one likes; changed tells. It needs
// CAP_NET_ADMIN.
func (k *Keeper) Set(tables []Table) (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	conn, err := open()
	if err != nil {
		return false, err
	}
	if k.began { // rules of an earlier run are made anew, so that counters begin with this one
		same := false
		if err := again(func() (err error) { same, err = k.same(conn, tables); return err }); err != nil || same {
			return false, err
		}
	}
	_ = k.read(conn) // counts that cannot be read now are lost with their rules
	for _, id := range k.ids {
		// Adding before deleting makes deleting safe where there is none.
		conn.AddTable(id.table())
		conn.DelTable(id.table())
		i := slices.IndexFunc(tables, func(t Table) bool { return t.ID == id })
		if i < 0 {
			continue
		}
		conn.AddTable(id.table())
		if err := tables[i].add(conn); err != nil {
			return false, err
		}
	}
	if err := conn.Flush(); err != nil {
		return false, err
	}
	for name, c := range k.last {
		sum := k.past[name]
		sum.add(c)
		k.past[name] = sum
	}
	clear(k.last)
	k.wanted, k.began = tables, true
	return true, nil
}

// Idle replaces each table of the Keeper that there is by what make returns for it, and makes no
// table where there is none.
func (k *Keeper) Idle(make func(ID) Table) error {
	conn, err := open()
	if err != nil {
		return err
	}
	var tables []Table
	for _, id := range k.ids {
		if _, err := find(conn, id); errors.Is(err, unix.ENOENT) {
			continue
		} else if err != nil {
			return err
		}
		tables = append(tables, make(id))
	}
	_, err = k.Set(tables)
	return err
}

// Counters returns what rules have matched since the Keeper was made, by name. They never fall: what
// somebody deletes is counted as far as it was read.
func (k *Keeper) Counters() (map[string]Counter, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	conn, err := open()
	if err == nil {
		err = again(func() error { return k.read(conn) })
	}
	if err != nil {
		return nil, err
	}
	all := map[string]Counter{}
	for _, counters := range []map[string]Counter{k.past, k.last} {
		for name, c := range counters {
			sum := all[name]
			sum.add(c)
			all[name] = sum
		}
	}
	return all, nil
}

// read reads the counters of the rules of our tables. The caller holds mu.
func (k *Keeper) read(conn *nftables.Conn) error {
	now := map[string]Counter{}
	for _, t := range k.wanted {
		for _, c := range t.Chains {
			rules, err := listRules(conn, c.in(t.ID.table()))
			if err != nil {
				return err
			}
			for _, r := range rules {
				count(now, r)
			}
		}
	}
	for name, before := range k.last {
		if now[name].Packets < before.Packets { // somebody made the rule anew
			sum := k.past[name]
			sum.add(before)
			k.past[name] = sum
		}
	}
	k.last = now
	return nil
}

func count(into map[string]Counter, r *nftables.Rule) {
	for _, e := range r.Exprs {
		if c, ok := e.(*expr.Counter); ok {
			sum := into[commentOf(r)]
			sum.add(Counter{Packets: c.Packets, Bytes: c.Bytes})
			into[commentOf(r)] = sum
		}
	}
}

// Remove removes tables, whoever made them, and tells whether there were any.
func Remove(ids ...ID) (removed bool, err error) {
	conn, err := open()
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		table, err := find(conn, id)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return false, err
		}
		removed = true
		conn.DelTable(table)
	}
	return removed, conn.Flush()
}

// find returns the kernel's table of an ID; ENOENT if there is none.
func find(conn *nftables.Conn, id ID) (*nftables.Table, error) {
	table, err := conn.ListTableOfFamily(id.name, id.family)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("look for table %s: %w", id.name, err)
	}
	return table, err
}
