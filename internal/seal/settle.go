package seal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/wireguard"
)

// This file has the engine and the log follow a switchover, and counts what other programs undo.

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

// errTaken is why nothing is encrypted while the interface of a process that runs is not there.
var errTaken = errors.New("the process that encrypts runs, but its interface is not there")

// watch counts an interface that has gone, which only another program takes away.
func (k *Keeper) watch(now time.Time) {
	is := max(0, link.Index(wireguard.Interface))
	if k.index > 0 && is != k.index {
		k.repairs.Add(now, "interface "+wireguard.Interface+" deleted", "")
	}
	k.index = is
}

// logFailure says what a failure means, unless failures come and go too often for a line each.
func (k *Keeper) logFailure(err error, pause time.Duration, now time.Time) {
	n := k.lines.Add(now)
	if n == 0 {
		return
	}
	k.said = true
	if k.wanted.isPrepared() {
		k.o.Log.Warn("not ready for encryption", "error", err, "in", pause, "count", n,
			"event", "encryption_failed")
		return
	}
	k.o.Log.Error("cannot encrypt: nothing is forwarded to peers", "error", err, "in", pause, "count", n,
		"event", "encryption_failed")
}
