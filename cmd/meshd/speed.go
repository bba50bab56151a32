package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/page"
	"example.org/meshd/internal/typed"
)

// speedCommand returns `meshd speed`.
func speedCommand(g *globals) *cobra.Command {
	last := typed.Span(10 * time.Second)
	rate := ""
	cmd := &cobra.Command{
		Use:   "speed NODE|ADDRESS",
		Short: "Measure throughput and loss to a node through the tunnel",
		Long: `Measure what pods' packets get between this node and another one: the throughput of one TCP
connection between the two meshds, and the loss of UDP datagrams at half of it, first to the node, then
from it. The link is full meanwhile, so pods feel it. The other node must allow it with
"[probe] speed = true" in its file. A host takes part in one measurement at a time; Ctrl-C ends it on both
sides. RTT is that of TCP while the link is full.

Only root and members of the group mesh-admin may measure.
Exit code 0: measured, 1: refused or no answer, 4: not permitted.`,
		Example:           "  meshd speed edge-2\n  meshd speed -t 30 --rate 100M edge-2",
		Args:              arguments(1, 1),
		ValidArgsFunction: peerNames(g, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := control.SpeedRequest{Seconds: time.Duration(last).Seconds()}
			if request.Seconds < 1 || request.Seconds > 30 {
				return fmt.Errorf("%w: --time must be 1s to 30s", errUsage)
			}
			if rate != "" {
				n, err := typed.BitRate(rate)
				if err == nil && (n < 100_000 || n > 100_000_000_000) {
					err = errors.New("must be 100k to 100G")
				}
				if err != nil {
					return fmt.Errorf("%w: --rate: %w", errUsage, err)
				}
				request.LimitBPS = n
			}
			return speed(cmd, g, args[0], request)
		},
	}
	flags := cmd.Flags()
	flags.VarP(&last, "time", "t", "`time` for both directions together, at most 30s")
	flags.StringVarP(&rate, "rate", "r", "1G", "send at most so many `bits` in a second, such as 100M")
	choices(cmd, "time", "5s", "10s", "30s")
	choices(cmd, "rate", "10M", "100M", "1G", "10G")
	return cmd
}

// speed measures, and shows the result. How it goes is shown on a terminal alone.
func speed(cmd *cobra.Command, g *globals, word string, request control.SpeedRequest) error {
	ctx, client := cmd.Context(), g.client()
	defer client.Close()
	name, err := whom(ctx, client, word, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	request.Peer = name
	progress, o := page.On(cmd.ErrOrStderr())
	result, err := client.Speed(ctx, request, func(p control.SpeedProgress) {
		if o.Width > 0 && !g.json {
			_ = page.SpeedProgress(progress, name, p) // the result says what went wrong
		}
	})
	switch {
	case ctx.Err() != nil:
		return errSilent
	case err != nil:
		return meant(ctx, client, name, err)
	case g.json:
		return printJSON(cmd.OutOrStdout(), result)
	}
	out, o := page.On(cmd.OutOrStdout())
	return page.Speed(out, result, o)
}
