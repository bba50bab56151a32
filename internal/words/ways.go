package words

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/probe"
)

// This file tells by which ways packets go to a peer: to which of its addresses, for which prefixes it is
// the carrier, and whether it is in maintenance.

// Endpoints writes where a node listens, for the API, which has no list that is null.
func Endpoints(all []mesh.Endpoint) []string {
	texts := make([]string, len(all))
	for i, e := range all {
		texts[i] = endpointOrNone(e.AddrPort)
	}
	return texts
}

// Listening writes this node's own addresses for the log.
func Listening(binds []netip.AddrPort) string {
	texts := make([]string, len(binds))
	for i, b := range binds {
		texts[i] = b.String()
	}
	return strings.Join(texts, " ")
}

// Address writes the IP address that a node prefers; one that is not known is empty.
func Address(of mesh.Peer) string { return addressOrNone(of.Underlay().Addr()) }

// endpointOrNone writes an address with its port; one that is not known is empty.
func endpointOrNone(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// Addresses adds what is known of each address of a peer to its status, whose state and figures are told
// already. paths is what probes know of each; none if they ask one address alone. in is the address that
// packets go to; the zero value stands for the first of those that are reachable from this host. origin tells
// which name of DNS stands for an address.
func Addresses(status *control.Peer, of mesh.Peer, paths []probe.PathReport, in netip.AddrPort,
	reachable []netip.AddrPort, origin func(netip.Addr) (name string, at time.Time)) {
	if !in.IsValid() && len(reachable) > 0 {
		in = reachable[0]
	}
	for _, e := range of.Addresses {
		one := control.PeerAddress{Address: e.String(), State: control.Unknown, Active: e.AddrPort == in}
		if name, at := origin(e.Addr()); name != "" {
			one.Name, one.Resolved = name, timeOrNone(at)
		}
		i := slices.IndexFunc(paths, func(p probe.PathReport) bool { return p.Via == e.AddrPort })
		switch {
		case i >= 0:
			probedAddress(&one, paths[i])
		case one.Active: // the only one that is asked
			one.State, one.RTTMS, one.Loss = status.State, status.RTTMS, status.Loss
		}
		status.Addresses = append(status.Addresses, one)
	}
}

// probedAddress adds what probes know of an address.
func probedAddress(one *control.PeerAddress, p probe.PathReport) {
	one.State = p.State.String()
	if p.Silent && p.State == probe.Up { // packets have left it, before the state has followed
		one.State = control.Stale
	}
	if p.Figures.Probes > 0 {
		one.RTTMS, one.Loss = Milliseconds(p.Figures.P50), &p.Figures.Loss
	}
}

// Routes adds for each route of a peer whether the peer carries it. carriers has the peers that carry the
// prefixes of several; metric tells what the file says of a route.
func Routes(status *control.Peer, of mesh.Peer, carriers map[mesh.Prefix]string,
	metric func(peer string, p mesh.Prefix) int) {
	for _, p := range of.Routes {
		carrier, shared := carriers[p]
		status.RouteStates = append(status.RouteStates, control.RouteState{
			Prefix: p.String(), Metric: metric(of.Name, p), Active: !shared || carrier == of.Name})
	}
}

// Maintained adds a maintenance that a peer has announced; nil: there is none. A peer in maintenance that is
// not up keeps its state.
func Maintained(status *control.Peer, d *mesh.Drain, now time.Time) {
	if d == nil || d.Ended(now) {
		return
	}
	status.Drain = Drain(*d)
	if status.State == control.Up {
		status.State = control.Draining
	}
}

// Drain writes a maintenance for the API.
func Drain(d mesh.Drain) *control.Drain {
	return &control.Drain{Since: timeOrNone(d.Since), Until: timeOrNone(d.Until), Reason: d.Reason, By: d.By}
}

// timeOrNone returns nil for a time that is not known.
func timeOrNone(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Carried tells which peer carries packets by a prefix, and of each peer that has the prefix how it is.
// peers are the others; this node has no state.
func Carried(r *control.Route, m mesh.Mesh, prefix mesh.Prefix, carrier string, peers []control.Peer) {
	known := func(name string) (p control.Peer) {
		if i := slices.IndexFunc(peers, func(p control.Peer) bool { return p.Name == name }); i >= 0 {
			p = peers[i]
		}
		return p
	}
	at := known(carrier)
	r.Peer, r.Prefix, r.State, r.Address = carrier, prefix.String(), at.State, at.Active()
	i := slices.IndexFunc(m.Shares, func(s mesh.Share) bool { return s.Prefix == prefix })
	if i < 0 {
		return
	}
	for _, c := range m.Shares[i].Carriers {
		r.Carriers = append(r.Carriers, control.Carrier{
			Peer: c.Peer, Metric: c.Metric, State: known(c.Peer).State, Active: c.Peer == carrier})
	}
}
