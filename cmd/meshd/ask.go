package main

import (
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
			status, err := control.NewClient(g.socket).Status(ctx)
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

func routeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "route IP",
		Short: "Show which node carries packets to an address",
		Args:  arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := netip.ParseAddr(args[0])
			if err != nil {
				return fmt.Errorf("%w: %q is not an IP address", errUsage, args[0])
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			route, err := control.NewClient(g.socket).Route(ctx, to)
			if err != nil {
				return err
			}
			if g.json {
				if err := printJSON(cmd.OutOrStdout(), route); err != nil {
					return err
				}
			} else if route.Reason == "" {
				fmt.Fprintf(cmd.OutOrStdout(), "%s via %s at %s (%s) dev %s src %s mtu %d\n",
					route.To, route.Peer, route.Address, route.Prefix, route.Interface, route.Source, route.MTU)
			}
			if route.Reason != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "meshd: no way through the mesh to %s: %s\n", route.To, route.Reason)
				return errSilent
			}
			return nil
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
	fmt.Fprintf(w, "plane    %s  %s mtu %d  queues %d  offloads %s\n", s.Dataplane.Engine, s.Network.Interface, s.Network.MTU,
		s.Dataplane.Queues, orNone(strings.Join(s.Dataplane.Offloads, " ")))
	fmt.Fprintf(w, "batches  %s\n", batchWords(s.Dataplane.Calls))
	fmt.Fprintf(w, "nat      %s\n", masqueradeWords(s.Masquerade))
	fmt.Fprintf(w, "traffic  rx %d packets, %s  tx %d packets, %s\n", s.Totals.RxPackets, size(s.Totals.RxBytes), s.Totals.TxPackets, size(s.Totals.TxBytes))
	fmt.Fprintf(w, "drops    %s\n\n", orNone(dropWords(s.Totals.Drops)))

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tSTATE\tADDRESS\tSUBNETS\tRX PACKETS\tTX PACKETS\tLAST SEEN\tDROPS")
	for _, p := range s.Peers {
		seen := "never"
		if p.LastSeen != nil {
			seen = span(now.Sub(*p.LastSeen)) + " ago"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", p.Name, p.State, p.Address,
			strings.Join(slices.Concat(p.Subnets, p.Routes), " "), p.RxPackets, p.TxPackets, seen, orNone(dropWords(p.Drops)))
	}
	return t.Flush()
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
