// Package plan says what each part of this host should be: one file and the facts of one host make
// one Plan. It is pure: it does no I/O, and making a plan changes nothing.
//
//	Config x Host -> Identify -> Make -> Plan
//	Plan x Plan   -> Changes, Ways
//
// Where something that depends on one peer belongs: what the file says of it into Make, what is
// learned of it while packets flow into peers.Directive, never here.
package plan

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/container"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/forwarding"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/rules"
	"example.org/meshd/internal/seal"
	"example.org/meshd/internal/wireguard"
)

// A Plan is one configuration file in the words of the rooms that carry it out. It is never changed
// once it is made, and may be read by any number of goroutines.
type Plan struct {
	Config *config.Config
	Self   config.Node
	Peer   mesh.Peer // this node, as others see it

	Engine     dataplane.Wanted
	Seal       *seal.Wanted // how packets travel encrypted; nil: they do not
	Link       link.Settings
	Backstops  []netip.Prefix // what must not leave by another way while the TUN is away
	Rules      rules.Wanted
	Forwarding forwarding.Host
	Container  container.Settings
	Conditions []mesh.Condition // what of the file this host or mesh cannot give

	nodes   *Nodes
	ways    []string              // how datagrams reach the peers, see link.Underlay
	lower   map[netip.Addr]int    // see there, too
	narrow  string                // see Narrowest there
	outer   int                   // the MTU of the underlay, bytes
	keyed   bool                  // packets travel encrypted, or are to before long: the MTU allows for it
	headers int                   // the largest outer headers of datagrams to a peer, bytes
	origins map[netip.Addr]string // the name that an address comes from, of those that have one
}

// Host is what a plan depends on besides the file.
type Host struct {
	Local []netip.Addr // addresses of this host
	OwnKey
	Nodes      *Nodes // as this node sees them; nil: as the file alone says
	Underlay   link.Underlay
	Shadows    []link.Shadow    // routes that take packets for other nodes' prefixes away from the TUN
	Diverted   []link.Diversion // routing rules that take pods' packets away from the mesh
	IPsec      []link.Policy    // IPsec policies about the mesh's datagrams
	Outgoing   []rules.Outgoing // rules of other programs about those that leave
	CPUs       int
	Forwarding forwarding.Host
}

// Why this host is no node of a file.
var (
	ErrNotHere  = errors.New("no node has an address of this host") // which time may change
	ErrIdentity = errors.New("cannot tell which node this host is") // a fault of the file, or of --node
)

// Identify returns the index of the node that this host is as far as the file alone tells: no name of it is
// resolved. See Nodes.Identify.
func Identify(c *config.Config, name string, local []netip.Addr, own mesh.Key) (index int, err error) {
	return Expand(c, nil).Identify(name, local, own)
}

// addresses lists what could stand in the file: neither loopback nor link-local addresses, and not
// hundreds of them.
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

// Make says what the file asks of this host, which is node self. An error is a fault of the file on
// this host, such as an MTU that IPv6 cannot live with.
func Make(c *config.Config, self int, host Host) (*Plan, error) {
	if err := KeyFault(c, self, host.OwnKey); err != nil {
		return nil, keyFault{err}
	}
	p := &Plan{Config: c, Self: c.Nodes[self], ways: host.Underlay.Ways, lower: host.Underlay.Lower,
		narrow: host.Underlay.Narrowest, outer: host.Underlay.MTU, nodes: host.Nodes, Forwarding: host.Forwarding,
		keyed: c.Sealed() || c.Keyed()}
	if p.nodes == nil {
		p.nodes = Expand(c, nil).SeenFrom(self, host.Local)
	}
	p.Peer = p.peerOf(self)
	p.Engine.Sealed = c.Sealed()
	p.planBinds(self, host)
	p.planMesh()
	p.planEngine(host)
	if err := p.planLink(self, host.Underlay.MTU); err != nil {
		return nil, err
	}
	p.planFloor()
	p.planPrograms(host)
	p.planSeal(self, host.OwnKey)
	p.Rules = RulesOf(c, p.Self, host.Forwarding.Crossing.PodNames())
	p.planGuard(host.Forwarding.Crossing.PodNames())
	p.planAllow()
	p.planContainer()
	p.planRouting(host)
	return p, nil
}

// planMesh lists the nodes, and names those to which no packet can pass.
func (p *Plan) planMesh() {
	own := p.Peer
	m := mesh.Mesh{Self: own.Name, Peers: make([]mesh.Peer, 0, len(p.Config.Nodes)), Shares: sharesOf(p.Config)}
	for i, n := range p.Config.Nodes {
		peer := p.peerOf(i)
		m.Peers = append(m.Peers, peer)
		p.Conditions = append(p.Conditions, p.nodes.conditions[i]...)
		if !own.CanSpeakTo(peer) {
			p.note(mesh.Condition{Kind: mesh.SubnetFamilies, Severity: mesh.Degraded, Peer: n.Name,
				Remedy: "give both nodes a subnet of the same family"})
		}
		usable := 0
		for _, a := range peer.Addresses {
			if _, ok := p.Engine.From(a.Addr()); ok {
				usable, p.headers = usable+1, max(p.headers, p.around(a))
			}
		}
		if usable == 0 && len(peer.Addresses) > 0 { // without any address, the name's condition says so
			p.note(mesh.Condition{Kind: mesh.UnderlayFamilies, Severity: mesh.Degraded, Peer: n.Name,
				Cause:  fmt.Sprintf("its address is %s, and this node's is %s", hosts(peer), hosts(own)),
				Remedy: "give both nodes an address of the same family"})
		}
	}
	p.Engine.Mesh = m
}

// peerOf returns a node as the other rooms know it.
func (p *Plan) peerOf(node int) mesh.Peer {
	n := p.Config.Nodes[node]
	for _, a := range p.nodes.of[node] {
		if a.name != "" {
			if p.origins == nil {
				p.origins = map[netip.Addr]string{}
			}
			p.origins[a.Addr()] = a.name
		}
	}
	return mesh.Peer{Name: n.Name, Addresses: p.nodes.endpoints(node), Subnets: n.Subnets, Routes: n.Prefixes(),
		Key: n.PublicKey, Next: n.NextKey}
}

// Origin returns the DNS name that an address of a node comes from, and when it was resolved; empty if the
// file lists the address itself. No two nodes have the same address.
func (p *Plan) Origin(address netip.Addr) (name string, at time.Time) {
	name = p.origins[address]
	return name, p.nodes.names[name].At
}

// hosts lists the addresses of a node without their ports.
func hosts(p mesh.Peer) string {
	var words []string
	for _, a := range p.Addresses {
		words = append(words, a.Addr().String())
	}
	return cmp.Or(strings.Join(words, ", "), "not known")
}

// planEngine decides where packets enter and leave this host.
func (p *Plan) planEngine(host Host) {
	c := p.Config.Dataplane
	p.Engine.Interface, p.Engine.Queues = p.Config.Network.Interface, c.Queues
	p.Engine.Offload, p.Engine.Spread = c.Offload != config.Off, c.Spread
	if p.Engine.Queues == 0 {
		p.Engine.Queues = usefulQueues(host.CPUs)
	}
}

// usefulQueues returns how many queues serve a host. Each has two loops, and pods need CPUs too;
// more queues than four move no more.
func usefulQueues(cpus int) int { return max(1, min(cpus/2, 4)) }

// maxMTU is the largest packet that fits a UDP datagram over IPv4, in bytes: 65535 less both headers.
const maxMTU = 65507

// planLink decides about the TUN: the whole network and the other nodes' routes go through it.
func (p *Plan) planLink(self, underlayMTU int) error {
	network := p.Config.Network
	fits := p.fits(underlayMTU, p.headers)
	p.Link = link.Settings{Interface: network.Interface, MTU: network.MTU, Beside: []string{wireguard.Interface}}
	for _, cidr := range network.CIDR {
		if !slices.Contains(p.Self.Subnets, cidr) { // else all of it is on our own bridge
			p.Link.Routes = append(p.Link.Routes, link.Route{Prefix: cidr})
		}
	}
	if p.Link.MTU == 0 {
		p.Link.MTU = min(fits, maxMTU)
	}
	if p.Link.MTU > fits {
		p.note(mesh.Condition{Kind: mesh.MTUTooLarge, Severity: mesh.Degraded,
			Subject: fmt.Sprintf("network.mtu %d", p.Link.MTU),
			Cause:   fmt.Sprintf("the underlay's MTU of %d leaves %d", underlayMTU, fits),
			Remedy:  "lower network.mtu, or set it to 0"})
	}
	const minMTU6 = 1280 // RFC 8200 section 5
	if _, v6 := network.CIDROf(netip.IPv6Unspecified()); v6 && p.Link.MTU < minMTU6 {
		return fmt.Errorf("the underlay's MTU of %d leaves %d for pods, but IPv6 needs %d: "+
			"raise the underlay's MTU, "+
			"or take the IPv6 prefix out of network.cidr", underlayMTU, p.Link.MTU, minMTU6)
	}
	others := prefixesOf(p.Config, self)
	p.Link.Routes = append(p.Link.Routes, link.RoutesTo(others...)...)
	p.Backstops = slices.Concat(network.CIDR, others)
	for _, v6 := range []bool{false, true} {
		if ip := p.Peer.TUNAddress(v6); ip.IsValid() {
			p.Link.Addresses = append(p.Link.Addresses, ip)
		}
	}
	return nil
}

// Underlay returns what limits packets of the mesh: the interface with the lowest MTU on the way to peers,
// empty if a route has it; that MTU; and the outer headers that it has to leave room for, both in bytes.
func (p *Plan) Underlay() (device string, mtu, headers int) { return p.narrow, p.outer, p.headers }

// MTUTo returns how large packets to a peer may be as far as this host is concerned, in bytes without outer
// headers: a route may carry less than the interface of the mesh. Of several addresses the lowest counts.
func (p *Plan) MTUTo(peer mesh.Peer) int {
	size := p.Link.MTU
	for _, a := range peer.Addresses {
		if lower, ok := p.lower[a.Addr()]; ok {
			size = min(size, p.fits(lower, p.around(a)))
		}
	}
	return size
}

// planPrograms decides whether the kernel engine may forward.
func (p *Plan) planPrograms(host Host) {
	c := p.Config.Dataplane
	k := &p.Engine.Kernel
	k.MTU, k.Outer = min(p.Link.MTU, host.Underlay.MTU-p.headers), host.Underlay.MTU
	k.Underlay, k.Receive = host.Underlay.Devices, receives[c.Receive]
	switch {
	case p.Engine.Sealed:
		k.Use, k.Why, k.Chosen = dataplane.Never, "packets travel encrypted", true
	case c.Engine == config.EngineUser:
		k.Use, k.Why, k.Chosen = dataplane.Never, "the file asks for it", true
	case p.Engine.Binds[0].Addr().IsUnspecified(): // the address may come later: no reason to reject the file
		k.Use = dataplane.Never
		k.Why = fmt.Sprintf("the kernel engine needs the node's address %s on this host", hosts(p.Peer))
	case c.Engine == config.Auto:
		k.Use = dataplane.IfPossible
	default:
		k.Use = dataplane.Always
	}
	if k.Use != dataplane.Never {
		p.Link.Router6 = slices.ContainsFunc(p.Engine.Binds, func(b netip.AddrPort) bool { return b.Addr().Is6() })
		p.planPolicies(host)
	}
}

// receives are the values of dataplane.receive.
var receives = map[string]dataplane.Receive{
	dataplane.AnyReceive.String(): dataplane.AnyReceive, dataplane.XDP.String(): dataplane.XDP,
	dataplane.TCX.String(): dataplane.TCX, dataplane.Socket.String(): dataplane.Socket,
	dataplane.FOU.String(): dataplane.FOU,
}

// RulesOf decides who keeps their address, which is every packet inside the mesh, with the networks
// behind its nodes; and what is forwarded where the host drops. podLinks are interfaces that pods of
// this host send by.
func RulesOf(c *config.Config, self config.Node, podLinks []string) (r rules.Wanted) {
	if c.Masquerade.Forward {
		r.Accept = &filter.Accept{Interfaces: interfacesOf(c), Networks: c.Network.CIDR, Pods: self.Subnets,
			LANs: self.Prefixes(), All: c.Masquerade.ForwardAll}
	}
	if !c.Masquerade.Enabled {
		return r
	}
	r.Masquerade = &masq.Settings{
		Mesh:        slices.Clone(c.Network.CIDR),
		Local:       slices.Concat(self.Subnets, self.Prefixes()),
		Pods:        self.Subnets,
		PodLinks:    podLinks,
		Links:       interfacesOf(c),
		Exclude:     c.Masquerade.Exclude,
		FullyRandom: c.Masquerade.FullyRandom,
	}
	r.Masquerade.Mesh = append(r.Masquerade.Mesh, prefixesOf(c, -1)...)
	for _, v6 := range []bool{false, true} {
		if ip := (mesh.Peer{Subnets: self.Subnets}).TUNAddress(v6); ip.IsValid() {
			r.Masquerade.Sources = append(r.Masquerade.Sources, ip)
		}
	}
	return r
}

// planGuard decides who may send on the mesh port, meshd alone, and how large TCP segments are.
func (p *Plan) planGuard(podLinks []string) {
	p.Rules.Clamp = filter.ClampSettings{Interfaces: interfacesOf(p.Config), MTU: p.Link.MTU}
	g, k := &p.Rules.Guard, p.Engine.Kernel
	*g = filter.GuardSettings{Binds: p.Engine.Binds, TUN: p.Config.Network.Interface, PodLinks: podLinks,
		Mark: udp.Mark, Closed: p.Forwarding.Closed(), OnePort: k.MayFOU() && k.Use != dataplane.Never &&
			!p.Engine.Spread}
	if p.keyed { // also while nothing is exchanged: an earlier run has left the interface
		g.Encrypted, g.Inner = wireguard.Interface, p.inner()
	}
	for i := range p.Config.Nodes {
		if n := &p.Config.Nodes[i]; p.Engine.Sealed && n.Name != p.Self.Name {
			g.Sealed = append(g.Sealed, n.Subnets...)
		}
	}
	for _, peer := range p.Engine.Mesh.Peers {
		for _, a := range peer.Addresses {
			g.Nodes = append(g.Nodes, a.AddrPort)
		}
	}
}

// planContainer decides what container runtimes are told. An MTU that the path to a peer lowers for
// a while concerns packets, not pods.
func (p *Plan) planContainer() {
	c := p.Config
	p.Container = container.Settings{
		SubnetEnv: c.Container.SubnetEnv, CNIConf: c.Container.CNIConf,
		Networks: c.Network.CIDR, Subnets: p.Self.Subnets, MTU: p.Link.MTU, Masquerade: c.Masquerade.Enabled,
	}
	if !p.Container.Usable() && p.Container.SubnetEnv+p.Container.CNIConf != "" {
		p.note(mesh.Condition{Kind: mesh.NoRoomForPods, Severity: mesh.Degraded,
			Cause:  "pods need an IPv4 /30 or an IPv6 /126 at least",
			Remedy: "give this node a larger subnet, or set container.subnet_env and container.cni_conf to \"\""})
	}
}

func (p *Plan) note(c mesh.Condition) { p.Conditions = append(p.Conditions, c) }

// ErrRestart marks a file that this daemon cannot apply, and one that starts with it can.
var ErrRestart = errors.New("only a new start can apply this")

// needsRestart is such a file's faults.
type needsRestart struct{ config.Faults }

// Is makes errors.Is find ErrRestart.
func (needsRestart) Is(target error) bool { return target == ErrRestart }

// Unwrap returns the faults, of type config.Faults.
func (n needsRestart) Unwrap() error { return n.Faults }

// NeedsRestart returns an error if a running daemon cannot go from one plan to the next: ErrRestart and
// config.Faults are both in it.
func NeedsRestart(old, next *Plan) error {
	if old.Link.Interface == next.Link.Interface {
		return nil
	}
	return needsRestart{next.Config.Fault("network.interface", "a running meshd cannot change it from "+
		"%s to %s: run `systemctl restart meshd`", old.Link.Interface, next.Link.Interface)}
}
