package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/wireguard"
)

// This file knows this host by its key: where neither --node nor an address says which node it is, and where
// the host and a file that asks for encryption have to agree.

// An OwnKey is what is known of the key of this host.
type OwnKey struct {
	Key mesh.Key // the public one; the zero value: this host has none
	// KeyErr is why it has none, and KeyRemedy what an operator can do. Both are empty, too, if nobody has
	// looked, since the file lists no keys.
	KeyErr    error
	KeyRemedy string
	// KeyExposed is the private key of this host that stands in the place of a public one, in a file that
	// everybody reads; the zero value: none does. Then the key has to be replaced, and KeyRemedy says how.
	KeyExposed mesh.Key
	// KeyNext is the key that the host is about to take, and KeyBefore the one that it had before. Whoever
	// looks reads them where the file lists Key for no node: one of them may be what the file is about.
	KeyNext, KeyBefore mesh.Key
}

// ErrKey says that another private key on this host would mend a fault of the file; test with errors.Is.
var ErrKey = errors.New("this host has not the key that the file lists")

// A keyFault is a fault of the file that is ErrKey as well, and reads as the fault alone.
type keyFault struct{ error }

func (f keyFault) Unwrap() error        { return f.error }
func (f keyFault) Is(target error) bool { return target == ErrKey }

// withKey returns the index of the node that has a public key, or is about to take it; ok is false if none
// has, or there is no key.
func withKey(c *config.Config, own mesh.Key) (index int, ok bool) {
	if !own.IsValid() {
		return 0, false
	}
	index = slices.IndexFunc(c.Nodes, func(n config.Node) bool { return n.HasKey(own) })
	return index, index >= 0
}

// agree returns the node that this host is by an address of its own, unless the key says that it is another.
// Without encryption keys have no effect, and so are no reason to stop.
func (n *Nodes) agree(byAddress int, here map[netip.Addr]bool, own mesh.Key) (index int, err error) {
	byKey, ok := withKey(n.config, own)
	if !ok || byKey == byAddress || !n.config.NeedsKey() {
		return byAddress, nil
	}
	a := n.config.Nodes[byAddress]
	return 0, fmt.Errorf("%w: it has the address of %s and the key of %s, %s; the public_key of %s is %s: "+
		"correct the file, or move the private key away and run `meshd key` if this host is a copy of another",
		ErrIdentity, n.those([]int{byAddress}, here), n.config.Nodes[byKey].Name, own, a.Name, keyOf(a))
}

// keyOf names the public key of a node, for messages.
func keyOf(n config.Node) string {
	if !n.PublicKey.IsValid() {
		return "none"
	}
	return n.PublicKey.String()
}

// KeyFault returns what is wrong with the key of this host, which is node self of a file that asks for
// encryption: config.Faults with the place of the node's public_key; nil if it is the node's, or the one that
// the node is about to take.
func KeyFault(c *config.Config, self int, own OwnKey) error {
	if !c.NeedsKey() {
		return nil
	}
	return wrongKey(c, self, own)
}

// wrongKey is KeyFault whatever the transport.
func wrongKey(c *config.Config, self int, own OwnKey) error {
	node := c.Nodes[self]
	path := fmt.Sprintf("node[%d].public_key", self)
	switch {
	case own.KeyExposed.IsValid():
		return c.Fault(placeOf(c, own.KeyExposed), "is a private key of this host, which everybody who has the "+
			"file can read: %s", own.KeyRemedy)
	case own.KeyErr != nil:
		return c.Fault(path, "this host, %s, has no key that it can use: %v: %s", node.Name, own.KeyErr,
			own.KeyRemedy)
	case !node.HasKey(own.Key):
		return c.Fault(path, "this host has another key: its public key is %s, and that of %s in the file is %s: "+
			"%s", own.Key, node.Name, keyOf(node), another(c, node, own))
	}
	return nil
}

// another returns what an operator can do where the file lists another key for a node than the host has.
func another(c *config.Config, node config.Node, own OwnKey) string {
	path := c.WireGuard.PrivateKey
	switch {
	case node.HasKey(own.KeyNext):
		return "run `meshd key --activate`, which takes that key, or correct the file"
	case node.HasKey(own.KeyBefore): // the file was rolled back after the host had taken its next key
		return fmt.Sprintf("run `mv %s %s && mv %s %s`, which takes the key before again, or correct the file",
			path, wireguard.NextPath(path), wireguard.OldPath(path), path)
	}
	return "correct the file, or choose the right node with --node NAME"
}

// placeOf returns where a key stands in the file, which has it once.
func placeOf(c *config.Config, key mesh.Key) string {
	i := slices.IndexFunc(c.Nodes, func(n config.Node) bool { return n.HasKey(key) })
	if c.Nodes[i].NextKey == key {
		return fmt.Sprintf("node[%d].next_public_key", i)
	}
	return fmt.Sprintf("node[%d].public_key", i)
}

// Keyless returns the error of a host that has neither an address of a node nor the key of one, where the
// file asks for encryption: it says what to do where the host has the key of a node aside, and that no time
// mends it where the host has none. err is what Identify says; other errors stay as they are.
func Keyless(c *config.Config, own OwnKey, err error) error {
	if !c.NeedsKey() || !errors.Is(err, ErrNotHere) {
		return err
	}
	for _, key := range []mesh.Key{own.KeyNext, own.KeyBefore} {
		if i, ok := withKey(c, key); ok {
			return fmt.Errorf("%w; it has the key of %s aside: %s", err, c.Nodes[i].Name, another(c, c.Nodes[i], own))
		}
	}
	if own.KeyErr == nil {
		return err
	}
	return fmt.Errorf("%w: no address of it is one of a node, and it has no key: %w", ErrIdentity,
		c.Fault("wireguard.private_key", "%v: %s", own.KeyErr, own.KeyRemedy))
}
