package control

import "time"

// SessionLasts is how long a session of WireGuard is of use after its handshake (REJECT_AFTER_TIME of the
// WireGuard paper, section 6.1). Without packets there is none, which is no fault.
const SessionLasts = 180 * time.Second

// Implementations of WireGuard.
const (
	WireGuardKernel = "kernel"
	WireGuardUser   = "user"
)

// How far a node or a peer has come on the way to encryption.
const (
	WireGuardPrepared = "prepared" // of this node: packets leave bare, and would be taken encrypted
	WireGuardWaiting  = "waiting"  // of a peer, while prepared: no handshake for SessionLasts
	WireGuardReady    = "ready"    // of a peer, while prepared: packets to it could be encrypted
	WireGuardLagging  = "lagging"  // of a peer: it still sends bare packets, which are taken for a while
	WireGuardSealed   = "sealed"   // no packet leaves bare, and none is taken
)

// WireGuard tells about the interface that encrypts.
type WireGuard struct {
	Implementation string `json:"implementation"` // WireGuardKernel, WireGuardUser; empty: there is neither
	Interface      string `json:"interface"`
	Port           int    `json:"port"`       // UDP, of this node
	PublicKey      string `json:"public_key"` // of this node, base64: the one in use
	// NextPublicKey is next_public_key of this node in the file; empty: it has none. If it is PublicKey, the
	// node has taken it.
	NextPublicKey string `json:"next_public_key"`
	MTU           int    `json:"mtu"`   // bytes of inner packets
	State         string `json:"state"` // WireGuardPrepared, WireGuardSealed
}

// PathDirect is PeerWireGuard.Path where no other node forwards; else it is "via NAME".
const PathDirect = "direct"

// PeerWireGuard is what WireGuard knows of a peer.
type PeerWireGuard struct {
	PublicKey string `json:"public_key"` // base64: the one in use
	// NextPublicKey is next_public_key of the peer in the file; empty: it has none. If it is PublicKey, the
	// peer has taken it.
	NextPublicKey string `json:"next_public_key"`
	// Endpoint is the underlay IP:port where the peer is answered; empty: it has not called yet, or another
	// node forwards. Roamed tells that the file does not have it.
	Endpoint        string     `json:"endpoint"`
	Roamed          bool       `json:"roamed"`
	LatestHandshake *time.Time `json:"latest_handshake"` // null: there was none
	RxBytes         uint64     `json:"rx_bytes"`         // of messages, with what encryption adds
	TxBytes         uint64     `json:"tx_bytes"`
	Path            string     `json:"path"` // PathDirect, "via NAME"
	// State is WireGuardWaiting, WireGuardReady, WireGuardLagging or WireGuardSealed.
	State string `json:"state"`
}

// InSession tells whether packets can pass now: the last handshake is not too old. now is the daemon's time.
func (w *PeerWireGuard) InSession(now time.Time) bool {
	return w.LatestHandshake != nil && now.Sub(*w.LatestHandshake) < SessionLasts
}
