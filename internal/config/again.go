package config

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"example.org/meshd/internal/mesh"
)

// A file of 10,000 nodes takes 80 ms to parse, and most edits change one node. So a file is
// compared with the one before, and only the text that differs is parsed:
//
//	before   head | [[node]] ... | tail      both files share the bytes of head and tail
//	now      head | [[node]] ... | tail
//
// Head ends and tail begins at the header of a [[node]] table of the file before. At a header
// TOML forgets all that came before it but the names of tables, so the text between the two can
// be read alone if it consists of [[node]] tables and nothing else. Whatever is not as simple,
// and every fault, is left to Parse: it alone decides what is wrong and where.

// Bounds of what is worth comparing. Each changed node is compared with all others.
const (
	mostChanged  = 16 // nodes in the text that differs
	mostPrefixes = 64 // subnets and routes of these nodes
)

// editable is what ParseAfter has to know of a file besides its values.
type editable struct {
	starts       []int   // byte offset of each node's [[node]]; empty if one has none
	keys, values int     // at most as many are in the file, as the gate counts them
	sum          nodeSum // of all nodes
}

// editableOf returns it for a file that was parsed whole.
func editableOf(nodes []Node, f found) editable {
	e := editable{keys: f.keys, values: f.values}
	if len(f.starts) == len(nodes) { // not node = [{...}]
		e.starts = f.starts
	}
	e.sum.add(nodes)
	return e
}

// ParseAfter is Parse for a file of which an earlier content was parsed as old, which may be nil
// and is not changed. It returns exactly what Parse returns, and takes a few milliseconds if few nodes
// differ from those of old.
func ParseAfter(old *Config, path string, doc []byte) (*Config, error) {
	if c := old.edited(path, string(doc)); c != nil {
		c.Sum, c.Meaning = sha256.Sum256(doc), meaningOf(c)
		return c, nil
	}
	return Parse(path, doc)
}

// edited returns the Config of a text that differs from c's in a few nodes, without its hashes; nil
// if Parse has to look at all of it.
func (c *Config) edited(path, doc string) *Config {
	if c == nil || c.Path != path || len(c.edit.starts) == 0 || strings.Count(doc, "\n") > maxLines {
		return nil
	}
	next := *c
	if doc == c.doc {
		return &next
	}
	first, behind, end := c.difference(doc)
	if first < 0 || behind-first > mostChanged {
		return nil
	}
	// What went may have been more than nodes, too: settings between them, or behind the last.
	gone := &report{doc: c.doc[c.edit.starts[first] : end+len(c.doc)-len(doc)]}
	if _, _, ok := admit(context.Background(), gone.doc, gone); !ok || !gone.onlyNodes {
		return nil
	}
	r := &report{path: path, doc: doc[c.edit.starts[first]:end]}
	changed := r.nodeTables(c)
	// Too many: those that went count, too.
	next.edit.keys, next.edit.values = c.edit.keys+r.keys, c.edit.values+r.values
	if r.count > 0 || next.edit.keys > maxKeys || next.edit.values > maxValues {
		return nil
	}
	if !fitTogether(c.WireGuard.Port, changed, c.Nodes[:first], c.Nodes[behind:]) {
		return nil
	}
	next.Nodes = slices.Concat(c.Nodes[:first], changed, c.Nodes[behind:])
	if len(next.Nodes) == 0 || len(wrongVias(next.Nodes)) > 0 || !allowsFit(c.Allow, next.Nodes) {
		return nil
	}
	next.edit.sum.remove(c.Nodes[first:behind])
	next.edit.sum.add(changed)
	next.doc = doc
	next.edit.starts = slices.Clone(c.edit.starts[:first])
	for _, at := range r.starts {
		next.edit.starts = append(next.edit.starts, c.edit.starts[first]+at)
	}
	for _, at := range c.edit.starts[behind:] {
		next.edit.starts = append(next.edit.starts, at+len(doc)-len(c.doc))
	}
	return &next
}

// difference compares doc with c's text. The nodes first to behind-1 of c are those whose text
// differs; in doc, that text begins where it did and ends at the offset end. first is -1 if the
// texts differ before the first node, or are equal there.
func (c *Config) difference(doc string) (first, behind, end int) {
	head := sharedPrefix(c.doc, doc)
	tail := sharedSuffix(c.doc[head:], doc[head:])
	// The header itself must be shared, and so must its first byte behind a byte order mark.
	first, _ = slices.BinarySearch(c.edit.starts, head)
	if first--; first < 0 {
		return -1, 0, 0
	}
	behind, _ = slices.BinarySearch(c.edit.starts, len(c.doc)-tail)
	for ; behind < len(c.edit.starts); behind++ {
		// A header must begin its line, whatever the text before it is now.
		end = c.edit.starts[behind] + len(doc) - len(c.doc)
		if doc[end-1] == '\n' {
			return first, behind, end
		}
	}
	return first, behind, len(doc)
}

// sharedPrefix returns how many bytes at the beginning of two texts are equal.
func sharedPrefix(a, b string) int {
	const block = 4096 // compared by machine words
	n, most := 0, min(len(a), len(b))
	for n+block <= most && a[n:n+block] == b[n:n+block] {
		n += block
	}
	for n < most && a[n] == b[n] {
		n++
	}
	return n
}

// sharedSuffix returns how many bytes at the end of two texts are equal.
func sharedSuffix(a, b string) int {
	const block = 4096
	n, most := 0, min(len(a), len(b))
	for n+block <= most && a[len(a)-n-block:len(a)-n] == b[len(b)-n-block:len(b)-n] {
		n += block
	}
	for n < most && a[len(a)-n-1] == b[len(b)-n-1] {
		n++
	}
	return n
}

// nodeTables reads r's document, which must consist of [[node]] tables alone; everything else is
// a problem. Of other documents it returns nil without reading them in full. c has the settings.
func (r *report) nodeTables(c *Config) []Node {
	if r.doc == "" {
		return nil
	}
	admitted, stuck, ok := admit(context.Background(), r.doc, r)
	if !ok || stuck >= 0 || r.count > 0 || !r.onlyNodes || len(r.starts) > mostChanged {
		r.count++
		return nil
	}
	var tree rawTable
	if _, err := toml.Decode(admitted, &tree); err != nil {
		r.count++
		return nil
	}
	raw, ok := tables(tree[nodeKey])
	if !ok || len(tree) != 1 || len(raw) != len(r.starts) {
		r.count++
		return nil
	}
	return r.nodes(context.Background(), raw, c, true)
}

// fitTogether reports whether a file may have some nodes, which fit among themselves, beside
// others: no name, address, key or subnet is used twice, and no node is inside the mesh. port is
// that of WireGuard.
func fitTogether(port uint16, some []Node, others ...[]Node) bool {
	names, addresses := map[string]bool{}, map[Address]bool{}
	keys, called := map[mesh.Key]bool{{}: false}, map[Address]bool{}
	var subnets, inside []netip.Prefix
	for _, n := range some {
		names[n.Name], keys[n.PublicKey.Canonical()] = true, n.PublicKey.IsValid()
		if n.NextKey.IsValid() {
			keys[n.NextKey.Canonical()] = true
		}
		for a := range n.places(port) {
			called[a] = true
		}
		for _, a := range n.Addresses {
			addresses[a.anyPort()] = true
		}
		subnets, inside = append(subnets, n.Subnets...), slices.Concat(inside, n.Subnets, n.Prefixes())
	}
	if len(inside) > mostPrefixes {
		return false
	}
	for _, o := range slices.Concat(others...) {
		if names[o.Name] || keys[o.PublicKey.Canonical()] || keys[o.NextKey.Canonical()] {
			return false
		}
		for a := range o.places(port) {
			if called[a] {
				return false
			}
		}
		contains := func(p netip.Prefix) bool { return p.Contains(o.Endpoint.Addr()) }
		if slices.ContainsFunc(inside, contains) {
			return false
		}
		for _, a := range o.Addresses {
			contains := func(p netip.Prefix) bool { return p.Contains(a.Addr()) }
			if addresses[a.anyPort()] || slices.ContainsFunc(inside, contains) {
				return false
			}
		}
		for _, p := range o.Subnets {
			if slices.ContainsFunc(subnets, p.Overlaps) || holdsAny(p, some) {
				return false
			}
		}
		for _, r := range o.Routes {
			if holdsAny(r.Prefix, some) {
				return false
			}
		}
	}
	return true
}

// holdsAny reports whether a prefix contains an underlay address of a node.
func holdsAny(p netip.Prefix, nodes []Node) bool {
	return slices.ContainsFunc(nodes, func(n Node) bool {
		return p.Contains(n.Endpoint.Addr()) ||
			slices.ContainsFunc(n.Addresses, func(a Address) bool { return p.Contains(a.Addr()) })
	})
}
