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
	return &control.WireGuard{Implementation: t.Implementation, Interface: t.Interface, Port: int(t.Port),
		PublicKey: t.Public.String(), NextPublicKey: t.Next.String(), MTU: t.MTU}
}

// PeerWireGuard tells what WireGuard knows of a peer; nil while nothing has to be encrypted.
func PeerWireGuard(t seal.Told, peer string) *control.PeerWireGuard {
	p, known := t.Peers[peer]
	if !known {
		return nil
	}
	w := &control.PeerWireGuard{PublicKey: p.Public.String(), NextPublicKey: p.Next.String(), Roamed: p.Roamed,
		RxBytes: p.Received, TxBytes: p.Sent, Path: control.PathDirect}
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
