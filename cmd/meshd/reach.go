package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/plan"
)

// This file explains who may reach whom: `meshd route FROM TO [PROTO/PORT]`. It knows the file alone, so it
// works on any host.

// A reach is the answer for programs.
type reach struct {
	From    string `json:"from"` // an address
	To      string `json:"to"`
	Service string `json:"service"` // "tcp/443"; empty: any
	Allowed bool   `json:"allowed"` // without a service: some of it is
	Rule    string `json:"rule"`    // that allows it; empty: none does, or none is about it
	Reason  string `json:"reason"`  // for people
}

// explainReach prints what the rules of the file say of packets between two ends.
func explainReach(g *globals, w io.Writer, args []string) error {
	c, err := config.Load(g.config)
	if err != nil {
		return err
	}
	var service config.Service
	if len(args) == 3 {
		if service, err = config.ParseService(args[2]); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
	}
	from, to, err := ends(c, args[0], args[1])
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	d := plan.Decide(c, from, to, service)
	answer := reach{From: from.String(), To: to.String(), Allowed: d.Allowed, Rule: d.Rule,
		Reason: reasonOf(d, to)}
	if len(args) == 3 {
		answer.Service = service.String()
	}
	switch {
	case g.json:
		err = printJSON(w, answer)
	default:
		err = printReach(w, answer, d, args)
	}
	if err == nil && !d.Allowed {
		return errSilent
	}
	return err
}

// printReach writes an answer for people, with the rules about the destination.
func printReach(w io.Writer, r reach, d plan.Decision, args []string) error {
	says, what := "dropped", "everything"
	switch {
	case r.Allowed && r.Service == "" && r.Rule != "":
		says = "allowed in part"
	case r.Allowed:
		says = "allowed"
	}
	if r.Service != "" {
		what = r.Service
	}
	const most = 10
	lines := fmt.Sprintf("%s to %s, %s: %s: %s\n", end(args[0], r.From), end(args[1], r.To), what, says,
		r.Reason)
	for i, a := range d.About {
		if i == most {
			lines += fmt.Sprintf("and %d more rules name the destination\n", len(d.About)-most)
			break
		}
		note := ""
		if !a.Source {
			note = " (not from here)"
		}
		lines += fmt.Sprintf("rule %s%s\n", a, note)
	}
	_, err := io.WriteString(w, lines)
	return err
}

// end names one end with its address.
func end(asked, address string) string {
	if asked == address {
		return address
	}
	return asked + " (" + address + ")"
}

// reasonOf says why packets pass, or why they do not.
func reasonOf(d plan.Decision, to netip.Addr) string {
	switch {
	case d.Outside:
		return "no node has " + to.String() + ", and rules are about what nodes have"
	case d.Local != "":
		return "both are behind " + d.Local + ", and no rule is about packets that stay on a host"
	case d.TUN:
		return "it is the address of a node's own interface, which takes everything"
	case !d.Named:
		return "no rule names the destination"
	case d.Rule != "":
		return fmt.Sprintf("rule %q decides", d.Rule)
	}
	return "rules name the destination, and none of them allows this"
}

// ends returns an address for each end, both of one family: IPv4 where both have it.
func ends(c *config.Config, from, to string) (a, b netip.Addr, err error) {
	all := [2][2]netip.Addr{}
	for i, text := range []string{from, to} {
		if all[i], err = addressesOf(c, text); err != nil {
			return a, b, err
		}
	}
	for family := range 2 {
		if all[0][family].IsValid() && all[1][family].IsValid() {
			return all[0][family], all[1][family], nil
		}
	}
	return a, b, fmt.Errorf("%q and %q have no family in common", from, to)
}

// errNoEnd says what an end can be.
var errNoEnd = errors.New("is neither an address, nor a node of the file, nor \"outside\"")

// addressesOf returns an IPv4 and an IPv6 address of an end; invalid ones where it has none.
func addressesOf(c *config.Config, text string) (all [2]netip.Addr, err error) {
	family := func(ip netip.Addr) int {
		if ip.Is6() {
			return 1
		}
		return 0
	}
	if ip, err := netip.ParseAddr(text); err == nil {
		ip = ip.Unmap().WithZone("")
		all[family(ip)] = ip
		return all, nil
	}
	i := slices.IndexFunc(c.Nodes, func(n config.Node) bool { return n.Name == text })
	switch {
	case i >= 0:
		for _, p := range c.Nodes[i].Subnets {
			if at := family(p.Addr()); !all[at].IsValid() {
				all[at] = podIn(p)
			}
		}
		return all, nil
	case text == config.Outside:
		for _, ip := range []string{"192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"} {
			ip := netip.MustParseAddr(ip)
			isOurs := func(n config.Node) bool {
				return slices.ContainsFunc(n.Reach(), func(p netip.Prefix) bool { return p.Contains(ip) })
			}
			if at := family(ip); !all[at].IsValid() && !slices.ContainsFunc(c.Nodes, isOurs) {
				all[at] = ip
			}
		}
		return all, nil
	}
	if meant := c.Resembling(text); meant != "" {
		return all, fmt.Errorf("%q %w: did you mean %q?", text, errNoEnd, meant)
	}
	return all, fmt.Errorf("%q %w", text, errNoEnd)
}

// podIn returns an address that a pod of a subnet may have: the first ones are those of the TUN and a bridge.
func podIn(p netip.Prefix) netip.Addr {
	ip := p.Addr()
	for range 2 {
		if next := ip.Next(); p.Contains(next) {
			ip = next
		}
	}
	return ip
}
