package filter

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// This file does the same as forward.go on hosts that filter with the old iptables (ip_tables in
// the kernel, not nf_tables), whose chains nftables does not see. Only if such a table is in use
// does meshd run the program iptables-legacy. The kernel does not report changes of these
// tables, and running a program on a timer costs too much, so meshd looks at them at the start
// and at each reload.

// SetLegacy makes the FORWARD chains of iptables-legacy whose policy is DROP accept what s says.
// New rules go in front of the others; later they are replaced in place. If meshd cannot run the
// program, warning says so and lists the commands to run instead; otherwise it is empty.
func SetLegacy(s Accept) (warning string, err error) {
	for _, f := range legacyFamilies {
		if !f.inUse() {
			continue
		}
		table, err := f.open()
		if err != nil {
			return fmt.Sprintf("this host filters with %s, which meshd cannot run (%v): "+
				"if the policy of its FORWARD chain is DROP, run `%s`",
				f.program, err, strings.Join(f.commands(s), "; ")), nil
		}
		if err := f.ensure(table, s); err != nil {
			return "", fmt.Errorf("accept forwarded packets of the mesh with %s: %w", f.program, err)
		}
	}
	return "", nil
}

// CleanUpLegacy removes meshd's rules from iptables-legacy and reports whether it found any.
func CleanUpLegacy() (removed bool, err error) {
	for _, f := range legacyFamilies {
		if !f.inUse() {
			continue
		}
		table, err := f.open()
		if err != nil {
			continue // without the program meshd cannot have made rules
		}
		some, err := removeLegacy(table)
		if err != nil {
			return removed, fmt.Errorf("remove accept rules with %s: %w", f.program, err)
		}
		removed = removed || some
	}
	return removed, nil
}

// A legacyFamily is the old iptables of one address family.
type legacyFamily struct {
	protocol iptables.Protocol
	program  string
	names    string // path of the kernel's list of tables in use, one a line
	v6       bool
}

// legacyFamilies are both. The network namespace is that of the calling thread, hence thread-self.
var legacyFamilies = []legacyFamily{
	{iptables.ProtocolIPv4, "iptables-legacy", "/proc/thread-self/net/ip_tables_names", false},
	{iptables.ProtocolIPv6, "ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names", true},
}

// inUse reports whether the table "filter" is in use. It is false if this process may not read
// the list, as the service may not: its unit runs meshd as root for that, before and after
// (packaging/meshd.service).
func (f legacyFamily) inUse() bool {
	names, err := os.ReadFile(f.names)
	return err == nil && slices.Contains(strings.Fields(string(bytes.TrimSpace(names))), "filter")
}

// open finds the program. Each call waits up to 5 seconds for the lock of xtables.
func (f legacyFamily) open() (*iptables.IPTables, error) {
	path, err := exec.LookPath(f.program)
	if err != nil {
		return nil, err
	}
	return iptables.New(iptables.IPFamily(f.protocol), iptables.Path(path), iptables.Timeout(5))
}

// Names of the only chain that meshd changes.
const (
	legacyTable = "filter"
	legacyChain = "FORWARD"
)

// ensure makes the chain have the rules if its policy is DROP, and none otherwise.
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
	// The rules go where they were, else in front of all: rules that another program has inserted
	// in front of them keep their place.
	for i, r := range wanted {
		if err := table.Insert(legacyTable, legacyChain, at+i, strings.Fields(r)...); err != nil {
			return err
		}
	}
	return nil
}

// rules returns the wanted rules as `iptables -S` prints them, which is how they are compared.
func (f legacyFamily) rules(s Accept) (rules []string) {
	for _, m := range s.matches() {
		if v6, both := m.v6(); both || v6 == f.v6 {
			rules = append(rules, strings.Join(m.words(), " "))
		}
	}
	return rules
}

// commands returns the command lines that add the rules.
func (f legacyFamily) commands(s Accept) (lines []string) {
	for _, r := range f.rules(s) {
		lines = append(lines, f.program+" -I FORWARD "+r)
	}
	return lines
}

// ourComment finds the comment of meshd's rules, which some versions of iptables put into quotes, and
// which need not be the last condition of a rule that was stored and put back.
var ourComment = regexp.MustCompile(`(^| )-m comment --comment ("?)` + acceptComment + `("?) `)

// legacyOurs returns meshd's rules in a listing of the chain, and the number of the first of them
// in the chain, from 1; at is 1 if there are none.
func legacyOurs(lines []string) (ours []string, at int) {
	number, at := 0, 1
	for _, line := range lines {
		rule, ok := strings.CutPrefix(line, "-A FORWARD ")
		if !ok {
			continue
		}
		number++
		if ourComment.MatchString(rule) && strings.HasSuffix(rule, " -j ACCEPT") {
			if len(ours) == 0 {
				at = number
			}
			ours = append(ours, rule)
		}
	}
	return ours, at
}

// removeLegacy deletes meshd's rules from the chain.
func removeLegacy(table *iptables.IPTables) (removed bool, err error) {
	rules, err := table.List(legacyTable, legacyChain)
	if err != nil {
		return false, err
	}
	ours, _ := legacyOurs(rules)
	for _, rule := range ours {
		words := strings.Fields(strings.ReplaceAll(rule, `"`, ""))
		if err := table.Delete(legacyTable, legacyChain, words...); err != nil {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}
