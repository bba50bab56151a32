package main

import (
	"net"
	"net/netip"
	"os"

	"example.org/meshd/internal/config"
)

// thisHost returns the name of this host as a node may have it, and the address that it uses
// towards others. ok is false if it has no default route, so that no address is certain.
func thisHost() (name string, address netip.Addr, ok bool) {
	hostname, _ := os.Hostname() // without one the name is empty
	if name = config.NameFrom(hostname); name == "" || name == "localhost" {
		name = "edge-1"
	}
	// Addresses that only a default route leads to: no network has them (RFC 1112, section 4; RFC
	// 4291, section 2.4). The kernel chooses the source when the socket is connected, and sends no
	// packet.
	for _, to := range []string{"240.0.0.1:9", "[4000::1]:9"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			continue
		}
		local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		_ = c.Close()
		if !local.IsLoopback() && !local.IsLinkLocalUnicast() {
			return name, local, true
		}
	}
	return name, netip.Addr{}, false
}
