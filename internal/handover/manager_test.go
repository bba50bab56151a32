package handover

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/nstest"
)

// A daemonState is a Manager, and what it asks the rest of the daemon for.
type daemonState struct {
	*Manager
	log     *nstest.Events
	summary atomic.Pointer[string]
	alive   atomic.Pointer[func(context.Context) error]
}

// newDaemon returns the state of a daemon that is well.
func newDaemon() *daemonState {
	d := &daemonState{log: &nstest.Events{}}
	d.Manager = New(slog.New(d.log))
	d.says("one")
	d.answers(func(context.Context) error { return nil })
	d.Watch(func() string { return *d.summary.Load() },
		func(ctx context.Context) error { return (*d.alive.Load())(ctx) })
	return d
}

// says sets the line for people.
func (d *daemonState) says(summary string) { d.summary.Store(&summary) }

// answers sets whether packets move.
func (d *daemonState) answers(alive func(context.Context) error) { d.alive.Store(&alive) }

// runs runs the Manager until the returned function ends it.
func (d *daemonState) runs(t *testing.T) (stop func(error)) {
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	synctest.Wait()
	return func(cause error) {
		t.Helper()
		cancel(cause)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// pass lets time pass, and what is due then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestReadyAndReloading(t *testing.T) {
	in := newInbox(t)
	d := newDaemon()
	in.hears("at the start")
	d.Ready()
	in.hears("ready", []string{"READY=1", "STATUS=one"})
	d.Reloading("reading")
	all := in.heard()
	if len(all) != 1 || len(all[0].lines) != 3 {
		t.Fatalf("%v", all)
	}
	lines := all[0].lines
	usec, ok := strings.CutPrefix(lines[1], "MONOTONIC_USEC=")
	at, err := strconv.ParseUint(usec, 10, 64)
	var now unix.Timespec
	if clockErr := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); clockErr != nil {
		t.Fatal(clockErr)
	}
	said := lines[0] == "RELOADING=1" && lines[2] == "STATUS=reading"
	if !said || !ok || err != nil || at > uint64(now.Nano()/1000) {
		t.Errorf("%q at %d, %v", lines, now.Nano()/1000, err)
	}
}

// The line for people is sent when it is another one.
func TestStatusIsSentOnChange(t *testing.T) {
	in := newInbox(t)
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon()
		d.Ready()
		stop := d.runs(t)
		in.hears("ready", []string{"READY=1", "STATUS=one"})
		pass(10 * summaryEvery)
		in.hears("nothing changed")
		d.says("two")
		pass(10 * summaryEvery)
		in.hears("another line", []string{"STATUS=two"})
		d.Reloading("reading")
		in.heard()
		d.Ready()
		in.hears("ready again", []string{"READY=1", "STATUS=two"})
		pass(10 * summaryEvery)
		in.hears("it was said")
		stop(nil)
		in.hears("at the end", []string{"STOPPING=1", "STATUS=stopping"})
	})
}

// The watchdog hears of a daemon as long as its packets move, three times as often as it has to.
func TestWatchdog(t *testing.T) {
	in := newInbox(t)
	t.Setenv("WATCHDOG_USEC", "1500000")
	const every = 500 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon()
		d.Ready()
		stop := d.runs(t)
		in.heard()
		sign := []string{"WATCHDOG=1"}
		pass(3 * every)
		in.hears("alive", sign, sign, sign)

		d.answers(func(context.Context) error { return errors.New("a loop has ended") })
		pass(3 * every)
		in.hears("a loop has ended")
		if got := d.log.Take(); !slices.Equal(got, []string{"hangs", "hangs", "hangs"}) {
			t.Errorf("logged %q", got)
		}

		d.answers(func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		d.says("two")
		pass(3 * every)
		in.hears("a loop hangs", []string{"STATUS=two"})

		d.answers(func(context.Context) error { return nil })
		pass(3 * every)
		if got := in.heard(); len(got) == 0 || !slices.Equal(got[0].lines, sign) {
			t.Errorf("alive again: heard %v", got)
		}
		stop(nil)
	})
}

// With a generous watchdog the line for people is as new as ever.
func TestGenerousWatchdog(t *testing.T) {
	in := newInbox(t)
	t.Setenv("WATCHDOG_USEC", "600000000")
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon()
		d.Ready()
		stop := d.runs(t)
		d.says("two")
		in.heard()
		pass(summaryEvery)
		in.hears("after a second", []string{"STATUS=two", "WATCHDOG=1"})
		stop(nil)
	})
}

// Until there is an address the service manager is asked to wait, and after that it is told that we
// are up, so that the host starts. A watchdog hears of us from then on.
func TestStartWithoutAnAddress(t *testing.T) {
	in := newInbox(t)
	t.Setenv("WATCHDOG_USEC", "3000000")
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon()
		stop := d.runs(t)
		extend := "EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(startExtends.Microseconds(), 10)
		pass(summaryEvery)
		in.hears("first", []string{"STATUS=one", extend})
		for at := 2 * summaryEvery; at <= startPatience; at += summaryEvery {
			pass(summaryEvery)
			in.hears(at.String(), []string{extend})
		}
		pass(summaryEvery)
		in.hears("after all patience", []string{"READY=1", "STATUS=one"})
		if got := d.log.Take(); !slices.Equal(got, []string{"waiting"}) {
			t.Errorf("logged %q", got)
		}
		pass(summaryEvery)
		in.hears("later", []string{"WATCHDOG=1"})
		stop(nil)
	})
}

func TestEndForASuccessor(t *testing.T) {
	in := newInbox(t)
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon()
		d.Ready()
		stop := d.runs(t)
		in.heard()
		stop(ErrReplaced)
		got := in.heard()
		if len(got) != 1 || got[0].lines[0] != "RELOADING=1" {
			t.Errorf("heard %v", got)
		}
	})
}

// Without a service manager nothing is said, and nothing fails.
func TestNoServiceManager(t *testing.T) {
	environment(t, map[string]string{"WATCHDOG_USEC": "1500000"})
	named, _ := files(t, "udp-0")
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon()
		d.Ready()
		d.Reloading("reading")
		stop := d.runs(t)
		pass(time.Hour)
		if err := d.Keep(named); err != nil {
			t.Error(err)
		}
		stop(nil)
		if got := d.log.Take(); len(got) > 0 || d.Left() != nil {
			t.Errorf("logged %q", got)
		}
	})
}

// A service manager that is gone is a warning: packets move on.
func TestServiceManagerThatIsGone(t *testing.T) {
	environment(t, map[string]string{"NOTIFY_SOCKET": "/nowhere/s"})
	d := newDaemon()
	d.Ready()
	if got := d.log.Take(); !slices.Equal(got, []string{"WARN"}) {
		t.Errorf("logged %q", got)
	}
}

// What the environment says of a watchdog may be anything.
func TestWatchdogOfNoNumber(t *testing.T) {
	in := newInbox(t)
	t.Setenv("WATCHDOG_USEC", "soon")
	d := newDaemon()
	if got := d.log.Take(); !slices.Equal(got, []string{"WARN"}) {
		t.Errorf("logged %q", got)
	}
	d.Ready()
	d.report(t.Context(), time.Second)
	in.hears("it is told what there is", []string{"READY=1", "STATUS=one"})
}

// The service manager gets each descriptor with its name, and forgets those that it had before.
func TestKeep(t *testing.T) {
	in := newInbox(t)
	m := New(slog.New(slog.DiscardHandler))
	keep := func(names ...string) []message {
		t.Helper()
		named, open := files(t, names...)
		if err := m.Keep(named); err != nil {
			t.Fatal(err)
		}
		all := in.heard()
		for _, one := range all {
			switch name, stored := strings.CutPrefix(one.lines[len(one.lines)-1], "FDNAME="); {
			case !stored:
				t.Errorf("a message without a name: %q", one.lines)
			case one.lines[0] == "FDSTORE=1" && (len(one.files) != 1 || !same(t, one.files[0], open[name])):
				t.Errorf("%s came with %d descriptors, or with that of another", name, len(one.files))
			case one.lines[0] != "FDSTORE=1" && len(one.files) != 0:
				t.Errorf("%q came with descriptors", one.lines)
			}
		}
		return all
	}
	store := func(name string) []string { return []string{"FDSTORE=1", "FDPOLL=0", "FDNAME=" + name} }
	remove := func(name string) []string { return []string{"FDSTOREREMOVE=1", "FDNAME=" + name} }
	for _, step := range []struct {
		name  string
		files []string
		want  [][]string
	}{
		{"at first", []string{"udp-0", "tun-0"}, [][]string{store("tun-0"), store("udp-0")}},
		{"others", []string{"udp-0"}, [][]string{remove("tun-0"), remove("udp-0"), store("udp-0")}},
		{"none", nil, [][]string{remove("udp-0")}},
		{"none again", nil, nil},
	} {
		t.Run(step.name, func(t *testing.T) {
			var got [][]string
			for _, one := range keep(step.files...) {
				got = append(got, one.lines)
			}
			if !slices.EqualFunc(got, step.want, slices.Equal) {
				t.Errorf("%q, want %q", got, step.want)
			}
		})
	}
}

// A descriptor that cannot be kept is told, and the others are kept all the same.
func TestKeepThatFails(t *testing.T) {
	in := newInbox(t)
	m := New(slog.New(slog.DiscardHandler))
	named, _ := files(t, "udp-1")
	named["udp-0"] = lost{}
	if err := m.Keep(named); !errors.Is(err, errDescriptor) {
		t.Errorf("%v", err)
	}
	in.hears("the other one", []string{"FDSTORE=1", "FDPOLL=0", "FDNAME=udp-1"})

	environment(t, map[string]string{"NOTIFY_SOCKET": "/nowhere/s"})
	m = New(slog.New(slog.DiscardHandler))
	if err := m.Keep(map[string]dataplane.Descriptor{"udp-1": named["udp-1"]}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v", err)
	}
}

// What one program leaves, the next one finds, once, with the same names, and closed in its children.
func TestBequeath(t *testing.T) {
	environment(t, nil)
	named, open := files(t, "udp-0", "tun-0")
	if err := New(slog.New(slog.DiscardHandler)).Bequeath(named); err != nil {
		t.Fatal(err)
	}
	next := New(slog.New(slog.DiscardHandler))
	if value, there := os.LookupEnv(inheritance); there {
		t.Errorf("children would take %q for theirs", value)
	}
	left := next.Left()
	checkLeft(t, left, open)
	if again := next.Left(); again != nil {
		t.Errorf("they were there twice: %v", again)
	}
	if nobody := New(slog.New(slog.DiscardHandler)).Left(); nobody != nil {
		t.Errorf("another program found %v", nobody)
	}
}

// checkLeft compares descriptors with files by name, and closes them.
func checkLeft(t *testing.T, left []*os.File, open map[string]*os.File) {
	t.Helper()
	if len(left) != len(open) {
		t.Errorf("%d descriptors of %d", len(left), len(open))
	}
	for _, f := range left {
		if open[f.Name()] == nil || !same(t, f, open[f.Name()]) {
			t.Errorf("%s is another file", f.Name())
		}
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s is open in children: %v", f.Name(), err)
		}
		f.Close()
	}
}

// A program that is replaced before it has used what was left to it leaves that, too.
func TestBequeathWhatWasNotUsed(t *testing.T) {
	environment(t, nil)
	unused, open := files(t, "tun-0")
	if err := New(slog.New(slog.DiscardHandler)).Bequeath(unused); err != nil {
		t.Fatal(err)
	}
	middle := New(slog.New(slog.DiscardHandler))
	used, more := files(t, "udp-0")
	if err := middle.Bequeath(used); err != nil {
		t.Fatal(err)
	}
	open["udp-0"] = more["udp-0"]
	checkLeft(t, New(slog.New(slog.DiscardHandler)).Left(), open)
	for _, f := range middle.Left() {
		f.Close()
	}
}

func TestBequeathThatFails(t *testing.T) {
	environment(t, nil)
	named, open := files(t, "udp-1")
	named["udp-0"] = lost{}
	if err := New(slog.New(slog.DiscardHandler)).Bequeath(named); !errors.Is(err, errDescriptor) {
		t.Errorf("%v", err)
	}
	checkLeft(t, New(slog.New(slog.DiscardHandler)).Left(), open)
}

// Words in the environment that are none of ours are told and left alone.
func TestInheritanceOfNoNumber(t *testing.T) {
	environment(t, nil)
	named, open := files(t, "udp-0")
	if err := New(slog.New(slog.DiscardHandler)).Bequeath(named); err != nil {
		t.Fatal(err)
	}
	t.Setenv(inheritance, "tun-0=x udp-9 "+os.Getenv(inheritance))
	log := &nstest.Events{}
	m := New(slog.New(log))
	if got := log.Take(); !slices.Equal(got, []string{"WARN"}) {
		t.Errorf("logged %q", got)
	}
	checkLeft(t, m.Left(), open)
}
