package nft

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// A Table is the whole wanted state of one of meshd's tables. Chains and rules that are not in
// it do not belong into the table.
type Table struct {
	ID     ID
	Sets   []Set
	Boxes  []Boxes
	Chains []Chain // those that a rule jumps to in front of it
}

// An ID identifies a table by its family and its name.
type ID struct {
	family nftables.TableFamily
	name   string
}

// Table returns the ID of a table of the family.
func (f Family) Table(name string) ID { return ID{f.table, name} }

// Both returns the ID of a table of both families.
func Both(name string) ID { return ID{nftables.TableFamilyINet, name} }

// Named returns the ID of a table of the same family.
func (id ID) Named(name string) ID { return ID{id.family, name} }

// AtDevices returns the ID of a table of chains at devices (netdev).
func AtDevices(name string) ID { return ID{nftables.TableFamilyNetdev, name} }

// table returns the ID as a value of the library.
func (id ID) table() *nftables.Table { return &nftables.Table{Family: id.family, Name: id.name} }

// A Chain is a base chain with the policy accept, or one that other chains jump to.
type Chain struct {
	Name     string
	Type     nftables.ChainType // empty if Hook is nil, and so is Priority
	Hook     *Hook              // nil: rules jump to the chain, see Goto
	Device   string             // of Ingress; the chain ends with it
	Priority Priority
	Rules    []Rule
}

// Types of chains, in the words of nft(8).
const (
	Filter = nftables.ChainTypeFilter
	NAT    = nftables.ChainTypeNAT
)

// Priorities of chains. Raw comes before connection tracking, Mangle behind it; chains that translate source
// addresses, such as iptables' POSTROUTING, are at SourceNAT. First comes before all others, so that
// a trace begins there. Last comes behind all that filters, and in front of the one that confirms
// connections (NF_IP_PRI_CONNTRACK_CONFIRM, the largest number): what a chain drops here leaves no
// connection behind.
var (
	First     = nftables.ChainPriority(math.MinInt32)
	Last      = nftables.ChainPriority(math.MaxInt32 - 1)
	Raw       = *nftables.ChainPriorityRaw
	Mangle    = *nftables.ChainPriorityMangle
	SourceNAT = *nftables.ChainPriorityNATSource
	// BehindFilter comes right behind the chains of usual firewalls.
	BehindFilter = *nftables.ChainPriorityFilter + 10
)

// A Priority says when a chain runs among others of its hook: the lowest first.
type Priority = nftables.ChainPriority

// A Hook is a point on the way of packets at which the kernel runs base chains.
type Hook = nftables.ChainHook

// Hooks of chains. Ingress is one of a device, before all others, and costs nothing elsewhere.
var (
	Ingress     = nftables.ChainHookIngress
	Input       = nftables.ChainHookInput
	Forward     = nftables.ChainHookForward
	Output      = nftables.ChainHookOutput
	Prerouting  = nftables.ChainHookPrerouting
	Postrouting = nftables.ChainHookPostrouting
)

// A Rule is one line of a chain. Its name becomes the rule's comment, by which counters are
// added up; several rules may have the same name.
type Rule struct {
	Name  string
	Exprs Exprs
}

// in returns the chain, in a table, as a value of the library.
func (c Chain) in(t *nftables.Table) *nftables.Chain {
	if c.Hook == nil {
		return &nftables.Chain{Table: t, Name: c.Name}
	}
	return &nftables.Chain{Table: t, Name: c.Name, Type: c.Type, Hooknum: c.Hook, Priority: &c.Priority,
		Device: c.Device}
}

// add adds the table's sets and chains to a transaction; the table itself must be in it. Sets of ranges may
// have been made ahead.
func (t Table) add(conn *nftables.Conn, made bool) error {
	if !made {
		if err := t.addSets(conn, true); err != nil {
			return err
		}
	}
	if err := t.addSets(conn, false); err != nil {
		return err
	}
	table := t.ID.table()
	for _, c := range t.Chains {
		chain := conn.AddChain(c.in(table))
		for _, r := range c.Rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.Exprs, UserData: comment(r.Name)})
		}
	}
	return nil
}

// comment returns a comment as the user data of a rule, as nft(8) stores it.
func comment(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }

// A Counter is what the rules of one name have matched. Bytes include the IP headers.
type Counter struct{ Packets, Bytes uint64 }

// plus returns the sum of two counters.
func (c Counter) plus(o Counter) Counter { return Counter{c.Packets + o.Packets, c.Bytes + o.Bytes} }

// A Keeper keeps some tables in the wanted state. Set, Edit, Idle and Close belong to one goroutine; Counters
// may be called from any, at any time, and never waits for them: mu is held for arithmetic alone.
type Keeper struct {
	ids   []ID
	began bool   // Set has succeeded once: the tables in the kernel are of this run. Set's own
	owns  bool   // the tables are to belong to owner; false also where the kernel cannot do that
	owner *owner // nil: none yet
	wrote *owner // that of the last Set that wrote
	names int    // the generation of the tables' sets of ranges, see ahead

	mu       sync.Mutex
	writing  bool               // rules are being replaced: what is read now may be of either
	replaced uint64             // times that rules were replaced
	reads    uint64             // readings that were begun
	newest   uint64             // the last reading that was taken into account
	wanted   []Table            // of the last Set
	past     map[string]Counter // sums of rules that no longer exist, by name
	last     map[string]Counter // the last reading of the existing rules, by name
}

// NewKeeper returns a Keeper for the tables with these IDs. It does not touch the kernel.
func NewKeeper(ids ...ID) *Keeper {
	return &Keeper{ids: ids, past: map[string]Counter{}, last: map[string]Counter{}}
}

// Set makes the kernel's tables match; tables of the Keeper's IDs that are not in the argument
// are removed. It replaces rules in one transaction, so that packets never find a part of them. If
// the kernel's tables match already, Set changes nothing and changed is false. It needs
// CAP_NET_ADMIN.
func (k *Keeper) Set(tables []Table) (changed bool, err error) {
	conn, err := k.connect()
	if err != nil {
		return false, err
	}
	// The first Set replaces the rules of an earlier run, so that counters begin at 0. Where other rules are
	// wanted than before, the kernel's are not compared: with 10,000 elements that takes as long as new ones.
	now := inGeneration(tables, k.names)
	if edits, alike := differing(k.have(), now); k.began && alike && k.owner == k.wrote {
		ok := false
		err := again(func() (err error) {
			if ok, err = k.untouched(conn, now); !ok && err == nil {
				edits, ok, err = k.compare(conn, now)
			}
			return err
		})
		if err != nil || ok && len(edits) == 0 {
			return false, err
		}
		// Another program may be faster, so that an element is gone already: then all is replaced.
		if ok && k.amend(conn, now, edits) == nil {
			return true, nil
		}
	}
	end := k.replace()
	last, err := read(conn, k.have(), true)
	if err != nil { // the counts since the last reading are lost with the rules
		last = nil
	}
	names, err := k.write(conn, tables)
	if err != nil {
		end(nil, nil)
		return false, err
	}
	end(last, inGeneration(tables, names))
	k.names = names
	k.began, k.wrote = true, k.owner
	return true, nil
}

// amend changes elements of sets alone, in one transaction: the rules and their counters stay. A node that
// comes to 10,000 others costs two messages, not a table of 20,000 elements.
func (k *Keeper) amend(conn *nftables.Conn, tables []Table, edits []edit) error {
	var err error
	for _, e := range edits {
		if err == nil {
			err = e.add(conn)
		}
	}
	if err := k.send(conn, err); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = tables
	return nil
}

// have returns the tables of the last Set.
func (k *Keeper) have() []Table {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.wanted
}

// replace begins to replace rules. end gets the last reading of the old ones and the new tables, or
// nil if nothing was replaced.
func (k *Keeper) replace() (end func(last map[string]Counter, tables []Table)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writing = true
	return func(last map[string]Counter, tables []Table) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.writing = false
		if tables == nil {
			return
		}
		k.replaced++
		if last != nil {
			k.take(last)
		}
		for name, c := range k.last {
			k.past[name] = k.past[name].plus(c)
		}
		clear(k.last)
		k.wanted = tables
	}
}

// Idle replaces each of the Keeper's tables that exists by the table that make returns for its
// ID. It makes no table that does not exist.
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

// Counters returns what rules have matched since the Keeper was made, by name. Counts never
// decrease: of a rule that another program deletes, the last reading stays in the sum. While rules
// are being replaced it returns the sums of the last reading.
func (k *Keeper) Counters() (map[string]Counter, error) {
	k.mu.Lock()
	k.reads++
	reading, replaced, tables := k.reads, k.replaced, k.wanted
	k.mu.Unlock()
	now, err := readNow(tables, true)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.writing || k.replaced != replaced || k.newest > reading: // overtaken
	case err != nil:
		return nil, err
	default:
		k.newest = reading
		k.take(now)
	}
	return sum(k.past, k.last), nil
}

// RuleCounters is Counters without a look at boxes, whose counts are those of the last Counters. It is for
// callers that ask each second: the kernel takes 40 ms to list 10,000 boxes.
func (k *Keeper) RuleCounters() (map[string]Counter, error) {
	k.mu.Lock()
	replaced, tables := k.replaced, k.wanted
	k.mu.Unlock()
	now, err := readNow(tables, false)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.writing || k.replaced != replaced {
		return sum(k.past, k.last), nil
	}
	if err != nil {
		return nil, err
	}
	for name, c := range k.last {
		if now[name].Packets < c.Packets { // of a box, or another program has replaced the rule
			now[name] = c
		}
	}
	return sum(k.past, now), nil
}

// take makes a reading the last one. The caller holds mu.
func (k *Keeper) take(now map[string]Counter) {
	for name, before := range k.last {
		if now[name].Packets < before.Packets { // another program has replaced the rule
			k.past[name] = k.past[name].plus(before)
		}
	}
	k.last = now
}

// readNow is read by a connection of its own, until it succeeds.
func readNow(tables []Table, boxes bool) (now map[string]Counter, err error) {
	conn, err := open()
	if err == nil {
		err = again(func() (err error) { now, err = read(conn, tables, boxes); return err })
	}
	return now, err
}

// read reads the counters of the tables' rules, by name, and those of boxes if asked for.
func read(conn *nftables.Conn, tables []Table, boxes bool) (map[string]Counter, error) {
	now := map[string]Counter{}
	for _, t := range tables {
		for _, c := range t.Chains {
			rules, err := listRules(conn, c.in(t.ID.table()))
			if err != nil {
				return nil, err
			}
			for _, r := range rules {
				count(now, r)
			}
		}
		for _, b := range t.Boxes {
			if !boxes || !b.counts {
				continue
			}
			if err := b.count(t.ID, now); err != nil {
				return nil, err
			}
		}
	}
	return now, nil
}

// count adds the counters of a rule to the sum of its name.
func count(into map[string]Counter, r *nftables.Rule) {
	for _, e := range r.Exprs {
		if c, ok := e.(*expr.Counter); ok {
			into[commentOf(r)] = into[commentOf(r)].plus(Counter{Packets: c.Packets, Bytes: c.Bytes})
		}
	}
}

// Remove removes tables, also those of earlier runs, and reports whether it found any.
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

// find returns the kernel's table of an ID. The error is ENOENT if it does not exist.
func find(conn *nftables.Conn, id ID) (*nftables.Table, error) {
	table, err := conn.ListTableOfFamily(id.name, id.family)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("look for table %s: %w", id.name, err)
	}
	return table, err
}
