package config

import (
	"context"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"example.org/meshd/internal/mesh"
)

// Bounds of network.mtu in bytes. Below the lower ones the kernel turns the family off on
// an interface. For IPv4 that would be IPV4_MIN_MTU, 68, but RFC 791 asks every host to
// accept 576; for IPv6 it is IPV6_MIN_MTU, 1280. The upper bound is the largest payload of
// a UDP datagram over IPv4: 65535 less 20 and 8.
const (
	minMTU  = 576
	minMTU6 = 1280
	maxMTU  = 65507
)

// maxMetric is the highest metric of a route.
const maxMetric = 65535

// validate turns the file's raw values into a Config, with defaults for missing keys.
// Problems go to r: the result is valid only if r is empty and ctx has not ended.
func validate(ctx context.Context, raw rawFile, r *report) *Config {
	if ctx.Err() != nil || raw.sections == nil { // decode has reported why
		return nil
	}
	dataplane, masquerade := r.section(raw, "dataplane"), r.section(raw, "masquerade")
	container, network, probe := r.section(raw, "container"), r.section(raw, "network"), r.section(raw, "probe")
	c := &Config{
		Network: network.network(),
		Dataplane: Dataplane{
			Engine:  dataplane.word("engine"),
			Receive: dataplane.word("receive"),
			Offload: dataplane.word("offload"),
			Queues:  dataplane.number("queues"),
			Spread:  dataplane.flag("spread"),
		},
		Masquerade: Masquerade{
			Enabled:     masquerade.flag("enabled"),
			FullyRandom: masquerade.flag("fully_random"),
		},
		Probe:     Probe{Interval: probe.duration("interval"), Speed: probe.flag("speed")},
		Transport: network.word("transport"),
		WireGuard: r.section(raw, "wireguard").wireguard(),
		Metrics:   Metrics{Listen: r.section(raw, "metrics").listen("listen")},
		Container: Container{SubnetEnv: container.file("subnet_env"), CNIConf: container.file("cni_conf")},
	}
	r.ownFiles(c)
	c.Masquerade.Forward, c.Masquerade.ForwardAll = masquerade.flagOrAll("forward")
	c.Masquerade.Exclude, _ = r.prefixes("masquerade.exclude", masquerade.raw["exclude"], false)
	c.Nodes = r.nodes(ctx, raw.nodes, c, false)
	c.Allow = r.allows(ctx, raw.allows, c)
	r.ports(c, raw.sections["wireguard"]["port"] != nil)
	return c
}

// network checks the [network] table.
func (s section) network() Network {
	raw, r := s.raw, s.report
	n := Network{
		Name:      s.text("name"),
		Port:      uint16(s.number("port")),
		Interface: s.interfaceName("interface"),
	}
	control := func(c rune) bool { return c < ' ' || c == 0x7f }
	if n.Name == "" || len(n.Name) > 64 || strings.ContainsFunc(n.Name, control) {
		r.add("network.name", "%q must be a label of 1 to 64 printable characters", n.Name)
	}
	if raw["cidr"] == nil && !r.has("network") {
		r.missing("network.cidr", "is required: the pod network, such as cidr = \"10.244.0.0/16\" below [network]")
	}
	if list, ok := raw["cidr"].([]any); ok && len(list) == 0 {
		r.add("network.cidr", "is empty: give at least one prefix")
	}
	r.cidr(&n, raw)
	path, leaf, is := s.of("mtu")
	low := is.low
	if _, v6 := n.CIDROf(netip.IPv6Unspecified()); v6 {
		low = minMTU6
	}
	if leaf != int64(0) { // which is outside the bounds, but means "derive it"
		n.MTU = r.number(path, leaf, low, is.high, is.def.(int))
	}
	return n
}

// cidr checks the pod network's prefixes and adds the valid ones to n.
func (r *report) cidr(n *Network, raw rawTable) {
	prefixes, at := r.prefixes("network.cidr", raw["cidr"], true)
	for i, p := range prefixes {
		if other, taken := n.CIDROf(p.Addr()); taken {
			r.add(at[i], "%s and %s have the same family: give at most one IPv4 and one IPv6 prefix", other, p)
			continue
		}
		if !unicast(p) {
			r.add(at[i], "%s contains addresses that a pod cannot have (%s)", p, specialNames)
			continue
		}
		n.CIDR = append(n.CIDR, p)
	}
}

// nodes checks every node by itself and then against all others of a file with some settings. The cost
// grows with the number of nodes and prefixes, not with their pairs. partly says that there are nodes
// besides these.
func (r *report) nodes(ctx context.Context, raw []rawTable, settings *Config, partly bool) []Node {
	if len(raw) == 0 {
		if r.has("node") { // of the wrong type, and so reported
			return nil
		}
		if !r.excused[nodeKey] {
			r.noNodes = true
			r.add(nodeKey, "no node is listed: add a [[node]] table for every host, or run "+
				"`meshd init --add NAME ADDRESS`")
		}
		return nil
	}
	check := meshCheck{report: r, config: settings, network: settings.Network,
		names: make(map[string]int, len(raw)), addresses: make(map[Address]holder, len(raw)),
		keys: map[mesh.Key]keyHolder{}, subnets: &owners{claims: make([]claim, 0, len(raw))}, routes: &owners{},
	}
	nodes := make([]Node, len(raw))
	for i, node := range raw {
		if ctx.Err() != nil {
			return nil
		}
		nodes[i] = check.node(i, node)
	}
	check.outsiders()
	check.overlaps()
	check.underlayInside(nodes)
	check.endpoints(nodes)
	if !partly {
		check.vias(nodes, raw)
	}
	return nodes
}

// meshCheck holds the names, addresses and prefixes that nodes have claimed so far.
type meshCheck struct {
	*report
	config    *Config // its settings; its nodes are not known yet
	network   Network
	names     map[string]int         // node index by name
	addresses map[Address]holder     // by underlay address, or by host name, without ports
	keys      map[mesh.Key]keyHolder // by the canonical form
	subnets   *owners
	routes    *owners
	outside   []claim // subnets that are not inside the pod network
}

// A holder is the node that has an address, and which of its addresses that is; both count from 0.
type holder struct{ node, element int }

// path returns where the address stands in the file. It is right for a lone address, too, which the
// elements of a list lead to.
func (h holder) path() string {
	return nodePath(h.node) + ".address[" + strconv.Itoa(h.element) + "]"
}

// nodePath returns where a node stands in the file.
func nodePath(node int) string { return "node[" + strconv.Itoa(node) + "]" }

// node checks one [[node]] table.
func (m *meshCheck) node(i int, raw rawTable) Node {
	base := nodePath(i)
	n := Node{Name: m.text(base+".name", raw["name"], "")}
	_, isText := raw["name"].(string)
	switch first, taken := m.names[n.Name]; {
	case raw["name"] == nil:
		m.missing(base+".name", "is missing: every [[node]] needs one")
	case !isText: // text has reported it
	case !validName(n.Name):
		m.add(base+".name", "%q must be a name of 1 to 63 characters of [a-z0-9.-]%s", n.Name, meantName(n.Name))
	case taken:
		m.add(base+".name", "%q is already the name of the node at line %d", n.Name, m.lineOf(first, "name"))
	default:
		m.names[n.Name] = i
	}

	m.keysOf(&n, base, raw, i)
	n.Endpoint = m.calledAt(base, raw)
	n.Via = m.text(base+".via", raw["via"], "")
	m.addressesOf(&n, base, raw, i)

	if list, ok := raw["subnets"].([]any); raw["subnets"] == nil || ok && len(list) == 0 {
		m.missing(base+".subnets", "is missing: every [[node]] needs at least one, inside network.cidr")
	}
	var at []string
	n.Subnets, at = m.prefixes(base+".subnets", raw["subnets"], false)
	for j, p := range n.Subnets {
		m.subnet(at[j], p, i)
	}
	n.Routes, at = m.report.routes(base+".routes", raw["routes"])
	for j, r := range n.Routes {
		m.route(at[j], r.Prefix, i)
	}
	return n
}

// addressesOf reads where a node listens. With encryption a node may have no address: it calls the others.
func (m *meshCheck) addressesOf(n *Node, base string, raw rawTable, node int) {
	leaf := raw["address"]
	switch {
	case leaf != nil:
	case m.config.Transport != TransportUDP:
		return
	case raw["public_key"] != nil:
		m.missing(base+".address", "is missing: every node needs one, unless transport = %q", TransportWireGuard)
		return
	default:
		m.missing(base+".address", "is missing: every [[node]] needs one")
		return
	}
	var at []string
	n.Addresses, at = m.report.addresses(base+".address", leaf, m.network.Port)
	for j, a := range n.Addresses {
		m.address(at[j], a, holder{node, j})
		if port := m.config.WireGuard.Port; m.config.Sealed() && a.Port() == port && port != m.network.Port {
			m.add(at[j], "%s has wireguard.port, and the host opens both ports: choose another one", a)
		}
	}
}

// address claims one address of a node. Ports do not count: a node is known by where its datagrams come
// from, and those may come from any port.
func (m *meshCheck) address(path string, a Address, by holder) {
	key := a.anyPort()
	switch first, taken := m.addresses[key]; {
	case taken && first.node == by.node:
		m.add(path, "%s stands here twice: delete one", a.Host())
	case taken:
		m.add(path, "%s is already the address of the node at line %d", a.Host(),
			m.lineAt(first.path()))
	default:
		m.addresses[key] = by
	}
}

// subnet checks one pod subnet of a node and claims it.
func (m *meshCheck) subnet(path string, p netip.Prefix, node int) {
	cidr, ok := m.network.CIDROf(p.Addr())
	switch {
	case len(m.network.CIDR) == 0: // cidr has reported it
	case !ok:
		m.add(path, "%s is %s, but network.cidr has no %[2]s prefix", p, family(p))
	case p.Bits() < cidr.Bits() || !cidr.Contains(p.Addr()):
		m.outside = append(m.outside, claim{prefix: p, path: path})
	default:
		m.subnets.add(p, path, node)
	}
}

// outsiders reports subnets that are outside the pod network. Where no subnet of a family is inside,
// the network is more likely wrong than all of them.
func (m *meshCheck) outsiders() {
	inside, all := map[string]bool{}, map[string]int{}
	for _, c := range m.subnets.claims {
		inside[family(c.prefix)] = true
	}
	for _, c := range m.outside {
		all[family(c.prefix)]++
	}
	for _, c := range m.outside {
		cidr, _ := m.network.CIDROf(c.prefix.Addr())
		of := family(c.prefix)
		if inside[of] || all[of] == 1 {
			m.add(c.path, "%s is outside network.cidr %s", c.prefix, cidr)
		} else if all[of] > 0 {
			all[of] = 0 // told
			m.add("network.cidr", "%s contains no %s subnet of the nodes; the first of them is %s at line %d",
				cidr, of, c.prefix, m.lineAt(c.path))
		}
	}
}

// route checks one further prefix of a node and claims it.
func (m *meshCheck) route(path string, p netip.Prefix, node int) {
	cidr, ok := m.network.CIDROf(p.Addr())
	switch {
	case p.Bits() == 0:
		m.add(path, "%s is the default route, which cannot lead through a node: list the networks behind it", p)
	case !unicast(p):
		m.add(path, "%s contains addresses that a host cannot have (%s)", p, specialNames)
	case len(m.network.CIDR) == 0: // cidr has reported it
	case !ok:
		m.add(path, "%s is %s, but network.cidr has no %[2]s prefix", p, family(p))
	case p.Overlaps(cidr):
		m.add(path, "%s overlaps network.cidr %s: routes must be outside of it", p, cidr)
	default:
		m.routes.add(p, path, node)
	}
}

// overlaps reports subnets that share addresses, and routes that a node claims twice. Several nodes may
// have the same route: one of them carries it at a time. A longer route inside a shorter one is valid,
// too: the longest match decides.
func (m *meshCheck) overlaps() {
	m.subnets.index()
	for i, c := range m.subnets.claims {
		other, ok := m.subnets.covering(i)
		switch cidr, _ := m.network.CIDROf(c.prefix.Addr()); {
		case !ok:
		case other.prefix == cidr && c.prefix != cidr: // the others are not to blame
			if !m.has(other.path) {
				m.add(other.path, "%s is all of network.cidr, and leaves nothing to the other nodes: give this "+
					"one a part", cidr)
			}
		default:
			m.add(c.path, "%s overlaps %s at line %d", c.prefix, other.prefix, m.lineAt(other.path))
		}
	}
	m.routes.index()
	for i, c := range m.routes.claims { // equal ones stand side by side, in the order of the file
		if i == 0 {
			continue
		}
		if before := m.routes.claims[i-1]; before.prefix == c.prefix && before.node == c.node {
			m.add(c.path, "%s is already routed at line %d", c.prefix, m.lineAt(before.path))
		}
	}
}

// underlayInside reports nodes whose underlay address is inside the mesh: the route into
// the TUN would take the outer packets to them, too, and they would loop.
func (m *meshCheck) underlayInside(nodes []Node) {
	for i, n := range nodes {
		for j, a := range n.Addresses {
			if a.Name == "" {
				m.inside(holder{i, j}.path(), a.Addr())
			}
		}
	}
}

// inside reports an underlay address that is inside the mesh.
func (m *meshCheck) inside(path string, ip netip.Addr) {
	for _, set := range []*owners{m.subnets, m.routes} {
		if other, ok := set.holding(ip); ok {
			m.add(path, "%s is inside %s at line %d: packets to this node would loop through the mesh",
				ip, other.prefix, m.lineAt(other.path))
		}
	}
}

// lineOf returns the line of a key of a node.
func (m *meshCheck) lineOf(node int, key string) int {
	return m.lineAt(nodePath(node) + "." + key)
}

// meantName proposes a valid name for one that is none; empty if there is no near one.
func meantName(s string) string {
	if meant := NameFrom(s); meant != "" && hideKeys(s) == s { // a key in small letters is soon found
		return ": did you mean " + strconv.Quote(meant) + "?"
	}
	return ""
}

// noName matches what a name cannot have.
var noName = regexp.MustCompile(`[^a-z0-9.-]+`)

// NameFrom turns words, such as the name that a host has given itself, into a valid name of a node;
// empty if nothing of them is left.
func NameFrom(words string) string {
	name := strings.Trim(noName.ReplaceAllString(strings.ToLower(words), "-"), "-.")
	return strings.Trim(name[:min(len(name), 63)], "-.")
}

// validName reports whether s can be a node's name: what a host name allows in lower case
// (RFC 1123, section 2.1), at most as long as a label of DNS.
func validName(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-'
	})
}

// family names the address family of a prefix.
func family(p netip.Prefix) string { return familyOf(p.Addr()) }
