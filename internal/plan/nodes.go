package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
)

// This file turns the addresses of the file, which may be names, into addresses of the underlay.
//
//	fixed    an IP address that the file lists
//	answer   what DNS says of a name; it may be anything
//
// An answer is used only where nothing is at risk: two nodes with one address would each be taken for the
// other, and an address inside the mesh would send the mesh's own datagrams through the mesh.

// A Name is what is known of a DNS name of the file.
type Name struct {
	Addrs []netip.Addr // of the last good answer, sorted; empty: there was none
	At    time.Time    // of that answer
	Cause string       // why the newest question has no answer; empty: it has one
}

// Nodes are the underlay addresses of all nodes of a file. They are never changed.
type Nodes struct {
	config     *config.Config
	of         [][]placed // by the node's index
	calls      [][]placed // its endpoint; nil: no node has one
	conditions [][]mesh.Condition
	names      map[string]Name
}

// placed is one address of a node.
type placed struct {
	mesh.Endpoint
	name string // that it comes from; empty: the file has the address itself
}

// Expand returns the addresses of all nodes of a file, with names as far as they are resolved.
func Expand(c *config.Config, names map[string]Name) *Nodes {
	n := &Nodes{config: c, names: names, of: make([][]placed, len(c.Nodes)),
		conditions: make([][]mesh.Condition, len(c.Nodes))}
	named := false
	for i, node := range c.Nodes {
		for _, a := range node.Addresses {
			if named = named || a.Name != ""; a.Name == "" {
				n.of[i] = append(n.of[i], placed{Endpoint: mesh.Endpoint{AddrPort: a.AddrPort}})
			}
		}
	}
	if named {
		n.resolve()
	}
	n.planEndpoints()
	return n
}

func endpointOf(ip netip.Addr, port uint16) mesh.Endpoint {
	return mesh.Endpoint{AddrPort: netip.AddrPortFrom(ip, port)}
}

// Usable returns what tells whether a name of a file may stand for an address, as far as the file alone says:
// not for one inside the mesh, nor for one that the file lists for another node.
func Usable(c *config.Config) func(name string, ip netip.Addr) bool {
	inside, owners, nodes := blocksOf(c), map[netip.Addr]int{}, map[string]int{}
	for i, n := range c.Nodes {
		for _, a := range n.Addresses {
			if nodes[a.Name] = i; a.Name == "" {
				owners[a.Addr()] = i
			}
		}
	}
	return func(name string, ip netip.Addr) bool {
		owner, has := owners[ip]
		node, known := nodes[name]
		_, within := inside.holding(ip)
		return config.NotUnderlay(ip) == "" && !within && !(has && known && owner != node)
	}
}

// resolve adds what names stand for. All fixed addresses are taken before the first name, and then the first
// node of the file comes first.
func (n *Nodes) resolve() {
	taken, inside := map[netip.Addr]int{}, blocksOf(n.config)
	for i := range n.of {
		for _, a := range n.of[i] {
			taken[a.Addr()] = i
		}
	}
	for i, node := range n.config.Nodes {
		fixed := n.of[i]
		n.of[i] = nil
		for j, a := range node.Addresses {
			if a.Name == "" {
				n.of[i], fixed = append(n.of[i], fixed[0]), fixed[1:]
				continue
			}
			var refused []string
			room := config.MaxAddresses - len(n.of[i]) - (len(node.Addresses) - j - 1) // one for each that follows
			for _, ip := range n.names[a.Name].Addrs {
				owner, has := taken[ip]
				says := config.NotUnderlay(ip)
				switch block, within := inside.holding(ip); {
				case has && owner == i:
				case says != "":
					refused = append(refused, ip.String()+" "+says)
				case within:
					refused = append(refused, fmt.Sprintf("%s is inside %s, which is behind the mesh", ip, block))
				case has:
					refused = append(refused, fmt.Sprintf("%s is an address of %s", ip, n.config.Nodes[owner].Name))
				case room > 0:
					taken[ip], room = i, room-1
					n.of[i] = append(n.of[i], placed{endpointOf(ip, a.Port()), a.Name})
				}
			}
			n.judge(i, a.Name, refused)
		}
	}
}

// judge notes what is wrong with a name of a node. Of a name that was never asked for nothing is wrong yet.
func (n *Nodes) judge(node int, name string, refused []string) {
	known, asked := n.names[name]
	c := mesh.Condition{Peer: n.config.Nodes[node].Name, Subject: name, Severity: mesh.Degraded}
	switch {
	case !asked:
		c.Kind, c.Severity, c.Cause = mesh.NameUnresolved, mesh.Info, "meshd is asking for it"
	case len(known.Addrs) == 0:
		c.Kind, c.Cause = mesh.NameUnresolved, known.Cause
		c.Remedy = fmt.Sprintf("mend DNS, or correct the name: `getent ahosts %s` asks for it; "+
			"or write the IP address in the file", name)
	case known.Cause != "":
		c.Kind, c.Severity = mesh.NameStale, mesh.Info
		c.Cause = fmt.Sprintf("%s; the answer in use is of %s", known.Cause, known.At.UTC().Format(time.RFC3339))
		c.Remedy = "mend DNS before the address changes"
	}
	if c.Kind != "" {
		n.conditions[node] = append(n.conditions[node], c)
	}
	if len(refused) > 0 {
		n.conditions[node] = append(n.conditions[node], mesh.Condition{Kind: mesh.NameUnusable,
			Severity: mesh.Degraded, Peer: n.config.Nodes[node].Name, Subject: name,
			Cause:  strings.Join(refused[:min(len(refused), 3)], ", "),
			Remedy: "correct the name's records in DNS, or write the IP address in the file"})
	}
}

// Conditions returns what is wrong with names, in the order of the file.
func (n *Nodes) Conditions() []mesh.Condition { return slices.Concat(n.conditions...) }

// Identify returns the index of the node that this host is: the one called name, or, without a name, the one
// that has a local address, or else the one that has this host's public key, own; the zero value is none.
// What DNS says counts only where neither a fixed address is local nor the key is a node's: an answer must
// not make this host another node. The error has ErrNotHere or ErrIdentity in it.
func (n *Nodes) Identify(name string, local []netip.Addr, own mesh.Key) (index int, err error) {
	here := make(map[netip.Addr]bool, len(local))
	for _, ip := range local {
		here[ip] = true
	}
	var fixed, resolved []int
	for i, node := range n.config.Nodes {
		is := func(a placed) bool { return here[a.Addr()] }
		isFixed := func(a placed) bool { return a.name == "" && is(a) }
		if name == node.Name || name == "" && slices.ContainsFunc(n.of[i], isFixed) {
			fixed = append(fixed, i)
		} else if name == "" && slices.ContainsFunc(n.of[i], is) {
			resolved = append(resolved, i)
		}
	}
	path := n.config.Path
	byKey, hasKey := withKey(n.config, own)
	switch {
	case len(fixed) == 1 && name == "":
		return n.agree(fixed[0], here, own)
	case len(fixed) == 1:
		return fixed[0], nil
	case len(fixed) > 1 && hasKey && slices.Contains(fixed, byKey):
		return byKey, nil
	case len(fixed) > 1:
		return 0, fmt.Errorf("%w: it has the addresses of %d nodes of %s: %s; "+
			"choose one with --node NAME; local addresses: %s",
			ErrIdentity, len(fixed), path, n.those(fixed, here), addresses(local))
	case name != "":
		return 0, fmt.Errorf("%w: no node of %s is named %q", ErrIdentity, path, name)
	case hasKey:
		return byKey, nil
	case len(resolved) == 1:
		return resolved[0], nil
	case len(resolved) > 1:
		return 0, fmt.Errorf("%w, and the names of %d nodes stand for addresses of it: %s; "+
			"choose one with --node NAME; local addresses: %s",
			ErrNotHere, len(resolved), n.those(resolved, here), addresses(local))
	}
	// No path: the file may be the last good one, which is not to be edited.
	key := ""
	if own.IsValid() {
		key = "; public key: " + own.String()
	}
	return 0, fmt.Errorf("%w: add this host to the file, or choose a node with --node NAME; "+
		"local addresses: %s%s%s", ErrNotHere, addresses(local), key, n.unresolved())
}

// unresolved tells of names without an address, one of which may be this host's.
func (n *Nodes) unresolved() string {
	var names []string
	for _, name := range Names(n.config) {
		if len(n.names[name].Addrs) == 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "; names without an address: " + some(names)
}

// those lists some nodes, with the first local address of each.
func (n *Nodes) those(nodes []int, here map[netip.Addr]bool) string {
	var words []string
	for _, i := range nodes {
		at := slices.IndexFunc(n.of[i], func(a placed) bool { return here[a.Addr()] })
		words = append(words, fmt.Sprintf("%s (%s)", n.config.Nodes[i].Name, n.of[i][at].Addr()))
	}
	return some(words)
}

// SeenFrom returns the nodes as node self with some local addresses sees them: no name of another node stands
// for this host, and the addresses of a name begin with those that this host can send to.
func (n *Nodes) SeenFrom(self int, local []netip.Addr) *Nodes {
	here, own := make(map[netip.Addr]bool, len(local)), map[bool]bool{} // families, true: IPv6
	for _, ip := range local {
		here[ip] = true
	}
	for _, a := range n.of[self] {
		if here[a.Addr()] {
			own[a.Addr().Is6()] = true
		}
	}
	seen := *n
	seen.of, seen.conditions = slices.Clone(n.of), slices.Clone(n.conditions)
	seen.conditions[self] = slices.Clone(n.conditions[self])
	for i := range seen.conditions[self] {
		if c := &seen.conditions[self][i]; c.Kind == mesh.NameUnresolved && len(own) > 0 {
			c.Severity = mesh.Info // this host knows where it is; the others tell whether they do
		}
	}
	for i := range seen.of {
		if !slices.ContainsFunc(seen.of[i], func(a placed) bool { return a.name != "" }) {
			continue
		}
		var kept []placed
		for _, a := range seen.of[i] {
			if i == self || a.name == "" || !here[a.Addr()] {
				kept = append(kept, a)
				continue
			}
			seen.conditions[i] = append(slices.Clip(seen.conditions[i]), mesh.Condition{Kind: mesh.NameUnusable,
				Severity: mesh.Degraded, Peer: n.config.Nodes[i].Name, Subject: a.name,
				Cause:  a.Addr().String() + " is an address of this host",
				Remedy: "correct the name's records in DNS, or write the IP address in the file"})
		}
		seen.of[i] = inOrder(kept, own)
	}
	seen.calls = slices.Clone(n.calls)
	for i := range seen.calls {
		seen.calls[i] = inOrder(slices.Clone(seen.calls[i]), own)
	}
	return &seen
}

// inOrder sorts the addresses of each name, and leaves the order of the file alone.
func inOrder(all []placed, own map[bool]bool) []placed {
	for from := 0; from < len(all); {
		to := from + 1
		for to < len(all) && all[from].name != "" && all[to].name == all[from].name {
			to++
		}
		slices.SortStableFunc(all[from:to], func(a, b placed) int {
			return cmp.Compare(rank(a.Addr(), own), rank(b.Addr(), own))
		})
		from = to
	}
	return all
}

// rank orders addresses of one name: a family that this host has first, then as RFC 6724, section 2.1, does:
// global IPv6 before IPv4 before local IPv6.
func rank(ip netip.Addr, own map[bool]bool) int {
	const otherFamily = 10
	r := 0
	switch {
	case ip.Is4():
		r = 1
	case ip.IsPrivate(): // fc00::/7
		r = 2
	}
	if !own[ip.Is6()] {
		r += otherFamily
	}
	return r
}

// endpoints returns the addresses of a node.
func (n *Nodes) endpoints(node int) (all []mesh.Endpoint) {
	for _, a := range n.of[node] {
		all = append(all, a.Endpoint)
	}
	return all
}

// blocks are the prefixes behind the mesh, for questions about single addresses: the cost of one grows with
// the lengths in use, and not with the number of prefixes.
type blocks struct {
	all     map[netip.Prefix]bool
	lengths map[bool][]int // by family, true: IPv6
}

// blocksOf returns the prefixes of a file. All subnets are inside the network's.
func blocksOf(c *config.Config) blocks {
	b := blocks{all: map[netip.Prefix]bool{}, lengths: map[bool][]int{}}
	add := func(p netip.Prefix) {
		b.all[p] = true
		if v6 := p.Addr().Is6(); !slices.Contains(b.lengths[v6], p.Bits()) {
			b.lengths[v6] = append(b.lengths[v6], p.Bits())
		}
	}
	for _, p := range c.Network.CIDR {
		add(p)
	}
	for _, n := range c.Nodes {
		for _, r := range n.Routes {
			add(r.Prefix)
		}
	}
	return b
}

// holding returns a prefix that contains an address; ok is false if none does.
func (b blocks) holding(ip netip.Addr) (p netip.Prefix, ok bool) {
	for _, bits := range b.lengths[ip.Is6()] {
		if p, err := ip.Prefix(bits); err == nil && b.all[p] {
			return p, true
		}
	}
	return netip.Prefix{}, false
}
