package control

import "slices"

// Route is the answer of GET /v1/route?to=IP.
type Route struct {
	Schema    int    `json:"schema"`
	To        string `json:"to"`
	Peer      string `json:"peer"`      // node that has the address; empty if no node has it
	Prefix    string `json:"prefix"`    // its subnet or route that matches
	Address   string `json:"address"`   // its underlay IP:port to which packets go; empty for this node
	Source    string `json:"source"`    // address that this host would send from
	Interface string `json:"interface"` // TUN, or the one that encrypts; empty for own pods
	MTU       int    `json:"mtu"`       // largest inner packet, bytes
	State     string `json:"state"`     // of the peer; empty for this node
	// Masquerade is the rule that a pod's packets to the address match, MasqueradeOff or
	// MasqueradeMulticast; empty before meshd forwards.
	Masquerade string `json:"masquerade"`
	Reason     string `json:"reason"` // why the mesh does not carry such packets; empty if it does
	// Carriers are the nodes with the prefix in order of preference, if there are several: Peer is the one
	// that carries packets now.
	Carriers []Carrier `json:"carriers,omitempty"`
	// Underlay is what the kernel of this host does with datagrams to Address; null if there are none, or it did
	// not tell.
	Underlay *KernelRoute `json:"underlay,omitempty"`
	// Kernel is what the kernel of this host does with such packets, now: of the host itself and,
	// if an interface leads to pods, of pods. It is empty where the mesh has no route.
	Kernel []KernelRoute `json:"kernel"`
}

// Carrier is one of several nodes with the same prefix.
type Carrier struct {
	Peer   string `json:"peer"`
	Metric int    `json:"metric"`
	State  string `json:"state"`  // of the peer; empty for this node
	Active bool   `json:"active"` // it carries the packets; the others stand by
}

// Words of KernelRoute.Sender.
const (
	SenderHost = "host"
	SenderPods = "pods"
)

// KernelRoute is the kernel's own answer about packets to an address (`ip route get`).
type KernelRoute struct {
	Sender string `json:"sender"` // SenderHost or SenderPods
	Agrees bool   `json:"agrees"` // the packets go to Route.Interface
	Device string `json:"device"` // by which the packets leave; empty if the kernel drops them
	Table  string `json:"table"`  // that has the route: "main", "local", a number
	Rule   string `json:"rule"`   // that chose the table, as `ip rule` prints it
	Source string `json:"source"` // that the kernel chooses for the host; empty for pods
	MTU    int    `json:"mtu"`    // of the path, bytes
	Error  string `json:"error"`  // why the kernel drops the packets; empty if it does not
}

// Carried reports whether the mesh has a route and the kernel follows it.
func (r Route) Carried() bool {
	return r.Reason == "" && !slices.ContainsFunc(r.Kernel, func(k KernelRoute) bool { return !k.Agrees })
}
