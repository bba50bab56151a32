package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
)

func routeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "route IP",
		Short: "Show which node carries packets to an address, or why none does",
		Long: `Show which node carries packets to an address: the prefix that decides, where the node is and how it is,
what this host sends from, the largest packet, and what masquerading makes of a pod's packets. Exit code 1: no node
does, and why.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := netip.ParseAddr(args[0])
			if err != nil {
				return fmt.Errorf("%w: %q is not an IP address", errUsage, args[0])
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			route, err := g.client().Route(ctx, to)
			if err != nil {
				return err
			}
			if g.json {
				if err := printJSON(cmd.OutOrStdout(), route); err != nil {
					return err
				}
			} else if route.Reason == "" {
				if err := printRoute(cmd.OutOrStdout(), route); err != nil {
					return err
				}
			}
			if route.Reason != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "meshd: no way through the mesh to %s: %s\n", route.To, route.Reason)
				if words := masqueradeOf(route); words != "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "meshd: from a pod of this host: %s\n", words)
				}
				return errSilent
			}
			return nil
		},
	}
}

func printRoute(w io.Writer, r control.Route) error {
	source := r.Source
	if source == "" {
		source = "(none: this node has no subnet of that family)"
	}
	_, err := fmt.Fprintf(w, "%s via %s at %s (%s) dev %s src %s mtu %d\npeer %s is %s\nfrom a pod: %s\n",
		r.To, r.Peer, r.Address, r.Prefix, r.Interface, source, r.MTU, r.Peer, r.State, masqueradeOf(r))
	return err
}

// masqueradeOf says what becomes of the source of a pod's packets.
func masqueradeOf(r control.Route) string {
	switch r.Masquerade {
	case "":
		return ""
	case "off":
		return "keeps its address (masquerading is off)"
	case "multicast":
		return "keeps its address (multicast is not masqueraded)"
	case "mesh-to-mesh":
		return "keeps its address (rule mesh-to-mesh)"
	case "excluded":
		return "keeps its address (rule excluded: masquerade.exclude)"
	case "pods-to-outside":
		return "leaves with this host's address (rule pods-to-outside)"
	}
	return "rule " + r.Masquerade
}
