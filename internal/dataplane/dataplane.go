// Package dataplane is the wall between whoever wants packets to move and the engines that move
// them: a contract, and no code that moves a packet.
//
//	inner, overlay    a pod's own packet and its addresses
//	outer, underlay   the UDP datagram that carries it between hosts
//	out               TUN -> is its source ours? -> look up -> TTL -> wire
//	in                wire -> who sent it, is it theirs? -> TTL -> TUN
//
// The wire format is that of flannel's udp backend: the payload of a datagram is exactly one
// bare IP packet. Engines differ in how packets move, and stand behind the wall:
//
//	user/      in this process, through queues of the TUN and UDP sockets
//	kernel/    eBPF programs, which leave everything unusual to user/
//	auto/      chooses, falls back, and sums what both have counted
//
// Nothing above the wall imports user or kernel.
package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// An Engine forwards packets.
//
// Prepare, Apply and Stop belong to one goroutine, the owner's. All other methods may be called
// at any time from any goroutine; none of them waits for the owner's, however long those take.
type Engine interface {
	// Prepare takes what another program may hold, such as the UDP port, and puts the tables of
	// the mesh in force. Packets move as before. It comes before the host is configured, so that
	// a second daemon or a flannel on this host is found while everything is as it was.
	//
	// Nothing is changed if it fails. Undo returns to what was in force before.
	Prepare(ctx context.Context, w Wanted) (undo func() error, err error)
	// Apply makes packets move as wanted. It follows Prepare with the same Wanted, once the TUN
	// is there and the host is configured. Packets of peers that stay the same go on, and an
	// engine that already works as wanted loses none. What an engine of optional parts could not
	// do is a Condition and no error. The changes name what somebody else had damaged.
	//
	// Nothing is changed if it fails. Undo returns to what was in force before.
	Apply(ctx context.Context, w Wanted) (undo func() error, changes []mesh.Change, err error)
	// Learn takes over what is known of one peer by now. It is cheap and no transaction. A peer
	// that is not in the mesh is remembered: it may come.
	Learn(peer string, d peers.Directive) error
	// Carry says which peer carries a shared prefix (mesh.Share) from now on. Until it is said, the first
	// of its carriers does, and this node itself where it is one of them. It is as cheap as Learn; a
	// prefix that is not shared is remembered.
	Carry(prefix mesh.Prefix, peer string) error
	// Read returns one reading of everything counted, and how packets move at this time.
	Read() Reading
	// Conditions returns what is not as it should be.
	Conditions() []mesh.Condition
	// Alive asks everything that moves packets in this process for a sign of life, and returns
	// nil once all have given it. If ctx ends before, the error names what hangs; what has ended
	// by itself is an error too.
	Alive(ctx context.Context) error
	// Stop ends what moves packets in this process, once it has forwarded what it has read.
	// Programs in the kernel, sockets, queues and the TUN stay as they are.
	Stop() error
}

// A Loader can do a part of the first Apply ahead, while other parts of the host are configured.
type Loader interface {
	// Load gets ready what the first Apply with the same Wanted needs time for, such as the kernel's check
	// of programs. It follows Prepare and is the owner's, too. No packet takes another way for it. What
	// could not be got ready, Apply tries again, and tells why it cannot. Undo frees it.
	Load(ctx context.Context, w Wanted) (undo func() error)
}

// An Echoer sends probes the way that pods' packets go.
type Echoer interface {
	// SendEcho sends echoes, with as few calls as it can. The error is about those that could not
	// be sent; EMSGSIZE means larger than the path. Echoes are not traffic: they are in no counter.
	SendEcho(es ...Echo) error
	// Heard returns when the last acceptable packet or echo came from a peer; the zero time if
	// none did. It costs much less than Read.
	Heard(peer string) time.Time
	// HeardBy is Heard of some peers, in their order, but apart for each way in. It costs as little, and
	// for thousands at once less.
	HeardBy(names ...string) []peers.Heard
	// Leaving returns how pods' packets leave. One goroutine calls it, every second or so.
	Leaving() Leaving
}

// A Deliverer passes packets to this host.
type Deliverer interface {
	// Deliver passes a whole inner packet to the kernel as packets of peers are: it comes in by the
	// TUN. It may be called from any goroutine, and does not keep b. Such packets are not traffic: they
	// are in no counter. The error is EIO while the TUN is down.
	Deliver(b []byte) error
}

// A Drainer tells when packets that another interface gets from now on are none of its own any more.
type Drainer interface {
	// Drained returns nil once whatever waited in the queues of the TUN when it was called has been
	// forwarded, or ctx's error.
	Drained(ctx context.Context) error
}

// A Keeper has descriptors in which packets wait while no meshd runs.
type Keeper interface {
	// Adopt gives the engine descriptors that an earlier meshd left, by their names, before the
	// first Prepare, which uses those that fit w. The others are closed, and the errors say why.
	// Where queues of the TUN were adopted, the interface is there, packets wait, and Apply is
	// urgent.
	Adopt(files []*os.File, w Wanted) (a Adopted, unfit []error)
	// Descriptors returns what to keep, by name. It stays the engine's.
	Descriptors() map[string]Descriptor
}

// Adopted is how much of what an earlier meshd left is in use.
type Adopted struct {
	Sockets int
	Queues  int // of the TUN; if there are any, packets wait in them
}

// Moving tells that packets wait for Apply.
func (a Adopted) Moving() bool { return a.Queues > 0 }

// A Descriptor is an open file of the kernel.
type Descriptor interface {
	// Descriptor calls f with the file descriptor, which stays open meanwhile.
	Descriptor(f func(fd uintptr)) error
}

// A Loop is one endless piece of packet work in this process.
type Loop interface {
	// Run works until the engine has no more use for it, then returns nil. It returns an error
	// when it cannot go on, for instance because the TUN was deleted; the engine knows of that
	// already, and its next Apply begins anew.
	Run(ctx context.Context) error
	fmt.Stringer
}

// Wanted is what an engine has to bring about. It is a value: whoever gets it must not change
// what it leads to.
type Wanted struct {
	Mesh mesh.Mesh
	// Sealed tells that packets travel encrypted, by another interface. The engine is the floor then: what
	// comes to it for a peer, because that interface or its route is missing, is dropped (NotEncrypted), and
	// bare datagrams of nodes are (Cleartext), unless a Directive says that a node lags. No echo leaves, and
	// no program of the kernel engine runs.
	Sealed    bool
	Interface string // the TUN
	// Binds are this node's own addresses, for UDP sockets, in order of preference; at least one. An
	// unspecified one stands for all of its family, where none of the node's addresses is on this host.
	Binds []netip.AddrPort
	// Sources say from which of Binds datagrams leave for an address of a peer, as the kernel's routes
	// say: an index. Addresses that are not in it get theirs from the first of their family.
	Sources map[netip.Addr]int
	Queues  int  // of the user engine, for each of Binds, 1 at least
	Offload bool // segmentation and receive offloads of the user engine
	Spread  bool // each flow is sent from a port of its own; user engine: each queue
	// Apart tells that the kernel itself has the port of Binds (FOU): the user engine's sockets have another
	// one, and get only what the kernel engine's programs hand to them. ApartPort is the one that they had
	// under an earlier meshd, which may still run: no other will do; 0: any. Package auto decides both.
	Apart     bool
	ApartPort uint16
	Kernel    Programs // of the kernel engine
}

// From returns the index in Binds of this node's address for datagrams to an address of a peer; ok is
// false if this host has none of its family: nothing can be sent there.
func (w *Wanted) From(to netip.Addr) (index int, ok bool) {
	if i, known := w.Sources[to]; known {
		return i, true
	}
	i := slices.IndexFunc(w.Binds, func(b netip.AddrPort) bool { return b.Addr().Is4() == to.Is4() })
	return max(i, 0), i >= 0
}

// Reachable returns the addresses of a peer that datagrams can be sent to, in order of preference.
func (w *Wanted) Reachable(p mesh.Peer) (all []netip.AddrPort) {
	for _, a := range p.Addresses {
		if _, can := w.From(a.Addr()); can {
			all = append(all, a.AddrPort)
		}
	}
	return all
}

// To returns which address of a peer datagrams go to: via if it is one that can be sent to, or else the
// first of those; ok is false if there is none.
func (w *Wanted) To(p mesh.Peer, via netip.AddrPort) (to netip.AddrPort, ok bool) {
	for _, a := range p.Addresses {
		if _, can := w.From(a.Addr()); !can {
			continue
		}
		if a.AddrPort == via {
			return via, true
		}
		if !ok {
			to, ok = a.AddrPort, true
		}
	}
	return to, ok
}

// Programs is what the kernel engine has to know besides the mesh.
type Programs struct {
	Use    Use
	Why    string // why it must not be used, if Use is Never
	Chosen bool   // then: the file asks for it, so that there is nothing to tell
	// MTU is the largest inner packet that the interface lets through and that fits every path with the
	// headers of the first of Binds, bytes: bpf_fib_lookup ignores routes' own MTUs. Outer is the largest
	// datagram that fits every path, with its headers, which differ between the families.
	MTU, Outer int
	Underlay   []int   // indices of the interfaces on which datagrams for this node come in
	Receive    Receive // where they are taken
	// Policed are peers, by name, whose datagrams this host has rules about that the kernel applies
	// to what passes sockets alone: IPsec policies, and rules on the way out that name the port.
	Policed map[string]Policed
}

// Policed tells which packets of a peer go by user space for that reason, although programs forward.
type Policed struct {
	Out bool // to the peer
	In  bool // from it
}

// MayFOU tells whether the file asks for FOU, or leaves it to us.
func (p Programs) MayFOU() bool { return p.Receive == FOU || p.Receive == AnyReceive }

// Use tells whether the kernel engine forwards.
type Use uint8

// The choices.
const (
	Never      Use = iota // user space moves all packets
	IfPossible            // user space does where the programs cannot run
	Always                // it is an error if the programs cannot run
)

// Receive is where the kernel engine takes datagrams.
type Receive uint8

// The places.
const (
	AnyReceive Receive = iota // the best that costs other users of the device nothing
	XDP                       // native XDP, before the kernel makes a packet buffer
	TCX                       // the ingress of tc
	Socket                    // the UDP socket, as without programs
	FOU                       // the ingress of tc, where the kernel's GRO has merged what datagrams hold
)

// String returns the word of the file and of status.
func (r Receive) String() string { return [...]string{"auto", "xdp", "tcx", "socket", "fou"}[r] }

// Reading is what was counted. Totals also hold what belongs to no peer and what belonged to
// peers that are gone.
type Reading struct {
	Totals mesh.Traffic
	Peers  map[string]mesh.Traffic // by name, this node not included
	Calls  map[mesh.CallKind]mesh.Calls
	Handed map[string]uint64 // packets or superpackets that programs left to user space, by reason
	Lost   Lost
	Works  Works

	Troubles  map[string]mesh.Trouble // why datagrams do not reach peers, by name; only those that have some
	Strangers []mesh.Stranger         // the last who sent what was not accepted, the latest first; 8 at most
}

// Sealed tells whether packets travel encrypted: inner packets are not counted then.
func (r *Reading) Sealed() bool { return r.Works.Engine == EngineWireGuard }

// Lost counts packets that the kernel dropped before an engine saw them.
type Lost struct {
	Socket  uint64 // receive buffers were full
	Refused uint64 // at the sockets, for an IPsec policy or a wrong UDP checksum
	Merger  uint64 // the backlog of the pair that merges TCP was full
}

// What moves packets, as status and metrics say it.
const (
	EngineUser      = "user"
	EngineKernel    = "kernel"
	EngineWireGuard = "wireguard" // none of the engines: they are sealed
)

// Works is how packets move at this time.
type Works struct {
	Engine   string   // EngineUser, EngineKernel, EngineWireGuard
	Reason   string   // why the user engine, or tcx where XDP was asked for; may be empty
	Receive  Receive  // in force; never AnyReceive
	NoFOU    string   // why it is not FOU, where the file leaves the way to us; may be empty
	Captured bool     // user space sends, since somebody captures on the TUN
	Offloads []string // in use
	Refused  []string // in use until the kernel or a device refused
	Queues   int
}
