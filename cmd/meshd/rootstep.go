package main

import (
	"github.com/spf13/cobra"

	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/config"
)

// rootStep returns a hidden command that the service runs as root before or after the daemon, which runs as
// another user: see packaging/meshd.service. Both get MESHD_OPTS, so it takes the options of run. act gets
// the file that the daemon begins with, and --node.
func rootStep(g *globals, use, short string,
	act func(cmd *cobra.Command, c *config.Config, node string) error,
) *cobra.Command {
	var node, state string
	var strict bool
	cmd := &cobra.Command{
		Use: use, Short: short, Hidden: true, Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			where := begin.Where{Path: g.config, State: stateFolder(state, g.socket), Strict: strict}
			c, err := where.Chosen(cmd.Context())
			if err != nil {
				return errSilent // the daemon, which the service starts next, reports it
			}
			return act(cmd, c, node)
		},
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
	}
	cmd.Flags().StringVar(&node, "node", "", "as for run")
	cmd.Flags().StringVar(&state, "state", "", "as for run")
	cmd.Flags().BoolVar(&strict, "strict", false, "as for run")
	return cmd
}
