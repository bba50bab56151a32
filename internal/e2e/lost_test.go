package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// This file tells where packets may have been lost, for the message of a test that misses some. Counters are
// those since the lab was made; of the machine's, since it began.

// places tells what each place on the way of packets counts that is not zero: daemons, rules, interfaces,
// sockets, connection tracking, neighbours. Daemons that the world does not know of are given.
func (w *world) places(more ...*nstest.Daemon) string {
	var b strings.Builder
	for _, d := range slices.Concat(w.daemons, more) {
		w.tellDaemon(&b, d)
	}
	// Neighbours are counted by the machine's own namespace alone.
	fmt.Fprintf(&b, "machine: softnet %s, neighbours %s", rows("/proc/net/softnet_stat"),
		rows("/proc/1/net/stat/arp_cache"))
	for _, n := range []*nstest.Namespace{w.Worker.Namespace, w.Worker2.Namespace, w.PodW, w.PodW2a, w.PodW2b,
		w.Lab.Switch()} {
		fmt.Fprintf(&b, "\n%s:", n.Name)
		if err := n.Do(func() error {
			fmt.Fprintf(&b, "\n  snmp %s\n  conntrack %s", counted("/proc/thread-self/net/snmp"),
				rows("/proc/thread-self/net/stat/nf_conntrack"))
			return nil
		}); err != nil {
			fmt.Fprintf(&b, " %v", err)
		}
		for _, line := range [][]string{{"ip", "neigh"}, {"ip", "-s", "link"}, {"nft", "list", "ruleset"}} {
			out, err := n.Run(line[0], line[1:]...)
			fmt.Fprintf(&b, "\n  %s: %s", strings.Join(line, " "), telling(out))
			if err != nil {
				fmt.Fprint(&b, err)
			}
		}
	}
	return b.String()
}

// tellDaemon adds what a daemon counts, if it answers.
func (w *world) tellDaemon(b *strings.Builder, d *nstest.Daemon) {
	if d.State() != "running" {
		return
	}
	c := control.NewClient(d.Socket)
	defer c.Close()
	s, err := c.Status(w.t.Context())
	if err != nil {
		fmt.Fprintf(b, "%s: %v\n", d.Host.Name, err)
		return
	}
	fmt.Fprintf(b, "%s: %s by %s, %+v, handed %v\n", d.Host.Name, s.Dataplane.Engine, s.Dataplane.Receive,
		s.Totals, s.Dataplane.Handed)
	for _, p := range s.Peers {
		fmt.Fprintf(b, "  %s: %s, known %v\n", p.Name, p.State, p.ConfigMatch != nil)
	}
}

// rows returns a file of a few numbers in one line.
func rows(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", " | ")
}

// counted returns what is not zero of a file that has a line of names above each line of numbers.
func counted(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	var all []string
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if names == nil {
			names = fields
			continue
		}
		for i := 1; i < min(len(fields), len(names)); i++ {
			if fields[i] != "0" {
				all = append(all, names[0]+names[i]+"="+fields[i])
			}
		}
		names = nil
	}
	return strings.Join(all, " ")
}

// telling returns those lines of a list that tell something: of rules, those that count packets and have.
func telling(out string) string {
	var all []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		rules := strings.Contains(out, "hook ")
		if !rules || strings.Contains(line, "counter packets ") && !strings.Contains(line, "counter packets 0 ") {
			all = append(all, line)
		}
	}
	return strings.Join(all, "\n    ")
}
