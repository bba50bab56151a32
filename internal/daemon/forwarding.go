package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/link"
)

// forwardingOff returns a warning for each family that the mesh carries and the
// host does not forward. It is asked anew for every status, so that it is gone
// when somebody has mended it.
func forwardingOff(network config.Network) (warnings []string) {
	for _, v6 := range families(network) {
		on, err := link.Forwarding(v6)
		switch {
		case err != nil:
			warnings = append(warnings, err.Error())
		case !on && v6:
			warnings = append(warnings, "net.ipv6.conf.all.forwarding is 0: pods cannot reach other hosts over IPv6; run `sysctl -w net.ipv6.conf.all.forwarding=1`"+
				" (first net.ipv6.conf.IFACE.accept_ra=2 where an interface gets its routes from router advertisements), or meshd with --sysctl")
		case !on:
			warnings = append(warnings, "net.ipv4.ip_forward is 0: pods cannot reach other hosts; run `sysctl -w net.ipv4.ip_forward=1`, or meshd with --sysctl")
		}
	}
	return warnings
}

// turnForwardingOn does what --sysctl asks for.
func turnForwardingOn(network config.Network, log *slog.Logger) error {
	for _, v6 := range families(network) {
		on, err := link.Forwarding(v6)
		if err != nil {
			return err
		}
		if on {
			continue
		}
		if err := link.SetForwarding(v6); err != nil {
			return fmt.Errorf("%w: leave --sysctl out where /proc/sys cannot be written, and put it into /etc/sysctl.d", err)
		}
		log.Info("turned forwarding on", "ipv6", v6)
	}
	return nil
}

// families tells which the network carries (true: IPv6).
func families(network config.Network) (carried []bool) {
	for _, probe := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if _, ok := network.CIDROf(probe); ok {
			carried = append(carried, probe.Is6())
		}
	}
	return carried
}
