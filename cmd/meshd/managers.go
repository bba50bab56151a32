package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/managers"
)

// reloadPatience bounds how long a network manager may take to read its drop-ins. The start of the
// mesh does not wait for one that hangs.
const reloadPatience = 5 * time.Second

// networkManagersCommand is for the service, see packaging/meshd.service: only root may write drop-ins
// and have managers read them, and meshd runs as another user.
func networkManagersCommand(g *globals) *cobra.Command {
	var root, state string
	var strict bool
	cmd := &cobra.Command{
		Use:    "network-managers",
		Short:  "Keep network managers away from the interface that the file names",
		Hidden: true,
		Args:   arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Whoever may change all interfaces may name one that managers leave alone.
			where := begin.Where{Path: g.config, State: stateFolder(state, g.socket), Strict: strict}
			c, err := where.Chosen(cmd.Context())
			if err != nil {
				return errSilent // the daemon, which the service starts next, reports it
			}
			changed, err := managers.Follow(root, c.Network.Interface)
			for _, unit := range changed {
				if root == "/" {
					reloadManager(cmd.Context(), unit)
				}
			}
			if err != nil {
				return fmt.Errorf("network managers may take the interface for theirs: %w", err)
			}
			return nil
		},
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}, // of run: both get MESHD_OPTS
	}
	cmd.Flags().StringVar(&root, "root", "/", "`folder` that stands for the root of the file system, for tests")
	cmd.Flags().StringVar(&state, "state", "", "as for run")
	cmd.Flags().BoolVar(&strict, "strict", false, "as for run")
	return cmd
}

// reloadManager has a manager read its drop-ins again. `systemctl reload` starts nothing: it fails for
// a manager that does not run, which reads them when it starts, and for an old one that cannot reload.
func reloadManager(ctx context.Context, unit string) {
	ctx, cancel := context.WithTimeout(ctx, reloadPatience)
	defer cancel()
	_ = exec.CommandContext(ctx, "systemctl", "reload", unit).Run()
}
