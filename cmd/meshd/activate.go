package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/source"
)

// This file knows whether the other hosts would take a new key of this one. A host that does not list the key
// drops what comes with it, and an operator who came by the mesh would be cut off.

// A listing says how the file on this host lists a key.
type listing int

const (
	unknown  listing = iota // the file cannot be read, has faults or lists no keys
	unlisted                // it lists keys, and not this one
	asNext                  // it is a next_public_key: the hosts know the key before as well
	asKey                   // it is a public_key: hosts with this file do not know the key before any more
)

// listingOf returns how a file lists a key.
func listingOf(ctx context.Context, path string, key mesh.Key) listing {
	doc, err := source.Read(ctx, path, config.MaxSize)
	if err != nil {
		return unknown
	}
	c, err := config.ParseContext(ctx, path, doc)
	if err != nil || !c.Keyed() {
		return unknown
	}
	i := slices.IndexFunc(c.Nodes, func(n config.Node) bool { return n.HasKey(key) })
	switch {
	case i < 0:
		return unlisted
	case c.Nodes[i].PublicKey == key:
		return asKey
	}
	return asNext
}

// newsOfFiles is how long other hosts may take to tell of a file that was given to all a moment ago: they do
// so with their next probes. It is a variable for tests.
var newsOfFiles = 5 * time.Second

// others returns an error if some other host is known not to have a file that lists the next key of this one,
// and tells of those of which that is not known. A host whose file lists the key as public_key has no use for
// the one before, so nothing is refused then.
func (k keyCall) others(cmd *cobra.Command, client *control.Client, next mesh.Key, listed listing) error {
	for late := time.After(newsOfFiles); ; {
		s, err := client.Status(cmd.Context())
		switch {
		case errors.Is(err, control.ErrNotRunning):
			k.say(cmd, "meshd does not run here, so it is not known whether the other hosts list the key")
			return nil
		case err != nil:
			return fmt.Errorf("ask meshd whether the other hosts list the key: %w: --force does not ask", err)
		case s.WireGuard == nil || listed == asKey:
			return nil
		case s.WireGuard.NextPublicKey != next.String():
			return fmt.Errorf("the file in force on this host does not list the key %s as its next_public_key: run "+
				"`meshd reload`, and see that all hosts have the file", next)
		}
		without, silent := filesOf(s.Peers)
		switch {
		case len(without) == 0 && len(silent) == 0:
			return nil
		case len(without) == 0:
			k.say(cmd, "it is not known whether the file is in force on %s: without it they take nothing from this "+
				"host until they have it", several(silent))
			return nil
		}
		select {
		case <-late:
			return fmt.Errorf("other files are in force on %s, which would take nothing from this host if they do "+
				"not list the key: give them the file of this host first, or use --force", several(without))
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(newsOfFiles / 50):
		}
	}
}

// filesOf returns the peers that have another file in force, and those of which that is not known.
func filesOf(all []control.Peer) (without, silent []string) {
	for _, p := range all {
		switch {
		case !p.IsUp() || p.ConfigMatch == nil:
			silent = append(silent, p.Name)
		case !*p.ConfigMatch:
			without = append(without, p.Name)
		}
	}
	return without, silent
}

// several names a few hosts.
func several(names []string) string {
	const enough = 5
	if more := len(names) - enough; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:enough], ", "), more)
	}
	return strings.Join(names, ", ")
}
