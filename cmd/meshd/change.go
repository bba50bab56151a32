package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
)

func reloadCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the running meshd read its file again, and wait for the outcome",
		Long: `Have the running meshd read its file again, and wait for the outcome. A file that cannot be
applied changes nothing: its faults are printed, and the exit code is 1. meshd notices an edit by itself, too.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), reloadTimeout)
			defer cancel()
			result, err := g.client().Reload(ctx)
			if err != nil {
				return err
			}
			if g.json {
				if err := printJSON(cmd.OutOrStdout(), result); err != nil {
					return err
				}
			}
			if !result.Reload.OK {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s\nstill running generation %d\n", result.Reload.Error, result.Generation)
				return errSilent
			}
			if !g.json {
				fmt.Fprintf(cmd.OutOrStdout(), "generation %d applied in %.0f ms: %s\n", result.Generation, result.Reload.DurationMS, summary(result.Reload.Changes))
			}
			return nil
		},
	}
}

func planCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "plan [FILE]",
		Short: "Show what a reload of a file would change",
		Long: `Show what applying FILE (default: the configured one; "-": standard input) would change in
the running mesh: "+" comes, "-" goes, "~" becomes something else. Exit code 0: nothing, 1: something, 2: the file
cannot be applied.`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := g.config
			if len(args) == 1 {
				path = args[0]
			}
			doc, path, err := readFile(cmd.InOrStdin(), path)
			if err != nil {
				return fmt.Errorf("%w: %w", errPlan, err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			plan, err := g.client().Plan(ctx, path, doc)
			if errors.Is(err, control.ErrNotRunning) || errors.Is(err, control.ErrPermission) || errors.Is(err, control.ErrMismatch) {
				return err
			}
			if err != nil {
				return fmt.Errorf("%w: %w", errPlan, err)
			}
			if g.json {
				err = printJSON(cmd.OutOrStdout(), plan)
			} else {
				for _, change := range plan.Changes {
					fmt.Fprintln(cmd.OutOrStdout(), change)
				}
			}
			if err == nil && len(plan.Changes) > 0 {
				return errSilent
			}
			return err
		},
	}
}

func readFile(stdin io.Reader, path string) (doc []byte, name string, err error) {
	if path == "-" {
		doc, err = io.ReadAll(stdin)
		return doc, "(standard input)", err
	}
	if name, err = filepath.Abs(path); err != nil {
		return nil, path, err
	}
	doc, err = os.ReadFile(path)
	return doc, name, err
}

// summary counts changes of a kind, as in "+1 peer, ~2 peers".
func summary(changes []string) string {
	if len(changes) == 0 {
		return "nothing changed"
	}
	var kinds []string
	counts := map[string]int{}
	for _, c := range changes {
		sign, rest, _ := strings.Cut(c, " ")
		kind := sign + " " + kindOf(rest)
		if counts[kind] == 0 {
			kinds = append(kinds, kind)
		}
		counts[kind]++
	}
	var parts []string
	for _, kind := range kinds {
		sign, name, _ := strings.Cut(kind, " ")
		if counts[kind] > 1 {
			name += "s"
		}
		parts = append(parts, fmt.Sprintf("%s%d %s", sign, counts[kind], name))
	}
	return strings.Join(parts, ", ")
}

// kinds of changes whose first word would not do.
var kindsOf = map[string]string{
	"listening": "port", "this": "identity", "accept": "accept rule", "masquerade": "masquerade rule", "send": "socket",
}

// kindOf names what a change is about: its first word, or what that stands for.
func kindOf(change string) string {
	word, _, _ := strings.Cut(change, " ")
	if kind, ok := kindsOf[word]; ok {
		return kind
	}
	return word
}
