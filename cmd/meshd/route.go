package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/masq"
)

// routeCommand returns `meshd route`. The daemon answers from the table that packets are looked up in,
// so the answer holds even if the file on disk says otherwise.
func routeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "route IP | route FROM TO [PROTO/PORT]",
		Short: "Show which node carries packets to an address, or which rule decides about them",
		Long: `Show which node carries packets to an address: the prefix that matches, the node's
address and state, the source address and the largest packet of this host, what
masquerading does to a pod's packets, and whether the kernel sends packets that way.
Where several nodes have the prefix, it shows which one carries it now and which ones
stand by, in order of preference.
Exit code 1: no node does, or the kernel sends them elsewhere; the reason is printed in
the place of the route. An address behind this node itself is an answer, too: packets to
it do not pass the mesh.

With two ends it shows what the rules [[allow]] of the file say of packets that open a
connection from one to the other, such as "meshd route edge-1 10.244.1.7 tcp/443". An end
is an address, the name of a node, which stands for a pod of it, or "outside". No daemon
is asked. Exit code 1: nothing of it is allowed.`,
		Example: "  meshd route 10.244.1.7\n  meshd route edge-1 10.244.1.7 tcp/443",
		Args:    arguments(1, 3),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string,
		) ([]string, cobra.ShellCompDirective) {
			if len(args) > 1 { // a service
				const noSpace = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
				return []string{"tcp/", "udp/", "icmp"}, noSpace
			}
			return peerNames(g, "", config.Outside)(cmd, nil, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return explainReach(g, cmd.OutOrStdout(), args)
			}
			to, err := netip.ParseAddr(args[0])
			if err != nil {
				return fmt.Errorf("%w: %q is not an IP address", errUsage, args[0])
			}
			client := g.client()
			defer client.Close()
			route, err := ask(cmd.Context(), func(ctx context.Context) (control.Route, error) {
				return client.Route(ctx, to)
			})
			if err != nil {
				return err
			}
			return answerRoute(cmd, g, route)
		},
	}
}

// answerRoute prints a route, and is the exit code of it.
func answerRoute(cmd *cobra.Command, g *globals, r control.Route) (err error) {
	local := r.Peer != "" && r.Reason != "" // the reason is that this node has the address itself
	switch {
	case g.json:
		err = printJSON(cmd.OutOrStdout(), r)
	case local:
		_, err = fmt.Fprintf(cmd.OutOrStdout(),
			"%s is local: in %s of this node, %s; packets to it do not pass the mesh\n", r.To, r.Prefix, r.Peer)
	case r.Reason == "":
		err = printRoute(cmd.OutOrStdout(), r)
	default:
		err = printNoRoute(cmd.OutOrStdout(), r)
	}
	if err != nil || local || r.Carried() {
		return err
	}
	return errSilent // what is wrong has been printed
}

// printNoRoute writes why there is no route. That was the question, so it is an answer and no error: scripts
// look at the exit code, and people find it where they have sent the output.
func printNoRoute(w io.Writer, r control.Route) error {
	fate := ""
	if does := fateOf(r); does != "" {
		fate = "from a pod: " + does + "\n"
	}
	_, err := fmt.Fprintf(w, "%s: no route in the mesh: %s\n%s", r.To, r.Reason, fate)
	return err
}

// printRoute writes a route for people, in the manner of ip-route(8).
func printRoute(w io.Writer, r control.Route) error {
	source := r.Source // of the host itself; a pod keeps its own or not, as the last line says
	if source == "" {
		source = "(none: this node has no subnet of that family)"
	}
	_, err := fmt.Fprintf(w, "%s via %s at %s (%s) dev %s src %s mtu %d\npeer %s is %s\n%sfrom a pod: %s\n%s%s",
		r.To, r.Peer, r.Address, r.Prefix, r.Interface, source, r.MTU, r.Peer, r.State, carrierLines(r.Carriers),
		fateOf(r), kernelLines(r), underlayLine(r))
	return err
}

// underlayLine says how this host reaches the peer; nothing if the kernel did not tell.
func underlayLine(r control.Route) string {
	switch u := r.Underlay; {
	case u == nil:
		return ""
	case u.Error != "":
		return fmt.Sprintf("underlay: the kernel drops datagrams to %s: %s\n", r.Address, u.Error)
	default:
		return fmt.Sprintf("underlay: dev %s src %s mtu %d\n", u.Device, u.Source, u.MTU)
	}
}

// carrierLines says, a line for each, which of several nodes with a prefix carries it and which stand by;
// nothing if one node has it.
func carrierLines(all []control.Carrier) (lines string) {
	for _, c := range all {
		does := "stands by"
		if c.Active {
			does = "carries it"
		}
		state := ""
		if c.State != "" { // this node has none
			state = ", " + c.State
		}
		lines += fmt.Sprintf("metric %d: %s %s%s\n", c.Metric, c.Peer, does, state)
	}
	return lines
}

// kernelLines says in one line that the kernel agrees, or in one line for each sender what it does
// instead; nothing if it did not answer.
func kernelLines(r control.Route) (lines string) {
	if len(r.Kernel) == 0 {
		return ""
	}
	if k := r.Kernel[0]; r.Carried() {
		source := ""
		if k.Source != "" {
			source = " src " + k.Source
		}
		return fmt.Sprintf("the kernel agrees: dev %s table %s%s mtu %d\n", k.Device, k.Table, source, k.MTU)
	}
	for _, k := range r.Kernel {
		sender, rule := "this host", ""
		if k.Sender == control.SenderPods {
			sender = "pods of this host"
		}
		if k.Rule != "" {
			rule = " (ip rule " + k.Rule + ")"
		}
		switch {
		case k.Agrees:
			lines += fmt.Sprintf("the kernel agrees about packets of %s\n", sender)
		case k.Error != "":
			lines += fmt.Sprintf("the kernel drops packets of %s: %s%s\n", sender, k.Error, rule)
		default:
			lines += fmt.Sprintf("the kernel sends packets of %s elsewhere: dev %s table %s%s\n",
				sender, k.Device, k.Table, rule)
		}
	}
	return lines
}

// fates is the one table of what masquerading does to a pod's packet: for each rule that the packet
// may match, what becomes of its source address.
var fates = map[string]string{
	control.MasqueradeOff:       "keeps its address (masquerading is off)",
	control.MasqueradeMulticast: "keeps its address (multicast is not masqueraded)",
	masq.MeshToMesh:             keeps + masq.MeshToMesh + ")",
	masq.Excluded:               keeps + masq.Excluded + ": masquerade.exclude)",
	masq.PodsToOutside:          "leaves with this host's address (rule " + masq.PodsToOutside + ")",
}

const keeps = "keeps its address (rule "

// fateOf returns the entry of fates for a route; "" if the daemon does not forward yet, or no packet to the
// address leaves a host or a link.
func fateOf(r control.Route) string {
	if to, err := netip.ParseAddr(r.To); err == nil && (to.IsLoopback() || to.IsUnspecified() ||
		to.IsLinkLocalUnicast()) {
		return ""
	}
	if fate, known := fates[r.Masquerade]; known || r.Masquerade == "" {
		return fate
	}
	return "rule " + r.Masquerade // of a newer daemon
}
