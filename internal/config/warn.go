package config

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A Warning is something to think about in a file that is in order; it has the place and
// the words of a Fault.
type Warning Fault

// String returns the one-line form PATH:LINE:COL: warning: KEY: MESSAGE.
func (w Warning) String() string { return Fault(w).line("warning") }

// maxWarnings bounds how many nodes are named one by one.
const maxWarnings = 10

// Warnings returns what may be a mistake though the file is good, in file order. It reads
// the file's text again, so it is for people who check a file, not for every reload.
func (c *Config) Warnings() []Warning {
	r := report{path: c.Path, doc: c.doc}
	var public []int
	for i, n := range c.Nodes {
		if isPublic(n.Address.Addr()) {
			public = append(public, i)
		}
	}
	for n, i := range public {
		path := "node[" + strconv.Itoa(i) + "].address"
		if n == maxWarnings {
			r.add(path, "and %d more nodes have a public address", len(public)-n)
			break
		}
		r.add(path, "%s is a public address, and packets are neither encrypted nor authenticated: "+
			"whoever is on the path can read and forge them; use private addresses, or put IPsec or WireGuard "+
			"under the mesh", c.Nodes[i].Address.Addr())
	}
	if host, port, err := net.SplitHostPort(c.Metrics.Listen); err == nil && !isLoopback(host) {
		r.add("metrics.listen", "%q is not a loopback address: whoever can connect to it reads the names, "+
			"addresses and counters of all nodes; use \"127.0.0.1:%s\", or let a firewall decide who connects",
			c.Metrics.Listen, port)
	}
	var warnings []Warning
	for _, f := range r.result() {
		warnings = append(warnings, Warning(f))
	}
	return warnings
}

// notPublic are the addresses that the internet does not route, besides what net/netip calls
// private (RFC 1918, RFC 4193), link-local and loopback: shared by carriers (RFC 6598) and
// for documentation (RFC 5737, RFC 3849).
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("2001:db8::/32"),
}

func isPublic(ip netip.Addr) bool {
	return !ip.IsPrivate() && !ip.IsLinkLocalUnicast() && !ip.IsLoopback() &&
		!slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// isLoopback tells whether only this host can connect to a listener at host, an address or a name.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
