package masq

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
// drop by policy, our rules first. The warning, if not empty, says what to run
// where it cannot.
func SetLegacy(s ForwardSettings) (warning string, err error) {
	for _, f := range legacyFamilies {
		if !f.inUse() {
			continue
		}
		table, err := f.open()
		if err != nil {
			return fmt.Sprintf("this host filters with %s, which cannot be run (%v): if its FORWARD policy is DROP, run `%s -I FORWARD -i %s -j ACCEPT; %s -I FORWARD -o %s -j ACCEPT`",
				f.program, err, f.program, s.Interface, f.program, s.Interface), nil
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
	family   family
}

// The namespace is that of the calling thread, hence thread-self.
var legacyFamilies = []legacyFamily{
	{iptables.ProtocolIPv4, "iptables-legacy", "/proc/thread-self/net/ip_tables_names", families[0]},
	{iptables.ProtocolIPv6, "ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names", families[1]},
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

// ensure puts our rules first if the chain drops and they are not there.
func (f legacyFamily) ensure(table *iptables.IPTables, s ForwardSettings) error {
	rules, err := table.List(legacyTable, legacyChain) // the policy, then the rules
	if err != nil {
		return err
	}
	if len(rules) == 0 || rules[0] != "-P FORWARD DROP" {
		_, err := removeLegacy(table)
		return err
	}
	wanted := f.rules(s)
	var lines []string
	for _, r := range wanted {
		lines = append(lines, "-A FORWARD "+strings.Join(r, " "))
	}
	if rest := rules[1:]; len(rest) >= len(lines) && slices.Equal(rest[:len(lines)], lines) {
		return nil
	}
	if _, err := removeLegacy(table); err != nil {
		return err
	}
	for i, r := range wanted {
		if err := table.Insert(legacyTable, legacyChain, i+1, r...); err != nil {
			return err
		}
	}
	return nil
}

// rules returns our rules in the words that iptables prints them in.
func (f legacyFamily) rules(s ForwardSettings) (rules [][]string) {
	matches := [][]string{{"-i", s.Interface}, {"-o", s.Interface}}
	for _, p := range f.family.prefixesOf(s.Prefixes) {
		matches = append(matches, []string{"-s", p.String()}, []string{"-d", p.String()})
	}
	for _, match := range matches {
		rules = append(rules, append(match, "-m", "comment", "--comment", forwardComment, "-j", "ACCEPT"))
	}
	return rules
}

func removeLegacy(table *iptables.IPTables) (removed bool, err error) {
	rules, err := table.List(legacyTable, legacyChain)
	if err != nil {
		return false, err
	}
	for _, line := range rules {
		rule, ours := strings.CutPrefix(line, "-A FORWARD ")
		if !ours || !strings.HasSuffix(rule, "-m comment --comment "+forwardComment+" -j ACCEPT") {
			continue
		}
		if err := table.Delete(legacyTable, legacyChain, strings.Fields(rule)...); err != nil {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}
