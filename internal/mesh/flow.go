package mesh

import "net/netip"

// A Flow is the inner packets between two addresses, and two ports where their protocol has some, in both
// directions. It is seen from this node: Local is a pod of this host, or this node itself.
type Flow struct {
	Peer          string // the node behind which Remote is
	Local, Remote netip.Addr
	LocalPort     uint16 // 0: the protocol has none, or the packets are fragments
	RemotePort    uint16
	Protocol      uint8 // of the inner IP header (IANA, Protocol Numbers)
}

// FlowCount is what was counted for a flow, since counting began or the flow came into the table. A
// superpacket counts as the packets that it stands for, with headers for each, as in Traffic.
type FlowCount struct {
	RxPackets, RxBytes, TxPackets, TxBytes uint64
}

// Add sums other into c.
func (c *FlowCount) Add(other FlowCount) {
	c.RxPackets += other.RxPackets
	c.RxBytes += other.RxBytes
	c.TxPackets += other.TxPackets
	c.TxBytes += other.TxBytes
}

// Since returns what was counted after an earlier reading. A flow that has left the table meanwhile and come
// again begins at zero: then all of it is new.
func (c FlowCount) Since(before FlowCount) FlowCount {
	if c.RxPackets < before.RxPackets || c.RxBytes < before.RxBytes ||
		c.TxPackets < before.TxPackets || c.TxBytes < before.TxBytes {
		return c
	}
	return FlowCount{c.RxPackets - before.RxPackets, c.RxBytes - before.RxBytes,
		c.TxPackets - before.TxPackets, c.TxBytes - before.TxBytes}
}

// Bytes returns those of both directions.
func (c FlowCount) Bytes() uint64 { return c.RxBytes + c.TxBytes }
