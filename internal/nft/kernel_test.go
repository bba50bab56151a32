package nft

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"example.org/meshd/internal/nstest"
)

// The tests of this file ask the kernel, in a network namespace of their own.

func nftRun(t *testing.T, n *nstest.Namespace, args ...string) string {
	t.Helper()
	out, err := n.Run("nft", args...)
	if err != nil {
		t.Error(err)
	}
	return nstest.SortSets(out)
}

var (
	one = IPv4.Table("meshd")
	two = Both("meshd-filter")
)

// table returns a table with a set and a chain of rules with these names.
func table(id ID, names ...string) Table {
	f := IPv4
	if id == two {
		f = IPv4.InBoth()
	}
	c := Chain{Name: "output", Type: Filter, Hook: Output, Priority: Raw}
	for _, name := range names {
		exprs := Join(f.Guard(), f.DestinationIn("net"), Return())
		c.Rules = append(c.Rules, Rule{name, exprs})
	}
	return Table{ID: id, Sets: []Set{f.Prefixes("net", prefixes("127.0.0.0/8"))}, Chains: []Chain{c}}
}

// A Keeper makes, changes and removes its tables, and touches nothing if they are right.
func TestKeeper(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		nftRun(t, n, "add table ip foreign")
		k := NewKeeper(one, two)
		for _, step := range []struct {
			what    string
			tables  []Table
			changed bool
			listed  string // the tables that are there
		}{
			{"both", []Table{table(one, "a", "b"), table(two, "c")}, true, "foreign meshd meshd-filter"},
			{"the same again", []Table{table(one, "a", "b"), table(two, "c")}, false, "foreign meshd meshd-filter"},
			{"another order", []Table{table(one, "b", "a"), table(two, "c")}, true, "foreign meshd meshd-filter"},
			{"one of them", []Table{table(one, "b", "a")}, true, "foreign meshd"},
			{"one of them again", []Table{table(one, "b", "a")}, false, "foreign meshd"},
			{"none", nil, true, "foreign"},
			{"none again", nil, false, "foreign"},
		} {
			if changed, err := k.Set(step.tables); err != nil || changed != step.changed {
				t.Errorf("%s: changed %v, %v", step.what, changed, err)
			}
			var names []string
			for line := range strings.Lines(nftRun(t, n, "list", "tables")) {
				names = append(names, strings.Fields(line)[2])
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != step.listed {
				t.Errorf("%s: %s, want %s", step.what, got, step.listed)
			}
		}
	})
}

// Counts are sums of all rules of a name, and outlive the rules that have counted.
func TestCounters(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := n.IP("link set lo up"); err != nil {
			t.Fatal(err)
		}
		k := NewKeeper(one)
		sent := uint64(0)
		set := func(names ...string) {
			t.Helper()
			if _, err := k.Set([]Table{table(one, names...)}); err != nil {
				t.Fatal(err)
			}
		}
		ping := func() { // a question and its answer
			t.Helper()
			if out, err := n.Run("ping", "-c", "1", "-W", "5", "127.0.0.1"); err != nil {
				t.Fatal(out)
			}
			sent += 2
		}
		counted := func(when string, want uint64) {
			t.Helper()
			all, err := k.Counters()
			if err != nil || all["a"].Packets != want {
				t.Errorf("%s: %+v, %v, want %d packets", when, all, err, want)
			}
			if want > 0 && all["a"].Bytes != want*84 { // 56 of data, 8 of ICMP, 20 of IP
				t.Errorf("%s: %d bytes in %d packets", when, all["a"].Bytes, want)
			}
		}
		set("a")
		counted("at first", 0)
		ping()
		counted("after a ping", sent)
		set("a", "b")
		ping()
		counted("with other rules", sent)
		nftRun(t, n, "delete table ip meshd")
		counted("of a table that is gone", sent)
		set("a", "b")
		ping()
		counted("of the table that is there again", sent)
	})
}

// Idle replaces tables that are there and makes none that are not.
func TestIdle(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		k := NewKeeper(one, two)
		if _, err := k.Set([]Table{table(one, "a")}); err != nil {
			t.Fatal(err)
		}
		if err := k.Idle(func(id ID) Table { return table(id, "idle") }); err != nil {
			t.Fatal(err)
		}
		got := nftRun(t, n, "list", "ruleset")
		if !strings.Contains(got, `comment "idle"`) || strings.Contains(got, `comment "a"`) ||
			strings.Contains(got, "meshd-filter") {
			t.Errorf("got:\n%s", got)
		}
		for _, want := range []bool{true, false} {
			if removed, err := Remove(one, two); err != nil || removed != want {
				t.Errorf("Remove: %v, %v", removed, err)
			}
		}
	})
}

// comments returns those of the rules of a chain, in their order; - is a rule without one.
func comments(t *testing.T, n *nstest.Namespace, chain ...string) string {
	t.Helper()
	var all []string
	for line := range strings.Lines(nftRun(t, n, append([]string{"list", "chain"}, chain...)...)) {
		if !strings.Contains(line, "counter") {
			continue
		}
		_, text, ok := strings.Cut(line, `comment "`)
		if !ok {
			text = "-"
		}
		all = append(all, strings.Trim(strings.TrimSpace(text), `"`))
	}
	return strings.Join(all, " ")
}

// A chain of iptables-nft gets rules in its form, also while another program deletes the rules that ours are
// to
// go behind: it would not touch the whole table any more.
func TestGuestsAmongChanges(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		conn, err := open()
		if err != nil {
			t.Fatal(err)
		}
		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
		drop := nftables.ChainPolicyDrop
		chain := &nftables.Chain{Table: table, Name: "FORWARD", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop}
		conn.AddTable(table)
		conn.AddChain(chain)
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		g := NewGuests("meshd", nftables.ChainHookForward)
		turn := 0
		want := func(p Place) (all []Exprs) {
			if !p.IPTables {
				t.Error("in the form of nftables")
			}
			turn++ // other rules each time: they are replaced, if they are still there
			return []Exprs{append(IPTables(turn%2 == 0), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})}
		}
		stop, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- n.Do(func() error {
				other, err := open()
				for ; err == nil; err = other.Flush() {
					select {
					case <-stop:
						return nil
					case <-time.After(rand.N(4 * time.Millisecond)): // at any moment of a Set
					}
					other.FlushChain(chain) // ours go, too
				}
				return err
			})
		}()
		for range 200 {
			_, _ = g.Set(want) // a rule that is gone is an error, and Set is called again
		}
		close(stop)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if _, err := g.Set(want); err != nil {
			t.Error(err)
		}
		if out, err := n.Run("iptables-nft", "-S", "FORWARD"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// Guests stand in front of a chain's rules, are replaced in place, come back where they were, and
// are found by their comment.
func TestGuests(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		chain := []string{"inet", "host", "forward"}
		nftRun(t, n, `add table inet host { chain forward { type filter hook forward priority 0; policy drop;
			counter comment "theirs"; }; chain input { type filter hook input priority 0; policy drop; }; }`)
		g := NewGuests("ours", Forward)
		set := func(rules int, repaired bool) {
			t.Helper()
			got, err := g.Set(func(p Place) (all []Exprs) {
				for i := range rules {
					all = append(all, Join(p.Families[0].Guard(), FromInterface("if"+string(rune('a'+i))), Accept()))
				}
				return all
			})
			if err != nil || got != repaired {
				t.Errorf("Set: repaired %v, %v", got, err)
			}
		}
		are := func(when, want string) {
			t.Helper()
			if got := comments(t, n, chain...); got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		set(2, false)
		are("made", "ours ours theirs")
		set(2, false)
		nftRun(t, n, `insert rule inet host forward counter comment "first"`)
		set(2, false)
		are("behind what came in front", "first ours ours theirs")
		set(1, true)
		are("fewer, in place", "first ours theirs")
		nftRun(t, n, `flush chain inet host forward; add rule inet host forward counter comment "new"`)
		set(1, true)
		are("after a flush", "ours new")
		if !g.Stand("host", "forward") || g.Stand("host", "input") {
			t.Error("Stand does not know where they are")
		}
		set(0, false)
		are("none wanted", "new")
		set(1, false)
		for _, want := range []bool{true, false} { // another run, which knows nothing
			if removed, err := NewGuests("ours", Forward).Remove(); err != nil || removed != want {
				t.Errorf("Remove: %v, %v", removed, err)
			}
		}
		are("removed", "new")
	})
}

// Other programs cannot change a standby table, and it goes with its owner.
func TestStandby(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		var b Standby
		for _, name := range []string{"a", "a", "b"} {
			if err := b.Set(table(two, name)); err != nil {
				t.Fatal(err)
			}
			if got := comments(t, n, "inet", "meshd-filter", "output"); got != name {
				t.Errorf("%s, want %s", got, name)
			}
		}
		if out, err := n.Run("nft", "delete table inet meshd-filter"); err == nil {
			t.Errorf("another program deleted it: %s", out)
		}
		for range 2 { // once more does nothing
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		if got := nftRun(t, n, "list", "ruleset"); got != "" {
			t.Errorf("left behind:\n%s", got)
		}
	})
}

// Owners leave the number of the process to sockets that come and go: the kernel may take away what the
// number owned when the next socket has it already.
func TestOwnersHaveNumbersOfTheirOwn(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, _ *nstest.Namespace) {
		var b Standby
		if err := b.Set(table(two, "a")); err != nil {
			t.Fatal(err)
		}
		o, err := newOwner()
		if err != nil {
			t.Fatal(err)
		}
		// A program that another test is about to start may hold what was closed before for a moment.
		free := false
		for end := time.Now().Add(nstest.Patience); !free && time.Now().Before(end); {
			passing, err := dialOwner()
			if err != nil {
				t.Fatal(err)
			}
			free = passing.raw.PID() == uint32(os.Getpid())
			if err := passing.close(); err != nil {
				t.Error(err)
			}
		}
		if !free {
			t.Error("an owner has the number of the process")
		}
		if err := errors.Join(b.Close(), o.close()); err != nil {
			t.Error(err)
		}
	})
}

// Watch tells of others' changes to what is ours, with the program's name, and not of our own, however
// large that is: what does not fit a buffer is lost, and would count as a change by others.
func TestWatch(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		k := NewKeeper(one)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // for a change that is not told
		defer cancel()
		var told []string
		steps := []func(){
			func() { // ours, then what does not concern us, then what does
				large := table(one, "a")
				var ips []netip.Addr
				for i := range 10_000 {
					ips = append(ips, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
				}
				large.Sets = append(large.Sets, IPv4.Addresses("hosts", ips))
				if _, err := k.Set([]Table{large}); err != nil {
					t.Error(err)
				}
				nftRun(t, n, "add table ip foreign")
				nftRun(t, n, "flush table ip meshd")
			},
			func() { nftRun(t, n, "add chain ip foreign c { type filter hook forward priority 0; }") },
			cancel,
		}
		err := Watch(ctx, func(string, string) bool { return false }, func(by string) error {
			told = append(told, by)
			steps[min(len(told), len(steps))-1]()
			return nil
		})
		if err != nil || !slices.Equal(told, []string{"", "nft", "nft"}) {
			t.Errorf("told %q, %v", told, err)
		}
	})
}
