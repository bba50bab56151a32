package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/page"
)

// peersCommand shows a part of the status, for scripts and narrow screens.
func peersCommand(g *globals) *cobra.Command {
	var sort, state string
	cmd := &cobra.Command{
		Use:   "peers [NAME|ADDRESS]",
		Short: "Show the peers, or one of them",
		Long: `Show all peers, those that are not up first, or one peer with its addresses, its routes, and how
packets of different forms fare. A star marks the address that packets go to. An address is one of the
peer itself, or of something behind it.
Exit code 1: no peer has that name, or packets do not pass: it is neither up, draining nor silent.`,
		Example:           "  meshd peers --sort loss\n  meshd peers --state down,stale\n  meshd peers 10.244.1.7",
		Args:              arguments(0, 1),
		ValidArgsFunction: peerNames(g, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			order, known := orders[sort]
			if !known {
				return fmt.Errorf("%w: --sort is for %s, and not %q", errUsage, strings.Join(sortKeys(), ", "), sort)
			}
			states, err := parseStates(state)
			if err != nil {
				return err
			}
			client := g.client()
			defer client.Close()
			// A named peer is a question with a yes or no; the table of all is not.
			if len(args) == 1 {
				return onePeer(cmd, g, client, args[0])
			}
			if g.json {
				peers, err := ask(cmd.Context(), client.Peers)
				if err != nil {
					return err
				}
				peers.Peers = chosen(peers.Peers, order, states)
				return printJSON(cmd.OutOrStdout(), peers)
			}
			s, err := ask(cmd.Context(), client.Status) // which also tells of locks
			if err != nil {
				return err
			}
			s.Peers = chosen(s.Peers, order, states)
			return printPeers(cmd.OutOrStdout(), s, order != nil)
		},
	}
	keys := strings.Join(sortKeys(), ", ")
	cmd.Flags().StringVar(&sort, "sort", "", "order by `key`: "+keys+" (default state)")
	cmd.Flags().StringVar(&state, "state", "", "only peers in these `states`, such as down,stale")
	choices(cmd, "sort", sortKeys()...)
	lists(cmd, "state", peerStates...)
	return cmd
}

// onePeer shows a peer.
func onePeer(cmd *cobra.Command, g *globals, client *control.Client, word string) error {
	name, err := whom(cmd.Context(), client, word, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	p, err := ask(cmd.Context(), func(ctx context.Context) (control.OnePeer, error) {
		return client.Peer(ctx, name)
	})
	if err != nil {
		return meant(cmd.Context(), client, name, err)
	}
	out := cmd.OutOrStdout()
	if g.json {
		err = printJSON(out, p)
	} else {
		now := time.Now()
		if err = printPeers(out, control.Status{Now: now, Peers: []control.Peer{p.Peer}}, true); err == nil {
			err = printPeer(out, p.Peer, now)
		}
	}
	if err == nil && !p.Serves() {
		return errSilent
	}
	return err
}

// printPeers writes a table of peers; sorted ones stay in their order.
func printPeers(out io.Writer, s control.Status, sorted bool) error {
	w, o := page.On(out)
	o.Now, o.Sorted = time.Now(), sorted
	return page.Peers(w, s, o)
}

// peerStates are those that --state takes.
var peerStates = []string{control.Up, control.Draining, control.Silent, control.Stale, control.OneWay,
	control.Down, control.Unknown}

// parseStates reads a list of states with commas; nil for an empty one.
func parseStates(text string) (states []string, err error) {
	if text == "" {
		return nil, nil
	}
	for state := range strings.SplitSeq(text, ",") {
		if !slices.Contains(peerStates, state) {
			return nil, fmt.Errorf("%w: --state is for %s, and not %q", errUsage,
				strings.Join(peerStates, ", "), state)
		}
		states = append(states, state)
	}
	return states, nil
}

// An order compares peers: the one that is more interesting stands first.
type order func(a, b *control.Peer) int

// orders are what --sort takes. Without one the state decides, as words.ByState has it.
var orders = map[string]order{
	"":      nil,
	"state": nil,
	"name":  func(a, b *control.Peer) int { return words.Natural(a.Name, b.Name) },
	"rtt":   func(a, b *control.Peer) int { return largest(a.RTTMS, b.RTTMS) },
	"loss":  func(a, b *control.Peer) int { return largest(a.Loss, b.Loss) },
	"rx":    func(a, b *control.Peer) int { return largest(a.RxBytes, b.RxBytes) },
	"tx":    func(a, b *control.Peer) int { return largest(a.TxBytes, b.TxBytes) },
	"drops": func(a, b *control.Peer) int { return cmp.Compare(dropped(b), dropped(a)) },
	"seen": func(a, b *control.Peer) int { // the longest silence first
		switch {
		case a.LastSeen == nil || b.LastSeen == nil:
			return cmp.Compare(has(a.LastSeen), has(b.LastSeen))
		}
		return a.LastSeen.Compare(*b.LastSeen)
	},
}

// sortKeys are the words of orders.
func sortKeys() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(orders)), func(key string) bool { return key == "" })
}

// largest puts the largest value first, and what is not known last.
func largest[T cmp.Ordered](a, b *T) int {
	if a == nil || b == nil {
		return cmp.Compare(has(b), has(a))
	}
	return cmp.Compare(*b, *a)
}

// has is 1 for something that is known.
func has[T any](v *T) int {
	if v == nil {
		return 0
	}
	return 1
}

// dropped counts the drops of a peer.
func dropped(p *control.Peer) (n uint64) {
	for _, one := range p.Drops {
		n += one
	}
	return n
}

// chosen returns the peers in some states, or all of them, in an order.
func chosen(peers []control.Peer, by order, states []string) []control.Peer {
	if states != nil {
		peers = slices.DeleteFunc(slices.Clone(peers), func(p control.Peer) bool {
			return !slices.Contains(states, p.State)
		})
	}
	if by != nil {
		peers = slices.Clone(peers)
		slices.SortStableFunc(peers, func(a, b control.Peer) int { return by(&a, &b) })
	}
	if peers == nil { // never null in JSON
		peers = []control.Peer{}
	}
	return peers
}
