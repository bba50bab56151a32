package crossing

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nft"
)

const (
	// maxTraced bounds how many lost ways are traced in one round.
	maxTraced = 4
	// unseenRounds is how many probes in a row no rule must have seen to count as lost.
	unseenRounds = 4
)

// find asks the kernel which rules drop the probes on lost ways.
func (k *Keeper) find(s *scene, group uint16, lost []target) (found []mesh.Condition) {
	if len(lost) == 0 {
		return nil
	}
	trace, err := nft.OpenTrace()
	if err == nil {
		defer trace.Close()
		err = k.rules.Take(s.rules(group, k.id))
	}
	if err != nil {
		k.o.Log.Debug("rules cannot be traced", "error", err)
		trace = nil
	}
	defer k.untrace(s, group)
	// Those for all pods come first: they matter most.
	slices.SortStableFunc(lost, func(a, b target) int {
		switch {
		case a.one == b.one:
			return a.to.Compare(b.to)
		case b.one:
			return -1
		}
		return 1
	})
	for _, way := range lost[:min(len(lost), maxTraced)] {
		if c, bad := k.condition(s, trace, way); bad && !has(found, c) {
			found = append(found, c)
		}
	}
	return found
}

// untrace ends the trace: each traced packet costs, and so does the rule.
func (k *Keeper) untrace(s *scene, group uint16) {
	if err := k.rules.Take(s.rules(group, 0)); err != nil {
		k.o.Log.Debug("the trace of rules goes on", "error", err)
	}
}

// condition says what drops the probes on one way. bad is false if that is not known, or if they have
// passed and this process was too slow to see them in time: a busy host is no firewall.
func (k *Keeper) condition(s *scene, trace *nft.Trace, way target) (c mesh.Condition, bad bool) {
	if trace == nil || k.send(way, rand.Uint64()) != nil {
		return c, false
	}
	at, fate, err := trace.End(patience)
	if err == nil && fate != nft.Unseen {
		k.unseen = 0
	}
	switch {
	case err != nil, fate == nft.Passed:
		return c, false
	case fate == nft.Unseen:
		// It is lost in front of all rules, in an ingress filter say, or this process is slow: time tells.
		if k.unseen++; k.unseen < unseenRounds {
			return c, false
		}
		fallthrough
	case fate == nft.Lost: // without a rule to name, the probe may be lost for a reason that is no firewall
		return mesh.Condition{Kind: mesh.PodsLost, Severity: mesh.Degraded, Subject: way.to.String(),
			Remedy: "look at iptables-legacy, `tc filter` and `nft list ruleset`"}, true
	}
	what, err := nft.Look(at)
	if err != nil {
		what.Rule = "a rule that is gone by now"
	}
	c = mesh.Condition{Kind: mesh.PodsFiltered, Severity: mesh.Failed,
		Subject: strings.Join([]string{at.Family, at.Table, at.Chain}, " "),
		Cause:   fmt.Sprintf("%q, for a packet from %s to %s", what.Rule, way.from, way.to),
		Remedy:  remedy(at, what, s, way.to)}
	if way.one { // a rule for one pod may be meant
		c.Severity = mesh.Degraded
	}
	return c, true
}

// remedy returns the command that lets packets of the mesh pass a spot, in both directions where the hook
// knows both. It opens the host for the mesh and for nothing else, and changes no connection of others.
func remedy(at nft.Spot, what nft.Found, s *scene, to netip.Addr) string {
	switch {
	case at.Table == "firewalld":
		return fmt.Sprintf("run `firewall-cmd --permanent --zone=trusted --add-source=%s && "+
			"firewall-cmd --reload`", s.network(to))
	case strings.HasPrefix(at.Chain, "ufw"):
		return fmt.Sprintf("run `%s`", s.each(" && ", func(own string) []string {
			return []string{"ufw route allow in on " + own, "ufw route allow out on " + own}
		}))
	case iptablesTable(at):
		return "run `" + iptablesLines(at, what, s, to) + "`"
	}
	word := map[bool]string{false: "ip", true: "ip6"}[to.Is6()]
	return fmt.Sprintf("run `nft '%s'`", s.each("; ", func(own string) (rules []string) {
		in, out := fmt.Sprintf("iifname %q", own), fmt.Sprintf("oifname %q", own)
		for _, match := range matches(what.Hook, in, out, fmt.Sprintf("%s daddr %s", word, s.ownSubnet(to))) {
			rules = append(rules, fmt.Sprintf("insert rule %s %s %s %s accept", at.Family, at.Table, at.Base, match))
		}
		return rules
	}))
}

// each joins commands for each of meshd's interfaces, each of them once.
func (s *scene) each(separator string, commands func(own string) []string) string {
	var all []string
	for _, own := range s.Interfaces {
		for _, one := range commands(own) {
			if !slices.Contains(all, one) {
				all = append(all, one)
			}
		}
	}
	return strings.Join(all, separator)
}

// matches returns which of some conditions stand for packets of the mesh at a hook. Where packets come
// in, their way out is not known yet. Where they leave, iptables and older kernels do not know by
// which interface they came.
func matches(hook nft.Hook, in, out, toPods string) []string {
	switch hook {
	case *nft.Prerouting:
		return []string{in}
	case *nft.Postrouting:
		return []string{toPods, out}
	}
	return []string{in, out}
}

// iptablesTable tells whether a spot belongs to iptables-nft: to one of its tables, and to a base chain
// of iptables, whose names are capitals.
func iptablesTable(at nft.Spot) bool {
	return (at.Family == "ip" || at.Family == "ip6") && at.Base == strings.ToUpper(at.Base) &&
		slices.Contains([]string{"filter", "raw", "mangle", "security"}, at.Table)
}

// iptablesLines returns the commands of iptables. Docker keeps a chain for users, which it does not flush.
func iptablesLines(at nft.Spot, what nft.Found, s *scene, to netip.Addr) string {
	program, chain := "iptables", at.Base
	if at.Family == "ip6" {
		program = "ip6tables"
	}
	if at.Table != "filter" {
		program += " -t " + at.Table
	}
	if strings.HasPrefix(at.Chain, "DOCKER") && at.Table == "filter" {
		chain = "DOCKER-USER"
	}
	return s.each(" && ", func(own string) (lines []string) {
		for _, match := range matches(what.Hook, "-i "+own, "-o "+own, "-d "+s.ownSubnet(to).String()) {
			lines = append(lines, fmt.Sprintf("%s -I %s %s -j ACCEPT", program, chain, match))
		}
		return lines
	})
}

// network returns the prefix of the mesh that has an address.
func (s *scene) network(of netip.Addr) netip.Prefix { return containing(s.Networks, of) }

// ownSubnet returns the subnet of this node that has an address.
func (s *scene) ownSubnet(of netip.Addr) netip.Prefix { return containing(s.self.Subnets, of) }

// containing returns the prefix that has an address, or the address itself.
func containing(prefixes []netip.Prefix, of netip.Addr) netip.Prefix {
	for _, p := range prefixes {
		if p.Contains(of) {
			return p
		}
	}
	return netip.PrefixFrom(of, of.BitLen())
}

// publish makes conditions the ones that status shows, and logs those that begin or end.
func (k *Keeper) publish(now []mesh.Condition) {
	if now == nil {
		now = []mesh.Condition{}
	}
	before := *k.conditions.Swap(&now)
	for _, c := range now {
		if !has(before, c) {
			k.o.Log.Error("packets to this node's pods are dropped", "event", "pods_filtered",
				"where", c.Subject, "rule", c.Cause, "remedy", c.Remedy)
		}
	}
	for _, c := range before {
		if !has(now, c) {
			k.o.Log.Info("packets to this node's pods pass again", "event", "pods_pass", "where", c.Subject)
		}
	}
}

// has tells whether a condition is among others, whatever its cause is by now.
func has(cs []mesh.Condition, c mesh.Condition) bool {
	return slices.ContainsFunc(cs, func(o mesh.Condition) bool {
		return o.Kind == c.Kind && o.Subject == c.Subject
	})
}
