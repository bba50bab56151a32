package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// VXLAN is what all others are compared with: what flannel's default backend does.
const vxlan = "vxlan"

var (
	// modes are all that tools/kernels/measure knows, in the order of the table's rows.
	modes = []mode{
		{"plain", "plain routing"}, {vxlan, "kernel VXLAN"}, {"ipipfou", "ipip over FOU, by the kernel alone"},
		{"tcx", "meshd kernel tcx"}, {"fou", "meshd kernel fou"}, {"xdp", "meshd kernel xdp"},
		{"tcx+flows", "meshd kernel tcx, while it counts flows"},
		{"user", "meshd user"}, {"user+flows", "meshd user, while it counts flows"},
		{"wg", "kernel WireGuard by hand"}, {"sealed", "meshd sealed, by the kernel"},
	}
	// loads are the columns.
	loads = []mode{
		{"tcp1", "TCP 1 stream, a byte"}, {"tcp4", "TCP 4 streams, a byte"}, {"rr", "round trip"},
		{"udp64", "UDP 64 B, a packet"}, {"udp1400", "UDP 1400 B, a packet"},
	}
	// floors are ratios that were reached, and have to be kept. Of the kernel's WireGuard by hand 0.95 is
	// wanted: each of meshd's chains costs a packet some 400 instructions, whatever its rules are.
	floors = []floor{
		{"6.1.", "fou", vxlan, "tcp1", 1.00}, {"6.1.", "fou", vxlan, "tcp4", 0.96},
		{"6.1.", "fou", vxlan, "rr", 0.91}, {"6.1.", "fou", vxlan, "udp64", 0.96},
		{"6.12.", "fou", vxlan, "tcp1", 1.03}, {"6.12.", "fou", vxlan, "tcp4", 1.02},
		{"6.12.", "fou", vxlan, "rr", 0.98}, {"6.12.", "fou", vxlan, "udp64", 0.97},
		{"6.12.", "tcx", vxlan, "tcp1", 0.62},
		{"", "sealed", "wg", "tcp1", 0.91}, {"", "sealed", "wg", "tcp4", 0.89}, {"", "sealed", "wg", "rr", 0.90},
		{"6.12.", "sealed", "wg", "udp64", 0.88},
	}
)

// slack is by how much a ratio may fall below its floor: streams differ by some per cent.
const slack = 0.04

// A mode is a way of joining pods, or a load, with the words that people read.
type mode struct{ name, words string }

// A floor is how many times the instructions of a mode another one at least takes, for a load, on kernels
// whose version begins so.
type floor struct {
	kernel, mode, against, load string
	least                       float64
}

// A table is what was measured on one kernel.
type table struct {
	kernel  string
	command string
	figures map[string]map[string][]float64 // by mode with pods, and load: nanoseconds, sorted
	absent  map[string]string               // modes that cannot be measured, and why
}

// bench measures modes on kernels, prints a table for each, and looks whether floors are kept. Words are
// modes, with "@bridge" where pods are on a bridge, columns are loads; nil: all. With out, a folder, the
// tables are in its benchmarks.md.
func bench(ctx context.Context, bin, work, only, out string, repeats int, words, columns []string) error {
	if len(words) == 0 {
		for _, pods := range []string{"", "@bridge"} {
			for _, m := range modes {
				words = append(words, m.name+pods)
			}
		}
	}
	if len(columns) == 0 {
		for _, l := range loads {
			columns = append(columns, l.name)
		}
	}
	var errs []error
	for _, begins := range kernels {
		if !strings.HasPrefix(strings.TrimPrefix(begins, "linux-image-"), only) {
			continue
		}
		k, err := unpack(ctx, work, begins)
		if err != nil {
			return err
		}
		said, err := k.boot(ctx, "", bin, append([]string{"measure", "-repeats", strconv.Itoa(repeats),
			strings.Join(columns, ",")}, words...)...)
		if err == nil && !strings.Contains(said, "measure ended with 0") {
			err = errors.New("some modes could not be measured")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.version, err))
			continue
		}
		t := readTable(k.version, said)
		t.command = "make bench-kernels" + flags()
		fmt.Print("\n", t.markdown())
		errs = append(errs, t.keepsFloors())
		if out != "" {
			errs = append(errs, t.write(filepath.Join(out, "benchmarks.md")))
		}
	}
	return errors.Join(errs...)
}

// flags returns what a Makefile has to hand on to have this run again.
func flags() string {
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return a == "-bench" })
	if len(args) == 0 {
		return ""
	}
	for i, a := range args {
		if strings.Contains(a, " ") {
			args[i] = strconv.Quote(a)
		}
	}
	return " KERNELFLAGS='" + strings.Join(args, " ") + "'"
}

// readTable reads what the machine said: FIGURE mode load nanoseconds..., and ABSENT mode reason.
func readTable(kernel, said string) *table {
	t := &table{kernel: kernel, figures: map[string]map[string][]float64{}, absent: map[string]string{}}
	for line := range strings.Lines(said) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 2 && fields[0] == "ABSENT":
			t.absent[fields[1]] = strings.Join(fields[2:], " ")
		case len(fields) > 3 && fields[0] == "FIGURE":
			var all []float64
			for _, text := range fields[3:] {
				if ns, err := strconv.ParseFloat(text, 64); err == nil {
					all = append(all, ns)
				}
			}
			slices.Sort(all)
			if t.figures[fields[1]] == nil {
				t.figures[fields[1]] = map[string][]float64{}
			}
			t.figures[fields[1]][fields[2]] = all
		}
	}
	return t
}

// median returns the median of a mode's figures for a load; 0: there are none.
func (t *table) median(mode, load string) float64 {
	all := t.figures[mode][load]
	if len(all) == 0 {
		return 0
	}
	return all[len(all)/2]
}

// mean returns the mean of a mode's figures for a load; 0: there are none. Streams by tcx take either 6.7 or
// 7.4 instructions a byte: the median of one boot's is the one or the other, the mean of 41 stays within 2 %.
func (t *table) mean(mode, load string) float64 {
	all := t.figures[mode][load]
	if len(all) == 0 {
		return 0
	}
	sum := 0.0
	for _, x := range all {
		sum += x
	}
	return sum / float64(len(all))
}

// columns returns the loads that were measured.
func (t *table) columns() []mode {
	return slices.DeleteFunc(slices.Clone(loads), func(l mode) bool {
		for _, of := range t.figures {
			if of[l.name] != nil {
				return false
			}
		}
		return true
	})
}

// keepsFloors tells which floors are not kept.
func (t *table) keepsFloors() error {
	var errs []error
	for _, f := range floors {
		for _, pods := range []string{"", "@bridge"} {
			is, other := t.mean(f.mode+pods, f.load), t.mean(f.against+pods, f.load)
			if is == 0 || other == 0 || !strings.HasPrefix(t.kernel, f.kernel) {
				continue
			}
			if ratio := other / is; ratio < f.least*(1-slack) {
				errs = append(errs, fmt.Errorf("%s, %s: %s%s is %.3fx %s, and has been %.2fx", t.kernel, f.load, f.mode,
					pods, ratio, f.against, f.least))
			}
		}
	}
	return errors.Join(errs...)
}

// explanation says what the figures are.
const explanation = `A figure is
how many instructions the only CPU of a virtual machine executes, for senders, both hosts and receivers
together: *x* is how many times as many kernel VXLAN takes, so more is better. The wire carries packets of
1500 bytes. Caches, several CPUs and network cards have no part in it; an instruction is one, whatever it
does. Where a range is wide, as with some of UDP, a figure says little.
`

// heading begins a kernel's part of benchmarks.md.
func (t *table) heading() string { return "## Instructions on Linux " + t.kernel }

// markdown returns the kernel's part of benchmarks.md.
func (t *table) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nWritten by\n`%s`\non %s; medians (lowest-highest) of %d measurements in one boot. "+
		"%s", t.heading(), t.command, time.Now().UTC().Format("2006-01-02"), repeatsOf(t.figures), explanation)
	for _, pods := range []struct{ suffix, words string }{{"", "Routed pods"}, {"@bridge", "Pods on a bridge"}} {
		rows := slices.DeleteFunc(slices.Clone(modes), func(m mode) bool {
			return t.figures[m.name+pods.suffix] == nil && t.absent[m.name+pods.suffix] == ""
		})
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n| %s |", pods.words)
		for _, l := range t.columns() {
			fmt.Fprintf(&b, " %s | x |", l.words)
		}
		b.WriteString("\n|---" + strings.Repeat("|---|---", len(t.columns())) + "|\n")
		for _, m := range rows {
			b.WriteString(t.row(m, pods.suffix))
		}
	}
	return b.String()
}

// row returns a mode's row: figures, and how many times as many VXLAN takes.
func (t *table) row(m mode, pods string) string {
	if why := t.absent[m.name+pods]; why != "" {
		return fmt.Sprintf("| %s | not measured: %s |%s\n", m.words, strings.ReplaceAll(why, "|", " "),
			strings.Repeat(" |", 2*len(t.columns())-1))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |", m.words)
	for _, l := range t.columns() {
		all := t.figures[m.name+pods][l.name]
		digits := 0
		if strings.HasPrefix(l.name, "tcp") {
			digits = 2
		}
		fmt.Fprintf(&b, " %.*f (%.*f-%.*f) |", digits, t.median(m.name+pods, l.name), digits, all[0], digits,
			all[len(all)-1])
		if other := t.median(vxlan+pods, l.name); other > 0 {
			fmt.Fprintf(&b, " %.2f |", other/t.median(m.name+pods, l.name))
		} else {
			b.WriteString(" |")
		}
	}
	return b.String() + "\n"
}

// repeatsOf returns how often each figure was taken.
func repeatsOf(figures map[string]map[string][]float64) (n int) {
	for _, loads := range figures {
		for _, all := range loads {
			n = len(all)
		}
	}
	return n
}

// write puts the kernel's part into a file, in the place of the one of the same series (6.12.), or at the
// end.
func (t *table) write(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	series := regexp.MustCompile(`^\d+\.\d+\.`).FindString(t.kernel)
	parts := strings.Split(string(text), "\n## ")
	parts = slices.DeleteFunc(parts, func(part string) bool {
		return strings.HasPrefix("## "+part, "## Instructions on Linux "+series)
	})
	parts[len(parts)-1] = strings.TrimRight(parts[len(parts)-1], "\n") + "\n"
	doc := strings.Join(append(parts, strings.TrimPrefix(t.markdown(), "## ")), "\n## ")
	return os.WriteFile(file, []byte(doc), 0o644)
}
