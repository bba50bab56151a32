package migrate

import (
	"cmp"
	"crypto/ecdh"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// FromWireGuard drafts a file from configurations of wg-quick(8). Each file describes one
// host and lists its peers. The files of several hosts complete each other: the address
// of a host is only in the files of its peers, under the host's public key.
//
// The pod network is that of the tunnel addresses. A peer's AllowedIPs inside of it become
// the node's subnets, so that its TUN keeps the tunnel's address; the others become routes. Public keys and
// the port stay. A peer without an Endpoint becomes a node without an address.
//
// The error of input that is not a configuration of wg-quick wraps ErrInvalid and names the
// file. No error and no note contains a private key.
func FromWireGuard(files []File) (*Draft, error) {
	w := &wireGuard{draft: Draft{From: "WireGuard"}, hosts: map[string]*wgHost{}}
	w.draft.losses.mesh("the private keys: on each host write the PrivateKey of its file into " +
		"/etc/meshd/private.key, mode 0400, owner meshd; and stop wg-quick, which opens the same port")
	for _, file := range files {
		if err := w.read(file); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name, err)
		}
		if len(w.order) > maxNodes || w.prefixes > maxPrefixes {
			return nil, fmt.Errorf("%s: %w: more than %d peers or %d prefixes", file.Name, ErrTooLarge,
				maxNodes, maxPrefixes)
		}
	}
	return w.finish(), nil
}

// wireGuard collects what the files say.
type wireGuard struct {
	draft    Draft
	hosts    map[string]*wgHost // by public key
	order    []*wgHost          // as they came: the number of a host is its place
	own      []netip.Prefix     // tunnel addresses, with the length of their network
	prefixes int                // of all hosts
	singles  []single           // their tunnel addresses, sorted, once all files are read
	shared   map[string]int     // hosts by the address at which they are called, once all files are read
}

// maxPrefixes bounds the prefixes of a draft.
const maxPrefixes = 100_000

// wgHost is what all files together say of one host.
type wgHost struct {
	id       int // its number among the nodes of the draft
	name     string
	key      string                // its public key, as a file has it; empty: no file does
	own      bool                  // its own file is among the input
	port     int                   // that it listens on, of its own file; 0: it does not say
	endpoint string                // host:port, where its peers reach it
	allowed  []netip.Prefix        // its tunnel addresses, and what is behind it
	known    map[netip.Prefix]bool // what is in allowed
	tunnel   map[netip.Prefix]bool // its own addresses in the tunnel, of its own file
}

// read reads the configuration of one host.
func (w *wireGuard) read(file File) error {
	content, err := file.text()
	if err != nil {
		return err
	}
	all, err := sections(content)
	if err != nil {
		return err
	}
	// A file of peers alone belongs to another tool, or was cut.
	if !slices.ContainsFunc(all, func(s section) bool { return s.kind == "interface" }) {
		return fmt.Errorf("%w: it has no [Interface]: is this a file of wg-quick(8)?", ErrInvalid)
	}
	for _, s := range all {
		switch s.kind {
		case "interface":
			err = w.self(file.Name, s)
		case "peer":
			err = w.peer(s)
		default:
			err = fmt.Errorf("line %d: %w: [%s] is not a section of wg-quick(8)", s.line, ErrInvalid, clip(s.kind))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notCarried are the keys of wg-quick(8) without a counterpart in mesh.toml, in lower case, as the
// manual writes them, with the reason where one helps.
var notCarried = map[string]struct{ name, why string }{
	"dns": {"DNS", ""}, "table": {"Table", ""}, "fwmark": {"FwMark", ""}, "saveconfig": {"SaveConfig", ""},
	"preup": {"PreUp", ""}, "postup": {"PostUp", ""}, "predown": {"PreDown", ""}, "postdown": {"PostDown", ""},
	"mtu":                 {"MTU", "meshd derives it; network.mtu sets it for all hosts"},
	"presharedkey":        {"PresharedKey", "meshd has no preshared keys; public_key is enough"},
	"persistentkeepalive": {"PersistentKeepalive", "meshd keeps the way through NAT open by itself"},
}

// carried are the keys of wg-quick(8) that the draft uses.
var carried = map[string]bool{
	"address": true, "privatekey": true, "publickey": true, "endpoint": true, "allowedips": true,
	"listenport": true,
}

// carry notes the keys of a section that a host loses. Only names of keys become notes: a value
// may be a secret, also under a misspelt name.
func (w *wireGuard) carry(h *wgHost, s section) {
	for _, k := range s.keys {
		switch lost, known := notCarried[k.name]; {
		case carried[k.name]:
		case !known:
			w.draft.losses.of(h.id, fmt.Sprintf("%q", clip(k.name)), "this is not a key of wg-quick(8)")
		default:
			w.draft.losses.of(h.id, lost.name, lost.why)
		}
	}
}

// host returns the host with a public key, a new one if it was not mentioned before.
func (w *wireGuard) host(key string) *wgHost {
	if w.hosts[key] == nil {
		w.hosts[key] = &wgHost{id: len(w.order), known: map[netip.Prefix]bool{},
			tunnel: map[netip.Prefix]bool{}}
		// Nodes come out in the order of the files: maps have none, and two runs must print the same
		// draft.
		w.order = append(w.order, w.hosts[key])
	}
	return w.hosts[key]
}

// self reads the [Interface] section, which describes the host whose file it is.
func (w *wireGuard) self(file string, s section) error {
	key := "of " + file // cannot be a public key: it has a blank
	private := s.get("privatekey")
	if private != "" {
		public, err := publicKey(private)
		if err != nil {
			return fmt.Errorf("line %d: %w", s.line, err)
		}
		key = public
	}
	h := w.host(key)
	if private != "" {
		h.key = key
	}
	h.port, h.own = port(s.get("listenport")), true
	// The file is usually named after the interface: a comment, or a peer's comment, knows better.
	h.name = cmp.Or(h.name, s.name, strings.TrimSuffix(filepath.Base(file), ".conf"))
	if private == "" {
		w.draft.losses.of(h.id, "the public key", "its file has no PrivateKey, so meshd cannot match it with "+
			"a peer of the other files: look for hosts that are listed twice")
	}
	w.carry(h, s)
	for _, k := range s.keys {
		if k.name != "address" {
			continue
		}
		ps, err := prefixes(k)
		if err != nil {
			return err
		}
		// The length of Address is that of the network (wg-quick(8)); the host itself has one address.
		for _, p := range ps {
			single := netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
			w.own, h.tunnel[single] = append(w.own, p), true
			w.allow(h, single)
		}
	}
	return nil
}

// peer reads a [Peer] section, which describes another host.
func (w *wireGuard) peer(s section) error {
	key := s.get("publickey")
	if key == "" {
		return fmt.Errorf("line %d: %w: this [Peer] has no PublicKey", s.line, ErrInvalid)
	}
	h := w.host(key)
	h.key, h.name = key, cmp.Or(s.name, h.name)
	w.carry(h, s)
	if endpoint := s.get("endpoint"); h.endpoint != "" && endpoint != "" && endpoint != h.endpoint {
		w.draft.losses.of(h.id, "the endpoint "+clip(endpoint),
			fmt.Sprintf("another file says %s, which the draft uses", clip(h.endpoint)))
	} else if endpoint != "" {
		h.endpoint = endpoint
	}
	for _, k := range s.keys {
		if k.name != "allowedips" {
			continue
		}
		ps, err := prefixes(k)
		if err != nil {
			return err
		}
		for _, p := range ps {
			// AllowedIPs may have host bits, which WireGuard ignores and mesh.toml refuses.
			w.allow(h, p.Masked())
		}
	}
	return nil
}

// allow adds a prefix to those of a host, once.
func (w *wireGuard) allow(h *wgHost, p netip.Prefix) {
	if !h.known[p] {
		h.known[p] = true
		h.allowed = append(h.allowed, p)
		w.prefixes++
	}
}

// prefixes reads a list with commas, of addresses with or without a prefix length.
func prefixes(k wgKey) (ps []netip.Prefix, err error) {
	for word := range strings.SplitSeq(k.value, ",") {
		word = strings.TrimSpace(word)
		if word == "" {
			continue
		}
		p, err := netip.ParsePrefix(word)
		if err != nil {
			a, addrErr := netip.ParseAddr(word)
			if addrErr != nil {
				return nil, fmt.Errorf("line %d: %w: %q is not an address or a prefix", k.line, ErrInvalid, clip(word))
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// publicKey returns the public key of a private one, both in base64 (X25519, RFC 7748,
// section 6.1). Errors do not wrap those of the libraries, which may quote the key.
func publicKey(private string) (string, error) {
	errKey := fmt.Errorf("%w: PrivateKey is not 32 bytes in base64", ErrInvalid)
	raw, err := base64.StdEncoding.DecodeString(private)
	if err != nil {
		return "", errKey
	}
	key, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return "", errKey
	}
	return base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()), nil
}

// finish turns the hosts into nodes of the draft.
func (w *wireGuard) finish() *Draft {
	d := &w.draft
	d.CIDR, w.singles = w.networks(), w.sortedSingles()
	d.WGPort = w.commonPort()
	w.countShared()
	called := slices.ContainsFunc(w.order, func(h *wgHost) bool { return h.endpoint != "" || h.port != 0 })
	for _, h := range w.order {
		n := Node{Name: h.name}
		w.identify(h, &n)
		if w.place(h, &n); n.CallsIn && h.own && !called { // somebody has to be called
			n.CallsIn, n.Address = false, w.address(h)
		}
		if host, _, err := net.SplitHostPort(h.endpoint); err == nil && !isIP(host) {
			n.Name = cmp.Or(n.Name, clip(host)) // the only name that the files know
		}
		for _, p := range h.allowed {
			if why := w.noNode(h, p); why != "" {
				d.losses.of(h.id, p.String(), why)
			} else if within(d.CIDR, p) || h.tunnel[p] {
				n.Subnets = append(n.Subnets, p)
			} else {
				n.Routes = append(n.Routes, p)
			}
		}
		if len(n.Subnets) == 0 {
			d.losses.of(h.id, "the subnet", "no file says which of the tunnel's addresses are its own")
		}
		d.Nodes = append(d.Nodes, n)
	}
	d.NoPods = !slices.ContainsFunc(d.Nodes, func(n Node) bool {
		return !slices.ContainsFunc(n.Subnets, netip.Prefix.IsSingleIP)
	})
	d.finish()
	d.throughHub()
	return d
}

// noNode says why a prefix of a host cannot be one of its node; empty if it can. What mesh.toml
// refuses are routes around the pod network, and addresses that several nodes have.
func (w *wireGuard) noNode(h *wgHost, p netip.Prefix) string {
	switch {
	case p.Bits() == 0:
		return "a node cannot be the default route"
	case p.IsSingleIP():
		return ""
	case !slices.ContainsFunc(w.draft.CIDR, p.Overlaps):
		return ""
	case !within(w.draft.CIDR, p):
		return "it covers the network of the tunnel, and a node's routes are outside of it"
	}
	at, _ := slices.BinarySearchFunc(w.singles, p.Addr(),
		func(s single, a netip.Addr) int { return s.Compare(a) })
	for ; at < len(w.singles) && p.Contains(w.singles[at].Addr); at++ {
		if w.singles[at].host != h { // a way to the others, as road warriors have it
			return "it leads to the other hosts of the tunnel, too, and a node has addresses of its own"
		}
	}
	return ""
}

// A single is a tunnel address of a host.
type single struct {
	netip.Addr
	host *wgHost
}

// sortedSingles returns the tunnel addresses of all hosts, in rising order.
func (w *wireGuard) sortedSingles() (all []single) {
	for _, h := range w.order {
		for _, p := range h.allowed {
			if p.IsSingleIP() {
				all = append(all, single{p.Addr(), h})
			}
		}
	}
	slices.SortFunc(all, func(a, b single) int { return a.Compare(b.Addr) })
	return all
}

func isIP(s string) bool { _, err := netip.ParseAddr(s); return err == nil }

// label matches a part of a name of DNS.
const label = `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`

// hostName matches the names of DNS that mesh.toml takes for an address, and numbers what it takes for a slip
// in an IP address.
var (
	hostName = pattern(`(?i)^` + label + `(\.` + label + `)*$`)
	numbers  = pattern(`(^|\.)[0-9]+$|^([0-9]+\.){3,}[0-9]|(?i)(^|\.)localhost$`)
)

// address returns the underlay address of a host, without the port; empty if no endpoint says it. meshd does
// not resolve names for the draft.
func (w *wireGuard) address(h *wgHost) string {
	if h.endpoint == "" {
		w.draft.losses.of(h.id, "the address",
			"no file has an Endpoint: write an address at which the other hosts reach it")
		return ""
	}
	if a, err := netip.ParseAddrPort(h.endpoint); err == nil {
		return a.Addr().String()
	}
	// A name that was resolved here would be an address of today: the daemon resolves it.
	host, _, err := net.SplitHostPort(h.endpoint)
	if err == nil && hostName().MatchString(host) && len(host) <= 253 && !numbers().MatchString(host) {
		return strings.ToLower(host)
	}
	w.draft.losses.of(h.id, "the endpoint "+clip(h.endpoint), "it is neither an IP address nor a name of DNS")
	return ""
}

// networks returns the network of the tunnel's addresses, for each family. With lengths such
// as 10.0.0.1/24 that is the network which contains all of them. With /32 everywhere it is
// what a peer's AllowedIPs say about the tunnel, or else the smallest prefix that contains every
// single address of it.
func (w *wireGuard) networks() (all []netip.Prefix) {
	for _, v6 := range []bool{false, true} {
		var network netip.Prefix
		single := true // the files say nothing about the length
		for _, p := range w.own {
			if p.Addr().Is6() != v6 {
				continue
			}
			if !network.IsValid() {
				network = p.Masked()
			}
			network, single = cover(network, p), single && p.IsSingleIP()
		}
		if !network.IsValid() {
			continue
		}
		if single {
			network = w.around(network)
		}
		const least = 8 // a shorter prefix covers addresses of unrelated networks
		switch {
		case network.IsSingleIP():
			w.draft.losses.mesh("the network: %s is the only address of the tunnel in the input: the file of another "+
				"host says more, or write the network yourself", network.Addr())
		case network.Bits() < least:
			w.draft.losses.mesh("the network: no prefix of %d bits or more contains all of %v", least,
				w.own[:min(len(w.own), 5)])
		default:
			all = append(all, network)
		}
	}
	return all
}

// around returns the network of a tunnel whose addresses in the files have no length: the longest
// prefix by which a road warrior reaches all of them, or else what contains every single address.
func (w *wireGuard) around(own netip.Prefix) netip.Prefix {
	way, network := netip.Prefix{}, own
	for _, h := range w.order {
		for _, p := range h.allowed {
			switch {
			case p.Addr().Is4() != own.Addr().Is4():
			case p.IsSingleIP():
				network = cover(network, p)
			case p.Bits() > 0 && cover(p, own) == p && (!way.IsValid() || p.Bits() > way.Bits()):
				way = p
			}
		}
	}
	if way.IsValid() {
		return way
	}
	return network
}

// cover returns the longest prefix that contains both a and b.
func cover(a, b netip.Prefix) netip.Prefix {
	// Ends at /0 at the latest, which contains every address of the family.
	for !(a.Bits() <= b.Bits() && a.Contains(b.Addr())) {
		a = netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
	}
	return a
}

// within reports whether one of the networks contains all of p.
func within(networks []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool {
		return n.Bits() <= p.Bits() && n.Contains(p.Addr())
	})
}
