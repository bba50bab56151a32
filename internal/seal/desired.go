package seal

import (
	"net/netip"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/wireguard"
)

// learned is what was learned of peers while packets flow.
type learned struct {
	directives map[string]peers.Directive
	carriers   map[mesh.Prefix]string // of shared prefixes, where it was said
}

// carrier returns which peer carries a shared prefix.
func (l learned) carrier(s mesh.Share, self string) string {
	if name, ok := l.carriers[s.Prefix]; ok {
		return name
	}
	if s.Has(self) {
		return self
	}
	return s.Carriers[0].Peer
}

// owns returns the prefixes of each peer: its own ones, and the shared ones that it carries. What another
// carrier sends from a shared prefix is dropped by WireGuard, since a prefix belongs to one peer.
func (w *Wanted) owns(l learned) map[string][]netip.Prefix {
	shared, own := map[mesh.Prefix]bool{}, map[string][]netip.Prefix{}
	for _, s := range w.Shares {
		shared[s.Prefix] = true
		name := l.carrier(s, w.Self.Name)
		own[name] = append(own[name], s.Prefix)
	}
	for _, p := range w.Peers {
		own[p.Name] = append(own[p.Name], p.Subnets...)
		for _, r := range p.Routes {
			if !shared[r] {
				own[p.Name] = append(own[p.Name], r)
			}
		}
	}
	return own
}

// peersOf returns the peers of the interface. A relay may send what the peers behind it may. used has the
// key of each peer that is in use; the other one may send nothing yet, and is called where insists says so.
func (w *Wanted) peersOf(l learned, used map[string]mesh.Key, calls func(p *Peer) (to netip.AddrPort,
	now bool), insists func(p *Peer) bool) (all []wireguard.Peer) {
	own := w.owns(l)
	behind := map[string][]netip.Prefix{}
	for _, p := range w.Peers {
		if p.Relay != "" {
			behind[p.Relay] = append(behind[p.Relay], own[p.Name]...)
		}
	}
	for i := range w.Peers {
		p := &w.Peers[i]
		if p.Relay != "" || !p.Key.IsValid() {
			continue
		}
		one := wireguard.Peer{Key: used[p.Name], Allowed: append(own[p.Name], behind[p.Name]...)}
		one.Endpoint, one.Call = calls(p)
		if one.Endpoint.IsValid() || w.Self.Next.IsValid() {
			one.Keepalive = w.Keepalive
		}
		all = append(all, one)
		if key := other(&p.Peer, one.Key); key.IsValid() {
			idle := wireguard.Peer{Key: key, Endpoint: one.Endpoint, Call: one.Call}
			if insists(p) {
				idle.Keepalive = insistent
			}
			all = append(all, idle)
		}
	}
	return all
}

// routes returns the routes that lead into the interface: one for each prefix of a peer, with the address of
// the TUN, so that the peer takes what this host sends.
func (w *Wanted) routes(l learned) (all []link.Route) {
	if w.Prepared {
		return w.behind()
	}
	own := w.owns(l)
	for _, p := range w.Peers {
		mtu := 0
		if narrow := l.directives[p.Name].MTU; narrow > 0 && narrow < w.MTU {
			mtu = narrow
		}
		for _, prefix := range own[p.Name] {
			source := w.Self.TUNAddress(prefix.Addr().Is6())
			if source.IsValid() { // without an address of the family this host has no part in it
				all = append(all, link.Route{Prefix: prefix, Source: source, MTU: mtu})
			}
		}
	}
	return all
}

// Behind is the metric of routes that are used only where no other one can be: where the encrypted interface
// has the same prefix, those of the TUN, and the other way round while packets leave bare.
const Behind = 8285

// behind returns the routes of an interface by which only probes leave, which are bound to it. A route for
// each peer's prefix would lead answers to hosts that cannot read them yet.
func (w *Wanted) behind() (all []link.Route) {
	for _, prefix := range w.Network {
		if source := w.Self.TUNAddress(prefix.Addr().Is6()); source.IsValid() {
			all = append(all, link.Route{Prefix: prefix, Source: source, Metric: Behind})
		}
	}
	return all
}

// linkOf returns the wanted state of the interface besides what WireGuard knows.
func (w *Wanted) linkOf(l learned) link.Settings {
	s := link.Settings{Interface: wireguard.Interface, Kind: link.Encrypted, MTU: w.MTU, Loose: true,
		Beside: []string{w.TUN}, Routes: w.routes(l)}
	for _, v6 := range []bool{false, true} {
		if ip := w.Self.TUNAddress(v6); ip.IsValid() {
			s.Addresses = append(s.Addresses, ip)
		}
	}
	return s
}
