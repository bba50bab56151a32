// Package rules keeps the rules of masquerade, of forwarding and of the guard as wanted, whoever changes
// them: masq and filter know what the rules are, this room when they are written.
//
//	nftables         Keeper: one goroutine writes, and repairs within a second or two
//	iptables-legacy  Legacy: a program with a lock of its own, so nothing ever waits for it
//	of others        Others: which of them are about the mesh's own datagrams
package rules

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/rate"
)

// Wanted is what the rules should do.
type Wanted struct {
	Masquerade *masq.Settings // nil: no masquerade rules
	Accept     *filter.Accept // nil: the FORWARD policy of the host is left alone
	Guard      filter.GuardSettings
	Clamp      filter.ClampSettings  // Narrow is not a part of the plan, see Keeper.Narrow; Guard's is not set
	Allow      *filter.AllowSettings // who may reach what is behind this node; nil: everybody may
}

// equal tells whether rules do the same. Reflection takes longer for one node than this for all of them.
func (w Wanted) equal(o Wanted) bool {
	if !slices.Equal(w.Guard.Nodes, o.Guard.Nodes) || !slices.Equal(w.Guard.Sealed, o.Guard.Sealed) ||
		!w.Allow.Equal(o.Allow) {
		return false
	}
	for _, one := range []*Wanted{&w, &o} {
		one.Guard.Nodes, one.Guard.Sealed, one.Allow = nil, nil, nil
	}
	return reflect.DeepEqual(w, o)
}

// Keeper keeps the rules in nftables. One goroutine, Keep, writes them; others ask it with Set, and read
// what it has published. Rules that cannot be set are a condition: the mesh itself works without.
type Keeper struct {
	log    *slog.Logger
	masq   *masq.Masq
	accept *filter.Forward
	guard  *filter.Guard
	inner  *filter.Inner
	last   *filter.Last
	allow  *filter.Allow
	narrow atomic.Pointer[map[int][]netip.Prefix] // what the path to some peers carries

	narrowed  chan struct{} // narrow has changed
	asked     chan request
	enclosing chan chan<- bool // hears whether the encrypted interface is guarded
	damaged   chan string      // by which program the rules were changed

	suspected chan struct{} // accepts may be missing in a chain of another program

	// Of Run alone.
	wanted   *Wanted   // nil until the first plan
	repaired time.Time // when the last repair was
	guarded  bool      // the rules at the encrypted interface are in force

	inForce atomic.Pointer[Wanted]         // as wanted
	failure atomic.Pointer[mesh.Condition] // why not all rules are in force; nil if they are
	repairs atomic.Uint64
	rate    *rate.Repairs // of repairs
	dropped mesh.Growing  // by the guard: not_from_meshd
	bare    mesh.Growing  // the same: not_encrypted
	misled  mesh.Growing  // the same: wrong_destination
	unasked mesh.Growing  // by rules of the file: not_allowed
	lately  rate.Minute   // of unasked

	uncounted atomic.Pointer[mesh.Condition] // why the last Read had no counters; nil if it had
}

// request asks for rules.
type request struct {
	rules  Wanted
	always bool // also where they are wanted already
	reply  chan reply
}

type reply struct {
	before *Wanted
	err    error
}

// New returns a Keeper that has not touched the kernel.
func New(log *slog.Logger) *Keeper {
	return &Keeper{log: log, masq: masq.New(), accept: filter.NewForward(),
		guard: filter.NewGuard(), inner: filter.NewInner(),
		last: filter.NewLast(), allow: filter.NewAllow(), narrowed: make(chan struct{}, 1),
		rate: rate.NewRepairs("rules"), asked: make(chan request), enclosing: make(chan chan<- bool),
		damaged:   make(chan string, 1),
		suspected: make(chan struct{}, 1)}
}

const (
	// retryRules is how long to wait after nftables has refused.
	retryRules = 2 * time.Second
	// repairPause is the least time between two repairs. Another program that insists on its own
	// idea of our rules, a second meshd say, must not keep both busy.
	repairPause = time.Second
)

// Last returns the chain behind all others, of which the Keeper keeps what is about sizes.
func (t *Keeper) Last() *filter.Last { return t.last }

// Fine tells whether the rules are in force.
func (t *Keeper) Fine() bool { return t.failure.Load() == nil }

// Set makes rules the ones to keep, and returns once they are in force. Rules that are wanted already
// are looked at only if always is true. Undo goes back to the rules before; without any, these stay.
func (t *Keeper) Set(ctx context.Context, w Wanted, always bool) (undo func() error, err error) {
	before, err := t.ask(ctx, w, always)
	undo = func() error {
		if before == nil { // without a plan the rules do no harm, and the first plan is tried again
			return nil
		}
		_, err := t.ask(ctx, *before, true)
		return err
	}
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// ask has Keep make rules the ones to keep.
func (t *Keeper) ask(ctx context.Context, w Wanted, always bool) (before *Wanted, err error) {
	r := request{rules: w, always: always, reply: make(chan reply, 1)}
	select {
	case t.asked <- r:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	answer := <-r.reply
	return answer.before, answer.err
}

// Narrow tells which prefixes are behind paths that carry less than the interface, by what they carry in
// bytes. It returns at once; the argument must not be changed any more.
func (t *Keeper) Narrow(paths map[int][]netip.Prefix) {
	if before := t.narrow.Load(); before != nil && reflect.DeepEqual(*before, paths) {
		return
	}
	t.narrow.Store(&paths)
	select {
	case t.narrowed <- struct{}{}:
	default: // Keep will read the newest
	}
}

// settings are what is wanted of the guard, and what is known of paths.
func (t *Keeper) settings() filter.GuardSettings {
	s := t.wanted.Guard
	s.Clamp = t.wanted.Clamp
	if narrow := t.narrow.Load(); narrow != nil {
		s.Clamp.Narrow = *narrow
	}
	return s
}

// lower makes the rules about TCP segments match what is wanted, and what is known of paths.
func (t *Keeper) lower() error {
	s := t.settings()
	var errs []error
	if !t.guard.Edit(s) {
		_, err := t.guard.Set(s)
		errs = append(errs, err)
	}
	_, err := t.last.Clamp(s.Clamp)
	return errors.Join(append(errs, err)...)
}

// Look has Keep look at the rules of others soon: they may drop what they did not drop before. The
// kernel's news do not tell of each rule that is added to a chain of another program.
func (t *Keeper) Look() {
	select {
	case t.suspected <- struct{}{}:
	default: // Keep looks soon
	}
}

// Watch tells Keep and news of changes by other programs, until ctx ends.
func (t *Keeper) Watch(ctx context.Context, news func()) error {
	for {
		err := nft.Watch(ctx, t.accept.StandsIn, func(by string) error {
			news()
			select {
			case t.damaged <- by:
			default: // Keep looks soon
			}
			return nil
		})
		if ctx.Err() != nil {
			return nil
		}
		t.log.Warn("changes of rules by other programs are not seen: trying again",
			"in", retryRules, "error", err, "event", "watch_failed")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryRules):
		}
	}
}

// Keep writes rules, as asked and again after others have changed them, until ctx ends. No timer runs
// while all is well and nothing is asked.
func (t *Keeper) Keep(ctx context.Context) error {
	defer t.masq.Close()
	defer t.inner.Close()
	defer t.allow.Close()
	var retry <-chan time.Time
	by := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-t.asked:
			before := t.wanted
			edited, err := t.follow(r)
			switch {
			case err != nil:
				retry, by = time.After(retryRules), ""
			case edited && retry == nil:
				retry, by = time.After(repairPause), ""
			}
			r.reply <- reply{before, err}
			continue
		case reply := <-t.enclosing:
			if !t.answer(reply) {
				retry, by = time.After(retryRules), ""
			}
			continue
		case <-t.narrowed:
			if t.wanted != nil {
				if err := t.lower(); err != nil {
					t.note(err)
					retry, by = time.After(retryRules), ""
				}
			}
			continue
		case by = <-t.damaged:
			retry = time.After(time.Until(t.repaired.Add(repairPause))) // at once, if the last one is long ago
			continue
		case <-t.suspected:
			retry, by = time.After(time.Until(t.repaired.Add(repairPause))), ""
			continue
		case <-retry:
		}
		retry = nil
		switch mended, err := t.repair(by); {
		case err != nil:
			retry = time.After(retryRules)
		case mended:
			// What somebody does while rules are being written may be told before they are there.
			retry = time.After(repairPause)
		}
	}
}

// follow makes rules the ones to keep, and takes away those that are not wanted any more. edited tells
// that not all rules were looked at: with 10,000 nodes that takes longer than the rest of a reload, so
// the reload is answered first. What is the same, and still asked for, is looked at at once.
func (t *Keeper) follow(r request) (edited bool, err error) {
	if g := &r.rules.Guard; g.Encrypted == "" && t.wanted != nil {
		// A mesh that is not encrypted any more: its interface goes after the rules, or stays with a helper.
		// Until this daemon ends, nothing comes out of it.
		g.Encrypted, g.Inner = t.wanted.Guard.Encrypted, nil
	}
	first, same := t.wanted == nil, t.wanted != nil && t.wanted.equal(r.rules)
	if same && !r.always {
		return false, nil
	}
	edit := t.wanted != nil && !same && t.Fine()
	t.wanted = &r.rules
	t.inForce.Store(&r.rules)
	var errs []error
	if r.rules.Masquerade == nil {
		errs = append(errs, t.masq.Remove())
	}
	if r.rules.Accept == nil {
		_, err := t.accept.Remove()
		errs = append(errs, err)
	}
	mended, err := t.set(edit)
	if same && mended {
		t.count("")
	}
	if first {
		errs = append(errs, filter.RemoveFormer())
	}
	err = errors.Join(append(errs, err)...)
	t.note(err)
	return edit, err
}

// repair restores the rules if somebody has changed them.
func (t *Keeper) repair(by string) (mended bool, err error) {
	if t.wanted == nil {
		return false, nil
	}
	mended, err = t.set(false)
	t.note(err)
	if mended && err == nil {
		t.repaired = time.Now()
		t.count(by)
	}
	return mended, err
}

// set makes the kernel match what is wanted; mended tells that something of ours had been changed. With
// edit only what differs from before is written to the guard, whose sets are as large as the mesh.
func (t *Keeper) set(edit bool) (mended bool, err error) {
	var errs []error
	note := func(changed bool, err error) {
		mended = mended || changed
		errs = append(errs, err)
	}
	settings := t.settings()
	note(t.enclose())
	if !edit || !t.guard.Edit(settings) {
		note(t.guard.Set(settings))
	}
	note(t.last.Clamp(settings.Clamp))
	if !edit || !t.allow.Edit(t.wanted.Allow) {
		note(t.allow.Set(t.wanted.Allow))
	}
	if m := t.wanted.Masquerade; m != nil {
		note(false, t.masq.StandBy(*m)) // decides about connections that begin while the others are replaced
		note(t.masq.Set(*m))
	}
	if t.wanted.Accept != nil {
		note(t.accept.Set(*t.wanted.Accept))
	}
	return mended, errors.Join(errs...)
}

// Drops returns how many packets rules have dropped, by the drop reasons of package filter. Whoever calls it
// each second has Allowed know the last minute.
func (t *Keeper) Drops() map[string]uint64 {
	unmarked, bare, err := t.guard.Drops()
	astray, innerErr := t.inner.Drops()
	unasked, allowErr := t.allow.Dropped()
	unasked = t.unasked.Read(unasked, allowErr)
	t.lately.Note(time.Now(), unasked)
	return map[string]uint64{
		filter.NotAllowed:       unasked,
		filter.NotFromMeshd:     t.dropped.Read(unmarked, err),
		filter.NotEncrypted:     t.bare.Read(bare, err),
		filter.WrongDestination: t.misled.Read(astray, innerErr),
	}
}

// Allowed returns what each rule about who may reach whom has let pass, by its name, and how many packets
// were dropped, altogether and in the last minute. While the counters cannot be read, no packet seems to have
// passed.
func (t *Keeper) Allowed() (passed func(rule string) (packets, bytes uint64), dropped, lately uint64) {
	counters, dropped, err := t.allow.Counters()
	passed = func(rule string) (packets, bytes uint64) { return counters[rule].Packets, counters[rule].Bytes }
	dropped = t.unasked.Read(dropped, err)
	return passed, dropped, t.lately.Note(time.Now(), dropped)
}

// count tells of a repair.
func (t *Keeper) count(by string) {
	t.repairs.Add(1)
	if n := t.rate.Add(time.Now(), "", by); n > 0 {
		t.log.Warn("another program changed rules of meshd: restored", "program", by, "count", n,
			"event", "rules_restored")
	}
}

// note publishes a failure, or that there is none any more.
func (t *Keeper) note(err error) {
	var failure *mesh.Condition
	if err != nil {
		failure = &mesh.Condition{Kind: mesh.RulesFailed, Severity: mesh.Failed, Cause: err.Error(),
			Remedy: "check that the kernel has nftables"}
	}
	before := t.failure.Swap(failure)
	switch {
	case err == nil && before != nil:
		t.log.Info("rules are in force again", "event", "rules_in_force")
	case err != nil && (before == nil || *before != *failure):
		t.log.Error("rules are not in force: trying again", "error", err, "event", "rules_failed")
	}
}

// Status is what the rules did.
type Status struct {
	Masquerade bool           // masquerade rules are wanted
	Counters   []masq.Counter // of masquerade rules
	Repairs    uint64         // times that rules were restored
}

// Read returns what the rules did. It asks the kernel for counters; what it finds wrong is told by
// Conditions from then on.
func (t *Keeper) Read() (s Status) {
	s.Repairs = t.repairs.Load()
	w := t.inForce.Load()
	if s.Masquerade = w != nil && w.Masquerade != nil; !s.Masquerade {
		return s
	}
	counters, err := t.masq.Counters()
	s.Counters = counters
	var uncounted *mesh.Condition
	if err != nil {
		uncounted = &mesh.Condition{Kind: mesh.RulesUncounted, Severity: mesh.Degraded, Cause: err.Error()}
	}
	t.uncounted.Store(uncounted)
	return s
}

// Conditions returns what is wrong with the rules, without asking the kernel.
func (t *Keeper) Conditions() (all []mesh.Condition) {
	for _, published := range []*atomic.Pointer[mesh.Condition]{&t.failure, &t.uncounted} {
		if c := published.Load(); c != nil {
			all = append(all, *c)
		}
	}
	return append(all, t.rate.Conditions(time.Now())...)
}
