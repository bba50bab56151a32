package mesh

import (
	"cmp"
	"strings"
)

// An Op is what happened to the subject of a Change. Its value is the sign that people see.
type Op string

// The operations.
const (
	Added    Op = "+"
	Removed  Op = "-"
	Replaced Op = "~"
	Repaired Op = "*" // the kernel's state had been changed by somebody else, and was restored
)

// A ChangeKind names what a Change is about. The words are part of the API.
type ChangeKind string

// The kinds of changes, in the order in which changes are listed.
const (
	ChangedIdentity   ChangeKind = "identity"        // which node this host is
	ChangedPeer       ChangeKind = "peer"            // a node, or one field of it
	ChangedPort       ChangeKind = "port"            // where meshd listens
	ChangedInterface  ChangeKind = "interface"       // the TUN itself
	ChangedMTU        ChangeKind = "mtu"             // of the TUN, bytes
	ChangedAddress    ChangeKind = "address"         // of the TUN
	ChangedRoute      ChangeKind = "route"           // through the TUN
	ChangedUnderlay   ChangeKind = "underlay"        // how this host reaches a peer
	ChangedMasquerade ChangeKind = "masquerade rule" // nftables rules for source addresses
	ChangedAccept     ChangeKind = "accept rule"     // nftables rules for forwarded packets
	ChangedAllow      ChangeKind = "allow rule"      // who may reach whom
	ChangedSetting    ChangeKind = "setting"         // a key of the file without kernel state of its own
	ChangedLoops      ChangeKind = "packet loop"     // of the user engine
)

// A Change is one difference between two plans, or between a plan and the kernel.
type Change struct {
	Op       Op
	Kind     ChangeKind
	Subject  string // a peer's name, a prefix, a key of the file
	Field    string // of the subject, if the change is about one field; may be empty
	Old, New string // values, for people to read; empty where there is none
}

// FieldAddress is the field of a ChangedPeer that says where a node listens. Without a new file it changes
// only because a DNS name has another address.
const FieldAddress = "address"

// phrases are how a change of a kind is introduced, where the kind's own word is not used.
var phrases = map[ChangeKind]string{
	ChangedIdentity:   "this node",
	ChangedPort:       "listening on",
	ChangedMasquerade: "masquerade", // the field says what of it
	ChangedAccept:     "accept",
}

// String returns the line that `meshd plan` prints, such as "+ peer edge-4 10.244.4.0/24" or
// "~ mtu 1472 -> 1400".
func (c Change) String() string {
	words := []string{string(c.Op)}
	if c.Kind != ChangedSetting {
		words = append(words, cmp.Or(phrases[c.Kind], string(c.Kind)))
	}
	for _, w := range []string{c.Subject, c.Field, c.Old} {
		if w != "" {
			words = append(words, w)
		}
	}
	if c.Old != "" && c.New != "" {
		words = append(words, "->")
	}
	if c.New != "" {
		words = append(words, c.New)
	}
	return strings.Join(words, " ")
}
