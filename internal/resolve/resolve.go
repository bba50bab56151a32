// Package resolve keeps the addresses of DNS names: of those that the file in force lists.
//
//	name    of DNS, in lower case, without a dot at its end
//	answer  what is known of a name; the last good one is kept for ever
//	due     when a name is asked for again: when DNS says so, or soon when a peer of that name is down
//
// A server that hangs, lies or floods delays nothing but the names it serves: few questions are open at a
// time, each has a deadline, and names that fail cannot take the place of the others.
package resolve

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of when a name is asked for again.
const (
	Soonest = 30 * time.Second // also where DNS says nothing
	Latest  = time.Hour
	// Pause is the least time between two questions for a name, whoever doubts it.
	Pause = 5 * time.Second
)

// MaxAddrs bounds the addresses of one name.
const MaxAddrs = 8

// Bounds of the questions that are open at a time.
const (
	mostAsked   = 4
	mostFailing = 2 // of names whose last question failed
)

// An Answer is what is known of a name.
type Answer struct {
	// Addrs are the addresses of the last good answer: sorted, each once, at most MaxAddrs. Empty: there was
	// no good answer yet.
	Addrs []netip.Addr
	At    time.Time // of the last good answer
	Err   error     // why the newest question failed, see ErrNotFound; nil: it did not
}

// Options is what a Resolver works with.
type Options struct {
	Log *slog.Logger
	// Changed is called when Answers has changed, by a goroutine of Run. It must not block.
	Changed func()
	Dial    Dialer // nil: the host's network
	// Usable tells whether a name may stand for an address; nil: for any. An answer without a usable address
	// takes nothing away from the last good one. It is called with a lock held, and must not block.
	Usable func(name string, ip netip.Addr) bool
	// Kept are good answers of an earlier run. They are in use until there are others.
	Kept map[string]Answer
}

// A Resolver resolves names. All methods may be called at any time from any goroutine; none but Run and
// Await waits.
type Resolver struct {
	log     *slog.Logger
	changed func()
	usable  func(name string, ip netip.Addr) bool
	kept    map[string]Answer
	lookup  func(ctx context.Context, network, name string) ([]netip.Addr, time.Duration, error)

	wake chan struct{} // something is due earlier than Run knows

	mu    sync.Mutex // never held while a question is open
	names map[string]*entry
	open  int // questions
	bad   int // those of them for names whose last question failed
}

// An entry is one name.
type entry struct {
	v4, v6 []netip.Addr // of the last good answer
	answer Answer
	asked  bool          // there was an answer, good or bad
	asking bool          // a question is open
	last   time.Time     // when the last question began
	due    time.Time     // of the next one
	first  chan struct{} // closed once asked
}

// New returns a Resolver without names. It asks while Run runs.
func New(o Options) *Resolver {
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	r := &Resolver{log: o.Log, changed: o.Changed, usable: o.Usable, kept: o.Kept,
		lookup: dial.ask,
		wake:   make(chan struct{}, 1), names: map[string]*entry{}}
	if r.usable == nil {
		r.usable = func(string, netip.Addr) bool { return true }
	}
	return r
}

// String returns the name of the task.
func (r *Resolver) String() string { return "names" }

// Follow asks for these names from now on, and forgets all others.
func (r *Resolver) Follow(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.names
	r.names = make(map[string]*entry, len(names))
	for _, name := range names {
		if r.names[name] = before[name]; before[name] == nil {
			r.names[name] = r.newEntry(name)
			r.rouse()
		}
	}
}

// newEntry returns an entry for a name, with what an earlier run has found. r.mu is held.
func (r *Resolver) newEntry(name string) *entry {
	e := &entry{first: make(chan struct{})}
	for _, ip := range r.kept[name].Addrs {
		switch {
		case !ip.IsValid() || ip.Is4In6() || ip.Zone() != "" || !r.usable(name, ip):
		case ip.Is4():
			e.v4 = append(e.v4, ip)
		default:
			e.v6 = append(e.v6, ip)
		}
	}
	if len(e.v4)+len(e.v6) > 0 {
		e.answer = Answer{Addrs: few(e.v4, e.v6), At: r.kept[name].At}
	}
	return e
}

// Await follows further names, and waits until each was asked for once, or until ctx ends.
func (r *Resolver) Await(ctx context.Context, names []string) {
	var unknown []<-chan struct{}
	r.mu.Lock()
	for _, name := range names {
		if r.names[name] == nil {
			r.names[name] = r.newEntry(name)
			r.rouse()
		}
		if e := r.names[name]; !e.asked {
			unknown = append(unknown, e.first)
		}
	}
	r.mu.Unlock()
	for _, first := range unknown {
		select {
		case <-first:
		case <-ctx.Done():
			return
		}
	}
}

// Doubt has a name asked for soon: a peer that listens there is down.
func (r *Resolver) Doubt(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.names[name]; e != nil {
		if at := e.last.Add(Pause); at.Before(e.due) {
			e.due = at
			r.rouse()
		}
	}
}

// Answers returns what is known of all names that were asked for, or that an earlier run had an answer
// for. The caller owns the map, and must not change the lists in it.
func (r *Resolver) Answers() map[string]Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]Answer, len(r.names))
	for name, e := range r.names {
		if e.asked || len(e.answer.Addrs) > 0 {
			all[name] = e.answer
		}
	}
	return all
}

// rouse has Run look at what is due.
func (r *Resolver) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run asks until ctx ends, and then returns nil, at once: questions that are open end by themselves.
func (r *Resolver) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		name, wait := r.next(time.Now())
		if name != "" {
			// Each ends within patience, and there are few. Waiting here would let one delay the others.
			go r.resolve(ctx, name)
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
	}
}

// next returns a name to ask for now, and takes a place for its question; or how long nothing is due.
// Names that work come before those that fail.
func (r *Resolver) next(now time.Time) (name string, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == mostAsked { // the end of a question rouses Run
		return "", Latest
	}
	wait = Latest
	var best *entry
	for candidate, e := range r.names {
		if e.asking || e.fails() && r.bad == mostFailing {
			continue
		}
		if until := e.due.Sub(now); until > 0 {
			wait = min(wait, until)
		} else if best == nil || !e.fails() && best.fails() || e.fails() == best.fails() && e.due.Before(best.due) {
			best, name = e, candidate
		}
	}
	if best == nil {
		return "", wait
	}
	best.asking, best.last = true, now
	r.open++
	if best.fails() {
		r.bad++
	}
	return name, 0
}

// fails tells whether the last question for a name failed.
func (e *entry) fails() bool { return e.answer.Err != nil }

// resolve asks for both families of a name.
func (r *Resolver) resolve(ctx context.Context, name string) {
	var of [2]found
	var both sync.WaitGroup
	for i, network := range []string{"ip4", "ip6"} {
		both.Go(func() { of[i].addrs, of[i].ttl, of[i].err = r.lookup(ctx, network, name) })
	}
	both.Wait()
	if ctx.Err() == nil {
		r.learn(name, of[0], of[1], time.Now())
	}
}

// found is what a question for one family has led to.
type found struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// learn takes over what was found.
func (r *Resolver) learn(name string, v4, v6 found, now time.Time) {
	r.mu.Lock()
	r.open--
	e := r.names[name]
	if e == nil || !e.asking { // it is not followed any more, or is again
		r.recount()
		r.mu.Unlock()
		r.rouse()
		return
	}
	if e.fails() {
		r.bad--
	}
	before, was := e.answer, e.asked
	e.take(v4, v6, now, func(ip netip.Addr) bool { return r.usable(name, ip) })
	e.asking, e.asked = false, true
	if !was {
		close(e.first)
	}
	after := e.answer
	r.mu.Unlock()
	r.rouse()
	moved := !slices.Equal(before.Addrs, after.Addrs)
	if moved {
		r.log.Info("a name has other addresses", "name", name, "addresses", texts(after.Addrs),
			"before", texts(before.Addrs), "event", "resolved")
	}
	if moved || !was || !errors.Is(after.Err, before.Err) {
		r.changed()
	}
}

// recount counts the open questions for names that fail anew, after one for a forgotten name has ended.
func (r *Resolver) recount() {
	r.bad = 0
	for _, e := range r.names {
		if e.asking && e.fails() {
			r.bad++
		}
	}
}

// take makes an answer of what was found. A family keeps its last addresses while its question fails; one
// that the other family shows to have none loses them. Where nothing of an answer is usable, the last good
// one stays; without one, the answer is what there is to tell.
func (e *entry) take(v4, v6 found, now time.Time, usable func(netip.Addr) bool) {
	e.due = now.Add(pauseOf(v4, v6))
	good := v4.err == nil || v6.err == nil
	if good && slices.ContainsFunc(e.answer.Addrs, usable) &&
		!slices.ContainsFunc(v4.addrs, usable) && !slices.ContainsFunc(v6.addrs, usable) {
		e.answer.Err = ErrUnusable
		return
	}
	for _, family := range []struct {
		known *[]netip.Addr
		found
	}{{&e.v4, v4}, {&e.v6, v6}} {
		if family.err == nil || good && errors.Is(family.err, ErrNotFound) {
			*family.known = family.addrs
		}
	}
	e.answer.Err = nil
	if good {
		e.answer.Addrs, e.answer.At = few(e.v4, e.v6), now.Round(time.Millisecond)
	} else if e.answer.Err = v4.err; errors.Is(v4.err, ErrNotFound) { // the other one may say more
		e.answer.Err = v6.err
	}
}

// few returns at most MaxAddrs addresses, of both families if there are both.
func few(v4, v6 []netip.Addr) []netip.Addr {
	n4 := min(len(v4), max(MaxAddrs/2, MaxAddrs-len(v6)))
	return slices.Concat(v4[:n4], v6[:min(len(v6), MaxAddrs-n4)])
}

// pauseOf returns when to ask again: at the end of the shortest life of both answers, within bounds. A little
// is added by chance, so that names that were asked for together part.
func pauseOf(v4, v6 found) time.Duration {
	pause := Soonest
	switch {
	case v4.ttl > 0 && v6.ttl > 0:
		pause = min(v4.ttl, v6.ttl)
	case v4.ttl > 0 || v6.ttl > 0:
		pause = max(v4.ttl, v6.ttl)
	}
	pause = min(max(pause, Soonest), Latest)
	return pause + rand.N(pause/10)
}

// texts writes addresses.
func texts(all []netip.Addr) string {
	var words []string
	for _, ip := range all {
		words = append(words, ip.String())
	}
	return strings.Join(words, " ")
}
