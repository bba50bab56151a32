// Package control is how other programs talk to a running meshd: HTTP/1.1 and JSON over a unix
// socket. It holds the types of the API, the server, and the client that the commands and the
// dashboard use.
//
// The types are a promise: fields may be added, never renamed. They hold values; package words
// makes sentences of them. A string is one line (text.Fields) unless its field has the tag
// text:"lines".
package control

import (
	"time"
)

// Schema is the version of the API's objects. A new field needs no new number. A client refuses a
// number that it does not know.
const Schema = 1

// DefaultSocket is where the daemon listens on an installed host.
const DefaultSocket = "/run/meshd/meshd.sock"

// Status is the answer of GET /v1/status: everything there is to know. All counters are of inner
// packets, start at zero with the daemon, never decrease and survive reloads.
type Status struct {
	Schema        int        `json:"schema"`
	Node          string     `json:"node"` // empty until the node has found itself
	Version       string     `json:"version"`
	BootID        string     `json:"boot_id"` // of this run of the daemon; counters restart with it
	PID           int        `json:"pid"`
	Started       time.Time  `json:"started"`
	UptimeSeconds float64    `json:"uptime_seconds"` // by a clock that never jumps, for rates
	Now           time.Time  `json:"now"`            // the daemon's clock, as all times here
	Config        Config     `json:"config"`
	Network       Network    `json:"network"`
	Dataplane     Dataplane  `json:"dataplane"`
	Totals        Totals     `json:"totals"`
	Peers         []Peer     `json:"peers"`     // by name
	Strangers     []Stranger `json:"strangers"` // the last 8, the latest first; they are never answered
	Masquerade    Masquerade `json:"masquerade"`
	Allow         Allow      `json:"allow"`
	WireGuard     *WireGuard `json:"wireguard,omitempty"` // absent: packets are not encrypted
	Drain         *Drain     `json:"drain,omitempty"`     // absent: this node is not in maintenance
	Health        Health     `json:"health"`
	Warnings      []string   `json:"warnings" text:"lines"` // the problems as sentences, with remedies
}

// Levels of a problem, and of the health of a node, which is never Info.
const (
	OK       = "ok"
	Info     = "info"     // worth knowing; it never changes health
	Degraded = "degraded" // something works worse than it should, or may fail later
	Failed   = "failed"   // something that the node is for does not work
)

// Health is how well the node is.
type Health struct {
	Level    string    `json:"level"`    // "ok", "degraded", "failed": the worst of the problems
	Problems []Problem `json:"problems"` // the worst first
}

// Problem is one thing that an operator has to know. It is listed as long as it lasts. Kind is for
// programs and never renamed (docs/api.md lists the kinds); Text and Remedy are for people.
type Problem struct {
	Level  string    `json:"level"`             // "info", "degraded", "failed"
	Kind   string    `json:"kind"`              // "forwarding_off"
	Peer   string    `json:"peer"`              // the peer that it is about; empty: this node
	Text   string    `json:"text" text:"lines"` // what is wrong, and with what
	Remedy string    `json:"remedy"`            // what to do about it; may be empty
	Since  time.Time `json:"since"`             // by the daemon's clock
}

// SettingChange is the kind of a change of a key of the file that has no kernel state of its
// own. Clients show such a change by its Subject, the key: "setting" alone says nothing.
const SettingChange = "setting"

// Change is one difference that a reload made, or would make. Op and Kind are for programs and
// never renamed.
type Change struct {
	Op      string `json:"op"`      // "+", "-", "~", "*": added, removed, replaced, repaired
	Kind    string `json:"kind"`    // "peer", "route", SettingChange: what it is about
	Subject string `json:"subject"` // a peer's name, a prefix, a key of the file
	Field   string `json:"field"`   // of the subject, if it is about one field; else empty
	Old     string `json:"old"`
	New     string `json:"new"`
}

// Sources of the text that is in force.
const (
	SourceFile     = "file"      // it was read from Config.Path
	SourceApplied  = "applied"   // it was applied, and is not the one on disk
	SourceLastGood = "last_good" // the file was bad at the start: the last good one of the state folder
)

// Config tells which file is in force, and how the last attempt to apply one ended.
type Config struct {
	Path       string    `json:"path"`
	Source     string    `json:"source"`             // SourceFile, SourceLastGood, SourceApplied, or empty
	LastGood   time.Time `json:"last_good,omitzero"` // when the last good file first came into force
	Generation int       `json:"generation"`         // starts at 1 and grows by one with each applied file
	SHA256     string    `json:"sha256"`
	Applied    time.Time `json:"applied,omitzero"`
	Error      string    `json:"error" text:"lines"` // why the file on disk is not in force; empty if it is
	LastReload Reload    `json:"last_reload"`
	// Pending is a change that is taken back unless it is confirmed; absent: none is.
	Pending *Pending `json:"pending,omitempty"`
}

// Reload is the outcome of the last attempt to apply a file.
type Reload struct {
	OK         bool      `json:"ok"`
	At         time.Time `json:"at,omitzero"`
	DurationMS float64   `json:"duration_ms"`
	Changes    []string  `json:"changes"` // as sentences: "+ peer edge-4 10.244.4.0/24"
	// Details are the same changes as values, in the same order. An older daemon has none.
	Details []Change `json:"details"`
	// More is how many changes there were besides those in Details: status keeps the first
	// ones only. Changes then ends with a sentence that says the same.
	More  int    `json:"more,omitempty"`
	Error string `json:"error" text:"lines"`
	// Pending tells that meshd tries again by itself: the host refused the file for now, or the file
	// could not be read. RetrySeconds is the pause before that attempt.
	Pending      bool    `json:"pending,omitempty"`
	RetrySeconds float64 `json:"retry_seconds,omitempty"`
}

// Network is this node's place in the mesh.
type Network struct {
	Name      string   `json:"name"`
	CIDR      []string `json:"cidr"`
	Interface string   `json:"interface"`
	MTU       int      `json:"mtu"` // bytes
	// What the MTU follows from, unless the file has one. Absent before packets are forwarded.
	Underlay  *Underlay `json:"underlay,omitempty"`
	Port      int       `json:"port"`
	Address   string    `json:"address"`   // underlay IP, the first of Addresses
	Addresses []string  `json:"addresses"` // underlay IP:port of this node, in order of preference
	Subnets   []string  `json:"subnets"`
	Repairs   uint64    `json:"repairs"` // of the interface, and plans made anew since the host had changed
}

// Underlay is what limits packets of the mesh.
type Underlay struct {
	Device  string `json:"device"`  // with the lowest MTU on the way to peers; empty if a route has it
	MTU     int    `json:"mtu"`     // bytes
	Headers int    `json:"headers"` // outer headers that a packet of the mesh gets, bytes
}

// EngineWireGuard is Dataplane.Engine while packets are encrypted: WireGuard moves them, and counts no inner
// packets. Counters that nothing knows then are null.
const EngineWireGuard = "wireguard"

// Dataplane tells how packets move.
type Dataplane struct {
	Engine   string           `json:"engine"` // "user", "kernel", EngineWireGuard
	Reason   string           `json:"reason"` // why this one and no faster one; may be empty
	Receive  string           `json:"receive"`
	NoFOU    string           `json:"no_fou,omitempty"`  // why receive = "auto" does not use fou; may be empty
	Offloads []string         `json:"offloads"`          // in use
	Refused  []string         `json:"refused,omitempty"` // given up: the kernel or a device refused
	Queues   int              `json:"queues"`
	Calls    map[string]Calls `json:"calls"` // of user space, by place: "tun_read", "wire_write"
	// A program captures on the TUN, so the kernel engine sends through user space, where
	// captures see the packets.
	Captured bool `json:"captured,omitempty"`
	// Packets and superpackets that the kernel engine left to user space, by reason.
	Handed map[string]uint64 `json:"handed,omitempty"`
}

// Calls counts system calls of one kind and the packets they moved.
type Calls struct {
	Calls   uint64 `json:"calls"`
	Packets uint64 `json:"packets"`
}

// Totals sums up all peers, including removed ones, and what belongs to no peer. What nothing counts is
// null, see EngineWireGuard.
type Totals struct {
	RxPackets *uint64           `json:"rx_packets"`
	RxBytes   *uint64           `json:"rx_bytes"`
	TxPackets *uint64           `json:"tx_packets"`
	TxBytes   *uint64           `json:"tx_bytes"`
	Drops     map[string]uint64 `json:"drops"` // by reason, all reasons present
	// Unattributed is the part of Drops that belongs to no current peer: drops of strangers'
	// packets, of removed peers, and of this host.
	Unattributed map[string]uint64 `json:"unattributed"` // by reason, only those above zero
}

// States of a peer.
const (
	Up      = "up"
	Stale   = "stale"
	Down    = "down"
	Silent  = "silent"  // its data arrives, and its meshd does not answer
	OneWay  = "one-way" // packets pass in one direction only
	Unknown = "unknown" // no packet heard lately, and no probe sent
	// Draining takes the place of Up: the peer is up, in maintenance, and wants no new traffic.
	Draining = "draining"
)

// Serves tells whether packets of pods pass to and from the peer, as far as is known. `meshd wait
// peer:NAME` and `meshd peers NAME` are for that.
func (p Peer) Serves() bool { return p.IsUp() || p.State == Silent }

// IsUp tells whether the peer's meshd answers, in maintenance or not.
func (p Peer) IsUp() bool { return p.State == Up || p.State == Draining }

// Peer is one other node.
type Peer struct {
	Name         string            `json:"name"`
	Address      string            `json:"address"` // underlay IP:port
	Subnets      []string          `json:"subnets"`
	Routes       []string          `json:"routes"`
	State        string            `json:"state"`
	Since        *time.Time        `json:"since"`     // of the state; null if probing was off
	LastSeen     *time.Time        `json:"last_seen"` // last acceptable packet; null before the first
	RTTMS        *float64          `json:"rtt_ms"`    // median of the last 60 probes; null if not measured
	RTTMinMS     *float64          `json:"rtt_min_ms"`
	RTTP95MS     *float64          `json:"rtt_p95_ms"`
	RTTLastMS    *float64          `json:"rtt_last_ms"`
	JitterMS     *float64          `json:"jitter_ms"`  // mean difference between one RTT and the next
	Loss         *float64          `json:"loss"`       // of the last 60 probes, 0 to 1; null if not measured
	MTU          int               `json:"mtu"`        // largest packets that reach it, bytes; 0: not known
	MTUSource    string            `json:"mtu_source"` // what limits it: "underlay", "file", "probed"
	ProbesTx     uint64            `json:"probes_sent"`
	ProbesRx     uint64            `json:"probes_received"`
	Probes       []ProbeForm       `json:"probes"`        // by form, without the plain one
	ConfigSHA256 string            `json:"config_sha256"` // empty if the peer has not told
	ConfigMatch  *bool             `json:"config_match"`  // null if the peer has not told
	Version      string            `json:"version"`
	RxPackets    *uint64           `json:"rx_packets"`
	RxBytes      *uint64           `json:"rx_bytes"`
	TxPackets    *uint64           `json:"tx_packets"`
	TxBytes      *uint64           `json:"tx_bytes"`             // as before: null if not counted
	Drops        map[string]uint64 `json:"drops"`                // by reason, only those above zero
	Addresses    []PeerAddress     `json:"addresses"`            // in order of preference
	RouteStates  []RouteState      `json:"route_states"`         // of Routes, in their order
	Drain        *Drain            `json:"drain,omitempty"`      // absent: the peer is not in maintenance
	WireGuard    *PeerWireGuard    `json:"wireguard,omitempty"`  // absent: packets are not encrypted
	SendError    *SendError        `json:"send_error,omitempty"` // the last one; absent: there was none
	ICMPError    *ICMPError        `json:"icmp_error,omitempty"`
}

// Active returns the address that packets to the peer go to; empty if none is known.
func (p Peer) Active() string {
	for _, a := range p.Addresses {
		if a.Active {
			return a.Address
		}
	}
	return p.Address
}

// PeerAddress is one address of a peer.
type PeerAddress struct {
	Address  string     `json:"address"`  // underlay IP:port
	Name     string     `json:"name"`     // of DNS that stands for it; empty: the file has the address
	Resolved *time.Time `json:"resolved"` // when the name was resolved last; null without a name
	State    string     `json:"state"`    // as of a peer, never Draining; of the only address: the peer's
	RTTMS    *float64   `json:"rtt_ms"`   // median of the last 60 probes; null if not measured
	Loss     *float64   `json:"loss"`     // of the last 60 probes, 0 to 1; null if not measured
	Active   bool       `json:"active"`   // packets go there
}

// RouteState is a prefix behind a peer that is outside the pod network.
type RouteState struct {
	Prefix string `json:"prefix"`
	Metric int    `json:"metric"`
	// Active tells that the peer carries the prefix. Others may have it as well; the lowest metric of those
	// that are up and not in maintenance does.
	Active bool `json:"active"`
}

// Drain is a node's maintenance.
type Drain struct {
	Since  *time.Time `json:"since"`  // null: not known
	Until  *time.Time `json:"until"`  // null: until somebody ends it
	Reason string     `json:"reason"` // as somebody wrote it
	By     string     `json:"by"`     // who did
	// Waiting are, at the node itself, the peers that may still send packets for shared prefixes there.
	Waiting []string `json:"waiting,omitempty"`
}

// DrainRequest is the body of POST /v1/drain.
type DrainRequest struct {
	ForSeconds float64 `json:"for_seconds"` // 0: until somebody ends it
	Reason     string  `json:"reason"`      // at most 160 bytes are told to other nodes
	By         string  `json:"by"`          // who asks; empty, or not root: the user at the other end
}

// ProbeForm is how probes that look like pods' packets fare. See docs/api.md for the forms.
type ProbeForm struct {
	Form      string   `json:"form"`        // "data", "large", "dscp", "forwarded"
	Measured  bool     `json:"measured"`    // false: the form says nothing of this peer
	Sent      uint64   `json:"sent"`        // while measured, before too
	LostInRow int      `json:"lost_in_row"` // the newest ones
	Loss      *float64 `json:"loss"`        // of the last 16, 0 to 1; null if not measured
	Fails     bool     `json:"fails"`       // three in a row were lost while plain probes passed
	DSCP      *int     `json:"dscp"`        // value of the newest probe; null for other forms
}

// Masquerade tells what the nftables rules for source addresses did.
type Masquerade struct {
	Enabled bool   `json:"enabled"`
	Rules   []Rule `json:"rules"`
	Repairs uint64 `json:"repairs"`
}

// Allow tells what the rules about who may reach whom did on this node.
type Allow struct {
	Rules   []Rule `json:"rules"`   // of the file, in its order; empty: everybody may reach everybody
	Dropped uint64 `json:"dropped"` // packets for what is behind this node that no rule allows

	DroppedLastMinute uint64 `json:"dropped_last_minute"` // of them
}

// Words of Route.Masquerade that are no names of rules.
const (
	MasqueradeOff       = "off"       // no rules are in force
	MasqueradeMulticast = "multicast" // no rule is for multicast
)

// Rule is one rule with its counter.
type Rule struct {
	Name    string `json:"name"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Peers is the answer of GET /v1/peers.
type Peers struct {
	Schema int    `json:"schema"`
	Node   string `json:"node"`
	Peers  []Peer `json:"peers"` // by name
}

// OnePeer is the answer of GET /v1/peers/NAME.
type OnePeer struct {
	Schema int `json:"schema"`
	Peer
}

// History is the answer of GET /v1/history: what was counted in each step of a span of time,
// oldest first. All lists have the same length. An element is null where nothing is known, such as
// before the daemon's start.
type History struct {
	Schema      int        `json:"schema"`
	Peer        string     `json:"peer"` // empty: the whole node
	Span        string     `json:"span"` // "5m", "1h", "24h"
	StepSeconds int        `json:"step_seconds"`
	BootID      string     `json:"boot_id"`
	End         time.Time  `json:"end"` // of the last step
	RxPackets   []*float64 `json:"rx_packets"`
	RxBytes     []*float64 `json:"rx_bytes"`
	TxPackets   []*float64 `json:"tx_packets"`
	TxBytes     []*float64 `json:"tx_bytes"`
	Drops       []*float64 `json:"drops"`
	// Reasons are those for which the node lost packets since this daemon began. A peer has none.
	Reasons map[string]DropHistory `json:"reasons,omitempty"`
	RTTMS   []*float64             `json:"rtt_ms"` // median at the end of the step
	Loss    []*float64             `json:"loss"`   // 0 to 1
}

// DropHistory is what was lost for one reason.
type DropHistory struct {
	Last  time.Time  `json:"last"`  // when it was seen to grow last, which may be before the span
	Drops []*float64 `json:"drops"` // in each step, as History.Drops
}

// PingRequest is the body of POST /v1/ping.
type PingRequest struct {
	Peer      string `json:"peer"`
	Size      int    `json:"size"`       // of the ICMP payload, bytes; at least 80 are sent
	TimeoutMS int    `json:"timeout_ms"` // 0: 1000; at most 10000
}

// Ping is the answer of POST /v1/ping.
type Ping struct {
	Schema int      `json:"schema"`
	Peer   string   `json:"peer"`
	Size   int      `json:"size"`   // of the whole packet, bytes
	RTTMS  *float64 `json:"rtt_ms"` // null if no answer came in time
	Error  string   `json:"error"`  // why the question could not be sent; empty if it was
}

// Ready is the answer of GET /healthz and GET /readyz with status 200. Any other status has an
// Error that says why not.
type Ready struct {
	OK bool `json:"ok"`
}

// ReloadResult is the answer of POST /v1/reload, with status 200 if the file was applied. With 422
// the file was rejected, and an Error stands beside these fields.
type ReloadResult struct {
	Schema     int     `json:"schema"`
	Generation int     `json:"generation"` // in force now
	Reload     Reload  `json:"reload"`
	Faults     []Error `json:"faults,omitempty"` // of the file, each with its place
}

// Plan is the answer of POST /v1/plan.
type Plan struct {
	Schema     int      `json:"schema"`
	Generation int      `json:"generation"` // in force now
	Changes    []string `json:"changes"`    // what applying the file would change, as sentences
	Details    []Change `json:"details"`    // the same changes as values, in the same order
	// Warnings are what to know before the file is applied, such as peers that packets would not reach. They
	// have no time.
	Warnings []Problem `json:"warnings"`
}

// Error is, as the member "error", the body of every answer that is not 2xx.
type Error struct {
	Code    string `json:"code"`                 // for programs: "no_such_peer"; never renamed
	Message string `json:"message" text:"lines"` // for people
	File    string `json:"file,omitempty"`       // that has the fault; empty if it is about no file
	Line    int    `json:"line,omitempty"`       // of File, from 1; 0 if it is about no line
}
