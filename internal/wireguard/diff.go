package wireguard

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// A difference is what one interface lacks. Its parts are applied in their order:
//
//	device     key and port, without peers: wgctrl repeats these fields in each message of a long list
//	added      new peers, and what peers lack. Adding a prefix takes it from the peer that has it, in one
//	           step (add in drivers/net/wireguard/allowedips.c), so a prefix that moves always has an owner
//	lent       prefixes that nobody should have, of peers that stay. No flag of wgctrl removes one prefix, and
//	           ReplaceAllowedIPs leaves the peer without any for a moment; a peer that is removed takes its
//	           prefixes along, so they are given to a dummy first
//	removed    peers that are not wanted
type difference struct {
	device  wgtypes.Config
	added   []wgtypes.PeerConfig
	lent    []netip.Prefix
	removed []wgtypes.Key
	what    []string // a sentence for each of them
}

// empty tells whether nothing is to be done.
func (d *difference) empty() bool { return len(d.what) == 0 }

// note adds a sentence.
func (d *difference) note(format string, args ...any) {
	d.what = append(d.what, fmt.Sprintf(format, args...))
}

// compare returns what has to change on an interface for s, which is valid. It is pure.
func compare(has *wgtypes.Device, s Settings) (d difference) {
	if key := clamped(s.Private.key); has.PrivateKey != key {
		d.device.PrivateKey = &key
		d.note("the private key differed")
	}
	if port := int(s.Port); has.ListenPort != port {
		d.device.ListenPort = &port
		d.note("the port was %d", has.ListenPort)
	}
	wanted := make(map[wgtypes.Key]bool, len(s.Peers))
	taken := make(map[netip.Prefix]bool, len(s.Peers)) // what one of the peers should have
	for _, p := range s.Peers {
		wanted[wgtypes.Key(p.Key)] = true
		for _, prefix := range p.Allowed {
			taken[prefix] = true
		}
	}
	there := make(map[wgtypes.Key]*wgtypes.Peer, len(has.Peers))
	for i := range has.Peers {
		there[has.Peers[i].PublicKey] = &has.Peers[i]
	}
	for _, p := range s.Peers {
		d.peer(there[wgtypes.Key(p.Key)], p)
	}
	for i := range has.Peers {
		p := &has.Peers[i]
		if !wanted[p.PublicKey] {
			d.removed = append(d.removed, p.PublicKey)
			d.note("peer %v was there", p.PublicKey)
			continue
		}
		for _, prefix := range prefixes(p) {
			if !taken[prefix] {
				d.lent = append(d.lent, prefix)
				d.note("peer %v had %v", p.PublicKey, prefix)
			}
		}
	}
	return d
}

// peer adds what one wanted peer lacks. has is nil for a new one.
func (d *difference) peer(has *wgtypes.Peer, p Peer) {
	config := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.Key)}
	if has == nil {
		config.Endpoint = udpAddr(p.Endpoint)
		if p.Keepalive != 0 {
			config.PersistentKeepaliveInterval = &p.Keepalive
		}
		config.AllowedIPs = ipNets(p.Allowed)
		d.added = append(d.added, config)
		d.note("peer %v was missing", p.Key)
		return
	}
	before := len(d.what)
	// A peer that somebody removes meanwhile must not come back with a half of its settings.
	config.UpdateOnly = true
	if was := addrPort(has.Endpoint); p.Endpoint.IsValid() && was != p.Endpoint && (p.Call || !was.IsValid()) {
		config.Endpoint = udpAddr(p.Endpoint)
		d.note("peer %v was called at %v, not at %v", p.Key, has.Endpoint, p.Endpoint)
	}
	if has.PersistentKeepaliveInterval != p.Keepalive {
		config.PersistentKeepaliveInterval = &p.Keepalive
		d.note("the keepalive of peer %v was %v", p.Key, has.PersistentKeepaliveInterval)
	}
	if has.PresharedKey != (wgtypes.Key{}) { // of another program: no handshake would succeed
		config.PresharedKey = new(wgtypes.Key)
		d.note("peer %v had a preshared key", p.Key)
	}
	owned := ownedBy(has)
	for _, prefix := range p.Allowed {
		if !owned(prefix) {
			config.AllowedIPs = append(config.AllowedIPs, ipNet(prefix))
			d.note("peer %v lacked %v", p.Key, prefix)
		}
	}
	if len(d.what) > before {
		d.added = append(d.added, config)
	}
}

// ownedBy returns a function that tells whether a peer has a prefix. Nearly all peers have few.
func ownedBy(p *wgtypes.Peer) func(netip.Prefix) bool {
	all := prefixes(p)
	if len(all) <= 8 {
		return func(prefix netip.Prefix) bool { return slices.Contains(all, prefix) }
	}
	owned := make(map[netip.Prefix]bool, len(all))
	for _, prefix := range all {
		owned[prefix] = true
	}
	return func(prefix netip.Prefix) bool { return owned[prefix] }
}

// clamped returns a private key as interfaces keep and tell it (RFC 7748 section 5;
// curve25519_clamp_secret in include/crypto/curve25519.h).
func clamped(key wgtypes.Key) wgtypes.Key {
	key[0] &= 248
	key[31] = key[31]&127 | 64
	return key
}

// prefixes returns the prefixes of a peer, without those that netip cannot express.
func prefixes(p *wgtypes.Peer) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(p.AllowedIPs))
	for _, n := range p.AllowedIPs {
		ip, ok := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		if prefix := netip.PrefixFrom(ip.Unmap(), ones); ok && prefix.IsValid() {
			all = append(all, prefix.Masked())
		}
	}
	return all
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ipNets(all []netip.Prefix) (nets []net.IPNet) {
	for _, p := range all {
		nets = append(nets, ipNet(p))
	}
	return nets
}

// udpAddr returns nil for the zero value.
func udpAddr(a netip.AddrPort) *net.UDPAddr {
	if !a.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(a)
}

// addrPort returns the zero value for nil.
func addrPort(a *net.UDPAddr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	p := a.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// Limits of one call. A message of netlink holds them with room to spare, and wgctrl then sends one message
// instead of one for each peer (shouldBatch in its configure_linux.go).
const (
	peersAtOnce    = 32
	prefixesAtOnce = 256
	longestAlive   = 65535 * time.Second // u16 of seconds, WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL
)

// calls splits peers into lists that fit into one call each. A peer with more prefixes than that stands in
// several, with its other settings in the first.
func calls(peers []wgtypes.PeerConfig) (all [][]wgtypes.PeerConfig) {
	var call []wgtypes.PeerConfig
	room := prefixesAtOnce
	for _, p := range peers {
		for rest := p.AllowedIPs; ; {
			if len(call) == peersAtOnce || room == 0 {
				all, call, room = append(all, call), nil, prefixesAtOnce
			}
			n := min(room, len(rest))
			p.AllowedIPs, rest = rest[:n:n], rest[n:]
			call, room = append(call, p), room-n
			if len(rest) == 0 {
				break
			}
			// Only what identifies it is said again. It exists now, or is gone for good.
			p = wgtypes.PeerConfig{PublicKey: p.PublicKey, UpdateOnly: true}
		}
	}
	if len(call) > 0 {
		all = append(all, call)
	}
	return all
}

// check returns why no interface can have these settings. Kernel and user space would ignore or change
// silently what is refused here.
func check(s Settings) error {
	if s.Interface == "" || !s.Private.IsValid() {
		return fmt.Errorf("%w: the name of the interface and the private key are needed", ErrSettings)
	}
	own := s.Private.Public()
	keys := make(map[[32]byte]bool, len(s.Peers))
	owners := make(map[netip.Prefix]int, len(s.Peers))
	for i, p := range s.Peers {
		low := p.Key
		low[31] &= 0x7f // X25519 ignores this bit: two keys that differ in it are one (mesh.Key.Same)
		switch {
		case !p.Key.IsValid():
			return fmt.Errorf("%w: a peer has no key", ErrSettings)
		case p.Key.Same(own):
			return fmt.Errorf("%w: peer %v", ErrOwnKey, p.Key)
		case keys[low]:
			return fmt.Errorf("%w: the key %v belongs to two peers", ErrSettings, p.Key)
		case p.Endpoint != (netip.AddrPort{}) && !callable(p.Endpoint):
			return fmt.Errorf("%w: peer %v cannot be called at %v", ErrSettings, p.Key, p.Endpoint)
		case p.Keepalive < 0 || p.Keepalive > longestAlive || p.Keepalive%time.Second != 0:
			return fmt.Errorf("%w: peer %v cannot have a keepalive of %v", ErrSettings, p.Key, p.Keepalive)
		}
		keys[low] = true
		for _, prefix := range p.Allowed {
			if !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
				return fmt.Errorf("%w: peer %v cannot have the prefix %v", ErrSettings, p.Key, prefix)
			}
			if other, ok := owners[prefix]; ok {
				return fmt.Errorf("%w: %v belongs to the peers %v and %v", ErrSettings, prefix, s.Peers[other].Key,
					p.Key)
			}
			owners[prefix] = i
		}
	}
	return nil
}

// callable tells whether datagrams can be sent there as given: wgctrl would lose a zone, and an IPv4-mapped
// address comes back as an IPv4 one.
func callable(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.IsValid() && a.Port() != 0 && ip.Zone() == "" && !ip.Is4In6() && !ip.IsUnspecified() &&
		!ip.IsMulticast()
}
