package mesh

import (
	"slices"
	"time"
)

// A Severity is how much a condition matters. Greater is worse.
type Severity uint8

// The severities. Info never changes the health of a node.
const (
	Info     Severity = iota // worth knowing
	Degraded                 // something works worse than it should, or may fail later
	Failed                   // something that this node is for does not work
)

// String returns the word of the API: "info", "degraded", "failed".
func (s Severity) String() string { return [...]string{"info", "degraded", "failed"}[s] }

// A Kind names what a condition is about. The words are part of the API: programs decide by
// them, so a kind keeps its word.
type Kind string

// The kinds, by what they are about.
const (
	// The node as a whole.
	Starting      Kind = "starting"       // the daemon has not planned anything yet
	WaitingForUs  Kind = "no_address"     // no node of the file has an address of this host yet
	HostMismatch  Kind = "host_mismatch"  // this host does not fit the plan in force any more
	CannotApply   Kind = "cannot_apply"   // the host refuses the plan; meshd tries again
	ReloadPending Kind = "reload_pending" // a good file waits for the host to be ready for it
	Maintenance   Kind = "maintenance"    // this node is in maintenance, and wants no new traffic

	// The file.
	FileRejected  Kind = "file_rejected"  // the file on disk has faults, the one before stays in force
	FileUnwatched Kind = "file_unwatched" // the kernel does not tell when the file changes
	FileUnread    Kind = "file_unread"    // the file cannot be read at the moment; meshd tries again
	FileDetached  Kind = "file_detached"  // a mount shows a file that was replaced: no edit arrives
	FileElsewhere Kind = "file_elsewhere" // others can change the file without this kernel's notice
	LastGoodFile  Kind = "last_good_file" // the file at the start was bad, the last good one is in force
	// ChangePending, ChangeTakenBack and FileBehind are about what was applied in the place of the file.
	ChangePending   Kind = "change_pending"    // a change is taken back unless it is confirmed in time
	ChangeTakenBack Kind = "change_taken_back" // it was: the text before is in force
	FileBehind      Kind = "file_behind"       // the file in force was applied, and is not on disk

	StateFailed Kind = "state_failed" // the file in force cannot be kept for a bad day

	// What the file asks for and this host or mesh does not give.
	AddressElsewhere Kind = "address_elsewhere" // the address of this node is not on this host
	AddressMissing   Kind = "address_missing"   // one of several addresses of this node is not on this host
	SubnetFamilies   Kind = "subnet_families"   // a peer and this node have no family in common
	UnderlayFamilies Kind = "underlay_families" // a peer's address is of another family
	MTUTooLarge      Kind = "mtu_too_large"     // network.mtu exceeds what the underlay carries
	NoRoomForPods    Kind = "no_room_for_pods"  // no subnet is large enough for containers
	RouteShadowed    Kind = "route_shadowed"    // another route takes packets away from the mesh
	RuleDiverts      Kind = "rule_diverts"      // a routing rule takes packets away from the mesh
	ReversePath      Kind = "rp_filter"         // rp_filter may drop datagrams of peers
	NameUnresolved   Kind = "name_unresolved"   // a node's name has no address yet
	NameStale        Kind = "name_stale"        // a name's last address stays in use while DNS fails
	NameUnusable     Kind = "name_unusable"     // a name stands for what cannot be a node's address

	// How packets move.
	SmallBuffers     Kind = "small_buffers"     // the kernel granted smaller socket buffers
	OffloadRefused   Kind = "offload_refused"   // an offload ended at run time
	Unpinned         Kind = "unpinned"          // packets stop while no meshd runs
	Unmerged         Kind = "unmerged"          // TCP is not merged on reception
	ProgramMoved     Kind = "program_moved"     // another program ended packets; meshd moved in front
	ForwardingOff    Kind = "forwarding_off"    // the host does not forward between its interfaces
	OutsideOff       Kind = "outside_off"       // the host does not forward what comes from outside the mesh
	ForwardingFailed Kind = "forwarding_failed" // --sysctl could not turn forwarding on
	ProgramsBypassed Kind = "programs_bypassed" // user space moves packets that programs never saw
	ProgramInFront   Kind = "program_in_front"  // a program of another owner sees packets before ours
	TUNShaped        Kind = "tun_shaped"        // the TUN has a queueing discipline, so user space sends
	PeerRefused      Kind = "peer_refused"      // rules of this host drop what a peer sends
	PeersPoliced     Kind = "peers_policed"     // IPsec is about some peers: user space moves their packets
	PeersRuled       Kind = "peers_ruled"       // rules on the way out are about some peers: user space sends

	// The peers. Each of these may be about one peer, or about a group of them.
	PeerDown       Kind = "peer_down"       // it does not answer, and nothing is heard of it
	PeerLoss       Kind = "peer_loss"       // a share of the probes has no answer
	PeerSilent     Kind = "peer_silent"     // its meshd does not answer, while its data comes
	PeerOneWay     Kind = "peer_one_way"    // it is heard and does not answer, or does not hear this node
	FileDiffers    Kind = "file_differs"    // it runs a file of another meaning
	PathLarge      Kind = "path_large"      // packets of a size do not reach it
	PathChecksum   Kind = "path_checksum"   // UDP without a checksum does not reach it
	PathPort       Kind = "path_port"       // UDP from other source ports does not reach it
	PathDSCP       Kind = "path_dscp"       // packets with a DSCP value do not reach it
	PathForwarding Kind = "path_forwarding" // it does not forward packets to its pods
	AddressSilent  Kind = "address_silent"  // one of its addresses, which packets do not use, is dead
	PeerDrains     Kind = "peer_drains"     // it wants no new traffic
	PeerMaintained Kind = "peer_maintained" // it is down, as was announced

	// What surrounds the mesh.
	RulesFailed    Kind = "rules_failed"    // nftables rules are not in force
	LegacyRules    Kind = "legacy_rules"    // iptables-legacy drops pods' packets
	RulesUncounted Kind = "rules_uncounted" // counters of rules cannot be read
	FilesFailed    Kind = "files_failed"    // files for container runtimes are not as planned
	MetricsFailed  Kind = "metrics_failed"  // metrics.listen is not served
	PodsFiltered   Kind = "pods_filtered"   // a rule of this host drops packets of peers to its pods
	PodsLost       Kind = "pods_lost"       // they are lost on this host, and no nftables rule drops them
)

// Kinds of what the network and this host's kernel say about packets. Some are about a peer.
const (
	SendRefused    Kind = "send_refused"     // this host refuses to send to a peer
	PeerPortClosed Kind = "port_unreachable" // ICMP says that no program listens on a peer's port
	PeerUnknown    Kind = "host_unreachable" // ICMP says that a peer's address cannot be reached
	PeerForbidden  Kind = "prohibited"       // ICMP says that a firewall refuses datagrams to a peer
	PeerLoop       Kind = "routing_loop"     // ICMP says that datagrams to a peer run in circles
	NoNeighbour    Kind = "no_neighbour"     // nothing on the link answers for the next hop to a peer
	DropsGrowing   Kind = "drops_growing"    // packets are lost with one reason, and more and more of them
	UnknownSenders Kind = "unknown_sender"   // addresses that no node has send to this node
	NeighboursFull Kind = "neighbours_full"  // the kernel's neighbour table has no room
	RepairsEndless Kind = "repairs_endless"  // another program undoes what meshd does, again and again
)

// Kinds of encryption (transport = "wireguard"). Whatever they tell, nothing leaves in the clear.
const (
	WireGuardMissing Kind = "wireguard_missing" // neither the kernel nor a helper has WireGuard
	WireGuardRefused Kind = "wireguard_refused" // the kernel or the helper refuses what is wanted
	WireGuardUser    Kind = "wireguard_user"    // user space encrypts, which is slower than the kernel
	GuardMissing     Kind = "guard_missing"     // the interface is down, since its guard is not in force
	Shut             Kind = "shut"              // a last good file without encryption would undo it
	ProbePortTaken   Kind = "probe_port"        // peers cannot be asked inside the tunnel
	NoHandshake      Kind = "no_handshake"      // packets are sent to a peer, and its keys never arrive
	SendsClear       Kind = "sends_clear"       // a peer sends bare packets, which are dropped
	NeverMeets       Kind = "never_meets"       // neither this node nor the peer can call the other
	Roamed           Kind = "roamed"            // a peer sends from another address than the file has
	NotPrepared      Kind = "not_prepared"      // the file lists keys, and this host could not encrypt
	NotReady         Kind = "not_ready"         // a peer that could not be reached if this node encrypted
	SwitchCosts      Kind = "switch_costs"      // packets are lost until all hosts have the new transport
	StandbySends     Kind = "standby_sends"     // a peer may send from a shared prefix that another one carries
)

// A Condition is something that an operator has to know, as long as it lasts. Subject and Cause
// are data that vary from host to host; the sentence that Kind stands for is written once, by
// whoever shows it.
type Condition struct {
	Kind     Kind
	Severity Severity
	Peer     string // the peer that it is about; empty: this node
	Group    string // several peers that it is about together, such as "all 3 peers"; then Peer is empty
	Subject  string // the interface, file, route or setting that it is about; may be empty
	Cause    string // what was found or what the kernel said; may be empty
	Remedy   string // what the operator can do: a command or an edit; may be empty
	// Again is the pause before meshd's next attempt to mend it; 0: meshd makes none, or at once.
	Again time.Duration
}

// Worst returns the greatest severity among conditions, Info if there are none.
func Worst(cs []Condition) (worst Severity) {
	for _, c := range cs {
		worst = max(worst, c.Severity)
	}
	return worst
}

// Has tells whether one of the conditions is of a kind.
func Has(cs []Condition, kind Kind) bool {
	return slices.ContainsFunc(cs, func(c Condition) bool { return c.Kind == kind })
}
