// Command bench is the second half of `make bench`: it measures meshd against
// what people would use instead, in turn, several rounds interleaved, on two
// hosts made of network namespaces whose underlay behaves like a wire.
//
// Numbers of one machine mean little on another, and little on a busy machine:
// compare only ratios within one run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"example.org/meshd/internal/nstest"
)

// main reads the flags; a signal ends the measurement in progress and removes its lab.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := bench{}
	flag.StringVar(&b.binary, "meshd", "bin/meshd", "the daemon to measure")
	flag.IntVar(&b.rounds, "rounds", 3, "how often each system is measured")
	flag.DurationVar(&b.span, "span", 2*time.Second, "length of one measurement")
	only := flag.String("only", "", "systems to measure, separated by commas, without starts and reloads "+
		"(default all that are installed, and both)")
	flag.BoolVar(&b.bare, "bare", false, "join the hosts by interfaces without Ethernet headers, as "+
		"WireGuard's: "+
		"compares engines alone, packet by packet")
	flag.BoolVar(&b.large, "large", false, "measure only starts and edits of a large mesh, with each engine")
	flag.BoolVar(&b.probes, "probing", false, "measure only what the probes of 1000 peers cost")
	flag.BoolVar(&b.ruled, "rules", false, "measure only what rules about who may reach whom cost")
	flag.BoolVar(&b.watched, "dashboard", false, "measure only what meshtui costs while it is watched")
	scale := flag.Bool("scale", false, "measure only how costs grow with the mesh")
	churn := flag.Duration("churn", time.Minute, "how long -scale edits a file ten times a second")
	out := flag.String("out", "",
		"directory for benchmarks.md and benchmarks.svg, or scale.md and scale.svg (default: only print)")
	flag.Parse()
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	run := b.run
	if *scale {
		run = func(ctx context.Context, out string) error { return b.runScale(ctx, *churn, out) }
	}
	if err := run(ctx, *out); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// bench is what the flags say: the daemon, how often and how long, which systems (nil: all), and by what
// wire.
type bench struct {
	binary string
	rounds int
	span   time.Duration
	only   []string
	bare   bool // the wire has no Ethernet header
	large  bool // only starts and edits of a large mesh
	probes bool // only what probes cost
	ruled  bool // only what rules about who may reach whom cost

	watched bool // only what meshtui costs
}

// run measures all systems, round by round, and reports medians. It fails if one fails: a table with
// a hole would be compared all the same.
func (b *bench) run(ctx context.Context, out string) (err error) {
	if err := nstest.Available(); err != nil {
		return err
	}
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if b.large {
		return b.alone(ctx, b.takeLarge, largeMoments(), "ms")
	}
	if b.probes {
		return b.alone(ctx, b.takeProbing, probingCosts(), "%")
	}
	if b.watched {
		return b.alone(ctx, b.takeDashboards, dashboardFigures(), "")
	}
	if b.ruled {
		return b.alone(ctx, b.takeRuled, b.ruledFigures(), "% of none")
	}
	all := systems(b.binary, b.bare)
	if b.only != nil {
		all = slices.DeleteFunc(all, func(s *system) bool { return !slices.Contains(b.only, s.name) })
	}
	all = slices.DeleteFunc(all, func(s *system) bool {
		missing := s.missing()
		if missing != "" {
			fmt.Printf("%s is not measured: there is no %s\n", s.name, missing)
		}
		return missing != ""
	})
	results := map[string][]result{}
	var waits []times
	// Rounds are interleaved: a machine that slows down (heat, a neighbour) slows all systems alike, so
	// that ratios stay true. One system after the other would charge it to the last.
	for round := range b.rounds {
		for _, s := range all {
			fmt.Printf("round %d of %d: %s\n", round+1, b.rounds, s.name)
			r, err := b.measure(ctx, s)
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			results[s.name] = append(results[s.name], r)
		}
		if b.bare || b.only != nil { // no wire has a part in it, and nobody asked for it
			continue
		}
		fmt.Printf("round %d of %d: starts and reloads\n", round+1, b.rounds)
		taken, err := b.takeTimes(ctx)
		if err != nil {
			return fmt.Errorf("starts and reloads: %w", err)
		}
		waits = append(waits, taken)
	}
	report := newReport(all, results, waits, b)
	fmt.Print("\n", report.text())
	if out == "" {
		return nil
	}
	page := filepath.Join(out, "benchmarks.md")
	return errors.Join(
		os.WriteFile(page, []byte(report.markdown()+byInstructions(page)), 0o644),
		os.WriteFile(filepath.Join(out, "benchmarks.svg"), []byte(report.svg()), 0o644))
}

// byInstructions returns the parts of a page that tools/kernels has written, which stay: those with a heading
// of their own.
func byInstructions(page string) string {
	text, _ := os.ReadFile(page) // there may be none so far
	if _, parts, ok := strings.Cut(string(text), "\n## "); ok {
		return "\n## " + parts
	}
	return ""
}

// measure builds the lab, starts one system in it, measures, and removes all.
func (b *bench) measure(ctx context.Context, s *system) (r result, err error) {
	err = b.inLab(s.mtu, func(l *lab) (err error) {
		if err := s.start(l); err != nil {
			return err
		}
		if err := l.reachable(ctx); err != nil {
			return err
		}
		r, err = l.measure(ctx, b.span, s)
		return err
	})
	return r, err
}

// inLab calls use with two fresh hosts, and removes them.
func (b *bench) inLab(mtu int, use func(*lab) error) (err error) {
	dir, err := os.MkdirTemp("", "meshbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// What a killed run left behind would still take CPU.
	nstest.Sweep("meshbench")
	l, err := newLab(dir, mtu, b.bare)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	return use(l)
}
