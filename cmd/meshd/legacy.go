package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/plan"
)

// legacyForwardCommand is for the service, see packaging/meshd.service: only root may run iptables,
// and meshd runs as another user.
func legacyForwardCommand(g *globals) *cobra.Command {
	var node, state string
	var strict bool
	cmd := &cobra.Command{
		Use:    "legacy-forward",
		Short:  "Accept forwarded pod traffic in iptables-legacy if that is in use",
		Hidden: true,
		Args:   arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			where := begin.Where{Path: g.config, State: stateFolder(state, g.socket), Strict: strict}
			warning, err := acceptLegacy(cmd.Context(), where, node)
			if _, bad := errors.AsType[config.Faults](err); bad {
				return errSilent // the daemon, which the service starts next, reports them
			}
			if warning != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "meshd: %s\n", warning)
			}
			return err
		},
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}, // of run: both get MESHD_OPTS
	}
	cmd.Flags().StringVar(&node, "node", "", "as for run")
	cmd.Flags().StringVar(&state, "state", "", "as for run")
	cmd.Flags().BoolVar(&strict, "strict", false, "as for run")
	return cmd
}

// acceptLegacy puts the rules that accept pods' packets into iptables-legacy, where that is in use, as
// the file asks for that the daemon takes. The service may not do it: those tables are for root alone.
// The warning, if not empty, is for people. node is as for run.
//
// Accepting packets of a mesh is not more than the service's user may do, with nftables.
func acceptLegacy(ctx context.Context, where begin.Where, node string) (warning string, err error) {
	c, err := where.Chosen(ctx)
	if err != nil {
		return "", err
	}
	local, err := link.LocalAddresses()
	if err != nil {
		return "", err
	}
	// A host that has no address yet is some node of the mesh: all that pods send is accepted then.
	self := config.Node{Subnets: c.Network.CIDR}
	if i, err := plan.Identify(c, node, local); err == nil {
		self = c.Nodes[i]
	}
	accept := plan.RulesOf(c, self, nil).Accept
	if accept == nil {
		_, err := filter.CleanUpLegacy()
		return "", err
	}
	return filter.SetLegacy(*accept)
}
