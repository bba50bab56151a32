package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/container"
	"example.org/meshd/internal/dataplane/kernel"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
)

// A plan is one configuration file in the words of the rooms that carry it out.
// It is pure data: making it changes nothing.
type plan struct {
	config *config.Config
	self   config.Node
	bind   netip.AddrPort // of the UDP sockets
	mesh   mesh.Mesh
	queues queues
	link   link.Settings
	behind []netip.Prefix // what must not leave by another way while the TUN is away
	masq   *masq.Settings // nil: no rules

	forward *filter.Accept // nil: the host's FORWARD policy is left alone
	guard   filter.GuardSettings
	passage passage           // how the host forwards
	closed  map[bool][]string // interfaces between which nothing may be forwarded; true: IPv6

	container container.Settings // the files for container runtimes
	kernel    *kernel.Settings   // of the kernel engine; nil: user space does it all. Its TUN is known later
	userOnly  string             // why user space does it all

	ways     []string // how datagrams reach the peers, see link.Underlay
	warnings []string
}

// surroundings is what a plan depends on besides the file.
type surroundings struct {
	local    []netip.Addr // addresses of this host
	underlay link.Underlay
	ipsec    string // which IPsec policy is about the mesh's datagrams; empty: none
	cpus     int
	passage  passage
}

// usefulQueues returns how many queues serve a host. Each has two loops, and
// pods need CPUs too; more queues than four move no more.
func usefulQueues(cpus int) int { return max(1, min(cpus/2, 4)) }

// identify returns the index of the node that this host is: the one called
// name, or, without a name, the one whose address is local. notHere means that
// no node has a local address, which time may change.
func identify(c *config.Config, name string, local []netip.Addr) (index int, notHere bool, err error) {
	var found []int
	for i, n := range c.Nodes {
		if name == n.Name || name == "" && slices.Contains(local, n.Address.Addr()) {
			found = append(found, i)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], false, nil
	case len(found) > 1:
		var names []string
		for _, i := range found {
			names = append(names, fmt.Sprintf("%s (%s)", c.Nodes[i].Name, c.Nodes[i].Address.Addr()))
		}
		return 0, false, fmt.Errorf("this host has the addresses of %d nodes of %s: %s; choose with --node NAME. Local addresses: %s",
			len(found), c.Path, strings.Join(names, ", "), addresses(local))
	case name != "":
		return 0, false, fmt.Errorf("no node of %s is named %q", c.Path, name)
	}
	return 0, true, fmt.Errorf("no node of %s has an address of this host; list it there, or choose with --node NAME. Local addresses: %s",
		c.Path, addresses(local))
}

// addresses lists what could stand in the file: no loopback, no link-local, and
// not hundreds.
func addresses(ips []netip.Addr) string {
	const enough = 8
	var words []string
	for _, ip := range ips {
		if len(words) == enough {
			words = append(words, "and more")
			break
		}
		if !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			words = append(words, ip.String())
		}
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// makePlan says what the file asks of this host, which is node self.
func makePlan(c *config.Config, self int, host surroundings) (*plan, error) {
	p := &plan{config: c, self: c.Nodes[self], ways: host.underlay.Ways}
	address := p.self.Address
	p.bind = address
	if !slices.Contains(host.local, address.Addr()) {
		any := netip.IPv4Unspecified()
		if address.Addr().Is6() {
			any = netip.IPv6Unspecified()
		}
		p.bind = netip.AddrPortFrom(any, address.Port())
		p.warn("%s, the address of node %q, is not on this host: listening on all addresses; peers accept only what comes from %s",
			address.Addr(), p.self.Name, address.Addr())
	}

	p.mesh = mesh.Mesh{Self: p.self.Name, Peers: make([]mesh.Peer, 0, len(c.Nodes))}
	for i, n := range c.Nodes {
		if i != self && !commonFamily(p.self.Subnets, n.Subnets) {
			p.warn("peer %s and this node have subnets of different families: nothing passes between them; give both one of the same family", n.Name)
		}
		p.mesh.Peers = append(p.mesh.Peers, mesh.Peer{Name: n.Name, Underlay: mesh.Endpoint{AddrPort: n.Address}, Subnets: n.Subnets, Routes: n.Routes})
		if n.Address.Addr().Is4() != address.Addr().Is4() {
			p.warn("peer %s has the address %s, of another family than this node's %s: it cannot be reached; give both one family",
				n.Name, n.Address.Addr(), address.Addr())
		}
	}

	p.queues = queues{device: c.Network.Interface, bind: p.bind, count: c.Dataplane.Queues, offload: c.Dataplane.Offload != config.Off, spread: c.Dataplane.Spread}
	if p.queues.count == 0 {
		p.queues.count = usefulQueues(host.cpus)
	}

	if err := p.planLink(self, host.underlay.MTU); err != nil {
		return nil, err
	}
	p.planForwarding(host.passage)
	p.planMasquerade(host.passage.crossing.PodNames())
	p.planGuard(host.passage.crossing.PodNames())
	p.planContainer()
	p.planKernel(host)
	return p, nil
}

// planKernel decides whether the kernel engine may be used.
func (p *plan) planKernel(host surroundings) {
	c, address := p.config.Dataplane, p.self.Address
	switch {
	case c.Engine == config.EngineUser:
		p.userOnly = "the file asks for it"
	case host.ipsec != "":
		p.userOnly = host.ipsec + ", which the kernel engine's programs would pass by"
	case p.bind != address: // which may come later: no reason to refuse the file
		p.userOnly = fmt.Sprintf("the kernel engine needs %s, the node's address, on this host", address.Addr())
	default:
		p.kernel = &kernel.Settings{
			MTU:     min(p.link.MTU, host.underlay.MTU-mesh.Endpoint{AddrPort: address}.OuterHeaders()),
			Address: address, Underlay: host.underlay.Devices, Receive: c.Receive, Spread: c.Spread, Optional: c.Engine == config.Auto,
		}
	}
}

// AcceptLegacy puts the rules that accept pods' packets into iptables-legacy, where that is
// in use, as the file at a path asks for. The service may not do it: those tables are for
// root alone. The warning, if not empty, is for people.
// node is as for Run.
func AcceptLegacy(path, node string) (warning string, err error) {
	c, err := config.Load(path)
	if err != nil {
		return "", err
	}
	local, err := link.LocalAddresses()
	if err != nil {
		return "", err
	}
	// A host that has no address yet is some node of the mesh: whatever pods send is accepted then.
	p := &plan{config: c, self: config.Node{Subnets: c.Network.CIDR}}
	if self, _, err := identify(c, node, local); err == nil {
		p.self = c.Nodes[self]
	}
	p.planMasquerade(nil)
	if p.forward == nil {
		_, err := filter.CleanUpLegacy()
		return "", err
	}
	return filter.SetLegacy(*p.forward)
}

// commonFamily tells whether some address of one list can speak to one of the other.
func commonFamily(a, b []netip.Prefix) bool {
	return slices.ContainsFunc(a, func(p netip.Prefix) bool {
		return slices.ContainsFunc(b, func(q netip.Prefix) bool { return p.Addr().Is4() == q.Addr().Is4() })
	})
}

// planGuard decides who may speak on the mesh port: meshd alone.
func (p *plan) planGuard(podLinks []string) {
	p.guard = filter.GuardSettings{Bind: p.bind, TUN: p.config.Network.Interface, PodLinks: podLinks, Mark: udp.Mark, Closed: p.closed}
	for _, peer := range p.mesh.Peers {
		p.guard.Nodes = append(p.guard.Nodes, peer.Underlay.AddrPort)
	}
}

// planMasquerade decides who keeps his address: everybody inside the mesh, with
// the networks behind its nodes. And who is forwarded where the host drops.
func (p *plan) planMasquerade(podLinks []string) {
	c := p.config
	if c.Masquerade.Forward {
		p.forward = &filter.Accept{
			Interface: c.Network.Interface, Networks: c.Network.CIDR, Pods: p.self.Subnets, LANs: p.self.Routes, All: c.Masquerade.ForwardAll,
		}
	}
	if !c.Masquerade.Enabled {
		return
	}
	p.masq = &masq.Settings{
		Mesh:        slices.Clone(c.Network.CIDR),
		Local:       slices.Concat(p.self.Subnets, p.self.Routes),
		Pods:        p.self.Subnets,
		PodLinks:    podLinks,
		Exclude:     c.Masquerade.Exclude,
		FullyRandom: c.Masquerade.FullyRandom,
	}
	for _, n := range c.Nodes {
		p.masq.Mesh = append(p.masq.Mesh, n.Routes...)
	}
}

// planContainer decides what container runtimes are told. An MTU that the path to a peer
// lowers for a while concerns packets, not pods.
func (p *plan) planContainer() {
	c := p.config
	p.container = container.Settings{
		SubnetEnv: c.Container.SubnetEnv, CNIConf: c.Container.CNIConf,
		Networks: c.Network.CIDR, Subnets: p.self.Subnets, MTU: p.link.MTU, Masquerade: c.Masquerade.Enabled,
	}
	if !p.container.Usable() && p.container.SubnetEnv+p.container.CNIConf != "" {
		p.warn("no subnet of this node has room for pods (an IPv4 /30 or an IPv6 /126 at least): no files for containers are written; set container.subnet_env and container.cni_conf to \"\"")
	}
}

// maxMTU is what fits a UDP datagram over IPv4, in bytes.
const maxMTU = 65507

// planLink decides about the TUN: the whole network and the other nodes' routes
// go through it.
func (p *plan) planLink(self, underlayMTU int) error {
	network := p.config.Network
	fits := underlayMTU - mesh.Endpoint{AddrPort: p.self.Address}.OuterHeaders()
	p.link = link.Settings{Interface: network.Interface, MTU: network.MTU}
	for _, cidr := range network.CIDR {
		if !slices.Contains(p.self.Subnets, cidr) { // all of it is on our own bridge
			p.link.Routes = append(p.link.Routes, cidr)
		}
	}
	if p.link.MTU == 0 {
		p.link.MTU = min(fits, maxMTU)
	}
	if p.link.MTU > fits {
		p.warn("network.mtu %d is more than the %d that fit the underlay's MTU of %d: larger packets cost an extra round trip; lower it or set it to 0",
			p.link.MTU, fits, underlayMTU)
	}
	const minMTU6 = 1280 // RFC 8200 section 5
	if _, v6 := network.CIDROf(netip.IPv6Unspecified()); v6 && p.link.MTU < minMTU6 {
		return fmt.Errorf("the underlay's MTU of %d leaves %d for pods, but IPv6 needs %d: raise the underlay's MTU, or take the IPv6 prefix out of network.cidr",
			underlayMTU, p.link.MTU, minMTU6)
	}
	p.behind = slices.Clone(network.CIDR)
	for i, n := range p.config.Nodes {
		if i != self {
			p.link.Routes = append(p.link.Routes, n.Routes...)
			p.behind = append(p.behind, n.Routes...)
		}
	}
	own := p.mesh.Peers[self]
	for _, v6 := range []bool{false, true} {
		if ip := own.TUNAddress(v6); ip.IsValid() {
			p.link.Addresses = append(p.link.Addresses, ip)
		}
	}
	return nil
}

func (p *plan) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}
