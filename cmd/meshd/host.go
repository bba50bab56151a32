package main

import (
	"net"
	"net/netip"
	"os"

	"example.org/meshd/internal/config"
)

// thisHost returns the name of this host as a node may have it, and the address that it uses
// towards others: by its default route, else the only one that it has. ok is false if it has several
// without a default route, or none, so that no address is certain.
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
	address, ok = onlyAddress()
	return name, address, ok
}

// onlyAddress returns the one address of this host that others may know; ok is false if there is another
// number of them. An isolated rack needs no default route.
func onlyAddress() (address netip.Addr, ok bool) {
	all, _ := net.InterfaceAddrs() // without an answer none is known
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() { // loopback and link-local addresses are not
			continue
		}
		if ok {
			return netip.Addr{}, false
		}
		address, ok = prefix.Addr(), true
	}
	return address, ok
}
