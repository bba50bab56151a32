package auto

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// A host is a port that sockets or the kernel may have, and not both.
type host struct {
	sockets bool   // have it
	kernel  bool   // has it
	handed  uint16 // where programs hand datagrams to; 0: to the port itself
	can     error  // why the kernel cannot have the port, as it shows
	fails   error  // why it cannot, which only shows when it is to take it
	kept    int    // times that the kernel finds the port taken, since a service manager keeps a socket
	lost    bool   // a datagram that comes now reaches no socket
}

// look notes whether a datagram would reach user space.
func (h *host) look(forwards, apart bool) {
	if forwards && !h.sockets && !(apart && h.handed == apartPort) {
		h.lost = true
	}
}

const apartPort = 8290

// hostUser is a user engine whose sockets are at the port, or apart.
type hostUser struct {
	fakeUser
	host           *host
	prepared, open *dataplane.Wanted
}

func (u *hostUser) Prepare(_ context.Context, w dataplane.Wanted) (func() error, error) {
	if !w.Apart && u.host.kernel {
		return nil, errors.New("address already in use")
	}
	before := u.prepared
	u.prepared = &w
	u.host.sockets = u.host.sockets || !w.Apart
	return func() error { u.prepared = before; return nil }, nil
}

func (u *hostUser) Apply(_ context.Context, w dataplane.Wanted) (func() error, []mesh.Change, error) {
	before := u.open
	u.open = &w
	u.host.sockets = !w.Apart
	return func() error {
		if before == nil {
			return nil
		}
		_, err := u.Prepare(context.Background(), *before)
		_, _, applyErr := u.Apply(context.Background(), *before)
		return errors.Join(err, applyErr)
	}, nil, nil
}

func (u *hostUser) Port() uint16 {
	if u.prepared != nil && u.prepared.Apart {
		return apartPort
	}
	return 0
}

// hostKernel is a kernel engine that takes the port if sockets are apart.
type hostKernel struct {
	fakeKernel
	host *host
}

func (k *hostKernel) Apply(_ context.Context, w dataplane.Wanted) (func() error, []mesh.Change, error) {
	if err := k.fails["kernel.apply"]; err != nil {
		return nil, nil, err
	}
	k.reading.Forwards, k.reading.Receive = true, dataplane.TCX
	if w.Apart {
		switch {
		case k.host.fails != nil:
			k.host.can = k.host.fails
		case k.host.kept > 0:
			k.host.kept--
			k.host.can = fmt.Errorf("no FOU: %w", unix.EADDRINUSE)
		case k.host.sockets:
			return nil, nil, errors.New("sockets have the port")
		default:
			k.host.kernel, k.host.can, k.reading.Receive = true, nil, dataplane.FOU
		}
	}
	return func() error { return nil }, nil, nil
}

func (k *hostKernel) Remove(context.Context) error {
	k.reading.Forwards, k.host.handed = false, 0
	return nil
}

func (k *hostKernel) HoldsPort(dataplane.Wanted) (uint16, bool) { return apartPort, k.host.kernel }
func (k *hostKernel) CanFOU(dataplane.Wanted) error             { return k.host.can }
func (k *hostKernel) HandTo(port uint16) error                  { k.host.handed = port; return nil }
func (k *hostKernel) ReleasePort() error                        { k.host.kernel = false; return nil }

// newHost returns an engine on a host.
func newHost() (*Engine, *hostUser, *hostKernel) {
	h, journal := &host{}, &journal{}
	u := &hostUser{fakeUser: fakeUser{fake: fake{name: "user", journal: journal}}, host: h}
	k := &hostKernel{host: h}
	k.fake = fake{name: "kernel", journal: journal, fails: fail{}}
	return join(slog.New(slog.DiscardHandler), u, k), u, k
}

// receiving is what an engine is to do that receives in some way.
func receiving(use dataplane.Use, r dataplane.Receive) dataplane.Wanted {
	w := wanting(use, "")
	w.Kernel.Receive = r
	return w
}

// The kernel has the port exactly while it may and can, whatever changes, and each datagram reaches a
// socket.
func TestPortChangesHands(t *testing.T) {
	fou, tcx := receiving(dataplane.Always, dataplane.FOU), receiving(dataplane.Always, dataplane.TCX)
	never, sealed := receiving(dataplane.Never, dataplane.FOU), receiving(dataplane.Always, dataplane.FOU)
	sealed.Sealed = true
	errHost, ifPossible := errors.New("no FOU"), receiving(dataplane.IfPossible, dataplane.FOU)
	byItself := receiving(dataplane.IfPossible, dataplane.AnyReceive)
	breaks := func(_ *host, k *hostKernel) { k.fails["kernel.apply"] = errPrograms }
	left := func(h *host, _ *hostKernel) { h.kernel, h.handed = true, apartPort }
	type step struct {
		name   string
		change func(*host, *hostKernel)
		want   dataplane.Wanted
		kernel bool // has the port afterwards
	}
	is := func(name string, w dataplane.Wanted, kernel bool) step { return step{name, nil, w, kernel} }
	for name, steps := range map[string][]step{
		"back and forth": {
			is("fou", fou, true), is("again", fou, true), is("tcx", tcx, false), is("fou again", fou, true)},
		"from tcx": {is("tcx", tcx, false), is("fou", fou, true)},
		"by itself": {
			{"not there", func(h *host, _ *hostKernel) { h.can = errHost }, byItself, false},
			{"there", func(h *host, _ *hostKernel) { h.can = nil }, byItself, true},
			is("tcx", tcx, false), is("by itself again", byItself, true),
		},
		"left, by itself": {{"an earlier meshd's", left, byItself, true}},
		"user engine":     {is("fou", fou, true), is("no programs", never, false), is("fou again", fou, true)},
		"sealed":          {is("fou", fou, true), is("sealed", sealed, false), is("open again", fou, true)},
		"the kernel cannot": {
			{"from the beginning", func(h *host, _ *hostKernel) { h.can = errHost }, fou, false},
			{"by now it can", func(h *host, _ *hostKernel) { h.can = nil }, fou, true},
			{"and no more", func(h *host, _ *hostKernel) { h.can = errHost }, fou, false},
		},
		"the kernel fails":    {{"at taking it", func(h *host, _ *hostKernel) { h.fails = errHost }, fou, false}},
		"programs that break": {is("fou", fou, true), {"broken", breaks, ifPossible, false}},
		"left with the kernel": {
			{"an earlier meshd's", left, fou, true},
		},
		"left, and not wanted": {
			{"an earlier meshd's", left, tcx, false},
		},
		"left, and no programs": {
			{"an earlier meshd's", left, never, false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, u, k := newHost()
			for _, s := range steps {
				if s.change != nil {
					s.change(k.host, k)
				}
				if _, err := e.Prepare(t.Context(), s.want); err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				if _, _, err := e.Apply(t.Context(), s.want); err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				k.host.look(k.reading.Forwards, u.open.Apart)
				if h := k.host; h.kernel != s.kernel || h.sockets == s.kernel || u.open.Apart != s.kernel ||
					(h.handed == apartPort) != s.kernel || h.lost {
					t.Errorf("%s: %+v, sockets apart: %v", s.name, *h, u.open.Apart)
				}
			}
		})
	}
}

// A service manager keeps the sockets that have left the port for a moment: the kernel tries again, and
// programs hand datagrams to the new sockets meanwhile. If that does not end, the old ones come back.
func TestPortIsKept(t *testing.T) {
	for _, c := range []struct {
		name   string
		kept   int
		kernel bool // has the port in the end
	}{{"for a moment", 2, true}, {"for ever", 1000, false}} {
		t.Run(c.name, func(t *testing.T) {
			e, u, k := newHost()
			k.host.kept = c.kept
			calls := 0
			e.broken = func() { calls++ }
			for {
				w, before := receiving(dataplane.Always, dataplane.FOU), calls
				if _, err := e.Prepare(t.Context(), w); err != nil {
					t.Fatal(err)
				}
				if _, _, err := e.Apply(t.Context(), w); err != nil {
					t.Fatal(err)
				}
				if k.host.look(k.reading.Forwards, u.open.Apart); k.host.lost {
					t.Fatalf("%+v", *k.host)
				}
				if e.Look(); calls == before {
					break
				}
			}
			if k.host.kernel != c.kernel || k.host.sockets == c.kernel || calls != min(c.kept, portTries) {
				t.Errorf("%+v after %d calls", *k.host, calls)
			}
		})
	}
}

// What follows the change of the port may fail: the way back leads to where the port was.
func TestPortGoesBack(t *testing.T) {
	fou, tcx := receiving(dataplane.Always, dataplane.FOU), receiving(dataplane.Always, dataplane.TCX)
	for _, c := range []struct {
		name     string
		from, to dataplane.Wanted
		kernel   bool // has the port before and afterwards
	}{{"to fou", tcx, fou, false}, {"to tcx", fou, tcx, true}} {
		t.Run(c.name, func(t *testing.T) {
			e, u, k := newHost()
			var undo func() error
			for _, w := range []dataplane.Wanted{c.from, c.to} {
				_, err := e.Prepare(t.Context(), w)
				if err == nil {
					undo, _, err = e.Apply(t.Context(), w)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := undo(); err != nil {
				t.Fatal(err)
			}
			// The kernel engine's own way back takes the port again.
			if _, _, err := e.Apply(t.Context(), c.from); err != nil {
				t.Fatal(err)
			}
			if k.host.kernel != c.kernel || u.open.Apart != c.kernel || k.host.sockets == c.kernel {
				t.Errorf("%+v, sockets apart: %v", *k.host, u.open.Apart)
			}
		})
	}
}
