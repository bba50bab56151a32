package control

import "time"

// Stranger is who sent packets that this node does not accept. All of it is as the packets say, so all of
// it may be forged.
type Stranger struct {
	Address          string    `json:"address"`           // outer source IP
	Reason           string    `json:"reason"`            // of the drops: "unknown_sender"
	Peer             string    `json:"peer"`              // the node with that address; empty if no node has it
	InnerSource      string    `json:"inner_source"`      // of the last packet; empty if that was no IP packet
	InnerDestination string    `json:"inner_destination"` // likewise
	Packets          uint64    `json:"packets"`           // since the stranger is remembered
	Last             time.Time `json:"last"`              // when the last packet came
}

// SendError is this host's own error when it sent to a peer.
type SendError struct {
	Error   string    `json:"error"` // in words: "operation not permitted"
	Errno   int       `json:"errno"` // as a number of errno(3): 1
	Packets uint64    `json:"packets"`
	Last    time.Time `json:"last"`
}

// ICMPError is what an ICMP error said about datagrams to a peer. It may be forged.
type ICMPError struct {
	Means   string    `json:"means"`   // "port_unreachable", "host_unreachable", "prohibited", "routing_loop"
	From    string    `json:"from"`    // who said so; empty if the kernel did not tell
	Packets uint64    `json:"packets"` // ICMP errors so far, whatever they meant
	Last    time.Time `json:"last"`
}
