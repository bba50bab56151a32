package words

import (
	"fmt"
	"time"

	"example.org/meshd/internal/control"
)

// Traffic says how much the node has moved. While packets are encrypted, only the bytes of messages are
// counted.
func Traffic(s control.Status) string {
	t := s.Totals
	if t.RxPackets != nil && t.TxPackets != nil && t.RxBytes != nil && t.TxBytes != nil {
		return fmt.Sprintf("rx %d packets, %s  tx %d packets, %s", *t.RxPackets, Size(*t.RxBytes),
			*t.TxPackets, Size(*t.TxBytes))
	}
	rx, tx := Messages(s)
	return fmt.Sprintf("rx %s  tx %s, encrypted", Size(rx), Size(tx))
}

// Messages returns the bytes of WireGuard's messages of all peers together.
func Messages(s control.Status) (rx, tx uint64) {
	for _, p := range s.Peers {
		if p.WireGuard != nil {
			rx, tx = rx+p.WireGuard.RxBytes, tx+p.WireGuard.TxBytes
		}
	}
	return rx, tx
}

// WireGuard says who encrypts, and where: "kernel  meshd-wg mtu 1440  UDP 51820  key xTIB…Dg=". A node that
// is prepared sends in the clear, which is said as well.
func WireGuard(w control.WireGuard) string {
	by, prepared := w.Implementation, w.State == control.WireGuardPrepared
	switch {
	case by == "" && prepared:
		by = "none"
	case by == "":
		by = "none: nothing leaves"
	case by == control.WireGuardUser:
		by = "user space"
	}
	text := fmt.Sprintf("%s  %s mtu %d  UDP %d  key %s", by, w.Interface, w.MTU, w.Port,
		keys(w.PublicKey, w.NextPublicKey))
	if prepared {
		return "prepared, packets leave in the clear  " + text
	}
	return text
}

// keys says which key a node uses, and how far it is with changing it.
func keys(used, next string) string {
	switch next {
	case "":
		return used
	case used:
		return used + " (the next one: write it as public_key)"
	}
	return used + " (the next one is listed)"
}

// Encrypted says how packets to and from a peer are kept secret, at a time of the daemon's clock.
func Encrypted(p control.Peer, now time.Time) string {
	w := p.WireGuard
	if w == nil {
		return "no"
	}
	text := "no handshake yet"
	if w.LatestHandshake != nil {
		text = fmt.Sprintf("handshake %s ago", Age(now.Sub(*w.LatestHandshake)))
	}
	switch {
	case w.Path != control.PathDirect:
		text += "  " + w.Path
	case w.Endpoint == "":
		text += "  it has not called yet"
	case w.Roamed:
		text += "  at " + w.Endpoint + ", which is not in the file"
	default:
		text += "  at " + w.Endpoint
	}
	return fmt.Sprintf("%s%s  rx %s  tx %s  key %s", onTheWay[w.State], text, Size(w.RxBytes), Size(w.TxBytes),
		keys(w.PublicKey, w.NextPublicKey))
}

// onTheWay says how far a mesh has come that goes over to encryption, by the state of a peer.
var onTheWay = map[string]string{
	control.WireGuardWaiting: "no, not ready  ",
	control.WireGuardReady:   "no, ready  ",
	control.WireGuardLagging: "from here, and it still sends in the clear  ",
}
