package user

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	wireguardgo "golang.zx2c4.com/wireguard/device"
)

// quiet is how long a kind of fault is not logged again. A device reports some faults for each packet, such
// as writes into a TUN that is down.
const quiet = 10 * time.Second

// newLogger returns what a device logs with: faults as warnings, all else for debugging.
func newLogger(log *slog.Logger) *wireguardgo.Logger {
	l := &wireguardgo.Logger{Verbosef: wireguardgo.DiscardLogf}
	if log.Enabled(context.Background(), slog.LevelDebug) {
		l.Verbosef = func(format string, args ...any) { log.Debug(fmt.Sprintf(format, args...)) }
	}
	f := &faults{log: log, now: time.Now, kinds: map[string]*fault{}}
	l.Errorf = f.report
	return l
}

// faults are those that a device has reported. The kinds are the formats, which are constants of the library.
type faults struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	kinds map[string]*fault
}

type fault struct {
	logged time.Time
	more   int // since then
}

// report logs a fault, unless its kind was logged a moment ago.
func (f *faults) report(format string, args ...any) {
	f.mu.Lock()
	k := f.kinds[format]
	if k == nil {
		k = &fault{}
		f.kinds[format] = k
	}
	now := f.now()
	if now.Sub(k.logged) < quiet {
		k.more++
		f.mu.Unlock()
		return
	}
	more := k.more
	*k = fault{logged: now}
	f.mu.Unlock()
	f.log.Warn(fmt.Sprintf(format, args...), "event", "wireguard_fault", "more", more)
}
