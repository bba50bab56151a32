package rules

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/nft"
)

// Outgoing is a chain of another program with rules about the mesh's datagrams on their way out.
type Outgoing = nft.Outgoing

// Others finds rules of other programs that are about the mesh's datagrams. Its methods may be called from
// any goroutine. No lock is held while rules are read.
type Others struct {
	log  *slog.Logger
	last atomic.Pointer[answer]
}

// answer is what was found last.
type answer struct {
	from       uint16
	peers      []netip.AddrPort
	generation uint32 // of the ruleset, before it was read
	found      []Outgoing
}

// NewOthers returns Others that has not looked.
func NewOthers(log *slog.Logger) *Others { return &Others{log: log} }

// Outgoing returns the chains with rules about datagrams from a port to some peers. While rules and question
// stay, that costs one message to the kernel. A kernel that cannot be asked has none.
func (o *Others) Outgoing(from uint16, peers []netip.AddrPort) []Outgoing {
	found, _ := o.look(from, peers)
	return found
}

// look is Outgoing; read tells that rules were read.
func (o *Others) look(from uint16, peers []netip.AddrPort) (found []Outgoing, read bool) {
	generation, err := nft.Generation()
	last := o.last.Load()
	if err == nil && last != nil && last.generation == generation && last.from == from &&
		slices.Equal(last.peers, peers) {
		return last.found, false
	}
	if err == nil {
		found, err = nft.FindOutgoing(from, peers)
	}
	if err != nil { // a kernel without nftables; that rules fail is told elsewhere
		o.log.Debug("rules about outgoing datagrams cannot be read", "error", err)
	}
	o.last.Store(&answer{from, slices.Clone(peers), generation, found})
	return found, true
}

// Bounds of how often rules are read while other programs change them: at most once in lookPause, and for at
// most one lookShare of the time.
const (
	lookPause = time.Second
	lookShare = 100
)

// Watch looks again when rules have changed, and calls changed if something else is found, until ctx ends.
// It works from the first call of Outgoing on.
func (o *Others) Watch(ctx context.Context, changed func()) error {
	for {
		err := nft.WatchAll(ctx, func() {
			last, began := o.last.Load(), time.Now()
			if last == nil {
				return
			}
			found, read := o.look(last.from, last.peers)
			if !reflect.DeepEqual(found, last.found) {
				changed()
			}
			if read { // news that come meanwhile wait, or are lost, which is news as well
				wait(ctx, max(lookPause, lookShare*time.Since(began)))
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		o.log.Warn("rules about outgoing datagrams are not watched: trying again",
			"in", retryRules, "error", err, "event", "watch_failed")
		wait(ctx, retryRules)
	}
}

// wait returns after a time, or at the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
