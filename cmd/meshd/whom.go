package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/typed"
)

// whom returns the name of the peer that somebody means: a name, or an address of it or of something behind
// it. Which node that is, is said on stderr. A name is not looked up, since the question about it will
// tell. The error wraps control.ErrNoPeer if no peer has the address.
func whom(ctx context.Context, client *control.Client, word string, stderr io.Writer,
) (name string, err error) {
	ip, ok := address(word)
	if !ok {
		return word, nil
	}
	s, err := ask(ctx, client.Status)
	if err != nil {
		return "", err
	}
	for _, p := range s.Peers {
		if p.Name == word { // names of nodes may look like addresses
			return word, nil
		}
	}
	for _, p := range s.Peers {
		if about := whose(p, ip); about != "" {
			fmt.Fprintf(stderr, "meshd: %s is %s of %s\n", word, about, p.Name)
			return p.Name, nil
		}
	}
	self := control.Peer{Address: s.Network.Address, Subnets: s.Network.Subnets}
	for _, at := range s.Network.Addresses {
		self.Addresses = append(self.Addresses, control.PeerAddress{Address: at})
	}
	if about := whose(self, ip); about != "" {
		return "", fmt.Errorf("%w: %s is %s of this node itself, %s", control.ErrNoPeer, word, about, s.Node)
	}
	return "", fmt.Errorf("%w: no node has the address %s", control.ErrNoPeer, word)
}

// address reads an address, with or without a port.
func address(word string) (ip netip.Addr, ok bool) {
	if at, err := netip.ParseAddrPort(word); err == nil {
		return at.Addr().Unmap(), true
	}
	ip, err := netip.ParseAddr(word)
	return ip.Unmap(), err == nil
}

// whose tells what an address is to a node: its own, or in a prefix behind it; empty: neither.
func whose(p control.Peer, ip netip.Addr) string {
	listens := func(at string) bool { got, ok := address(at); return ok && got == ip }
	if listens(p.Address) ||
		slices.ContainsFunc(p.Addresses, func(a control.PeerAddress) bool { return listens(a.Address) }) ||
		p.WireGuard != nil && listens(p.WireGuard.Endpoint) {
		return "an address"
	}
	for _, text := range slices.Concat(p.Subnets, p.Routes) {
		if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Contains(ip) {
			return "in " + text
		}
	}
	return ""
}

// meant adds to an error that no peer has a name which of the names somebody may have meant.
func meant(ctx context.Context, client *control.Client, word string, err error) error {
	if !errors.Is(err, control.ErrNoPeer) {
		return err
	}
	s, failed := ask(ctx, client.Status)
	if failed != nil { // then there is no better advice
		return err
	}
	if name := typed.Meant(word, names(s.Peers)); name != "" {
		return fmt.Errorf("%w: did you mean %q?", err, name)
	}
	return err
}

// names are those of peers.
func names(peers []control.Peer) []string {
	all := make([]string, 0, len(peers))
	for _, p := range peers {
		all = append(all, p.Name)
	}
	return all
}
