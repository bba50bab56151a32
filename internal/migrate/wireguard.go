package migrate

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ecdh"
	"encoding/base64"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// FromWireGuard drafts a file from configurations of wg-quick(8). Each file describes one
// host and lists its peers. The files of several hosts complete each other: the address
// of a host is only in the files of its peers, under the host's public key.
//
// The pod network is that of the tunnel addresses. A peer's AllowedIPs inside of it become
// the node's subnets, so that its TUN keeps the tunnel's address; the others become routes.
//
// The error of input that is not a configuration of wg-quick wraps ErrInvalid and names the
// file. No error and no note contains a private key.
func FromWireGuard(files []File) (*Draft, error) {
	w := &wireGuard{draft: Draft{From: "WireGuard"}, hosts: map[string]*wgHost{}}
	w.draft.note("encryption, keys and roaming: meshd sends packets unencrypted, between fixed addresses; " +
		"use it inside networks you trust")
	for _, file := range files {
		if err := w.read(file); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name, err)
		}
	}
	return w.finish(), nil
}

// wireGuard collects what the files say.
type wireGuard struct {
	draft Draft
	hosts map[string]*wgHost // by public key
	order []string           // the keys, as they came
	own   []netip.Prefix     // tunnel addresses, with the length of their network
}

// wgHost is what all files together say of one host.
type wgHost struct {
	name     string
	endpoint string         // host:port, where its peers reach it
	allowed  []netip.Prefix // its tunnel addresses, and what is behind it
}

// section is one [Interface] or [Peer] of a configuration.
type section struct {
	kind    string // "interface", "peer", in lower case
	comment string // the nearest comment line before the first key
	keys    []wgKey
}

// wgKey is one line, KEY = VALUE; the name is in lower case.
type wgKey struct{ name, value string }

// get returns the first value of a key; empty if the section does not have it.
func (s section) get(name string) string {
	for _, k := range s.keys {
		if k.name == name {
			return k.value
		}
	}
	return ""
}

// sections reads the format of wg(8), CONFIGURATION FILE FORMAT. Many people write the name
// of a host in a comment above or below the heading of its section, so comments are kept.
func sections(content []byte) (all []section, err error) {
	comment := ""
	lines := bufio.NewScanner(bytes.NewReader(content))
	for number := 1; lines.Scan(); number++ {
		text, remark, hasRemark := strings.Cut(lines.Text(), "#")
		text = strings.TrimSpace(text)
		switch name, value, isKey := strings.Cut(text, "="); {
		case text == "" && hasRemark:
			comment = strings.TrimSpace(remark)
			if len(all) > 0 && len(all[len(all)-1].keys) == 0 { // right below a heading
				all[len(all)-1].comment = comment
			}
		case text == "":
		// wg(8) takes headings and keys in any case.
		case strings.HasPrefix(text, "["):
			all = append(all, section{kind: strings.ToLower(strings.Trim(text, "[]")), comment: comment})
			comment = ""
		case !isKey || len(all) == 0:
			return nil, fmt.Errorf("line %d: %w: %q is not KEY = VALUE in a section: "+
				"is this a file of wg-quick(8)?", number, ErrInvalid, text)
		default:
			s := &all[len(all)-1]
			s.keys = append(s.keys, wgKey{strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)})
			comment = ""
		}
	}
	return all, lines.Err()
}

// read reads the configuration of one host.
func (w *wireGuard) read(file File) error {
	all, err := sections(file.Content)
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
			err = fmt.Errorf("%w: [%s] is not a section of wg-quick(8)", ErrInvalid, s.kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notCarried are the keys of wg-quick(8) without a counterpart in mesh.toml, with the reason
// where one helps.
var notCarried = map[string]string{
	"dns": "", "table": "", "fwmark": "", "saveconfig": "",
	"preup": "", "postup": "", "predown": "", "postdown": "",
	"mtu":                 "meshd derives it; network.mtu sets it for all hosts",
	"listenport":          "meshd has a port of its own, 8285",
	"presharedkey":        "meshd has no keys",
	"persistentkeepalive": "meshd probes peers every probe.interval",
}

// carried are the keys of wg-quick(8) that the draft uses.
var carried = map[string]bool{
	"address": true, "privatekey": true, "publickey": true, "endpoint": true, "allowedips": true,
}

// carry notes the keys of a section that are lost. Only names of keys become notes: a value
// may be a secret, also under a misspelt name.
func (w *wireGuard) carry(s section) {
	for _, k := range s.keys {
		switch why, known := notCarried[k.name]; {
		case carried[k.name]:
		case !known:
			w.draft.note("%q, which is not a key of wg-quick(8)", k.name)
		case why == "":
			w.draft.note("%s", k.name)
		default:
			w.draft.note("%s: %s", k.name, why)
		}
	}
}

// host returns the host with a public key, a new one if it was not mentioned before.
func (w *wireGuard) host(key string) *wgHost {
	if w.hosts[key] == nil {
		w.hosts[key] = &wgHost{}
		// Nodes come out in the order of the files: maps have none, and two runs must print the same
		// draft.
		w.order = append(w.order, key)
	}
	return w.hosts[key]
}

// self reads the [Interface] section, which describes the host whose file it is.
func (w *wireGuard) self(file string, s section) error {
	w.carry(s)
	key := "of " + file // cannot be a public key: it has a blank
	if s.get("privatekey") == "" {
		w.draft.note("%s has no PrivateKey, so meshd cannot match it with a peer of the other files: "+
			"look for hosts that are listed twice", file)
	}
	if private := s.get("privatekey"); private != "" {
		public, err := publicKey(private)
		if err != nil {
			return err
		}
		key = public
	}
	h := w.host(key)
	// The file is usually named after the interface: a comment, or a peer's comment, knows better.
	h.name = cmp.Or(h.name, nameIn(s.comment), strings.TrimSuffix(filepath.Base(file), ".conf"))
	for _, k := range s.keys {
		if k.name != "address" {
			continue
		}
		ps, err := prefixes(k.value)
		if err != nil {
			return err
		}
		// The length of Address is that of the network (wg-quick(8)); the host itself has one address.
		for _, p := range ps {
			w.own = append(w.own, p)
			h.allow(netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		}
	}
	return nil
}

// named matches a comment that may be the name of a host: a few words without the "=" of a
// key or of a setting that was commented out, so that no secret becomes a name.
var named = regexp.MustCompile(`^[\pL\d][\pL\d ,._()-]{0,31}$`)

// nameIn returns the name of a host in a comment, also in the form "Name = ..." of some
// tools; empty if the comment is something else.
func nameIn(comment string) string {
	if key, value, ok := strings.Cut(comment, "="); ok && strings.EqualFold(strings.TrimSpace(key), "name") {
		comment = strings.TrimSpace(value)
	}
	if !named.MatchString(comment) {
		return ""
	}
	return comment
}

// peer reads a [Peer] section, which describes another host.
func (w *wireGuard) peer(s section) error {
	w.carry(s)
	key := s.get("publickey")
	if key == "" {
		return fmt.Errorf("%w: a [Peer] has no PublicKey", ErrInvalid)
	}
	h := w.host(key)
	if endpoint := s.get("endpoint"); h.endpoint != "" && endpoint != "" && endpoint != h.endpoint {
		w.draft.note("the endpoint %s of %s: another file says %s, which the draft uses",
			endpoint, cmp.Or(nameIn(s.comment), h.name, "a peer"), h.endpoint)
	} else if endpoint != "" {
		h.endpoint = endpoint
	}
	if name := nameIn(s.comment); name != "" {
		h.name = name
	}
	for _, k := range s.keys {
		if k.name != "allowedips" {
			continue
		}
		ps, err := prefixes(k.value)
		if err != nil {
			return err
		}
		for _, p := range ps {
			// AllowedIPs may have host bits, which WireGuard ignores and mesh.toml refuses.
			h.allow(p.Masked())
		}
	}
	return nil
}

// allow adds a prefix to those of the host, once.
func (h *wgHost) allow(p netip.Prefix) {
	if !slices.Contains(h.allowed, p) {
		h.allowed = append(h.allowed, p)
	}
}

// prefixes reads a list with commas, of addresses with or without a prefix length.
func prefixes(text string) (ps []netip.Prefix, err error) {
	for word := range strings.SplitSeq(text, ",") {
		word = strings.TrimSpace(word)
		if word == "" {
			continue
		}
		p, err := netip.ParsePrefix(word)
		if err != nil {
			a, addrErr := netip.ParseAddr(word)
			if addrErr != nil {
				return nil, fmt.Errorf("%w: %q is not an address or a prefix: %w", ErrInvalid, word, err)
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
	d.CIDR = w.networks()
	for _, key := range w.order {
		h := w.hosts[key]
		n := Node{Name: h.name, Address: w.address(h)}
		for _, p := range h.allowed {
			switch {
			case p.Bits() == 0: // mesh.toml refuses routes around the pod network
				d.note("%s to %s: a default route through a peer", p, cmp.Or(h.name, h.endpoint))
			// Inside the pod network it is the node's own; a route there would overlap, which mesh.toml
			// refuses.
			case within(d.CIDR, p):
				n.Subnets = append(n.Subnets, p)
			default:
				n.Routes = append(n.Routes, p)
			}
		}
		d.Nodes = append(d.Nodes, n)
	}
	single := func(p netip.Prefix) bool { return p.IsSingleIP() }
	d.NoPods = !slices.ContainsFunc(d.Nodes, func(n Node) bool {
		return !slices.ContainsFunc(n.Subnets, single)
	})
	d.finish()
	return d
}

// address returns the underlay address of a host, without the port, which is WireGuard's;
// empty if no endpoint says it. meshd does not resolve names for the draft.
func (w *wireGuard) address(h *wgHost) string {
	name := cmp.Or(h.name, "a peer")
	if h.endpoint == "" {
		w.draft.note("the address of %s: no file has an Endpoint for it", name)
		return ""
	}
	// A name that was resolved here would be an address of today, and mesh.toml takes no names.
	if a, err := netip.ParseAddrPort(h.endpoint); err == nil {
		return a.Addr().String()
	}
	w.draft.note("the endpoint of %s is the name %s: meshd needs an address", name, h.endpoint)
	return ""
}

// networks returns the network of the tunnel's addresses, for each family. With lengths such
// as 10.0.0.1/24 that is the network which contains all of them. With /32 everywhere it is
// the smallest prefix that contains every single address of the tunnel.
func (w *wireGuard) networks() (all []netip.Prefix) {
	for _, v6 := range []bool{false, true} {
		var network netip.Prefix
		for _, p := range w.own {
			if p.Addr().Is6() != v6 {
				continue
			}
			if !network.IsValid() {
				network = p.Masked()
			}
			network = cover(network, p)
		}
		if !network.IsValid() {
			continue
		}
		for _, h := range w.hosts {
			for _, p := range h.allowed {
				if p.Addr().Is6() == v6 && p.IsSingleIP() && network.IsSingleIP() {
					network = cover(network, p)
				}
			}
		}
		const least = 8 // a shorter prefix covers addresses of unrelated networks
		if network.Bits() < least {
			w.draft.note("the network: no prefix of %d bits or more contains all of %v", least, w.own)
			continue
		}
		all = append(all, network)
	}
	return all
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
