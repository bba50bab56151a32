package nstest

import (
	"regexp"
	"slices"
	"strings"
)

// Where the Go runtime writes a goroutine's state and where it is, when SIGQUIT ends a process.
var (
	goroutine = regexp.MustCompile(`(?m)^goroutine \d+ .*\[([^\]]*)\]:\n((?:.+\n)*)`)
	ourFrame  = regexp.MustCompile(`(?m)^example\.org/meshd/(?:internal/|cmd/)?(\S+)\(`)
)

// hanging returns what goroutines of meshd wait for, as "function [state]", each once and on one line: a
// report of failures may show no more than that.
func hanging(log string) string {
	var all []string
	for _, g := range goroutine.FindAllStringSubmatch(log, -1) {
		if at := ourFrame.FindStringSubmatch(g[2]); at != nil {
			all = append(all, at[1]+" ["+g[1]+"]")
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}
