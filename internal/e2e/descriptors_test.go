package e2e

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// numbers are in the names of what is open: "socket:[1234]".
var numbers = regexp.MustCompile(`[0-9]+`)

// openKinds returns how many descriptors of each kind a daemon has open: "socket:[N]", "/dev/net/tun".
func openKinds(t testing.TB, d *nstest.Daemon) map[string]int {
	t.Helper()
	open := map[string]int{}
	for line := range strings.Lines(descriptorList(t, d)) {
		_, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		what = strings.ReplaceAll(what, "_", "-") // a link that was pinned and is opened again is a "bpf-link"
		open[numbers.ReplaceAllString(what, "N")]++
	}
	return open
}

// lazy is how many sockets a daemon opens when they are needed: for probes that look like data, one for each
// family and use.
const lazy = 4

// noMoreOpen fails if a daemon has more descriptors of a kind open than before, and does not close them in a
// while: connections of whoever asks it are among them.
func noMoreOpen(t testing.TB, d *nstest.Daemon, before map[string]int) {
	t.Helper()
	var more []string
	eventually(t, "no descriptor leaks", func() bool {
		more = nil
		now := openKinds(t, d)
		for _, kind := range slices.Sorted(maps.Keys(now)) {
			most := before[kind]
			if kind == "socket:[N]" {
				most += lazy
			}
			if now[kind] > most {
				more = append(more, fmt.Sprintf("%d of %s, %d before", now[kind], kind, before[kind]))
			}
		}
		return more == nil
	}, func() string { return strings.Join(more, "; ") })
}
