package page

import (
	"cmp"
	"fmt"
	"strings"

	"example.org/meshd/internal/control/words"
)

// facts are what the node is made of, a line for each: its file, its network, its engine, and what was
// counted.
func (p *page) facts() (lines []line) {
	s := &p.s
	add := func(label, format string, args ...any) {
		lines = append(lines, p.hang(line{{fmt.Sprintf("%-8s ", label), dim}}, fmt.Sprintf(format, args...))...)
	}
	add("file", "%s", words.SameFile(*s))
	if s.Node == "" { // it waits for its address, so there is no mesh to show yet
		return lines
	}
	network := fmt.Sprintf("%s %s, listening on %s", s.Network.Name, strings.Join(s.Network.CIDR, " "),
		words.Listens(s.Network))
	if len(s.Network.Subnets) > 0 {
		network += ", pods " + strings.Join(s.Network.Subnets, " ")
	}
	add("network", "%s", network)
	add("engine", "%s, %s %s", words.Engine(s.Dataplane), s.Network.Interface, words.MTU(s.Network))
	if s.WireGuard != nil {
		add("crypto", "%s", words.WireGuard(*s.WireGuard))
	}
	if allow := words.Allow(s.Allow); allow != "" {
		add("allow", "%s", allow)
	}
	add("nat", "%s", words.Masquerade(s.Masquerade))
	add("traffic", "%s", words.Traffic(*s))
	add("drops", "%s", words.OrNone(words.Drops(s.Totals.Drops)))
	for _, stranger := range words.Strangers(s.Strangers, p.now) {
		add("stranger", "%s", stranger)
	}
	if p.Verbose {
		p.more(add)
	}
	return lines
}

// more adds what is of use to those who look for the reason of a slow mesh.
func (p *page) more(add func(label, format string, args ...any)) {
	d := p.s.Dataplane
	add("process", "pid %d, boot %s, started %s", p.s.PID, words.OrNone(p.s.BootID), p.s.Started.UTC().
		Format("2006-01-02 15:04:05 UTC"))
	if last := p.s.Config.LastReload; !last.At.IsZero() {
		add("reload", "%s ago, took %.0f ms: %s", words.Span(p.now.Sub(last.At)), last.DurationMS,
			words.OneLine(cmp.Or(last.Error, words.Reloaded(last))))
	}
	offloads := words.OrNone(strings.Join(d.Offloads, " "))
	if len(d.Refused) > 0 {
		offloads += ", refused " + strings.Join(d.Refused, " ")
	}
	add("offloads", "%s", offloads)
	if d.NoFOU != "" {
		add("receive", "%s and not fou: %s", d.Receive, words.OneLine(d.NoFOU))
	}
	add("queues", "%d", d.Queues)
	add("batches", "%s", words.Batches(d.Calls))
	if handed := words.Handed(d); handed != "" {
		add("userland", "packets that programs left to user space: %s", handed)
	}
	add("repairs", "interface and plan %d, rules %d", p.s.Network.Repairs, p.s.Masquerade.Repairs)
	if rest := words.Drops(p.s.Totals.Unattributed); rest != "" {
		add("nobody's", "drops that belong to no current peer: %s", rest)
	}
}
