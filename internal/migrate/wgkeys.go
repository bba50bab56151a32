package migrate

import (
	"cmp"
	"encoding/base64"
	"net"
	"slices"
	"strconv"
	"strings"
)

// This file carries over what meshd has in common with wg-quick(8): keys, ports, and peers that call in.

// ownPorts are those that a host with meshd opens beside that of WireGuard: network.port, and the one of
// probes inside the tunnel.
var ownPorts = []int{8285, 8286}

// defaultWGPort is the port of a draft whose input names none.
const defaultWGPort = 51820

// validKey tells whether a text is a key in base64, and not all zeros.
func validKey(text string) bool {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	return err == nil && len(b) == 32 && slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
}

// port reads a port; 0 for what is none.
func port(text string) int {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}

// endpointParts returns the host and the port at which peers call a host; empty and 0 where no file says it,
// or says nonsense.
func (h *wgHost) endpointParts() (host string, at int) {
	host, text, err := net.SplitHostPort(h.endpoint)
	if err != nil {
		return "", 0
	}
	return host, port(text)
}

// commonPort returns the port that most hosts have, since all nodes of a mesh have the same; of several the
// one that comes first.
func (w *wireGuard) commonPort() int {
	count := map[int]int{}
	var inOrder []int
	for _, h := range w.order {
		_, called := h.endpointParts()
		if at := cmp.Or(h.port, called); at != 0 && !slices.Contains(ownPorts, at) {
			if count[at]++; count[at] == 1 {
				inOrder = append(inOrder, at)
			}
		}
	}
	if len(inOrder) == 0 {
		return defaultWGPort
	}
	return slices.MaxFunc(inOrder, func(a, b int) int { return cmp.Compare(count[a], count[b]) })
}

// place says where a host is called: its address, an endpoint where that has another port or is shared with
// others behind one router, or that it calls in.
func (w *wireGuard) place(h *wgHost, n *Node) {
	if h.endpoint == "" && h.port == 0 {
		n.CallsIn = true
		return
	}
	n.Address = w.address(h)
	if n.Address == "" {
		return
	}
	_, called := h.endpointParts()
	common := w.draft.WGPort
	// meshd opens the common port on all hosts, also on one that had a port of its own.
	switch {
	case called == 0 || called == common:
	case h.port == called:
		w.draft.losses.of(h.id, "ListenPort", "all nodes have wireguard.port")
	default:
		n.Endpoint = net.JoinHostPort(n.Address, strconv.Itoa(called))
		w.draft.losses.of(h.id, "port "+strconv.Itoa(called), "its host opens wireguard.port: have its router "+
			"forward the one to the other, or delete the endpoint")
	}
	if w.shared[strings.ToLower(n.Address)] > 1 { // a router: no host has its address
		n.Endpoint, n.Address = net.JoinHostPort(n.Address, strconv.Itoa(cmp.Or(called, common))), ""
		n.CallsIn = true
	}
}

// countShared counts the hosts that are called at each address.
func (w *wireGuard) countShared() {
	w.shared = map[string]int{}
	for _, h := range w.order {
		if host, _ := h.endpointParts(); host != "" {
			w.shared[strings.ToLower(host)]++
		}
	}
}

// identify gives a node its key.
func (w *wireGuard) identify(h *wgHost, n *Node) {
	switch {
	case validKey(h.key):
		n.PublicKey = h.key
	case h.key != "":
		w.draft.losses.of(h.id, "PublicKey", "it is not 32 bytes in base64")
	}
}

// throughHub has the nodes that call in reach each other by the one node that all can call, as they did.
func (d *Draft) throughHub() {
	var hubs, callers []int
	for i, n := range d.Nodes {
		if n.CallsIn && n.Endpoint == "" {
			callers = append(callers, i)
		} else {
			hubs = append(hubs, i)
		}
	}
	if len(hubs) != 1 || len(callers) < 2 {
		return
	}
	for _, i := range callers {
		d.Nodes[i].Via = d.Nodes[hubs[0]].Name
	}
}
