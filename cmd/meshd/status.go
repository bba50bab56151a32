package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
)

// askTimeout bounds a question to the daemon, which answers in milliseconds.
const askTimeout = 5 * time.Second

// reloadTimeout bounds a reload, which waits for the kernel.
const reloadTimeout = 30 * time.Second

func statusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the mesh as the running meshd sees it",
		Args:  arguments(0, 0),
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

// printStatus writes a status for people; problems come first.
func printStatus(w io.Writer, s control.Status, now time.Time) error {
	for _, warning := range s.Warnings {
		fmt.Fprintln(w, "! "+warning)
	}
	node := s.Node
	if node == "" {
		node = "(unknown node)"
	}
	fmt.Fprintf(w, "node     %s  up %s  meshd %s  pid %d\n", node, span(now.Sub(s.Started)), s.Version, s.PID)
	fmt.Fprintf(w, "config   %s  generation %d  sha %.8s\n", s.Config.Path, s.Config.Generation, s.Config.SHA256)
	if s.Node == "" {
		return nil
	}
	fmt.Fprintf(w, "network  %s  %s  listening on %s  pods %s\n", s.Network.Name, strings.Join(s.Network.CIDR, " "),
		hostPort(s.Network), strings.Join(s.Network.Subnets, " "))
	fmt.Fprintf(w, "plane    %s  %s mtu %d  queues %d  offloads %s\n", s.Dataplane.EngineWords(), s.Network.Interface, s.Network.MTU,
		s.Dataplane.Queues, orNone(strings.Join(s.Dataplane.Offloads, " ")))
	fmt.Fprintf(w, "batches  %s\n", batchWords(s.Dataplane.Calls))
	fmt.Fprintf(w, "nat      %s\n", masqueradeWords(s.Masquerade))
	fmt.Fprintf(w, "traffic  rx %d packets, %s  tx %d packets, %s\n", s.Totals.RxPackets, size(s.Totals.RxBytes), s.Totals.TxPackets, size(s.Totals.TxBytes))
	fmt.Fprintf(w, "drops    %s\n", orNone(dropWords(s.Totals.Drops)))
	fmt.Fprintf(w, "peers    %s\n\n", peerWords(s.Peers))

	return printPeers(w, s.Peers, now)
}

// peersCommand is status without the node, for scripts and narrow screens.
func peersCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "peers [NAME]",
		Short: "Show the peers, or one of them",
		Long: `Show all peers, those that are not up first, or one of them. Exit code 1: there is no peer of that name,
or it is not up.`,
		Args:              arguments(0, 1),
		ValidArgsFunction: peerNames(g, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			client := g.client()
			if len(args) == 1 {
				p, err := client.Peer(ctx, args[0])
				if err != nil {
					return err
				}
				if g.json {
					err = printJSON(cmd.OutOrStdout(), p)
				} else {
					err = printPeers(cmd.OutOrStdout(), []control.Peer{p.Peer}, time.Now())
				}
				if err == nil && p.State != control.Up {
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

// printPeers writes a table of peers, problems first.
func printPeers(w io.Writer, peers []control.Peer, now time.Time) error {
	order := []string{control.Down, control.Stale, control.Unknown, control.Up}
	peers = slices.Clone(peers)
	slices.SortStableFunc(peers, func(a, b control.Peer) int {
		return cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State))
	})
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tSTATE\tRTT\tLOSS\tADDRESS\tSUBNETS\tRX PACKETS\tTX PACKETS\tLAST SEEN\tFILE\tDROPS")
	for _, p := range peers {
		seen := "never"
		if p.LastSeen != nil {
			seen = span(now.Sub(*p.LastSeen)) + " ago"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", p.Name, p.State, number(p.RTTMS, "%.3g ms", 1), number(p.Loss, "%.0f%%", 100), p.Address,
			strings.Join(slices.Concat(p.Subnets, p.Routes), " "), p.RxPackets, p.TxPackets, seen, fileWord(p), orNone(dropWords(p.Drops)))
	}
	return t.Flush()
}

// peerWords counts peers by state, and those that run another file.
func peerWords(peers []control.Peer) string {
	states, others := map[string]int{}, 0
	for _, p := range peers {
		states[p.State]++
		if p.ConfigMatch != nil && !*p.ConfigMatch {
			others++
		}
	}
	words := []string{fmt.Sprintf("%d up", states[control.Up])}
	for _, state := range []string{control.Stale, control.Down, control.Unknown} {
		if states[state] > 0 {
			words = append(words, fmt.Sprintf("%d %s", states[state], state))
		}
	}
	if others > 0 {
		words = append(words, fmt.Sprintf("%d with another file", others))
	}
	return strings.Join(words, "  ")
}

// number writes what may not be known.
func number(n *float64, format string, scale float64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprintf(format, *n*scale)
}

// fileWord tells whether a peer runs the same file as this node.
func fileWord(p control.Peer) string {
	switch {
	case p.ConfigMatch == nil:
		return "-"
	case *p.ConfigMatch:
		return "same"
	}
	return fmt.Sprintf("%.8s", p.ConfigSHA256)
}

// batchWords tells how many packets each system call moved: the more, the less
// one costs.
func batchWords(calls map[string]control.Calls) string {
	average := func(kind string) string {
		if calls[kind].Calls == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f", float64(calls[kind].Packets)/float64(calls[kind].Calls))
	}
	return fmt.Sprintf("packets per call: out %s from TUN, %s to wire; in %s from wire, %s to TUN",
		average("tun_read"), average("wire_write"), average("wire_read"), average("tun_write"))
}

// masqueradeWords tells what the rules matched; those that matched nothing are
// left out.
func masqueradeWords(m control.Masquerade) string {
	if !m.Enabled {
		return "off"
	}
	words := []string{"on"}
	for _, r := range m.Rules {
		if r.Packets > 0 {
			words = append(words, fmt.Sprintf("%s %d", r.Name, r.Packets))
		}
	}
	if m.Repairs > 0 {
		words = append(words, fmt.Sprintf("repaired %d times", m.Repairs))
	}
	return strings.Join(words, "  ")
}

func hostPort(n control.Network) string {
	address, err := netip.ParseAddr(n.Address)
	if err != nil {
		return n.Address
	}
	return netip.AddrPortFrom(address, uint16(n.Port)).String()
}

// dropWords lists the reasons that have dropped something.
func dropWords(drops map[string]uint64) string {
	var words []string
	for reason, n := range drops {
		if n > 0 {
			words = append(words, fmt.Sprintf("%s %d", reason, n))
		}
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// span writes a duration with its two largest units.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm %02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd %02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// size writes a number of bytes with an SI unit.
func size(n uint64) string {
	value, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB"}
	for value >= 1000 && len(units) > 1 {
		value, units = value/1000, units[1:]
	}
	if units[0] == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[0])
}
