// Package news logs what has changed at peers: which came up, fell silent, or run another file. An
// uplink that fails, and a file that is rolled out, concern thousands of peers at once; each is one
// line with a number.
package news

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/probe"
	"example.org/meshd/internal/rate"
)

// named is how many peers a line names.
const named = 10

// Peers logs changes of peers. One goroutine may use it.
type Peers struct {
	log    *slog.Logger
	says   func(peer string) (probe.Self, bool)
	states rate.Gathering[probe.Change]
	self   probe.Self      // as of the last Tell
	differ map[string]bool // peers that were told to run another file
}

// NewPeers returns Peers that write to a log. says returns what a peer has said of itself; false: there is
// no such peer any more.
func NewPeers(log *slog.Logger, says func(peer string) (probe.Self, bool)) *Peers {
	return &Peers{log: log, says: says, states: rate.Gathering[probe.Change]{Window: time.Second},
		differ: map[string]bool{}}
}

// Tell takes changes, and logs those that are due. self is what this node tells of itself, with which
// the files of peers are compared.
func (p *Peers) Tell(changes []probe.Change, self probe.Self, now time.Time) {
	var others, ours []string
	for _, c := range changes {
		switch {
		case c.Forms, c.Paths: // they become conditions, see package peers
		case c.Drain:
			p.tellDrain(c)
		case c.Told == nil:
			kind := c.New.String()
			if c.Maintenance != nil {
				kind = "maintained " + kind
			}
			p.states.Add(kind, c)
		case c.Told.Hash == ([32]byte{}): // not a meshd
		case !self.SameFile(*c.Told):
			others, p.differ[c.Peer] = append(others, c.Peer), true
		case c.Before.Hash != ([32]byte{}) && self.SameFile(c.Before): // only its text is new
		default:
			ours = append(ours, c.Peer)
			delete(p.differ, c.Peer)
		}
	}
	if self != p.self {
		p.self, ours = self, append(ours, p.caughtUp(self)...)
	}
	for _, group := range p.states.Due(now) {
		p.tellStates(group.News)
	}
	p.tellFiles("runs another file than this node", "peer_file_differs", slog.LevelWarn, others)
	p.tellFiles("runs this node's file", "peer_file_matches", slog.LevelInfo, ours)
}

// caughtUp returns the peers that were told to run another file, and run the one that this node has taken
// now: where the others are first, they have no change of their own to tell.
func (p *Peers) caughtUp(self probe.Self) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(p.differ)) {
		told, ok := p.says(name)
		switch {
		case !ok:
			delete(p.differ, name)
		case self.SameFile(told):
			delete(p.differ, name)
			names = append(names, name)
		}
	}
	return names
}

// Wait returns how long nothing is due; most if nothing is held.
func (p *Peers) Wait(now time.Time, most time.Duration) time.Duration {
	return p.states.Wait(now, most)
}

// tellStates logs peers that came to the same state.
func (p *Peers) tellStates(all []probe.Change) {
	c, subject, about := all[0], "peer is", []any{"peer", all[0].Peer}
	switch {
	case len(all) > 1:
		names := make([]string, len(all))
		for i, c := range all {
			names[i] = c.Peer
		}
		subject, about = fmt.Sprintf("%d peers are", len(all)), list(names)
	case c.New == probe.Up:
		about = append(about, "was", c.Old)
		if rtt := c.Figures.Last.Round(time.Microsecond); rtt > 0 { // without an answer, data made it up
			about = append(about, "rtt", rtt)
		}
	default:
		about = append(about, "was", c.Old, "silent", c.Silent.Round(time.Millisecond),
			"loss", fmt.Sprintf("%.0f%%", 100*c.Figures.Loss))
	}
	if c.Maintenance != nil && c.New != probe.Up { // nothing to be alarmed about
		p.log.Info(subject+" "+c.New.String()+", in maintenance",
			append(about, "event", "peer_"+strings.ReplaceAll(c.New.String(), "-", "_"))...)
		return
	}
	switch c.New {
	case probe.Up:
		p.log.Info(subject+" up", append(about, "event", "peer_up")...)
	case probe.Stale:
		p.log.Warn(subject+" stale: no answer", append(about, "event", "peer_stale")...)
	case probe.Silent:
		p.log.Warn(subject+" silent: packets arrive, but no answer", append(about, "event", "peer_silent")...)
	case probe.OneWay:
		p.log.Error(subject+" reached one way only: heard, but no answer",
			append(about, "event", "peer_one_way")...)
	case probe.Down:
		p.log.Error(subject+" down: no answer", append(about, "event", "peer_down")...)
	}
}

// tellDrain logs that a peer's maintenance has begun, has changed or has ended.
func (p *Peers) tellDrain(c probe.Change) {
	if c.Maintenance == nil {
		p.log.Info("the maintenance of a peer has ended", "peer", c.Peer, "event", "peer_undrained")
		return
	}
	about := []any{"peer", c.Peer, "by", c.Maintenance.By, "reason", c.Maintenance.Reason, "event",
		"peer_drained"}
	if until := c.Maintenance.Until; !until.IsZero() {
		about = append(about, "until", until.Format(time.RFC3339))
	}
	p.log.Info("a peer is in maintenance, and wants no new traffic", about...)
}

// tellFiles logs peers that have told of another file.
func (p *Peers) tellFiles(what, event string, level slog.Level, names []string) {
	switch {
	case len(names) == 1:
		p.log.Log(context.Background(), level, "peer "+what, "event", event, "peer", names[0])
	case len(names) > 1:
		p.log.Log(context.Background(), level, fmt.Sprintf("%d peers: each %s", len(names), what),
			append(list(names), "event", event)...)
	}
}

// list counts peers, and names the first of them.
func list(names []string) []any {
	return []any{"count", len(names), "peers", strings.Join(names[:min(len(names), named)], " ")}
}
