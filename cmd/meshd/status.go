package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
)

// askTimeout bounds a request to the daemon, which answers in milliseconds.
const askTimeout = 5 * time.Second

// reloadTimeout bounds a reload, which waits for the kernel.
const reloadTimeout = 30 * time.Second

// statusCommand returns `meshd status`. It exits with 0 whatever the health, if the daemon answers:
// `meshd wait ready` and /readyz are for scripts that need a verdict.
func statusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the mesh as the running meshd sees it",
		Long: `Show the health of this node, its problems and what to do about them, then the
node, its counters and its peers. Peers that are not up come first.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			status, err := g.client().Status(ctx)
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(cmd.OutOrStdout(), status)
			}
			return printStatus(cmd.OutOrStdout(), status, time.Now())
		},
	}
}

// printStatus writes a status for people. Health comes first, since that is why people ask.
func printStatus(w io.Writer, s control.Status, now time.Time) error {
	for _, line := range words.Health(s.Health, s.Warnings) {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintf(w, "node     %s  up %s  meshd %s  pid %d\n",
		cmp.Or(s.Node, "(unknown node)"), words.Span(now.Sub(s.Started)), s.Version, s.PID)
	if s.Drain != nil {
		fmt.Fprintf(w, "drain    this node is %s\n", words.Maintenance(*s.Drain, now))
		if waiting := words.Waiting(*s.Drain); waiting != "" {
			fmt.Fprintf(w, "         %s\n", waiting)
		}
	}
	fmt.Fprintf(w, "config   %s  generation %d  sha %.8s\n",
		s.Config.Path, s.Config.Generation, s.Config.SHA256)
	if s.Node == "" { // it waits for its address, so there is no mesh to show yet
		return nil
	}
	fmt.Fprintf(w, "network  %s  %s  listening on %s  pods %s\n", s.Network.Name,
		strings.Join(s.Network.CIDR, " "), words.Listens(s.Network), strings.Join(s.Network.Subnets, " "))
	fmt.Fprintf(w, "plane    %s  %s mtu %d  queues %d  offloads %s\n",
		words.Engine(s.Dataplane), s.Network.Interface, s.Network.MTU, s.Dataplane.Queues,
		words.OrNone(strings.Join(s.Dataplane.Offloads, " ")))
	if s.WireGuard != nil {
		fmt.Fprintf(w, "crypto   %s\n", words.WireGuard(*s.WireGuard))
	}
	fmt.Fprintf(w, "batches  %s\n", words.Batches(s.Dataplane.Calls))
	fmt.Fprintf(w, "nat      %s\n", words.Masquerade(s.Masquerade))
	fmt.Fprintf(w, "traffic  %s\n", words.Traffic(s))
	fmt.Fprintf(w, "drops    %s\n", words.OrNone(words.Drops(s.Totals.Drops)))
	for _, line := range words.Strangers(s.Strangers, now) {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintf(w, "peers    %s\n\n", words.Peers(s.Peers))

	return printPeers(w, s.Peers, now)
}

// peersCommand shows a part of the status, for scripts and narrow screens.
func peersCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "peers [NAME]",
		Short: "Show the peers, or one of them",
		Long: `Show all peers, those that are not up first, or the peer NAME with its addresses,
its routes, and how packets of different forms fare. A star marks the address that
packets go to. Exit code 1: no peer has that name, or packets do not pass: it is
neither up, draining nor silent.`,
		Args:              arguments(0, 1),
		ValidArgsFunction: peerNames(g, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			client := g.client()
			// A named peer is a question with a yes or no; the table of all is not.
			if len(args) == 1 {
				p, err := client.Peer(ctx, args[0])
				if err != nil {
					return err
				}
				if g.json {
					err = printJSON(cmd.OutOrStdout(), p)
				} else {
					err = errors.Join(printPeers(cmd.OutOrStdout(), []control.Peer{p.Peer}, time.Now()),
						printPeer(cmd.OutOrStdout(), p.Peer, time.Now()))
				}
				if err == nil && !p.Serves() {
					return errSilent
				}
				return err
			}
			peers, err := client.Peers(ctx)
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(cmd.OutOrStdout(), peers)
			}
			return printPeers(cmd.OutOrStdout(), peers.Peers, time.Now())
		},
	}
}

// printPeers writes a table of peers, those that are not up first.
func printPeers(w io.Writer, peers []control.Peer, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t,
		"PEER\tSTATE\tRTT ms\tLOSS\tADDRESS\tSUBNETS\tRX PACKETS\tTX PACKETS\tLAST SEEN\tFILE\tDROPS")
	for _, p := range words.ByState(peers) {
		// Age by this host's clock, which is the daemon's, too: the socket is a local one.
		seen := "never"
		if p.LastSeen != nil {
			seen = words.Age(now.Sub(*p.LastSeen)) + " ago"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, words.State(p),
			words.Millis(p.RTTMS), words.Percent(p.Loss), words.Endpoint(p),
			strings.Join(slices.Concat(p.Subnets, p.Routes), " "), words.Counter(p.RxPackets),
			words.Counter(p.TxPackets), seen,
			words.File(p), words.OrNone(words.Drops(p.Drops)))
	}
	return t.Flush()
}
