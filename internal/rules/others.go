package rules

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/backoff"
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

// answer is what was found for a question.
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
	var last answer
	if kept := o.last.Load(); kept != nil {
		last = *kept
	}
	now, _ := o.look(last, from, peers)
	o.last.Store(&now)
	return now.found
}

// look answers a question, by an earlier answer if that holds still; read tells that it does not.
func (o *Others) look(last answer, from uint16, peers []netip.AddrPort) (now answer, read bool) {
	generation, err := nft.Generation()
	if err == nil && last.generation == generation && last.from == from && slices.Equal(last.peers, peers) {
		return last, false
	}
	now = answer{from: from, peers: slices.Clone(peers), generation: generation}
	if err == nil {
		now.found, err = nft.FindOutgoing(from, peers)
	}
	if err != nil { // a kernel without nftables; that rules fail is told elsewhere
		o.log.Debug("rules about outgoing datagrams cannot be read", "error", err)
	}
	return now, true
}

// lookRest bounds how often rules are read while other programs change them.
var lookRest = backoff.Rest{Share: 100, Least: time.Second, Most: 10 * time.Second}

// Watch calls changed when rules about datagrams have come or gone since the last call, until ctx ends. asked
// returns which datagrams: those of the plan in force, and no peers while there is none.
func (o *Others) Watch(
	ctx context.Context, asked func() (from uint16, peers []netip.AddrPort), changed func(),
) error {
	var last answer
	for {
		err := nft.WatchAll(ctx, func() {
			began := time.Now()
			from, peers := asked()
			if len(peers) == 0 {
				return
			}
			now, read := o.look(last, from, peers)
			if !read {
				return
			}
			// Of another question nothing is known: whoever asked it may have asked before a rule came.
			same := now.from == last.from && slices.Equal(now.peers, last.peers)
			if !same || !reflect.DeepEqual(now.found, last.found) {
				changed()
			}
			last = now
			// News that come meanwhile wait, or are lost, which is news as well.
			wait(ctx, lookRest.After(time.Since(began)))
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
