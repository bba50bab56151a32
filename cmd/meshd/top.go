package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/page"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/typed"
)

// A topper is a command line of `meshd top`.
type topper struct {
	*globals
	query    control.FlowQuery
	watch    optional
	interval time.Duration // of --watch
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
		RunE:    func(cmd *cobra.Command, _ []string) error { return v.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&v.query.By, "by", control.ByFlow, "sum by `key`: "+strings.Join(control.FlowKeys(), ", "))
	flags.IntVarP(&v.query.Top, "rows", "n", control.FlowsTop, "show this `number` of rows at most")
	flags.VarP(&v.watch, "watch", "w", "show it again every `interval`, until Ctrl-C")
	flags.Lookup("watch").NoOptDefVal = "2s"
	choices(cmd, "by", control.FlowKeys()...)
	choices(cmd, "watch", "1s", "2s", "5s", "10s")
	return cmd
}

// words gives a word of the command line that is no flag to --watch, and checks flags.
func (v *topper) words(_ *cobra.Command, args []string) (err error) {
	for _, word := range args {
		if v.watch != "2s" {
			return fmt.Errorf("%w: `meshd top` does not take %q", errUsage, word)
		}
		v.watch = optional(word)
	}
	if !slices.Contains(control.FlowKeys(), v.query.By) {
		return fmt.Errorf("%w: --by is for %s, and not %q", errUsage, strings.Join(control.FlowKeys(), ", "),
			v.query.By)
	}
	if v.query.Top < 1 || v.query.Top > control.FlowsTopMost {
		return fmt.Errorf("%w: -n must be 1 to %d", errUsage, control.FlowsTopMost)
	}
	if v.watch == "" {
		return nil
	}
	if v.interval, err = typed.Duration(string(v.watch)); err != nil {
		return fmt.Errorf("%w: --watch %w", errUsage, err)
	}
	if v.interval < 100*time.Millisecond {
		return fmt.Errorf("%w: --watch needs 100ms at least", errUsage)
	}
	return nil
}

// run does what the command line asks for.
func (v *topper) run(ctx context.Context, out io.Writer) error {
	client := v.client()
	defer client.Close()
	if v.watch != "" {
		return v.follow(ctx, client, out)
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
	lease := min(control.FlowsLease+2*v.interval, control.FlowsLeaseMost)
	f, err := client.CountFlows(ctx, lease, v.query)
	if errors.Is(err, control.ErrPermission) {
		if seen, readErr := client.Flows(ctx, v.query); readErr == nil && seen.State != control.FlowsOff {
			return seen, nil
		}
	}
	return f, err
}

// follow shows flows until ctx ends, which is no error. On a screen it goes on when the daemon does not
// answer.
func (v *topper) follow(ctx context.Context, client *control.Client, out io.Writer) error {
	tick := time.NewTicker(v.interval)
	defer tick.Stop()
	for {
		f, err := v.counted(ctx, client)
		if ctx.Err() != nil {
			return nil
		}
		w, o := page.On(out)
		switch {
		case err != nil && (o.Width == 0 || v.json || errors.Is(err, control.ErrPermission) ||
			errors.Is(err, control.ErrMismatch)): // which do not pass
			return err
		case err != nil:
			failed := text.Clean(err.Error())
			err = page.Show(w, o, func(w io.Writer, _ page.Options) error {
				_, err := fmt.Fprintf(w, "meshd: %s\n", failed)
				return err
			})
		case v.json:
			err = json.NewEncoder(out).Encode(f)
		default:
			err = page.Show(w, o, func(w io.Writer, o page.Options) error { return page.Flows(w, f, o) })
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
