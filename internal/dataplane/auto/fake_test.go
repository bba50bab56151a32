package auto

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/kernel"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// journal is what was asked of the fakes, in order: "user.apply", "undo user.apply".
type journal []string

// fail has one call after another fail, by the words of the journal.
type fail map[string]error

// fake is what both fakes have in common.
type fake struct {
	name    string
	journal *journal
	fails   fail
}

func (f *fake) do(call string) error {
	call = f.name + "." + call
	*f.journal = append(*f.journal, call)
	return f.fails[call]
}

func (f *fake) step(call string) (undo func() error, err error) {
	if err := f.do(call); err != nil {
		return nil, err
	}
	return func() error { *f.journal = append(*f.journal, "undo "+f.name+"."+call); return nil }, nil
}

func (f *fake) Prepare(context.Context, dataplane.Wanted) (func() error, error) {
	return f.step("prepare")
}
func (f *fake) Learn(string, peers.Directive) error { return f.do("learn") }
func (f *fake) Carry(mesh.Prefix, string) error     { return f.do("carry") }

// fakeUser is a user engine that moves nothing.
type fakeUser struct {
	fake
	reading dataplane.Reading
	heard   time.Time
	adopts  bool
	flows   dataplane.FlowReading
}

func (u *fakeUser) Apply(context.Context, dataplane.Wanted) (func() error, []mesh.Change, error) {
	undo, err := u.step("apply")
	return undo, []mesh.Change{{Kind: mesh.ChangedLoops}}, err
}
func (u *fakeUser) Read() dataplane.Reading          { return u.reading }
func (u *fakeUser) Conditions() []mesh.Condition     { return smallBuffers }
func (u *fakeUser) Alive(context.Context) error      { return u.do("alive") }
func (u *fakeUser) Stop() error                      { return u.do("stop") }
func (u *fakeUser) Close() error                     { return u.do("close") }
func (u *fakeUser) Deliver([]byte) error             { return u.do("deliver") }
func (u *fakeUser) SendEcho(...dataplane.Echo) error { return u.do("echo") }
func (u *fakeUser) Heard(string) time.Time           { return u.heard }
func (u *fakeUser) HeardBy(names ...string) []peers.Heard {
	return slices.Repeat([]peers.Heard{{Socket: u.heard}}, len(names))
}
func (u *fakeUser) Leaving() dataplane.Leaving                   { return dataplane.Leaving{DSCP: 5} }
func (u *fakeUser) Descriptors() map[string]dataplane.Descriptor { return nil }
func (u *fakeUser) CountFlows(bool) error                        { return u.do("count") }
func (u *fakeUser) Flows() (dataplane.FlowReading, error)        { return u.flows, nil }
func (u *fakeUser) Port() uint16                                 { return 0 }
func (u *fakeUser) Adopt([]*os.File, dataplane.Wanted) (a dataplane.Adopted, _ []error) {
	if u.adopts {
		a.Queues = 1
	}
	return a, nil
}

var smallBuffers = []mesh.Condition{{Kind: mesh.SmallBuffers}}

// fakeKernel is a kernel engine whose programs forward from Apply to Remove.
type fakeKernel struct {
	fake
	reading kernel.Reading
	heard   time.Time
	flows   map[mesh.Flow]mesh.FlowCount
}

func (k *fakeKernel) Apply(context.Context, dataplane.Wanted) (func() error, []mesh.Change, error) {
	before := k.reading.Forwards
	undo, err := k.step("apply")
	if err != nil {
		return nil, nil, err
	}
	k.reading.Forwards = true
	back := func() error { k.reading.Forwards = before; return undo() }
	return back, []mesh.Change{{Kind: mesh.ChangedInterface}}, nil
}

func (k *fakeKernel) Load(context.Context, dataplane.Wanted) (func() error, error) {
	return k.step("load")
}

func (k *fakeKernel) Remove(context.Context) error {
	err := k.do("remove")
	k.reading.Forwards = k.reading.Forwards && err != nil
	return err
}

func (k *fakeKernel) Forwards() bool       { return k.reading.Forwards }
func (k *fakeKernel) Marks() uint64        { return 2 }
func (k *fakeKernel) Read() kernel.Reading { return k.reading }
func (k *fakeKernel) HeardBy(names ...string) []peers.Heard {
	return slices.Repeat([]peers.Heard{{Programs: k.heard}}, len(names))
}
func (k *fakeKernel) Look() { _ = k.do("watch") }
func (k *fakeKernel) Conditions() []mesh.Condition {
	return []mesh.Condition{{Kind: mesh.Unpinned}}
}
func (k *fakeKernel) Compare(time.Time, func() mesh.Traffic)    {}
func (k *fakeKernel) WatchMerger() bool                         { return k.do("merger") != nil }
func (k *fakeKernel) WatchHanded(func() uint64) bool            { return false }
func (k *fakeKernel) HoldsPort(dataplane.Wanted) (uint16, bool) { return 0, false }
func (k *fakeKernel) CanFOU(dataplane.Wanted) error             { return errors.New("no FOU") }
func (k *fakeKernel) HandTo(uint16) error                       { return nil }
func (k *fakeKernel) ReleasePort() error                        { return nil }
func (k *fakeKernel) CountFlows(bool) error                     { return k.do("count") }
func (k *fakeKernel) StandIn() error                            { return k.do("stand in") }

func (k *fakeKernel) Flows() (map[mesh.Flow]mesh.FlowCount, error) { return k.flows, nil }

// events is a log that keeps which events it was told of, without "event=".
type events struct {
	slog.Handler
	kinds *[]string
}

func (e events) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "event" {
			*e.kinds = append(*e.kinds, strings.ToLower(r.Level.String())+" "+a.Value.String())
		}
		return true
	})
	return nil
}

func (e events) Enabled(context.Context, slog.Level) bool { return true }

// rig is an engine between fakes.
type rig struct {
	*Engine
	t       *testing.T
	user    *fakeUser
	kernel  *fakeKernel
	fails   fail
	journal journal
	events  []string
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, fails: fail{}}
	r.user = &fakeUser{fake: fake{"user", &r.journal, r.fails}}
	r.kernel = &fakeKernel{fake: fake{"kernel", &r.journal, r.fails}}
	r.Engine = join(slog.New(events{kinds: &r.events}), r.user, r.kernel)
	return r
}

// wanting is what an engine is to do, as far as the choice depends on it.
func wanting(use dataplane.Use, why string) dataplane.Wanted {
	return dataplane.Wanted{Kernel: dataplane.Programs{Use: use, Why: why}}
}

// apply has the engine do what is wanted, and forgets the journal up to there.
func (r *rig) apply(w dataplane.Wanted) {
	r.t.Helper()
	if _, err := r.Prepare(r.t.Context(), w); err != nil {
		r.t.Fatal(err)
	}
	if _, _, err := r.Apply(r.t.Context(), w); err != nil {
		r.t.Fatal(err)
	}
	r.journal, r.events = nil, nil
}

// did compares the journal, and begins a new one.
func (r *rig) did(want ...string) {
	r.t.Helper()
	if !slices.Equal(r.journal, want) {
		r.t.Errorf("did %q\nwant %q", r.journal, want)
	}
	r.journal = nil
}

// told compares the events, and forgets them.
func (r *rig) told(want ...string) {
	r.t.Helper()
	if !slices.Equal(r.events, want) {
		r.t.Errorf("told %q, want %q", r.events, want)
	}
	r.events = nil
}

// works compares how packets move.
func (r *rig) works(engine, reason string) {
	r.t.Helper()
	if w := r.Read().Works; w.Engine != engine || w.Reason != reason {
		r.t.Errorf("%s engine works, reason %q; want %s, %q", w.Engine, w.Reason, engine, reason)
	}
}

var errPrograms = errors.New("this kernel is too old")

func (u *fakeUser) Drained(context.Context) error { return u.do("drained") }
