package migrate

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// FromWireGuard drafts a file from configurations of wg-quick(8). Each is of one host and
// lists the others; those of several hosts complete each other, since a host's own address
// stands only in the files of the others, under its public key.
//
// The network is that of the tunnel addresses. What a peer is allowed inside it becomes
// its subnets, so that its TUN keeps the tunnel's address; the rest becomes its routes.
func FromWireGuard(files []File) (*Draft, error) {
	w := &wireGuard{draft: Draft{From: "WireGuard"}, hosts: map[string]*wgHost{}}
	w.draft.note("encryption, keys and roaming: meshd sends packets in the clear, between addresses that stand in the file; use it inside networks you trust")
	for _, file := range files {
		if err := w.read(file); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name, err)
		}
	}
	return w.finish(), nil
}

type wireGuard struct {
	draft Draft
	hosts map[string]*wgHost // by public key
	order []string
	own   []netip.Prefix // tunnel addresses, with the length of their network
}

// wgHost is what is known of one host.
type wgHost struct {
	name, endpoint string
	allowed        []netip.Prefix
}

// section is a part of a configuration.
type section struct {
	kind    string // "interface", "peer"
	comment string // the last line before it
	keys    []wgKey
}

type wgKey struct{ name, value string }

func (s section) get(name string) string {
	for _, k := range s.keys {
		if k.name == name {
			return k.value
		}
	}
	return ""
}

// sections reads the format of wg(8), CONFIGURATION FILE FORMAT.
func sections(content []byte) (all []section, err error) {
	comment := ""
	lines := bufio.NewScanner(bytes.NewReader(content))
	for number := 1; lines.Scan(); number++ {
		text, remark, hasRemark := strings.Cut(lines.Text(), "#")
		text = strings.TrimSpace(text)
		switch name, value, isKey := strings.Cut(text, "="); {
		case text == "" && hasRemark:
			comment = strings.TrimSpace(remark)
			if len(all) > 0 && len(all[len(all)-1].keys) == 0 { // below its heading
				all[len(all)-1].comment = comment
			}
		case text == "":
		case strings.HasPrefix(text, "["):
			all = append(all, section{kind: strings.ToLower(strings.Trim(text, "[]")), comment: comment})
			comment = ""
		case !isKey || len(all) == 0:
			return nil, fmt.Errorf("line %d: %q is no KEY = VALUE in a section: is this a file of wg-quick(8)?", number, text)
		default:
			s := &all[len(all)-1]
			s.keys = append(s.keys, wgKey{strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)})
			comment = ""
		}
	}
	return all, lines.Err()
}

func (w *wireGuard) read(file File) error {
	all, err := sections(file.Content)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(s section) bool { return s.kind == "interface" }) {
		return errors.New("there is no [Interface]: is this a file of wg-quick(8)?")
	}
	for _, s := range all {
		switch s.kind {
		case "interface":
			err = w.self(file.Name, s)
		case "peer":
			err = w.peer(s)
		default:
			err = fmt.Errorf("[%s] is no section of wg-quick(8)", s.kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notCarried are keys that have no counterpart, and why.
var notCarried = map[string]string{
	"dns": "", "table": "", "fwmark": "", "saveconfig": "", "preup": "", "postup": "", "predown": "", "postdown": "",
	"mtu":                 "meshd finds it; network.mtu sets it for all hosts",
	"listenport":          "meshd has a port of its own, 8285",
	"presharedkey":        "there are no keys",
	"persistentkeepalive": "peers are asked every probe.interval",
}

// carried are those that have.
var carried = map[string]bool{"address": true, "privatekey": true, "publickey": true, "endpoint": true, "allowedips": true}

func (w *wireGuard) carry(s section) {
	for _, k := range s.keys {
		switch why, known := notCarried[k.name]; {
		case carried[k.name]:
		case !known:
			w.draft.note("%q, which is no key of wg-quick(8)", k.name)
		case why == "":
			w.draft.note("%s", k.name)
		default:
			w.draft.note("%s: %s", k.name, why)
		}
	}
}

// host returns what is known of the host with a public key.
func (w *wireGuard) host(key string) *wgHost {
	if w.hosts[key] == nil {
		w.hosts[key] = &wgHost{}
		w.order = append(w.order, key)
	}
	return w.hosts[key]
}

// self reads the part about the host whose file it is.
func (w *wireGuard) self(file string, s section) error {
	w.carry(s)
	key := "of " + file
	if s.get("privatekey") == "" {
		w.draft.note("%s has no PrivateKey, so it cannot be told which peer of the other files it is: look for hosts that are listed twice", file)
	}
	if private := s.get("privatekey"); private != "" {
		public, err := publicKey(private)
		if err != nil {
			return err
		}
		key = public
	}
	h := w.host(key)
	h.name = cmp.Or(h.name, nameIn(s.comment), strings.TrimSuffix(filepath.Base(file), ".conf"))
	for _, k := range s.keys {
		if k.name != "address" {
			continue
		}
		ps, err := prefixes(k.value)
		if err != nil {
			return err
		}
		for _, p := range ps {
			w.own = append(w.own, p)
			h.allow(netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		}
	}
	return nil
}

// named is a comment that names a host: a few words, and nothing that looks like a key or a
// line of the file that was put out of force.
var named = regexp.MustCompile(`^[\pL\d][\pL\d ,._()-]{0,31}$`)

// nameIn returns the name of a host that a comment tells; empty if it tells something else.
func nameIn(comment string) string {
	if before, after, ok := strings.Cut(comment, "="); ok && strings.EqualFold(strings.TrimSpace(before), "name") {
		comment = strings.TrimSpace(after)
	}
	if !named.MatchString(comment) {
		return ""
	}
	return comment
}

func (w *wireGuard) peer(s section) error {
	w.carry(s)
	key := s.get("publickey")
	if key == "" {
		return errors.New("a [Peer] without PublicKey")
	}
	h := w.host(key)
	if endpoint := s.get("endpoint"); h.endpoint != "" && endpoint != "" && endpoint != h.endpoint {
		w.draft.note("the endpoint %s of %s: it has %s, too, which is taken", endpoint, cmp.Or(nameIn(s.comment), h.name, "a peer"), h.endpoint)
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
			h.allow(p.Masked())
		}
	}
	return nil
}

func (h *wgHost) allow(p netip.Prefix) {
	if !slices.Contains(h.allowed, p) {
		h.allowed = append(h.allowed, p)
	}
}

// prefixes reads addresses with or without a length, between commas.
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
				return nil, fmt.Errorf("%q is no address or prefix: %w", word, err)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// publicKey returns the public key of a private one, both in base64 (RFC 7748, X25519).
func publicKey(private string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(private)
	if err != nil {
		return "", errors.New("PrivateKey is no base64") // not the key itself
	}
	key, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return "", errors.New("PrivateKey is not 32 bytes in base64")
	}
	return base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()), nil
}

func (w *wireGuard) finish() *Draft {
	d := &w.draft
	d.CIDR = w.networks()
	for _, key := range w.order {
		h := w.hosts[key]
		n := Node{Name: h.name, Address: w.address(h)}
		for _, p := range h.allowed {
			switch {
			case p.Bits() == 0:
				d.note("%s to %s: a default route through a peer", p, cmp.Or(h.name, h.endpoint))
			case within(d.CIDR, p):
				n.Subnets = append(n.Subnets, p)
			default:
				n.Routes = append(n.Routes, p)
			}
		}
		d.Nodes = append(d.Nodes, n)
	}
	single := func(p netip.Prefix) bool { return p.IsSingleIP() }
	d.NoPods = !slices.ContainsFunc(d.Nodes, func(n Node) bool { return !slices.ContainsFunc(n.Subnets, single) })
	d.finish()
	return d
}

// address returns where a host is reached, if its endpoint tells.
func (w *wireGuard) address(h *wgHost) string {
	name := cmp.Or(h.name, "a peer")
	if h.endpoint == "" {
		w.draft.note("the address of %s: no file has an Endpoint for it", name)
		return ""
	}
	if a, err := netip.ParseAddrPort(h.endpoint); err == nil {
		return a.Addr().String()
	}
	w.draft.note("%s is reached at %s, a name: meshd needs its address", name, h.endpoint)
	return ""
}

// networks returns the network of the tunnel's addresses, of each family: what the
// addresses say, or what holds all of them where they say nothing but themselves.
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
		const least = 8 // less is not one network, but several
		if network.Bits() < least {
			w.draft.note("the network: the addresses %v have none in common", w.own)
			continue
		}
		all = append(all, network)
	}
	return all
}

// cover returns the smallest prefix that holds two.
func cover(a, b netip.Prefix) netip.Prefix {
	for !(a.Bits() <= b.Bits() && a.Contains(b.Addr())) {
		a = netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
	}
	return a
}

func within(networks []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) })
}
