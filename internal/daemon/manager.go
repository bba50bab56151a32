package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// manager is the service manager that started this daemon, systemd: it is told
// how things are (sd_notify(3)) and keeps descriptors while no meshd runs. Without
// one, which NOTIFY_SOCKET in the environment would name, nothing is told or kept.
type manager struct {
	log      *slog.Logger
	socket   string
	watchdog time.Duration // it wants to hear of us within this time; 0: never
	began    time.Time
	left     []*os.File // what an earlier meshd left with it or in this process, until adopt

	summary func() string               // one line for people
	alive   func(context.Context) error // whether packets move

	mu    sync.Mutex
	names []string // of what it keeps
	up    bool     // ready was said
	said  string   // the last summary
}

func newManager(log *slog.Logger) *manager {
	m := &manager{log: log, socket: os.Getenv("NOTIFY_SOCKET"), began: time.Now()}
	left, err := inherited()
	if err != nil {
		log.Warn("not all descriptors of the program before are understood", "error", err)
	}
	m.left = left
	if m.socket == "" {
		return m
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the service manager's watchdog is not understood", "error", err)
	}
	m.watchdog = interval
	m.left = append(m.left, activation.Files(true)...)
	for _, f := range m.left {
		m.names = append(m.names, f.Name())
	}
	return m
}

// notify sends one message. That it cannot is no reason to stop forwarding.
func (m *manager) notify(lines ...string) {
	if m.socket == "" {
		return
	}
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		m.log.Warn("the service manager cannot be told", "error", err)
	}
}

// ready tells that packets are forwarded, at the start and after each reload.
func (m *manager) ready() {
	summary := m.summary()
	m.mu.Lock()
	m.up, m.said = true, summary
	m.mu.Unlock()
	m.notify(daemon.SdNotifyReady, "STATUS="+summary)
}

// reloading tells what goes on until ready.
func (m *manager) reloading(what string) {
	m.notify(daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()), "STATUS="+what)
}

// adopt returns those of the descriptors an earlier meshd left that fit the plan;
// nil if there are none.
func (m *manager) adopt(q queues) *endpoints {
	if len(m.left) == 0 {
		return nil
	}
	e := &endpoints{queues: q}
	for _, err := range e.adopt(m.left) {
		m.log.Info("a descriptor of the last run is not used", "reason", err)
	}
	m.left = nil
	m.log.Info("taking over from the last run", "sockets", len(e.receive), "queues", len(e.tun))
	return e
}

// keep gives the service manager descriptors to hold while no meshd runs, in the
// place of those it holds. A TUN queue that it held and nobody read would swallow
// its share of the packets, so those that are not used any more leave at once.
func (m *manager) keep(e *endpoints) error {
	if m.socket == "" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range m.names {
		m.notify("FDSTOREREMOVE=1", "FDNAME="+name)
	}
	m.names = nil
	out, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("leave descriptors with the service manager: %w", err)
	}
	defer unix.Close(out)
	var errs []error
	named := e.lasting()
	for _, name := range slices.Sorted(maps.Keys(named)) {
		// Whether it is well is ours to say, not its poll's (FDPOLL, systemd 246).
		message := []byte("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name)
		err := named[name].Descriptor(func(fd uintptr) {
			err = unix.Sendmsg(out, message, unix.UnixRights(int(fd)), &unix.SockaddrUnix{Name: m.socket}, 0)
		})
		errs = append(errs, err)
		m.names = append(m.names, name)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("leave descriptors with the service manager: %w", err)
	}
	return nil
}

func (m *manager) String() string { return "service manager" }

// How often the line for people is looked at, and how long the service manager
// shall wait for an address before it hears of us again. After startPatience we are up
// without one: what else the host starts must not wait for ever, nor those who started us.
const (
	summaryEvery  = time.Second
	startExtends  = 15 * time.Second
	startPatience = 30 * time.Second
)

// Run implements task: it tells the service manager how we are.
func (m *manager) Run(ctx context.Context) error {
	if m.socket == "" {
		<-ctx.Done()
		return nil
	}
	every := summaryEvery
	if m.watchdog > 0 {
		every = min(every, m.watchdog/3)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if replaced(ctx) {
				m.reloading("another version takes over")
			} else {
				m.notify(daemon.SdNotifyStopping, "STATUS=stopping")
			}
			return nil
		case <-tick.C:
			m.report(ctx, every)
		}
	}
}

// report sends what is due: the summary if it is another one, and while packets
// move the sign of life.
func (m *manager) report(ctx context.Context, within time.Duration) {
	summary := m.summary()
	var lines []string
	m.mu.Lock()
	if summary != m.said {
		m.said = summary
		lines = append(lines, "STATUS="+summary)
	}
	up := m.up
	m.mu.Unlock()
	switch {
	case !up && time.Since(m.began) > startPatience:
		m.log.Info("still waiting: what the host starts after this goes on", "event", "waiting")
		m.ready()
	case !up: // waiting for an address is no failure to start
		lines = append(lines, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", startExtends.Microseconds()))
	case m.watchdog > 0:
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		if err := m.alive(ctx); err != nil {
			m.log.Error("no sign of life to the service manager's watchdog", "reason", err, "event", "hangs")
		} else {
			lines = append(lines, daemon.SdNotifyWatchdog)
		}
	}
	if len(lines) > 0 {
		m.notify(lines...)
	}
}
