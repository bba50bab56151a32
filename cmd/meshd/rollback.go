package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/typed"
)

// rollbackCommand returns `meshd rollback`.
func rollbackCommand(g *globals) *cobra.Command {
	var wait typed.Span
	var state, sum string
	cmd := &cobra.Command{
		Use:   "rollback [N]",
		Short: "Take back the change that waits, or go back to an earlier file",
		Long: `Take back the change that waits for its confirmation. If none waits, put the file before the one in
force in force again, or file N of "meshd history". Root writes it to the file of --config, too.`,
		Args: arguments(0, 1), ValidArgsFunction: fileNumbers(g, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := spanFits(cmd, "confirm", wait); err != nil {
				return err
			}
			request := control.RollbackRequest{ConfirmSeconds: time.Duration(wait).Seconds(), Follow: true,
				SHA256: sum, Told: whoAsks()}
			if len(args) == 1 {
				number, err := parseNumber(args[0])
				if err != nil {
					return err
				}
				request.Number = number
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), reloadTimeout)
			defer cancel()
			client := g.client()
			defer client.Close()
			result, err := client.Rollback(ctx, request)
			if err != nil {
				return printRejected(cmd, g, result, err)
			}
			if err := printApplied(cmd, g, result); err != nil {
				return err
			}
			return follow(cmd, g, client, state)
		},
	}
	cmd.Flags().Var(&wait, "confirm", "go back again after this `time`, unless the change is confirmed")
	cmd.Flags().StringVar(&sum, "sha256", "", "take back the change with this `hash`, and nothing else")
	cmd.Flags().StringVar(&state, "state", "", "as for run")
	return cmd
}
