package peers

import "net/netip"

// A Directive is what follows for the engines from all that is known of one peer. It is small
// and comparable, and telling an engine of it is cheap: one write into a BPF map, one pointer
// in user space. The zero value is for a peer of which nothing is known.
type Directive struct {
	// Finishes tells that the peer's meshd completes the checksums of what it receives, so that
	// packets may leave with the partial checksums that pods' TCP gives them. A peer that is
	// flannel does not.
	Finishes bool
	// OutByUser tells that packets to the peer have to leave by user space, because what programs send
	// does not reach it: its path drops UDP without a checksum, or the host's own policy, such as an
	// IPsec policy, is about the datagrams.
	OutByUser bool
	// InBySocket tells that what the peer sends has to come in by the socket, so that the host's own
	// rules (INPUT, raw, netdev ingress, inbound xfrm, rp_filter) decide about it: its probes, which
	// come by the socket, fail while its data comes by the programs.
	InBySocket bool
	// MTU is the size in bytes of the largest packets that reach the peer, without outer headers; 0: all
	// that the interface lets through.
	MTU int
	// Via is the address of the peer to which packets go; the zero value: the first that this host can
	// send to. One that the peer does not have any more counts as that, too.
	Via netip.AddrPort
	// Lagging tells that packets travel encrypted here, and the peer has not followed yet: its bare ones are
	// taken.
	Lagging bool
}
