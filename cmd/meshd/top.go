package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/page"
)

// A topper is a command line of `meshd top`.
type topper struct {
	*globals
	query control.FlowQuery
	watch watch
}

// topCommand returns `meshd top`.
func topCommand(g *globals) *cobra.Command {
	v := &topper{globals: g}
	cmd := &cobra.Command{
		Use:   "top [--by pod|peer|port] [-n ROWS] [--watch [INTERVAL]]",
		Short: "Show who uses the bandwidth: the busiest flows between this node's pods and others",
		Long: `Show the flows that moved most bytes in the last second, or what pods, peers or ports moved in sum.
A flow is the packets between two addresses and ports, in both directions; RX is what came to this node.

Flows are counted only while somebody looks, so the command takes a second. Root and the group mesh-admin
may have them counted; members of the group mesh see them while somebody else does. While packets travel
encrypted, flows are not measured.`,
		Example: "  meshd top\n  meshd top --by pod -n 5 -w\n  meshd --json top --by port | jq .rows",
		Args:    v.words,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return v.watch.complete(args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return v.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&v.query.By, "by", control.ByFlow, "sum by `key`: "+strings.Join(control.FlowKeys(), ", "))
	flags.IntVarP(&v.query.Top, "rows", "n", control.FlowsTop, "show this `number` of rows at most")
	v.watch.flag(cmd)
	choices(cmd, "by", control.FlowKeys()...)
	return cmd
}

// words gives a word of the command line that is no flag to --watch, and checks flags.
func (v *topper) words(_ *cobra.Command, args []string) error {
	for _, word := range args {
		if !v.watch.take(word) {
			return fmt.Errorf("%w: `meshd top` does not take %q", errUsage, word)
		}
	}
	if !slices.Contains(control.FlowKeys(), v.query.By) {
		return fmt.Errorf("%w: --by is for %s, and not %q", errUsage, strings.Join(control.FlowKeys(), ", "),
			v.query.By)
	}
	if v.query.Top < 1 || v.query.Top > control.FlowsTopMost {
		return fmt.Errorf("%w: -n must be 1 to %d", errUsage, control.FlowsTopMost)
	}
	return v.watch.check()
}

// run does what the command line asks for.
func (v *topper) run(cmd *cobra.Command) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	client := v.client()
	defer client.Close()
	if v.watch.asked() {
		return v.watch.show(cmd, v.json, func(ctx context.Context) (looked, error) {
			f, err := v.counted(ctx, client)
			return looked{f, func(w io.Writer, o page.Options) error { return page.Flows(w, f, o) }}, err
		})
	}
	f, err := v.counted(ctx, client)
	if err != nil {
		return err
	}
	if v.json {
		return printJSON(out, f)
	}
	w, o := page.On(out)
	return page.Flows(w, f, o)
}

// counted returns flows once there is an interval to tell of.
func (v *topper) counted(ctx context.Context, client *control.Client) (control.Flows, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for {
		f, err := v.ask(ctx, client)
		if err != nil || f.State != control.FlowsStarting {
			return f, err
		}
		select {
		case <-ctx.Done():
			return f, ctx.Err()
		case <-time.After(control.FlowsLease / 100):
		}
	}
}

// ask has flows counted for as long as the next question may take, and returns what there is. Who may not
// have them counted sees what somebody else has counted.
func (v *topper) ask(ctx context.Context, client *control.Client) (control.Flows, error) {
	lease := min(control.FlowsLease+2*v.watch.interval, control.FlowsLeaseMost)
	f, err := client.CountFlows(ctx, lease, v.query)
	if errors.Is(err, control.ErrPermission) {
		if seen, readErr := client.Flows(ctx, v.query); readErr == nil && seen.State != control.FlowsOff {
			return seen, nil
		}
	}
	return f, err
}
