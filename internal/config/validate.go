package config

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Bounds of network.mtu in bytes. Below the lower ones the kernel turns the
// family off on an interface (IPV4_MIN_MTU would be 68, but RFC 791 asks every
// host to take 576; IPV6_MIN_MTU is 1280); the upper one is what fits a UDP
// datagram over IPv4.
const (
	minMTU  = 576
	minMTU6 = 1280
	maxMTU  = 65507
)

// validate checks what the file says and returns it as values, with defaults
// where it is silent. Problems go to r; the result is only good if r is empty and
// ctx has not ended.
func validate(ctx context.Context, raw rawFile, r *report) *Config {
	if ctx.Err() != nil || raw.sections == nil { // not even TOML, or not a mesh
		return nil
	}
	dataplane, masquerade, container := raw.sections["dataplane"], raw.sections["masquerade"], raw.sections["container"]
	c := &Config{
		Network: r.network(raw.sections["network"]),
		Dataplane: Dataplane{
			Engine:  r.oneOf("dataplane.engine", dataplane["engine"], Auto, EngineKernel, EngineUser),
			Receive: r.oneOf("dataplane.receive", dataplane["receive"], Auto, "xdp", "tcx", "socket"),
			Offload: r.oneOf("dataplane.offload", dataplane["offload"], Auto, Off),
			Queues:  r.number("dataplane.queues", dataplane["queues"], 0, 256, 0), // MAX_TAP_QUEUES
			Spread:  r.flag("dataplane.spread", dataplane["spread"], false),
		},
		Masquerade: Masquerade{
			Enabled:     r.flag("masquerade.enabled", masquerade["enabled"], true),
			FullyRandom: r.flag("masquerade.fully_random", masquerade["fully_random"], true),
		},
		Probe: Probe{
			Interval: r.duration("probe.interval", raw.sections["probe"]["interval"], 100*time.Millisecond, time.Hour, time.Second),
		},
		Metrics: Metrics{Listen: r.listen("metrics.listen", raw.sections["metrics"]["listen"])},
		Container: Container{
			SubnetEnv: r.file("container.subnet_env", container["subnet_env"], "/run/flannel/subnet.env"),
			CNIConf:   r.file("container.cni_conf", container["cni_conf"], ""),
		},
	}
	r.ownFiles(c.Container)
	c.Masquerade.Forward, c.Masquerade.ForwardAll = r.flagOrAll("masquerade.forward", masquerade["forward"], true)
	c.Masquerade.Exclude, _ = r.prefixes("masquerade.exclude", masquerade["exclude"], false)
	c.Nodes = r.nodes(ctx, raw.nodes, c.Network)
	return c
}

func (r *report) network(raw rawTable) Network {
	n := Network{
		Name:      r.text("network.name", raw["name"], "mesh"),
		Port:      uint16(r.number("network.port", raw["port"], 1, 65535, 8285)),
		Interface: r.interfaceName("network.interface", raw["interface"], "mesh0"),
	}
	if n.Name == "" || len(n.Name) > 64 || strings.ContainsFunc(n.Name, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		r.add("network.name", "%q is not a label of 1 to 64 printable characters", n.Name)
	}
	if raw["cidr"] == nil && !r.has("network") {
		r.add("network.cidr", "is required: the pod network, such as cidr = \"10.244.0.0/16\"")
	}
	if list, ok := raw["cidr"].([]any); ok && len(list) == 0 {
		r.add("network.cidr", "is empty: give at least one prefix")
	}
	prefixes, at := r.prefixes("network.cidr", raw["cidr"], true)
	for i, p := range prefixes {
		if other, taken := n.CIDROf(p.Addr()); taken {
			r.add(at[i], "%s and %s are of one family: at most one IPv4 and one IPv6 prefix", other, p)
			continue
		}
		if !unicast(p) {
			r.add(at[i], "%s holds addresses that no pod can have (loopback, multicast, link-local or reserved ones)", p)
			continue
		}
		n.CIDR = append(n.CIDR, p)
	}
	low := minMTU
	if _, v6 := n.CIDROf(netip.IPv6Unspecified()); v6 {
		low = minMTU6
	}
	if mtu, ok := raw["mtu"].(int64); !ok || mtu != 0 {
		n.MTU = r.number("network.mtu", raw["mtu"], low, maxMTU, 0)
	}
	return n
}

// nodes checks every node by itself and then against all the others. The cost
// grows with the number of nodes and of prefix lengths in use, not with pairs.
func (r *report) nodes(ctx context.Context, raw []rawTable, network Network) []Node {
	if len(raw) == 0 {
		if r.has("node") {
			return nil
		}
		r.add("node", "no node is listed: add a [[node]] table for every host")
		return nil
	}
	check := meshCheck{report: r, network: network,
		names: make(map[string]int, len(raw)), addresses: make(map[netip.Addr]int, len(raw)),
		subnets: &owners{claims: make([]claim, 0, len(raw))}, routes: &owners{},
	}
	nodes := make([]Node, len(raw))
	for i, node := range raw {
		if ctx.Err() != nil {
			return nil
		}
		nodes[i] = check.node(i, node)
	}
	check.overlaps()
	check.underlayInside(nodes)
	return nodes
}

// meshCheck holds what the nodes read so far have claimed.
type meshCheck struct {
	*report
	network   Network
	names     map[string]int // node index by name
	addresses map[netip.Addr]int
	subnets   *owners
	routes    *owners
}

func (m *meshCheck) node(i int, raw rawTable) Node {
	base := "node[" + strconv.Itoa(i) + "]"
	n := Node{Name: m.text(base+".name", raw["name"], "")}
	_, isText := raw["name"].(string)
	switch first, taken := m.names[n.Name]; {
	case raw["name"] == nil:
		m.add(base+".name", "is missing: every [[node]] needs one")
	case !isText: // reported already
	case !validName(n.Name):
		m.add(base+".name", "%q is not a name of 1 to 63 characters out of [a-z0-9.-]", n.Name)
	case taken:
		m.add(base+".name", "%q is already the name of the node in line %d", n.Name, m.lineOf(first, "name"))
	default:
		m.names[n.Name] = i
	}

	if raw["address"] == nil {
		m.add(base+".address", "is missing: every [[node]] needs one")
	} else if address, ok := m.endpoint(base+".address", raw["address"], m.network.Port); ok {
		if first, taken := m.addresses[address.Addr()]; taken {
			m.add(base+".address", "%s is already the address of the node in line %d", address.Addr(), m.lineOf(first, "address"))
		} else {
			m.addresses[address.Addr()] = i
		}
		n.Address = address
	}

	if list, ok := raw["subnets"].([]any); raw["subnets"] == nil || ok && len(list) == 0 {
		m.add(base+".subnets", "is missing: every [[node]] needs at least one, inside network.cidr")
	}
	var at []string
	n.Subnets, at = m.prefixes(base+".subnets", raw["subnets"], false)
	for j, p := range n.Subnets {
		m.subnet(at[j], p)
	}
	n.Routes, at = m.prefixes(base+".routes", raw["routes"], false)
	for j, p := range n.Routes {
		m.route(at[j], p)
	}
	return n
}

func (m *meshCheck) subnet(path string, p netip.Prefix) {
	cidr, ok := m.network.CIDROf(p.Addr())
	switch {
	case len(m.network.CIDR) == 0: // reported already
	case !ok:
		m.add(path, "%s is %s, but network.cidr has no prefix of that family", p, family(p))
	case p.Bits() < cidr.Bits() || !cidr.Contains(p.Addr()):
		m.add(path, "%s is outside network.cidr %s", p, cidr)
	default:
		m.subnets.add(p, path)
	}
}

func (m *meshCheck) route(path string, p netip.Prefix) {
	cidr, ok := m.network.CIDROf(p.Addr())
	switch {
	case p.Bits() > 0 && !unicast(p):
		m.add(path, "%s holds addresses that no host can have (loopback, multicast, link-local or reserved ones)", p)
	case len(m.network.CIDR) == 0: // reported already
	case !ok:
		m.add(path, "%s is %s, but network.cidr has no prefix of that family", p, family(p))
	case p.Overlaps(cidr):
		m.add(path, "%s overlaps network.cidr %s: routes are for what lies outside it", p, cidr)
	default:
		m.routes.add(p, path)
	}
}

// overlaps reports subnets that share addresses, and routes claimed twice. A
// longer route inside a shorter one is fine: the longest match decides.
func (m *meshCheck) overlaps() {
	m.subnets.index()
	for i, c := range m.subnets.claims {
		if other, ok := m.subnets.covering(i); ok {
			m.add(c.path, "%s overlaps %s in line %d", c.prefix, other.prefix, m.lineAt(other.path))
		}
	}
	m.routes.index()
	for i, c := range m.routes.claims {
		if first, ok := m.routes.covering(i); ok && first.prefix == c.prefix {
			m.add(c.path, "%s is already routed by line %d", c.prefix, m.lineAt(first.path))
		}
	}
}

// underlayInside reports nodes whose own address would be sent into the mesh:
// the outer packets to them would loop.
func (m *meshCheck) underlayInside(nodes []Node) {
	for i, n := range nodes {
		if !n.Address.IsValid() {
			continue
		}
		for _, set := range []*owners{m.subnets, m.routes} {
			if other, ok := set.holding(n.Address.Addr()); ok {
				m.add("node["+strconv.Itoa(i)+"].address", "%s lies inside %s in line %d: packets to this node would loop through the mesh",
					n.Address.Addr(), other.prefix, m.lineAt(other.path))
			}
		}
	}
}

func (m *meshCheck) lineOf(node int, key string) int {
	return m.lineAt("node[" + strconv.Itoa(node) + "]." + key)
}

func validName(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-'
	})
}

func family(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}
