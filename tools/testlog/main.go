// Command testlog is what `make test` shows: it reads what `go test -json` writes, prints what
// failed and a line for each package, keeps how long each test took, and ends with the
// slowest. It fails if anything in what it read has.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"example.org/meshd/internal/nstest"
)

// main reads standard input. It exits 1 if a test failed, and also if nothing was tested: a broken
// pipe or a wrong pattern must not pass.
func main() {
	keep := flag.String("timings", "", "file that keeps the seconds of each test, slowest first")
	most := flag.Int("slowest", 25, "how many of the slowest tests are shown")
	flag.Parse()
	l := newLog(os.Stdout)
	err := l.read(os.Stdin)
	l.finish(*most)
	if err == nil && l.packages == 0 {
		err = errors.New("nothing was tested")
	}
	if *keep != "" && err == nil {
		err = os.WriteFile(*keep, []byte(l.table(len(l.took))), 0o644)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "testlog: %v\n", err)
	}
	if err != nil || len(l.failed) > 0 {
		os.Exit(1)
	}
}

// An event is a line of `go test -json` (go doc test2json).
type event struct {
	Action, Package, Test, Output string
	Key, Value                    string // of an attribute
	Elapsed                       float64
}

// test names a test; a package as a whole has no name.
type test struct{ pkg, name string }

// A timing is how long a test took, without the time that it waited for its turn.
type timing struct {
	test
	seconds float64
}

// log is what has been read so far.
type log struct {
	out     io.Writer
	running map[test]*strings.Builder // what each has said
	turns   map[test]float64          // seconds, of those that tell
	took    []timing
	failed  []test
	why     map[test]string // what each that failed has found
	skipped []test

	packages int // that have ended
}

func newLog(out io.Writer) *log {
	return &log{
		out:     out,
		running: map[test]*strings.Builder{},
		turns:   map[test]float64{},
		why:     map[test]string{},
	}
}

// read reads all events. Other lines are shown as they are.
func (l *log) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		var e event
		if json.Unmarshal([]byte(line), &e) == nil && e.Action != "" {
			l.add(e)
		} else {
			fmt.Fprint(l.out, line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// add takes one event. Those of actions that are not named here (run, pause, cont, start) say
// nothing that is shown.
func (l *log) add(e event) {
	t := test{strings.TrimPrefix(e.Package, "example.org/meshd/"), e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(l.out, e.Output)
	case "output":
		l.say(t, e.Output)
	case "attr":
		if seconds, err := strconv.ParseFloat(e.Value, 64); err == nil && e.Key == nstest.TurnAttr {
			l.turns[t] = seconds
		}
	case "pass", "fail", "skip":
		l.end(t, e)
	}
}

// say keeps what a test says until it is known whether anybody wants to read it. What a
// package says, its result, is shown at once.
func (l *log) say(t test, text string) {
	if t.name == "" {
		if text != "PASS\n" {
			fmt.Fprint(l.out, text)
		}
		return
	}
	if l.running[t] == nil {
		l.running[t] = &strings.Builder{}
	}
	l.running[t].WriteString(text)
}

// end takes the result of a test or of a package; only a failure shows what was said.
func (l *log) end(t test, e event) {
	switch e.Action {
	case "fail":
		l.failed = append(l.failed, t)
		if said := l.running[t]; said != nil {
			fmt.Fprint(l.out, said)
			l.why[t] = findings(said.String())
		}
	case "skip":
		if t.name != "" { // a package without tests is none that was skipped
			l.skipped = append(l.skipped, t)
		}
	}
	delete(l.running, t)
	// go test counts from the test's start, and most of that may be the wait before nstest's gate.
	if seconds, ok := l.turns[t]; ok {
		e.Elapsed = seconds
	}
	if t.name == "" {
		l.packages++
		return
	}
	l.took = append(l.took, timing{t, e.Elapsed})
}

// finish shows the slowest tests, those that were skipped, and those that failed or never ended.
func (l *log) finish(most int) {
	// What has no turn of its own, and subtests that have, only waits for them.
	waits := map[test]bool{}
	for t := range l.turns {
		if at := strings.LastIndex(t.name, "/"); at >= 0 {
			waits[test{t.pkg, t.name[:at]}] = true
		}
	}
	l.took = slices.DeleteFunc(l.took, func(t timing) bool { return waits[t.test] })
	slices.SortStableFunc(l.took, func(a, b timing) int { return cmp.Compare(b.seconds, a.seconds) })
	if len(l.took) > 0 {
		fmt.Fprintf(l.out, "the slowest of %d tests, in seconds:\n%s", len(l.took), l.table(min(most, len(l.took))))
	}
	// A test that still runs when its package fails is the one that a timeout or a panic has ended: the
	// only trace of why.
	for t, said := range l.running {
		if slices.ContainsFunc(l.failed, func(f test) bool { return f.pkg == t.pkg }) {
			fmt.Fprintf(l.out, "%s %s has not ended:\n%s", t.pkg, t.name, said)
		}
	}
	for _, t := range l.skipped {
		fmt.Fprintf(l.out, "SKIPPED %s %s\n", t.pkg, t.name)
	}
	for _, t := range l.failed {
		fmt.Fprintf(l.out, "FAILED %s %s\n%s", t.pkg, t.name, l.why[t])
	}
}

// A message of a test begins with its place (package testing).
var message = regexp.MustCompile(`^ +\w+_test\.go:\d+: `)

// findings returns the first line of each message of a test: a few of them, and none of them long. Logs of
// daemons fill pages behind them, and whoever sees the end of the output alone wants to know why.
func findings(said string) string {
	const many, wide = 12, 300
	var b strings.Builder
	n := 0
	for line := range strings.Lines(said) {
		if !message.MatchString(line) {
			continue
		}
		if n++; n > many {
			b.WriteString("    ...\n")
			break
		}
		line = strings.TrimSpace(line)
		fmt.Fprintf(&b, "    %s\n", strings.ToValidUTF8(line[:min(len(line), wide)], ""))
	}
	return b.String()
}

// table returns the first lines of the timings.
func (l *log) table(lines int) string {
	var b strings.Builder
	for _, t := range l.took[:lines] {
		fmt.Fprintf(&b, "%8.2f  %s %s\n", t.seconds, t.pkg, t.name)
	}
	return b.String()
}
