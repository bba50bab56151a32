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
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/typed"
)

// applyCommand returns `meshd apply`.
func applyCommand(g *globals) *cobra.Command {
	var wait typed.Span
	var state string
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Put a file in force, and take it back unless it is confirmed",
		Long: `Put FILE in force and, as root, write it to the file of --config. "-" is standard input. With
--confirm meshd goes back to the file before after that time, unless "meshd confirm" comes first: also if
this host has lost every connection, if meshd crashes, and over a reboot. "meshd rollback" goes back at once.

A file that cannot be in force here changes nothing: its faults are printed, and the exit code is 1. So it
is while another change waits for its confirmation. Who is not root puts FILE in force only: the file of
--config stays as it is, "meshd status" says so, and the next edit of it ends that.`,
		Example: "  meshd apply new.toml --confirm 2m && ping -c 3 10.244.2.1 && meshd confirm",
		Args:    arguments(1, 1), ValidArgsFunction: tomlFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := spanFits(cmd, "confirm", wait); err != nil {
				return err
			}
			doc, path, err := readFile(cmd.Context(), cmd.InOrStdin(), args[0], readAny)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), reloadTimeout)
			defer cancel()
			client := g.client()
			defer client.Close()
			result, err := client.Apply(ctx, control.ApplyRequest{Path: path, Doc: doc,
				ConfirmSeconds: time.Duration(wait).Seconds(), Follow: true, Asker: control.Asker{Told: whoAsks()}})
			if err != nil {
				return printRejected(cmd, g, result, err)
			}
			if err := printApplied(cmd, g, result); err != nil {
				return err
			}
			return follow(cmd, g, client, state)
		},
	}
	cmd.Flags().Var(&wait, "confirm", "go back after this `time`, such as 2m, unless the change is confirmed")
	cmd.Flags().StringVar(&state, "state", "", "as for run")
	return cmd
}

// spanFits returns an error if a time for a confirmation was asked for that cannot be.
func spanFits(cmd *cobra.Command, flag string, wait typed.Span) error {
	if cmd.Flags().Changed(flag) && (time.Duration(wait) < time.Second || time.Duration(wait) > 24*time.Hour) {
		return fmt.Errorf("%w: --%s must be 1s to 24h", errUsage, flag)
	}
	return nil
}

// whoAsks returns what the environment says of who runs this program. The daemon cannot verify it, and marks
// it so.
func whoAsks() control.Told {
	from, _, _ := strings.Cut(os.Getenv("SSH_CONNECTION"), " ")
	return control.Told{User: os.Getenv("SUDO_USER"), From: from}
}

// printRejected prints why a file is not in force, as `meshd reload` does.
func printRejected(cmd *cobra.Command, g *globals, result control.ApplyResult, err error) error {
	rejection, ok := errors.AsType[*control.Rejection](err)
	if !ok {
		return err
	}
	if g.json {
		result.Reload.Error, result.Faults = rejection.Message, rejection.Faults
		if err := printJSON(cmd.OutOrStdout(), result); err != nil {
			return err
		}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s\nthe file in force stays in force\n", rejection.Message)
	return errSilent
}

// printApplied prints what a change has led to.
func printApplied(cmd *cobra.Command, g *globals, result control.ApplyResult) error {
	out := cmd.OutOrStdout()
	if g.json {
		return printJSON(out, result)
	}
	line := "the file is in force already"
	if result.Generation > 0 {
		line = fmt.Sprintf("generation %d applied in %.0f ms: %s", result.Generation, result.Reload.DurationMS,
			words.Reloaded(result.Reload))
	}
	_, err := fmt.Fprintln(out, line)
	if p := result.Pending; p != nil && err == nil {
		_, err = fmt.Fprintf(out, "%s\n", waits(*p))
	}
	return err
}

// waits says what a change waits for.
func waits(p control.Pending) string {
	left := time.Duration(p.LeftSeconds * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("run `meshd confirm` within %s (until %s), or meshd goes back to the file before",
		typed.Brief(left), p.Until.Local().Format(time.TimeOnly))
}
