package words

import (
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/seal"
)

// WireGuard tells about the interface that encrypts; nil while nothing has to be encrypted.
func WireGuard(t seal.Told) *control.WireGuard {
	if t.Interface == "" {
		return nil
	}
	w := &control.WireGuard{Implementation: t.Implementation, Interface: t.Interface, Port: int(t.Port),
		PublicKey: t.Public.String(), NextPublicKey: t.Next.String(), MTU: t.MTU, State: control.WireGuardSealed}
	if t.Prepared {
		w.State = control.WireGuardPrepared
	}
	return w
}

// PeerWireGuard tells what WireGuard knows of a peer; nil while nothing has to be encrypted.
func PeerWireGuard(t seal.Told, peer string, now time.Time) *control.PeerWireGuard {
	p, known := t.Peers[peer]
	if !known {
		return nil
	}
	w := &control.PeerWireGuard{PublicKey: p.Public.String(), NextPublicKey: p.Next.String(), Roamed: p.Roamed,
		RxBytes: p.Received, TxBytes: p.Sent, Path: control.PathDirect, State: stateOf(t, peer, now)}
	if p.Relay != "" {
		w.Path = "via " + p.Relay
	}
	if p.Endpoint.IsValid() {
		w.Endpoint = p.Endpoint.String()
	}
	if !p.Handshake.IsZero() {
		at := p.Handshake.Round(time.Millisecond)
		w.LatestHandshake = &at
	}
	return w
}

// stateOf returns how far a peer has come on the way to encryption.
func stateOf(t seal.Told, peer string, now time.Time) string {
	switch {
	case t.Prepared && t.Ready(peer, now):
		return control.WireGuardReady
	case t.Prepared:
		return control.WireGuardWaiting
	case t.Peers[peer].Lagging:
		return control.WireGuardLagging
	}
	return control.WireGuardSealed
}
