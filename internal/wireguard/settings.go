// Package wireguard keeps an interface of WireGuard as wanted: its keys, its port, its peers and what each
// of them may send. Kernel and user space (package user) are driven by the same calls of wgctrl. The
// package does no cryptography of its own, and keeps no state: Set compares with what there is.
//
//	Open     a Client of the kernel and of user space
//	Set      brings the interface, which exists, to Settings; sessions of peers that stay live on
//	Read     what is known of each peer: where it is, when it spoke, how much
//
// The order of a start is: make the interface, Open, Set. Calls may come at once from several goroutines,
// but two Sets of one interface would undo each other.
package wireguard

import (
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/mesh"
)

// Interface is the name of the interface. It stands beside the TUN.
const Interface = "meshd-wg"

// Settings is the wanted state of the interface.
type Settings struct {
	Interface string
	Private   Private
	Port      uint16 // UDP
	Peers     []Peer
}

// A Peer is one other node.
type Peer struct {
	Key mesh.Key
	// Endpoint is where the peer is called; the zero value: it calls in, and is answered where its
	// packets come from. Set writes it for a new peer, and for one whose endpoint is not known. Otherwise the
	// interface keeps the endpoint that it learned from packets of the peer: writing the file's would send a
	// peer that roams away from where it is.
	Endpoint netip.AddrPort
	// Call has Set write Endpoint where the interface has another one. It is for the moment when the wanted
	// endpoint changed, and for a peer that is down: it may have roamed to an address where it is not any
	// more, and both ends would wait for each other. Set has no memory, so the caller decides.
	Call      bool
	Allowed   []netip.Prefix // what it may send from, and what is sent to it; no prefix is in two peers
	Keepalive time.Duration  // whole seconds up to 65535 s; 0: none
}

// A Client speaks to an interface; *wgctrl.Client is one.
type Client interface {
	Device(name string) (*wgtypes.Device, error)
	ConfigureDevice(name string, c wgtypes.Config) error
	Close() error
}

// A State is what an interface tells.
type State struct {
	Public mesh.Key
	Port   uint16
	User   bool // it is in user space
	Peers  map[mesh.Key]PeerState
}

// A PeerState is what the interface knows of one peer.
type PeerState struct {
	Endpoint  netip.AddrPort // where the last authenticated packet came from, or what was set
	Handshake time.Time      // the last one; zero: there was none
	Received  uint64         // bytes of messages
	Sent      uint64
}

// A Private is a private key. Nothing prints it.
type Private struct{ key wgtypes.Key }

// IsValid tells whether there is a key.
func (p Private) IsValid() bool { return p.key != wgtypes.Key{} }

// Public returns the public key.
func (p Private) Public() mesh.Key { return mesh.Key(p.key.PublicKey()) }

// String implements fmt.Stringer, so that no log has the key.
func (Private) String() string { return "a private key" }

// GoString implements fmt.GoStringer.
func (Private) GoString() string { return "a private key" }
