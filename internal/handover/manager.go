// Package handover keeps packets waiting, not lost, while one meshd ends and another begins: it
// leaves descriptors with the service manager or with the program that takes over this process,
// and tells the service manager (sd_notify(3)) how this daemon is.
package handover

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
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
)

// Manager is the service manager that started this daemon, systemd: it is told how this daemon is
// and keeps descriptors while no meshd runs. Without one, which NOTIFY_SOCKET in the environment
// would name, it does nothing. Keep and Leave belong to one goroutine; the other methods may be
// called from any.
type Manager struct {
	log      *slog.Logger
	socket   string
	watchdog time.Duration // it wants to hear of us within this time; 0: never
	began    time.Time
	left     []*os.File // what an earlier meshd left with it or in this process, until Left
	names    []string   // of what it keeps

	summary func() string               // one line for people, at once
	alive   func(context.Context) error // whether packets move

	deaf atomic.Bool // the last message did not arrive

	mu   sync.Mutex
	up   bool   // packets are forwarded, or were waited for long enough
	owed bool   // READY=1 did not arrive
	said string // the last summary that arrived
}

// New returns the service manager named in the environment, and takes over the descriptors that it or
// the program before has left.
func New(log *slog.Logger) *Manager {
	m := &Manager{log: log, socket: os.Getenv("NOTIFY_SOCKET"), began: time.Now()}
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
	// true: the variables LISTEN_* are removed, so that programs which meshd starts do not take them
	// for theirs.
	m.left = append(m.left, activation.Files(true)...)
	for _, f := range m.left {
		m.names = append(m.names, f.Name())
	}
	return m
}

// Watch says where the line for people and the sign of life come from. It comes before Run.
func (m *Manager) Watch(summary func() string, alive func(context.Context) error) {
	m.summary, m.alive = summary, alive
}

// Left returns the descriptors of an earlier meshd, which become the caller's; nil if there are none
// or they were returned before.
func (m *Manager) Left() []*os.File {
	left := m.left
	m.left = nil
	return left
}

// Ready tells that packets are forwarded, at the start and after each reload. A manager that does not
// take the message is told again by Run: without it, it would end a service that has just started.
func (m *Manager) Ready() {
	summary := m.summary()
	m.mu.Lock()
	m.up, m.owed, m.said = true, false, summary
	m.mu.Unlock()
	if !m.notify(daemon.SdNotifyReady, "STATUS="+summary) {
		m.mu.Lock()
		m.owed, m.said = true, ""
		m.mu.Unlock()
	}
}

// Reloading tells what goes on until ready.
func (m *Manager) Reloading(what string) {
	m.mu.Lock()
	m.owed = false // Ready follows
	m.mu.Unlock()
	m.notify(daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()), "STATUS="+what)
}

// Keep gives the service manager descriptors to hold while no meshd runs, in the place of those it
// holds. A TUN queue that it held and no program read would swallow its share of the packets, so
// those that are not used any more leave at once.
func (m *Manager) Keep(named map[string]dataplane.Descriptor) error {
	if m.socket == "" {
		return nil
	}
	// Removed before new ones are sent: the store keeps several descriptors of one name, and the next
	// start could not tell which is the newer.
	for _, name := range m.names {
		if err := m.send("FDSTOREREMOVE=1\nFDNAME="+name, nil); err != nil {
			return fmt.Errorf("have the service manager forget descriptors: %w", err)
		}
	}
	m.names = nil
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(named)) {
		// Whether it is well is ours to say, not its poll's (FDPOLL, systemd 246).
		message := "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name
		var sendErr error
		err := named[name].Descriptor(func(fd uintptr) { sendErr = m.send(message, unix.UnixRights(int(fd))) })
		errs = append(errs, sendErr, err)
		m.names = append(m.names, name)
		if errors.Is(sendErr, os.ErrDeadlineExceeded) { // the rest would wait as long, each
			break
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("leave descriptors with the service manager: %w", err)
	}
	return nil
}

// String names the task in the log.
func (m *Manager) String() string { return "service manager" }

// How often the line for people is looked at, and how long the service manager
// shall wait for an address before it hears of us again. After startPatience we are up
// without one: what else the host starts must not wait for ever, nor those who started us.
const (
	summaryEvery  = time.Second
	startExtends  = 15 * time.Second
	startPatience = 30 * time.Second
)

// Run implements task: it tells the service manager how we are.
func (m *Manager) Run(ctx context.Context) error {
	if m.socket == "" {
		<-ctx.Done()
		return nil
	}
	every := summaryEvery
	if m.watchdog > 0 {
		// Two signs may get lost or late before the manager acts on the third.
		every = min(every, m.watchdog/3)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			// STOPPING=1 would make systemd wait for an exit, and kill the successor in this very process
			// after TimeoutStopSec.
			if Replaced(ctx) {
				m.Reloading("another version takes over")
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
func (m *Manager) report(ctx context.Context, within time.Duration) {
	summary := m.summary()
	var lines []string
	m.mu.Lock()
	if summary != m.said {
		m.said = summary
		lines = append(lines, "STATUS="+summary)
	}
	if m.owed {
		m.owed = false
		lines = append([]string{daemon.SdNotifyReady}, lines...)
	}
	up := m.up
	m.mu.Unlock()
	switch {
	case !up && time.Since(m.began) > startPatience:
		m.log.Info("still waiting: what the host starts after this goes on", "event", "waiting")
		m.Ready()
	case !up: // waiting for an address is no failure to start
		lines = append(lines, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", startExtends.Microseconds()))
	case m.watchdog > 0:
		// The next report is due after this, and would queue behind a check that hangs.
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		if err := m.alive(ctx); err != nil {
			m.log.Error("no sign of life to the service manager's watchdog", "reason", err, "event", "hangs")
		} else {
			lines = append(lines, daemon.SdNotifyWatchdog)
		}
	}
	if len(lines) > 0 && !m.notify(lines...) {
		m.mu.Lock()
		m.said, m.owed = "", m.owed || slices.Contains(lines, daemon.SdNotifyReady)
		m.mu.Unlock()
	}
}
