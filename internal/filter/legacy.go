package filter

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// Hosts that filter with the old iptables (ip_tables in the kernel, not
// nf_tables) have chains that nftables does not see. If, and only if, such a
// table is in use, the program iptables-legacy is asked to put our rules there.
// It is never run on a timer: the kernel tells nobody about changes of these
// tables, so they are looked at when meshd starts.

// SetLegacy accepts what s says in the FORWARD chains of iptables-legacy that
// drop by policy. Our rules go in front of the others when they are made, and are
// replaced in place later. The warning, if not empty, says what to run where it
// cannot.
func SetLegacy(s Accept) (warning string, err error) {
	for _, f := range legacyFamilies {
		if !f.inUse() {
			continue
		}
		table, err := f.open()
		if err != nil {
			return fmt.Sprintf("this host filters with %s, which cannot be run (%v): if its FORWARD policy is DROP, run `%s`",
				f.program, err, strings.Join(f.commands(s), "; ")), nil
		}
		if err := f.ensure(table, s); err != nil {
			return "", fmt.Errorf("accept pod traffic with %s: %w", f.program, err)
		}
	}
	return "", nil
}

// CleanUpLegacy removes our rules from iptables-legacy and tells whether there
// were any.
func CleanUpLegacy() (removed bool, err error) {
	for _, f := range legacyFamilies {
		if !f.inUse() {
			continue
		}
		table, err := f.open()
		if err != nil {
			continue // without the program none of them can be ours
		}
		some, err := removeLegacy(table)
		if err != nil {
			return removed, fmt.Errorf("remove forward rules with %s: %w", f.program, err)
		}
		removed = removed || some
	}
	return removed, nil
}

type legacyFamily struct {
	protocol iptables.Protocol
	program  string
	names    string // tables in use, one a line
	v6       bool
}

// The namespace is that of the calling thread, hence thread-self.
var legacyFamilies = []legacyFamily{
	{iptables.ProtocolIPv4, "iptables-legacy", "/proc/thread-self/net/ip_tables_names", false},
	{iptables.ProtocolIPv6, "ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names", true},
}

// inUse is false where this process may not look, as the service may not: root does it all
// for that one, see packaging/meshd.service.
func (f legacyFamily) inUse() bool {
	names, err := os.ReadFile(f.names)
	return err == nil && slices.Contains(strings.Fields(string(bytes.TrimSpace(names))), "filter")
}

func (f legacyFamily) open() (*iptables.IPTables, error) {
	path, err := exec.LookPath(f.program)
	if err != nil {
		return nil, err
	}
	return iptables.New(iptables.IPFamily(f.protocol), iptables.Path(path), iptables.Timeout(5))
}

const (
	legacyTable = "filter"
	legacyChain = "FORWARD"
)

// ensure makes a chain that drops have our rules.
func (f legacyFamily) ensure(table *iptables.IPTables, s Accept) error {
	rules, err := table.List(legacyTable, legacyChain) // the policy, then the rules
	if err != nil {
		return err
	}
	if len(rules) == 0 || rules[0] != "-P FORWARD DROP" {
		_, err := removeLegacy(table)
		return err
	}
	wanted := f.rules(s)
	ours, at := legacyOurs(rules)
	if slices.Equal(ours, wanted) {
		return nil
	}
	if _, err := removeLegacy(table); err != nil {
		return err
	}
	// Where ours stood, else in front of all: what others insert later stays where it is.
	for i, r := range wanted {
		if err := table.Insert(legacyTable, legacyChain, at+i, strings.Fields(r)...); err != nil {
			return err
		}
	}
	return nil
}

// rules returns our rules in the words that iptables prints them in.
func (f legacyFamily) rules(s Accept) (rules []string) {
	for _, m := range s.matches() {
		if v6, both := m.v6(); both || v6 == f.v6 {
			rules = append(rules, strings.Join(m.words(), " "))
		}
	}
	return rules
}

// commands returns what to type for our rules.
func (f legacyFamily) commands(s Accept) (lines []string) {
	for _, r := range f.rules(s) {
		lines = append(lines, f.program+" -I FORWARD "+r)
	}
	return lines
}

// legacyOurs returns those of our rules that a listing of the chain has, and the number of the first
// in the chain, from 1; 1 if there are none.
func legacyOurs(lines []string) (ours []string, at int) {
	number, at := 0, 1
	for _, line := range lines {
		rule, ok := strings.CutPrefix(line, "-A FORWARD ")
		if !ok {
			continue
		}
		number++
		if strings.HasSuffix(rule, "-m comment --comment "+acceptComment+" -j ACCEPT") {
			if len(ours) == 0 {
				at = number
			}
			ours = append(ours, rule)
		}
	}
	return ours, at
}

func removeLegacy(table *iptables.IPTables) (removed bool, err error) {
	rules, err := table.List(legacyTable, legacyChain)
	if err != nil {
		return false, err
	}
	ours, _ := legacyOurs(rules)
	for _, rule := range ours {
		if err := table.Delete(legacyTable, legacyChain, strings.Fields(rule)...); err != nil {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}
