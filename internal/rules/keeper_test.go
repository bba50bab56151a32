package rules

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/nstest"
)

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// wanted returns rules of a mesh, which has a node at 127.0.0.2.
func wanted(network string) Wanted {
	pods := prefixes("10.244.2.0/24")
	return Wanted{
		Masquerade: &masq.Settings{Mesh: prefixes(network), Local: pods, Pods: pods},
		Accept:     &filter.Accept{Interfaces: []string{"mesh0"}, Networks: prefixes(network), Pods: pods},
		Guard: filter.GuardSettings{TUN: "mesh0", Mark: 1,
			Binds: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8285")},
			Nodes: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:8285")}},
	}
}

// A keeping is a Keeper in a namespace, whose tasks run on threads of it.
type keeping struct {
	*Keeper
	*testing.T
	n      *nstest.Namespace
	log    *events
	told   chan slog.Record // each line of the log
	ctx    context.Context
	cancel context.CancelFunc
	tasks  []chan error
}

// keep runs a test with a Keeper that keeps rules, and ends both.
func keep(t *testing.T, test func(k *keeping)) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		k := &keeping{T: t, n: n, told: make(chan slog.Record, 100)}
		k.log = &events{hear: func(r slog.Record) { k.told <- r }}
		k.Keeper = New(slog.New(k.log))
		k.ctx, k.cancel = context.WithCancel(context.Background())
		k.run(k.Keep)
		test(k)
		k.cancel()
		for _, done := range k.tasks {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// run runs a task on a thread of the namespace.
func (k *keeping) run(task func(context.Context) error) {
	done := make(chan error, 1)
	go func() { done <- k.n.Do(func() error { return task(k.ctx) }) }()
	k.tasks = append(k.tasks, done)
}

func (k *keeping) want(w Wanted, always bool) (undo func() error) {
	k.Helper()
	undo, err := k.Set(k.ctx, w, always)
	if err != nil {
		k.Error(err)
		return func() error { return nil }
	}
	return undo
}

// nft runs a command of nft(8) and returns what it printed.
func (k *keeping) nft(args ...string) string {
	k.Helper()
	out, err := k.n.Run("nft", args...)
	if err != nil {
		k.Error(err)
	}
	return nstest.SortSets(out)
}

// list returns all rules without counters, table by table: the kernel lists the latest table last.
func (k *keeping) list() string {
	k.Helper()
	tables := strings.SplitAfter(k.nft("-s", "list", "ruleset"), "\n}\n")
	slices.Sort(tables)
	return strings.Join(tables, "")
}

// hears waits for an event, and returns its line.
func (k *keeping) hears(want string) (r slog.Record) {
	for r = range k.told {
		if attribute(r, "event") == want {
			break
		}
	}
	return r
}

// is compares what is told.
func (k *keeping) is(when string, repairs uint64, kinds ...mesh.Kind) {
	k.Helper()
	s, conditions := k.Read(), k.Conditions()
	var got []mesh.Kind
	for _, c := range conditions {
		got = append(got, c.Kind)
	}
	if s.Repairs != repairs || !slices.Equal(got, kinds) || k.Fine() != (len(kinds) == 0) {
		k.Errorf("%s: %d repairs, %v, fine %v, want %d, %v", when, s.Repairs, got, k.Fine(), repairs, kinds)
	}
}

// Rules are in force when Set returns, and Undo goes back to those before.
func TestSetAndUndo(t *testing.T) {
	keep(t, func(k *keeping) {
		k.nft("add table ip host; add chain ip host c { type filter hook forward priority 0; policy drop; }")
		k.is("nothing is wanted yet", 0)
		undoFirst := k.want(wanted("10.244.0.0/16"), true)
		first := k.list()
		for _, part := range []string{"table ip meshd ", "table inet " + filter.TableName, `comment "meshd"`} {
			if !strings.Contains(first, part) {
				k.Errorf("without %q:\n%s", part, first)
			}
		}
		s := k.Read()
		if !s.Masquerade || len(s.Counters) != len(masq.RuleNames()) {
			k.Errorf("%+v", s)
		}
		undo := k.want(wanted("10.245.0.0/16"), true)
		if second := k.list(); second == first || !strings.Contains(second, "10.245.0.0/16") {
			k.Errorf("other rules:\n%s", second)
		}
		if err := undo(); err != nil || k.list() != first {
			k.Errorf("back: %v\n%s\nwant\n%s", err, k.list(), first)
		}
		if err := undoFirst(); err != nil || k.list() != first {
			k.Errorf("without any before, rules stay: %v\n%s", err, k.list())
		}
		k.is("nobody damaged anything", 0)
	})
}

// What is not wanted any more goes, and the rest stays.
func TestSetLess(t *testing.T) {
	keep(t, func(k *keeping) {
		k.nft("add table ip host; add chain ip host c { type filter hook forward priority 0; policy drop; }")
		host := k.list()
		k.want(wanted("10.244.0.0/16"), true)
		less := wanted("10.244.0.0/16")
		less.Masquerade, less.Accept = nil, nil
		undo := k.want(less, true)
		if s := k.Read(); s.Masquerade || s.Counters != nil {
			k.Errorf("%+v", s)
		}
		if got := k.list(); strings.Contains(got, "masquerade") || !strings.Contains(got, host) {
			k.Errorf("rules that are not wanted are there:\n%s", got)
		}
		if err := undo(); err != nil || !strings.Contains(k.list(), "masquerade") {
			k.Errorf("back: %v\n%s", err, k.list())
		}
		k.is("all of that was ours to change", 0)
	})
}

// Rules that are wanted already are left alone, unless the caller wants them looked at: news of the
// host come by the hundred, and each of them sets what is wanted already.
func TestSetTheSame(t *testing.T) {
	keep(t, func(k *keeping) {
		k.want(wanted("10.244.0.0/16"), true)
		whole := k.list()
		k.nft("delete table ip meshd")
		for range 2 { // the second is answered when all of the first is done
			k.want(wanted("10.244.0.0/16"), false)
		}
		if got := k.list(); strings.Contains(got, "table ip meshd ") {
			k.Errorf("somebody looked:\n%s", got)
		}
		k.want(wanted("10.244.0.0/16"), true)
		if got := k.list(); got != whole {
			k.Errorf("%s\nwant\n%s", got, whole)
		}
		k.is("another program had deleted a table", 1)
	})
}

// Damage by another program is repaired at once.
func TestRepair(t *testing.T) {
	keep(t, func(k *keeping) {
		k.nft("add table ip host; add chain ip host c { type filter hook forward priority 0; policy drop; }")
		k.want(wanted("10.244.0.0/16"), true)
		whole := k.list()
		k.run(func(ctx context.Context) error { return k.Watch(ctx, func() {}) })
		for i, damage := range []string{
			"delete table ip meshd", "flush table inet " + filter.TableName, "flush chain ip host c",
		} {
			k.nft(damage)
			k.hears("rules_restored")
			if got := k.list(); got != whole {
				k.Errorf("%s: %s\nwant\n%s", damage, got, whole)
			}
			k.is(damage, uint64(i+1))
		}
	})
}

// others owns a table of ours, so that the kernel lets nobody else change it (NFT_TABLE_F_OWNER).
func (k *keeping) others() *nft.Standby {
	k.Helper()
	var owner nft.Standby
	if err := owner.Set(nft.Table{ID: nft.Both(filter.TableName)}); err != nil {
		k.Error(err)
	}
	return &owner
}

// Rules that the kernel refuses are a condition, and are tried again until they are in force.
func TestRulesThatAreRefused(t *testing.T) {
	keep(t, func(k *keeping) {
		owner := k.others()
		if _, err := k.Set(k.ctx, wanted("10.244.0.0/16"), true); !errors.Is(err, unix.EPERM) {
			k.Errorf("%v", err)
		}
		k.hears("rules_failed")
		k.is("the kernel refuses", 0, mesh.RulesFailed)
		if !strings.Contains(k.list(), "table ip meshd") {
			k.Errorf("rules that it does not refuse are missing:\n%s", k.list())
		}
		if err := owner.Close(); err != nil {
			k.Error(err)
		}
		k.hears("rules_in_force")
		if got := k.list(); !strings.Contains(got, filter.NotFromMeshd) || !k.Fine() {
			k.Errorf("%s", got)
		}
	})
}

// Watch tells who has changed rules, after it has told Keep to look once.
func TestWatch(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		k := New(slog.New(slog.DiscardHandler)) // Keep does not run: the test hears what Watch tells
		if _, err := k.follow(request{rules: wanted("10.244.0.0/16")}); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Do(func() error { return k.Watch(ctx, func() {}) }) }()
		if by := <-k.damaged; by != "" {
			t.Errorf("at the start: %q", by)
		}
		for _, damage := range []string{"flush", "delete"} {
			if _, err := n.Run("nft", damage, "table", "ip", masq.TableName); err != nil {
				t.Error(err)
			}
			if by := <-k.damaged; by != "nft" {
				t.Errorf("%s by %q", damage, by)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Who damaged rules once is not blamed for what is restored later.
func TestBlame(t *testing.T) {
	keep(t, func(k *keeping) {
		k.want(wanted("10.244.0.0/16"), true)
		k.nft("delete table ip meshd")
		k.damaged <- "somebody"
		if by := attribute(k.hears("rules_restored"), "program"); by != "somebody" {
			k.Errorf("damage is said to be by %q", by)
		}
		owner := k.others()
		if _, err := k.Set(k.ctx, wanted("10.244.0.0/16"), true); !errors.Is(err, unix.EPERM) {
			k.Errorf("%v", err)
		}
		if err := owner.Close(); err != nil {
			k.Error(err)
		}
		k.hears("rules_in_force")
		if by := attribute(k.hears("rules_restored"), "program"); by != "" {
			k.Errorf("rules that were refused are said to be damaged by %q", by)
		}
	})
}

// After rules that were refused those before are the ones to keep.
func TestRefusedRulesAreUndone(t *testing.T) {
	keep(t, func(k *keeping) {
		k.want(wanted("10.244.0.0/16"), true)
		before := k.list()
		k.nft("delete table inet " + filter.TableName)
		owner := k.others()
		next := wanted("10.245.0.0/16")
		next.Guard.Nodes = append(next.Guard.Nodes, netip.MustParseAddrPort("192.0.2.2:8285"))
		if _, err := k.Set(k.ctx, next, true); !errors.Is(err, unix.EPERM) {
			k.Errorf("%v", err)
		}
		if got := k.list(); !strings.Contains(got, "10.244.0.0/16") || strings.Contains(got, "10.245.0.0/16") {
			k.Errorf("the rules before are not in force:\n%s", got)
		}
		if err := owner.Close(); err != nil {
			k.Error(err)
		}
		k.hears("rules_in_force")
		if got := k.list(); got != before {
			k.Errorf("%s\nwant\n%s", got, before)
		}
	})
}

// The guard counts what is sent past meshd to the port of a node.
func TestRefused(t *testing.T) {
	keep(t, func(k *keeping) {
		if n := k.Drops()[filter.NotFromMeshd]; n != 0 {
			k.Errorf("%d before there is a guard", n)
		}
		k.want(wanted("10.244.0.0/16"), true)
		forger, err := net.Dial("udp", "127.0.0.2:8285")
		if err != nil {
			k.Error(err)
			return
		}
		defer forger.Close()
		for range 3 {
			if _, err := forger.Write([]byte("x")); !errors.Is(err, unix.EPERM) {
				k.Errorf("a datagram passed the guard: %v", err)
			}
		}
		if n := k.Drops()[filter.NotFromMeshd]; n != 3 {
			k.Errorf("%d datagrams were refused", n)
		}
		k.nft("flush ruleset")
		if n := k.Drops()[filter.NotFromMeshd]; n < 3 {
			k.Errorf("the count fell to %d", n)
		}
	})
}

// Whoever reads waits for nobody: here Keep hangs in the middle of its work.
func TestReadWhileKeepIsBusy(t *testing.T) {
	keep(t, func(k *keeping) {
		k.want(wanted("10.244.0.0/16"), true)
		busy, end := make(chan struct{}), make(chan struct{})
		k.log.hear = func(slog.Record) { close(busy); <-end }
		k.nft("flush ruleset")
		answer := make(chan error, 1)
		go func() { // it logs what it has restored, and that takes a while
			_, err := k.Set(k.ctx, wanted("10.244.0.0/16"), true)
			answer <- err
		}()
		<-busy
		s, conditions := k.Read(), k.Conditions() // a test in which one of these waits never ends
		if !s.Masquerade || s.Repairs != 1 || len(conditions) != 0 || !k.Fine() ||
			k.Drops()[filter.NotFromMeshd] != 0 {
			k.Errorf("%+v, %+v", s, conditions)
		}
		ctx, cancel := context.WithCancel(k.ctx)
		cancel()
		if _, err := k.Set(ctx, wanted("10.245.0.0/16"), true); !errors.Is(err, context.Canceled) {
			k.Errorf("%v", err)
		}
		close(end)
		if err := <-answer; err != nil {
			k.Error(err)
		}
		k.log.hear = nil
	})
}

// Rules stay when the daemon ends; only what lasts as long as a process goes.
func TestRulesOutliveTheDaemon(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		ctx, cancel := context.WithCancel(t.Context())
		k, done := New(slog.New(slog.DiscardHandler)), make(chan error, 1)
		go func() { done <- n.Do(func() error { return k.Keep(ctx) }) }()
		if _, err := k.Set(ctx, wanted("10.244.0.0/16"), true); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		out, err := n.Run("nft", "list", "tables")
		if err != nil || !strings.Contains(out, "table ip meshd\n") || strings.Contains(out, "table inet meshd\n") {
			t.Errorf("%v:\n%s", err, out)
		}
	})
}
