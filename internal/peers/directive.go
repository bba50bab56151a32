package peers

// A Directive is what follows for the engines from all that is known of one peer. It is small
// and comparable, and telling an engine of it is cheap: one write into a BPF map, one pointer
// in user space. The zero value is for a peer of which nothing is known.
type Directive struct {
	// Finishes tells that the peer's meshd completes the checksums of what it receives, so that
	// packets may leave with the partial checksums that pods' TCP gives them. A peer that is
	// flannel does not.
	Finishes bool
}
