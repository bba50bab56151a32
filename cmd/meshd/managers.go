package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/managers"
)

// reloadPatience bounds how long a network manager may take to read its drop-ins. The start of the
// mesh does not wait for one that hangs.
const reloadPatience = 5 * time.Second

// networkManagersCommand is a root step, since only root may write drop-ins and have managers read them.
func networkManagersCommand(g *globals) *cobra.Command {
	var root string
	cmd := rootStep(g, "network-managers", "Keep network managers away from the interface that the file names",
		func(cmd *cobra.Command, c *config.Config, _ string) error {
			// Whoever may change all interfaces may name one that managers leave alone.
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
		})
	cmd.Flags().StringVar(&root, "root", "/", "`folder` that stands for the root of the file system, for tests")
	return cmd
}

// reloadManager has a manager read its drop-ins again. `systemctl reload` starts nothing: it fails for
// a manager that does not run, which reads them when it starts, and for an old one that cannot reload.
func reloadManager(ctx context.Context, unit string) {
	ctx, cancel := context.WithTimeout(ctx, reloadPatience)
	defer cancel()
	_ = exec.CommandContext(ctx, "systemctl", "reload", unit).Run()
}
