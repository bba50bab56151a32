package config

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"example.org/meshd/internal/mesh"
)

// A Warning is a possible mistake in a valid file. It has the fields of a Fault.
type Warning Fault

// String returns the one-line form PATH:LINE:COL: warning: KEY: MESSAGE.
func (w Warning) String() string { return Fault(w).line("warning") }

// maxWarnings bounds how many nodes get a warning of their own.
const maxWarnings = 10

// Warnings returns the possible mistakes in a valid file, in file order. It scans the text
// for their places, which takes as long as reading the file: call it for people who check
// a file, not for every reload.
func (c *Config) Warnings() []Warning {
	r := report{path: c.Path, doc: c.doc}
	var public []holder
	c.eachAddress(func(at holder, ip netip.Addr) {
		if !c.Sealed() && isPublic(ip) && (len(public) == 0 || public[len(public)-1].node != at.node) {
			public = append(public, at)
		}
	})
	for n, at := range public {
		if n == maxWarnings {
			r.add(at.path(), "and %d more nodes have a public address", len(public)-n)
			break
		}
		r.add(at.path(), "%s is a public address, and packets are not encrypted or authenticated: "+
			"anyone on the path can read and forge them; use private addresses, or encrypt them with "+
			"network.transport = \"wireguard\"", c.Nodes[at.node].Addresses[at.element].Addr())
	}
	if host, port, err := net.SplitHostPort(c.Metrics.Listen); err == nil && !isLoopback(host) {
		r.add("metrics.listen", "%q is not a loopback address: anyone who can connect to it reads the names, "+
			"addresses and counters of all nodes; use \"127.0.0.1:%s\", or restrict access with a firewall",
			c.Metrics.Listen, port)
	}
	c.warnOfLoops(&r)
	c.warnOfPorts(&r)
	c.warnOfLimits(&r)
	c.warnOfKeys(&r)
	c.warnOfVias(&r)
	c.warnOfAllows(&r)
	var warnings []Warning
	for _, f := range r.result() {
		warnings = append(warnings, Warning(f))
	}
	return warnings
}

// warnOfLoops tells of nodes whose underlay address is inside the pod network: the route into the
// TUN covers it.
func (c *Config) warnOfLoops(r *report) {
	count := 0
	c.eachAddress(func(at holder, ip netip.Addr) {
		cidr, ok := c.Network.CIDROf(ip)
		if !ok || !cidr.Contains(ip) {
			return
		}
		if count++; count > maxWarnings+1 {
			return
		}
		if count > maxWarnings {
			r.add(at.path(), "and further nodes whose address is inside network.cidr")
			return
		}
		r.add(at.path(), "%s is inside network.cidr %s: every other host needs a more specific route to it, or "+
			"packets to this node loop through the mesh; choose another cidr", ip, cidr)
	})
}

// warnOfPorts tells of IPv6 addresses whose last group looks like the port: "2001:db8::1:8285".
func (c *Config) warnOfPorts(r *report) {
	port, told := ":"+strconv.Itoa(int(c.Network.Port)), false
	c.eachAddress(func(at holder, ip netip.Addr) {
		if host, ok := strings.CutSuffix(ip.String(), port); ok && ip.Is6() && !told {
			told = true
			r.add(at.path(), "%s is an address without a port: if %s is meant as one, write \"[%s]%[2]s\"",
				ip, port, strings.TrimSuffix(host, ":"))
		}
	})
}

// eachAddress calls one for each IP address of each node, in the order of the file. What names resolve to is
// not known here.
func (c *Config) eachAddress(one func(at holder, ip netip.Addr)) {
	for i, n := range c.Nodes {
		for j, a := range n.Addresses {
			if a.Name == "" {
				one(holder{i, j}, a.Addr())
			}
		}
	}
}

// warnOfLimits tells of a mesh that the kernel engine has no room for.
func (c *Config) warnOfLimits(r *report) {
	if c.Dataplane.Engine == EngineUser {
		return
	}
	const say = "the kernel engine has room for %d %s, and the mesh has %d: use engine = \"user\", " +
		"or divide the mesh"
	if n := len(c.Nodes); n > mesh.MaxNodes {
		r.add("node["+strconv.Itoa(mesh.MaxNodes)+"]", say, mesh.MaxNodes, "nodes", n)
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		first, count := 0, 0 // the node by which there are too many
		for i, n := range c.Nodes {
			for _, prefix := range slices.Concat(n.Subnets, n.Prefixes()) {
				if prefix.Addr().Is6() != (family == "IPv6") {
					continue
				}
				if count++; count == mesh.MaxPrefixes+1 {
					first = i
				}
			}
		}
		if count > mesh.MaxPrefixes {
			r.add("node["+strconv.Itoa(first)+"]", say, mesh.MaxPrefixes, family+" prefixes", count)
		}
	}
}

// notPublic are addresses that the internet does not route, besides those that net/netip
// knows as private (RFC 1918, RFC 4193), link-local and loopback: those of carriers' NAT
// (RFC 6598) and those for documentation (RFC 5737, RFC 3849).
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("2001:db8::/32"),
}

// isPublic reports whether packets to ip may cross the internet.
func isPublic(ip netip.Addr) bool {
	return !ip.IsPrivate() && !ip.IsLinkLocalUnicast() && !ip.IsLoopback() &&
		!slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// isLoopback reports whether only this host can connect to a listener at host, which is an
// address or a name. Of names only localhost is certain (RFC 6761, section 6.3); an empty
// host listens on all addresses.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
