package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/typed"
)

// drainCommand returns `meshd drain`.
func drainCommand(g *globals) *cobra.Command {
	var request control.DrainRequest
	var last typed.Span
	timeout := typed.Span(30 * time.Second)
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Put this node into maintenance: others leave it first, and do not mind that it goes down",
		Long: `Put this node into maintenance. Other nodes are told: a prefix that another node has, too, goes by
that one, and this node's going down is neither a failed health nor an alarm there. Its own pods are reached
as before. The maintenance lasts until --for is over or "meshd undrain" ends it, also over restarts.

With --wait the command returns when no shared prefix goes by this node any more. A node that is in
maintenance already stays in it as it is, unless --for or --reason is given. Exit code 6: timed out.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("for") && time.Duration(last) < time.Second {
				return fmt.Errorf("%w: --for must be 1s or more", errUsage)
			}
			request.ForSeconds, request.By = time.Duration(last).Seconds(), os.Getenv("SUDO_USER")
			client := g.client()
			defer client.Close()
			asked := cmd.Flags().Changed("for") || cmd.Flags().Changed("reason")
			if err := drain(cmd.Context(), client, request, asked || !wait); err != nil {
				return err
			}
			if wait {
				if err := drained(cmd.Context(), client, time.Duration(timeout)); err != nil {
					return err
				}
			}
			return printDrain(cmd, g, client)
		},
	}
	flags := cmd.Flags()
	flags.Var(&last, "for", "end the maintenance after this `time`, such as 1h30m or 1d")
	flags.StringVar(&request.Reason, "reason", "", "`text` that other nodes show")
	flags.BoolVar(&wait, "wait", false, "wait until no shared prefix goes by this node any more")
	flags.Var(&timeout, "timeout", "`time` to wait at most")
	return cmd
}

// undrainCommand returns `meshd undrain`.
func undrainCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "undrain",
		Short: "End the maintenance of this node",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := g.client()
			defer client.Close()
			if err := client.Undrain(cmd.Context()); err != nil {
				return err
			}
			return printDrain(cmd, g, client)
		},
	}
}

// drain begins the maintenance, or changes the one that there is. Without anew that one stays as it is.
func drain(ctx context.Context, client *control.Client, r control.DrainRequest, anew bool) error {
	if !anew {
		if s, err := client.Status(ctx); err != nil || s.Drain != nil {
			return err
		}
	}
	return client.Drain(ctx, r)
}

// errCarries tells that other nodes still send packets for shared prefixes here.
var errCarries = errors.New("shared prefixes still go by this node")

// drained waits until no node sends packets for shared prefixes here.
func drained(ctx context.Context, client *control.Client, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return waitFor(ctx, func(ctx context.Context) error {
		s, err := client.Status(ctx)
		switch {
		case err != nil:
			return err
		case s.Drain == nil:
			return errors.New("this node is not in maintenance any more")
		case len(s.Drain.Waiting) > 0:
			return fmt.Errorf("%w, for %s", errCarries, strings.Join(s.Drain.Waiting, ", "))
		}
		return nil
	})
}

// printDrain prints the maintenance of this node.
func printDrain(cmd *cobra.Command, g *globals, client *control.Client) error {
	s, err := client.Status(cmd.Context())
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	switch d := s.Drain; {
	case g.json:
		return printJSON(out, struct {
			Schema int            `json:"schema"`
			Drain  *control.Drain `json:"drain"`
		}{control.Schema, d})
	case d == nil:
		_, err = fmt.Fprintln(out, "this node is not in maintenance")
	case d.Until != nil:
		_, err = fmt.Fprintf(out, "this node is in maintenance until %s\n", d.Until.Local().Format(time.DateTime))
	default:
		_, err = fmt.Fprintln(out, "this node is in maintenance until `meshd undrain`")
	}
	return err
}
