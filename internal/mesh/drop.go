package mesh

// A Drop is why a packet went no further. The names are the label values of
// the contract and the same in logs, status and metrics.
type Drop uint8

// Reasons on the way out (TUN to wire), on the way in (wire to TUN), or both.
const (
	NoRoute          Drop = iota // out: no peer has the destination
	TooBig                       // out: larger than the path to the peer
	SendError                    // out: the socket refused it, full or without a route
	ForeignSource                // out: the inner source is not behind this node: a pod of ours lies
	UnknownSender                // in: the outer source is no listed node
	SpoofedSource                // in: the inner source is not behind the sending node
	WrongDestination             // in: the inner destination is not behind this node
	WriteError                   // in: the TUN refused it
	TTLExpired                   // both
	Malformed                    // both: no IP packet, a wrong length or checksum, or a forbidden ECN mark

	// Programs do not run while packets are encrypted, so what follows is counted in user space alone.

	NotEncrypted // out: it came to the engine, while packets must leave by WireGuard
	Cleartext    // in: a bare datagram of a node, while packets must come in by WireGuard

	NumDrops // how many there are
)

var dropNames = [NumDrops]string{
	NoRoute:          "no_route",
	TooBig:           "too_big",
	SendError:        "send_error",
	ForeignSource:    "foreign_source",
	UnknownSender:    "unknown_sender",
	SpoofedSource:    "spoofed_source",
	WrongDestination: "wrong_destination",
	WriteError:       "write_error",
	TTLExpired:       "ttl_expired",
	Malformed:        "malformed",
	NotEncrypted:     "not_encrypted",
	Cleartext:        "cleartext",
}

// String returns the reason's name as it stands in status and metrics.
func (d Drop) String() string { return dropNames[d] }

// Reasons returns every reason there is.
func Reasons() []Drop {
	all := make([]Drop, NumDrops)
	for i := range all {
		all[i] = Drop(i)
	}
	return all
}
