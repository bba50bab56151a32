package seal

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// This file has the engine and the log follow a switchover.

// tellLags has the engine know which peers lag.
func (k *Keeper) tellLags(names []string, lag bool) {
	for _, name := range names {
		k.o.Lags(name, lag)
	}
}

// settle ends the time of peers that lag no more.
func (k *Keeper) settle(now time.Time) {
	followed, late := k.shift.end(now)
	k.tellLags(slices.Concat(followed, late), false)
	if len(followed) > 0 {
		k.o.Log.Info("peers encrypt as well: their bare packets are dropped from now on",
			"peers", some(followed), "event", "lagging_ended")
	}
	if len(late) > 0 {
		k.o.Log.Warn("peers still send bare packets, which are dropped from now on", "peers", some(late),
			"after", lagMost, "event", "lagging_ended")
	}
}

// some names a few peers.
func some(names []string) string {
	const enough = 5
	if more := len(names) - enough; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:enough], ", "), more)
	}
	return strings.Join(names, ", ")
}

// logFailure says what a failure means.
func (k *Keeper) logFailure(err error, pause time.Duration) {
	if k.wanted.isPrepared() {
		k.o.Log.Warn("not ready for encryption", "error", err, "in", pause, "event", "encryption_failed")
		return
	}
	k.o.Log.Error("cannot encrypt: nothing is forwarded to peers", "error", err, "in", pause,
		"event", "encryption_failed")
}
