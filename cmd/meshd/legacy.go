package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/survey"
)

// legacyForwardCommand is a root step, since only root may run iptables.
func legacyForwardCommand(g *globals) *cobra.Command {
	return rootStep(g, "legacy-forward", "Accept forwarded pod traffic in iptables-legacy if that is in use",
		func(cmd *cobra.Command, c *config.Config, node string) error {
			warning, err := acceptLegacy(c, node)
			if warning != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "meshd: %s\n", warning)
			}
			return err
		})
}

// acceptLegacy puts the rules that accept pods' packets into iptables-legacy, where that is in use, as
// the file asks for. The service may not do it: those tables are for root alone. The warning, if not empty,
// is for people. node is as for run.
//
// Accepting packets of a mesh is not more than the service's user may do, with nftables.
func acceptLegacy(c *config.Config, node string) (warning string, err error) {
	local, err := link.LocalAddresses()
	if err != nil {
		return "", err
	}
	// A host that has no address yet is some node of the mesh: all that pods send is accepted then.
	self := config.Node{Subnets: c.Network.CIDR}
	if i, err := plan.Identify(c, node, local, survey.OwnKey(c)); err == nil {
		self = c.Nodes[i]
	}
	accept := plan.RulesOf(c, self, nil).Accept
	if accept == nil {
		_, err := filter.CleanUpLegacy()
		return "", err
	}
	return filter.SetLegacy(*accept)
}
