package config

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"example.org/meshd/internal/mesh"
)

// The rules of encryption: the key of each node, where its WireGuard is called, and which node forwards
// between nodes without an address.
//
//	calls in   a node without an address: the others answer where its packets come from
//	via        the node that forwards between one that calls in and others that do

// insidePort is the UDP port of probes inside the tunnel, which a host binds beside that of WireGuard.
const insidePort = 8286

// wireguard reads the [wireguard] table.
func (s section) wireguard() WireGuard {
	path, leaf, is := s.of("private_key")
	return WireGuard{Port: uint16(s.number("port")), PrivateKey: s.keyFile(path, leaf, is.def.(string))}
}

// keyFile reads the absolute path of a file with a private key. Where the value may be the key itself, no
// message repeats it.
func (r *report) keyFile(path string, leaf any, def string) string {
	s := r.text(path, leaf, def)
	switch {
	case likeKey(s):
		r.add(path, "is a key, and must be the path of the file with the key: a private key does not belong in "+
			"this file, which all hosts have; make a new one with `meshd key`")
	case s == "":
		r.add(path, "is empty: write the path of the file with the private key, or delete the line")
	case !filepath.IsAbs(s):
		r.add(path, "must be the absolute path of a file: one that begins with /")
	case filepath.Clean(s) != s:
		return r.file(path, leaf, def)
	default:
		return s
	}
	return def
}

// ports checks that one host can open all ports. Without keys nothing opens that of WireGuard: it matters
// only if the file names it.
func (r *report) ports(c *Config, named bool) {
	if !c.Sealed() && !c.Keyed() && !named {
		return
	}
	path := "wireguard.port"
	if !named {
		path = "network.port" // the value that is in the file
	}
	switch c.WireGuard.Port {
	case c.Network.Port:
		r.add(path, "%d is both network.port and wireguard.port, and each host opens both: choose two ports",
			c.Network.Port)
	case insidePort:
		r.add(path, "%d is the port of probes inside the tunnel: choose another one, such as %d",
			insidePort, defaultWireGuard.Port)
	}
}

// keysOf reads the keys of a node and claims them.
func (m *meshCheck) keysOf(n *Node, base string, raw rawTable, node int) {
	if s, isText := raw["public_key"].(string); raw["public_key"] == nil || isText && s == "" {
		if m.config.Sealed() {
			m.missing(base+".public_key", "is missing: transport = %q needs one of every node: run `meshd key` on "+
				"the host of %q, and write what it prints", TransportWireGuard, raw["name"])
		} else if next := raw["next_public_key"]; next != nil && next != "" {
			m.add(base+".next_public_key", "is for a node that has a public_key: write this key there")
			return
		}
	}
	n.PublicKey = m.publicKey(base+".public_key", raw["public_key"], keyHolder{node, "public_key"})
	n.NextKey = m.publicKey(base+".next_public_key", raw["next_public_key"], keyHolder{node, "next_public_key"})
}

// A keyHolder is the node that has a key, and which of its settings that is.
type keyHolder struct {
	node int
	key  string
}

// publicKey reads one key of a node and claims it.
func (m *meshCheck) publicKey(path string, leaf any, by keyHolder) (k mesh.Key) {
	s, isText := leaf.(string)
	switch {
	case leaf == nil || isText && s == "":
		return k
	case !isText:
		m.add(path, "must be a key in quotes, as `meshd key` prints it, not %s", show(leaf))
		return k
	}
	k, err := mesh.ParseKey(s)
	if err != nil {
		m.add(path, "%s", notKey(s, err))
		return k
	}
	switch first, taken := m.keys[k.Canonical()]; {
	case taken && first.node == by.node:
		m.add(path, "is the public_key of this node already: write what `meshd key --next` prints on the host, or "+
			"delete the line once the node has changed its key")
	case taken:
		m.add(path, "is already the key of the node at line %d: each node needs a key of its own; run `meshd key` "+
			"on both hosts", m.lineOf(first.node, first.key))
	default:
		m.keys[k.Canonical()] = by
	}
	return k
}

// HasKey tells whether a key, which is valid, is one of the node's.
func (n Node) HasKey(k mesh.Key) bool {
	return n.PublicKey.IsValid() && n.PublicKey.Same(k) || n.NextKey.IsValid() && n.NextKey.Same(k)
}

// notKey says why a text is not a key. It does not repeat the text: somebody may have taken the private one.
func notKey(s string, err error) string {
	switch _, trimmed := mesh.ParseKey(strings.TrimSpace(s)); {
	case trimmed == nil:
		return "has a blank at its beginning or its end: delete it"
	case hexKey.MatchString(s):
		return "is in hexadecimal, and a key is in base64: write what `meshd key` prints"
	case errors.Is(err, mesh.ErrKeyZero):
		return err.Error() + ": write what `meshd key` prints on the host"
	}
	return err.Error() + ": write the whole line that `meshd key` prints on the host"
}

// calledAt reads the endpoint of a node.
func (m *meshCheck) calledAt(base string, raw rawTable) (a Address) {
	path, leaf := base+".endpoint", raw["endpoint"]
	switch _, isText := leaf.(string); {
	case leaf == nil || leaf == "":
	case m.config.Transport == TransportUDP && raw["address"] == nil:
		m.add(path, "is for transport = %q: did you mean \"address\"?", TransportWireGuard)
		m.excuse(base + ".address")
	case m.config.Transport == TransportUDP && raw["public_key"] == nil:
		m.add(path, "is for nodes with a public_key alone: delete it; a port of its own belongs behind the address")
	case !isText:
		m.add(path, "must be an address in quotes such as \"203.0.113.7:51821\", not %s", show(leaf))
	default:
		a, _ = m.endpoint(path, leaf, m.config.WireGuard.Port)
	}
	return a
}

// CallsIn tells whether a node has to call the others first, since they do not know where it is.
func (n Node) CallsIn() bool { return len(n.Addresses) == 0 && n.Endpoint == Address{} }

// places yields where others call the WireGuard of a node: its endpoint, or else its addresses.
func (n Node) places(port uint16) iter.Seq[Address] {
	return func(yield func(Address) bool) {
		if n.Endpoint != (Address{}) {
			yield(n.Endpoint)
			return
		}
		for _, a := range n.Addresses {
			if !yield(Address{a.Name, netip.AddrPortFrom(a.Addr(), port)}) {
				return
			}
		}
	}
}

// endpoints reports endpoints that are inside the mesh, and those at which another node is called. Several
// nodes behind one router have its address, with a port for each.
func (m *meshCheck) endpoints(nodes []Node) {
	called := map[Address]int{}
	for i, n := range nodes {
		if n.Endpoint != (Address{}) {
			continue
		}
		for a := range n.places(m.config.WireGuard.Port) {
			called[a] = i
		}
	}
	for i, n := range nodes {
		if n.Endpoint == (Address{}) {
			continue
		}
		path := nodePath(i) + ".endpoint"
		if n.Endpoint.Name == "" {
			m.inside(path, n.Endpoint.Addr())
		}
		if first, taken := called[n.Endpoint]; taken {
			m.add(path, "%s is already where the node at line %d is called: give each node a port of its own",
				n.Endpoint, m.lineAt(nodePath(first)))
			continue
		}
		called[n.Endpoint] = i
	}
}

// A wrongVia is a node whose via leads nowhere.
type wrongVia struct {
	node, by int // indexes; by is -1 if there is no such node
	why      viaFault
}

// viaFault is what is wrong with a via.
type viaFault int

const (
	viaUnknown viaFault = iota
	viaItself
	viaCycle
	viaKeyless  // no session with the node that forwards
	viaUncalled // nor is there one that two callers could begin
)

// wrongVias returns the nodes that others cannot reach by their via, in the order of the file. A cycle is
// there once, with its first node.
func wrongVias(nodes []Node) (wrong []wrongVia) {
	if !slices.ContainsFunc(nodes, func(n Node) bool { return n.Via != "" }) {
		return nil
	}
	index := make(map[string]int, len(nodes))
	for i := len(nodes) - 1; i >= 0; i-- { // of two nodes with one name, the first counts
		index[nodes[i].Name] = i
	}
	cycle, told := cyclesOf(nodes, index), map[int]bool{}
	for i, n := range nodes {
		if n.Via == "" {
			continue
		}
		by, known := index[n.Via]
		switch {
		case !known:
			wrong = append(wrong, wrongVia{i, -1, viaUnknown})
		case by == i:
			wrong = append(wrong, wrongVia{i, by, viaItself})
		case cycle[i] > 0:
			if !told[cycle[i]] {
				told[cycle[i]], wrong = true, append(wrong, wrongVia{i, by, viaCycle})
			}
		case !nodes[by].PublicKey.IsValid():
			wrong = append(wrong, wrongVia{i, by, viaKeyless})
		case nodes[by].CallsIn():
			wrong = append(wrong, wrongVia{i, by, viaUncalled})
		}
	}
	return wrong
}

// cyclesOf returns the number of the cycle that each node is part of, from 1; 0: of none. Each node is passed
// once, however many ways lead to it.
func cyclesOf(nodes []Node, index map[string]int) []int {
	cycle, walk := make([]int, len(nodes)), make([]int, len(nodes)) // walk: in which a node was passed, from 1
	for from := range nodes {
		at, ok := from, true
		for ok && walk[at] == 0 {
			walk[at] = from + 1
			at, ok = index[nodes[at].Via]
		}
		for ok && walk[at] == from+1 && cycle[at] == 0 { // this walk has come back to where it was
			cycle[at] = from + 1
			at = index[nodes[at].Via]
		}
	}
	return cycle
}

// vias reports what is wrong with the ways between nodes that call in. What follows from another fault is
// left out.
func (m *meshCheck) vias(nodes []Node, raw []rawTable) {
	for _, w := range wrongVias(nodes) {
		path, by := nodePath(w.node)+".via", nodes[w.node].Via
		switch w.why {
		case viaUnknown:
			m.add(path, "no node is named %q", by)
		case viaItself:
			m.add(path, "%q is this node itself: name the node that forwards for it", by)
		case viaCycle:
			m.add(path, "the via of %q leads back to this node: name a node that all others can call", by)
		case viaKeyless:
			if raw[w.by]["public_key"] == nil && !m.config.Sealed() {
				m.add(path, "%q has no public_key: give that node one at line %d", by, m.lineAt(nodePath(w.by)))
			}
		case viaUncalled:
			if raw[w.by]["address"] == nil && raw[w.by]["endpoint"] == nil && m.config.Sealed() {
				m.add(path, "%q has no address, so neither of the two can call the other: name a node with an address",
					by)
			}
		}
	}
}

// warnOfKeys tells of keys that are missing for encryption, and of settings that it makes void.
func (c *Config) warnOfKeys(r *report) {
	if c.Sealed() {
		if c.Dataplane.Engine == EngineKernel {
			r.add("dataplane.engine", "has no effect with transport = %q: WireGuard moves the packets, and the eBPF "+
				"programs are off", TransportWireGuard)
		}
		return
	}
	var without []int
	for i, n := range c.Nodes {
		if !n.PublicKey.IsValid() {
			without = append(without, i)
		}
	}
	if len(without) > 0 && len(without) < len(c.Nodes) {
		r.add(nodePath(without[0]), "%d of %d nodes have no public_key: %s; transport = %q needs one of every node",
			len(without), len(c.Nodes), c.someOf(without), TransportWireGuard)
	}
}

// warnOfVias tells of nodes that never meet, and of a via that is not needed.
func (c *Config) warnOfVias(r *report) {
	var lost, needless []int
	for i, n := range c.Nodes {
		switch {
		case n.CallsIn() && n.Via == "":
			lost = append(lost, i)
		case !n.CallsIn() && n.Via != "":
			needless = append(needless, i)
		}
	}
	if len(lost) > 1 {
		r.add(nodePath(lost[1]), "%d nodes have neither an address nor a via: %s; none of them can call another "+
			"one, so they never meet; give them via = NAME, a node with an address that forwards between them",
			len(lost), c.someOf(lost))
	}
	for n, i := range needless {
		if n == maxWarnings {
			r.add(nodePath(i)+".via", "and %d more nodes have a via and an address", len(needless)-n)
			break
		}
		r.add(nodePath(i)+".via", "has no effect: the others reach this node at its address; delete one of the two")
	}
}

// someOf lists the names of a few nodes.
func (c *Config) someOf(nodes []int) string {
	const enough = 5
	var names []string
	for _, i := range nodes[:min(len(nodes), enough)] {
		names = append(names, c.Nodes[i].Name)
	}
	if more := len(nodes) - enough; more > 0 {
		names = append(names, "and "+strconv.Itoa(more)+" more")
	}
	return strings.Join(names, ", ")
}

// PrivateKeyPath returns where a file, which may have faults elsewhere, says that the private key of a host
// is. Where it does not say so, that is the default. doc has at most MaxSize bytes.
func PrivateKeyPath(path string, doc []byte) string {
	r := &report{path: path, doc: string(doc)}
	raw := decode(context.Background(), r.doc, r)
	return r.section(raw, "wireguard").wireguard().PrivateKey
}
