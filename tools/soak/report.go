package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// about tells where and how a soak ran.
func (r *result) about() string {
	var name unix.Utsname
	_ = unix.Uname(&name) // it fails for a bad pointer alone
	loads := make([]float64, 0, len(r.samples))
	for _, s := range r.samples {
		loads = append(loads, s.Load)
	}
	load := "no sample"
	if len(loads) > 0 {
		load = fmt.Sprintf("%.1f, at most %.1f", middle(loads), slices.Max(loads))
	}
	command := strings.Join(append([]string{"bin/soak"}, os.Args[1:]...), " ")
	return fmt.Sprintf("%s, %v; %s, %d CPUs, Linux %s; load average of the machine, with all that others ran "+
		"on it: %s; `%s`", r.began.UTC().Format("2006-01-02 15:04 UTC"), r.soak, cpuModel(), runtime.NumCPU(),
		unix.ByteSliceToString(name.Release[:]), load, command)
}

// cpuModel returns the name of the CPU, or the architecture where the kernel tells none.
func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// A table has its head first.
type table struct {
	title string
	rows  [][]string
}

// tables returns all tables of the report.
func (r *result) tables() []table {
	return []table{
		{"Packets", r.packetRows()}, {"Round trips", r.delayRows()}, {"Processes", r.trendRows()},
		{"Goroutines", r.crewRows()}, {"Counters of queues and sockets that grew", r.counterRows()},
		{"When datagrams were lost", r.lossRows()},
	}
}

func (r *result) packetRows() [][]string {
	rows := [][]string{{"mesh", "kind", "sent", "arrived", "missing", "late", "duplicates"}}
	for i, name := range r.names {
		for _, k := range r.accounts[i].kinds {
			kind := map[string]string{"udp": "UDP, requests and answers", "tcp": "TCP, bytes", "icmp": "ICMP echo",
				"gso": "datagrams of superpackets"}[k.name]
			rows = append(rows, []string{name, kind, fmt.Sprint(k.sent), fmt.Sprint(k.arrived),
				fmt.Sprint(int64(k.sent - k.arrived)), fmt.Sprint(k.late), fmt.Sprint(k.duplicates)})
		}
	}
	return rows
}

func (r *result) delayRows() [][]string {
	rows := [][]string{{"mesh", "p50, ms", "p99, ms", "p50 early", "p50 late", "longest, ms"}}
	for i, name := range r.names {
		var p50, p99, most []float64
		for _, s := range r.samples {
			p50 = append(p50, s.Meshes[i].P50)
			p99 = append(p99, s.Meshes[i].P99)
			most = append(most, s.Meshes[i].Max)
		}
		if len(p50) == 0 {
			continue
		}
		early, late := trendOf(p50, limit{})
		row := []string{name}
		for _, v := range []float64{middle(p50), middle(p99), early, late, slices.Max(most)} {
			row = append(row, fmt.Sprintf("%.2f", v))
		}
		rows = append(rows, row)
	}
	return rows
}

func (r *result) trendRows() [][]string {
	rows := [][]string{{"mesh", "process", "figure", "early", "late", "allowed"}}
	for _, t := range trends(r.names, r.samples, warmUp(r.soak)) {
		if t.early == 0 && t.late == 0 { // a process without maps
			continue
		}
		rows = append(rows, []string{t.mesh, t.process, t.figure, fmt.Sprintf("%.1f", t.early),
			fmt.Sprintf("%.1f", t.late), fmt.Sprintf("%.1f", t.allowed())})
	}
	return rows
}

func (r *result) crewRows() [][]string {
	rows := [][]string{{"mesh", "process", "at the end", "of a new process"}}
	for _, c := range r.crews {
		rows = append(rows, []string{c.mesh, c.process, fmt.Sprint(total(c.after)), fmt.Sprint(total(c.fresh))})
	}
	return rows
}

func (r *result) counterRows() [][]string {
	rows := [][]string{{"mesh", "counter", "packets"}}
	for i, name := range r.names {
		for _, where := range slices.Sorted(maps.Keys(r.accounts[i].counters)) {
			rows = append(rows, []string{name, where, fmt.Sprint(r.accounts[i].counters[where])})
		}
	}
	return rows
}

// mostLosses is how many losses a report names.
const mostLosses = 32

func (r *result) lossRows() [][]string {
	rows := [][]string{{"time", "flow", "datagrams"}}
	all := r.ledger.losses()
	for _, one := range all[:min(len(all), mostLosses)] {
		rows = append(rows, []string{one.at.UTC().Format(time.TimeOnly), one.flow, fmt.Sprint(one.count)})
	}
	return rows
}

// excuses tells of lost probes that are not judged; empty: there were none.
func (r *result) excuses() string {
	var all []string
	for i, name := range r.names {
		if _, excused := r.lasting(i); len(excused) > 0 {
			all = append(all, fmt.Sprintf("%s (%d)", name, len(excused)))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "The machine had so little CPU at times that packets took longer than a second. Then probes count " +
		"as lost, and problems that health told of them are not judged: " + strings.Join(all, ", ") + ".\n"
}

// headline tells whether the soak has passed, in a sentence.
func headline(faults []string, edits int) string {
	verdict := "**Passed**"
	if len(faults) > 0 {
		verdict = fmt.Sprintf("**Failed**, for %d reasons below", len(faults))
	}
	return fmt.Sprintf("%s. %d files were put into force meanwhile.", verdict, edits)
}

// verdict tells whether the soak has passed, and what is wrong.
func (r *result) verdict(faults []string) string {
	return strings.Join(append([]string{headline(faults, r.edits)}, faults...), "\n- ") + "\n"
}

// text returns the report for a terminal.
func (r *result) text(faults []string) string {
	var b strings.Builder
	b.WriteString(r.about() + "\n\n")
	for _, t := range r.tables() {
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, row := range t.rows {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
		w.Flush()
		b.WriteString("\n")
	}
	if r.switches > 0 && len(r.ledger.errors) > 0 {
		fmt.Fprintf(&b, "Flows told, which is not judged while meshes switch:\n- %s\n",
			strings.Join(r.ledger.errors, "\n- "))
	}
	return b.String() + r.excuses() + r.verdict(faults)
}

// write writes soak.md and soak.svg.
func (r *result) write(dir string, faults []string) error {
	return errors.Join(os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "soak.md"), []byte(r.markdown(faults)), 0o644),
		os.WriteFile(filepath.Join(dir, "soak.svg"), []byte(svg(r.minutes(), r.panels())), 0o644))
}

// markdown returns docs/soak.md.
func (r *result) markdown(faults []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Soak

Written by `+"`make soak SOAKFLAGS='-out docs'`"+`.

%s.

%s

Three meshes run side by side: with the user engine, with the kernel engine, and encrypted by the process in
user space. Each has three hosts with a pod each, and the third host is behind a router. Traffic flows between
all pairs of pods in both directions, by IPv4 and IPv6:

- UDP requests and answers of 16 to 3000 bytes; those that do not fit into one packet are sent as fragments;
- TCP connections of 30 seconds;
- ICMP echo;
- UDP superpackets as QUIC sends them, 2 to 16 datagrams at once.

Each byte is checked at its receiver. An unrelated key of the file is edited each minute. The soak fails on:

- a byte that was altered;
- a packet that was lost, unless a counter of a queue or a socket tells where;
- memory that grew between the first and the last third, or descriptors, threads, BPF maps, their entries or
  goroutines that leaked;
- a problem of health that two samples in a row have seen. That probes were lost is none while packets that do
  arrive take longer than a second, or samples come late, since probes wait no longer.

![RSS, CPU, round trips, descriptors, threads and map entries over time](soak.svg)

`, wrap(r.about(), 110), headline(faults, r.edits))
	for _, f := range faults {
		fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(wrap(f, 108), "\n", "\n  "))
	}
	if excuses := r.excuses(); excuses != "" {
		fmt.Fprintf(&b, "\n%s\n", wrap(excuses, 110))
	}
	for _, t := range r.tables() {
		if len(t.rows) == 1 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n", t.title)
		for i, row := range t.rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
			}
		}
	}
	for _, f := range r.ledger.findings {
		fmt.Fprintf(&b, "\n## Other bytes\n\n```text\n%s```\n", f.whole())
	}
	return b.String()
}

// wrap breaks text into lines of at most so many columns.
func wrap(text string, columns int) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > columns {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return strings.Join(append(lines, line), "\n")
}

// whole tells all of a finding.
func (f *finding) whole() string {
	var b strings.Builder
	fmt.Fprintf(&b, "OTHER BYTES: %s at %s\n%s, %d bytes are wrong\nthey are %s\n", f.Flow,
		f.At.Format(time.RFC3339Nano), place(f.Position), f.Wrong, f.Is)
	fmt.Fprintf(&b, "before:\n%s\nfrom there on:\n%s\n", dump(f.Before), dump(f.Came))
	for _, e := range f.Events {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

// dump returns bytes in lines of 48.
func dump(b []byte) string {
	var lines []string
	for line := range slices.Chunk(b, 48) {
		lines = append(lines, fmt.Sprintf("%x", line))
	}
	return strings.Join(lines, "\n")
}

// minutes returns the times of the samples.
func (r *result) minutes() (all []float64) {
	for _, s := range r.samples {
		all = append(all, s.At.Minutes())
	}
	return all
}

// panels returns the plots. Of the hosts of a mesh they show the sum or the largest.
func (r *result) panels() (all []panel) {
	of := func(title string, get func(m meshSample) float64) {
		p := panel{title: title}
		for i, name := range r.names {
			line := series{name: name, colour: i}
			for _, s := range r.samples {
				line.values = append(line.values, get(s.Meshes[i]))
			}
			if slices.ContainsFunc(line.values, func(v float64) bool { return !math.IsNaN(v) }) {
				p.lines = append(p.lines, line)
			}
		}
		all = append(all, p)
	}
	processes := func(figure string, helpers bool) func(m meshSample) float64 {
		return func(m meshSample) float64 {
			most := math.NaN()
			for _, p := range m.Processes {
				if v := p.Figures[figure]; strings.HasSuffix(p.Process, "helper") == helpers && !(most >= v) {
					most = v
				}
			}
			return most
		}
	}
	of("RSS of the largest meshd, MiB", processes(figureRSS, false))
	of("RSS of the largest helper, MiB", processes(figureRSS, true))
	of("round trips, median, ms", func(m meshSample) float64 { return m.P50 })
	of("round trips, 99th percentile, ms", func(m meshSample) float64 { return m.P99 })
	of("descriptors of a meshd, most", processes(figureFDs, false))
	of("threads of a meshd, most", processes(figureThreads, false))
	of("BPF map entries of a meshd, most", processes(figureEntries, false))
	all = append(all, r.cpuPanel())
	of("datagrams on their way, or lost", func(m meshSample) float64 { return m.Missing })
	all = append(all, r.loadPanel())
	return all
}

// loadPanel shows the load of the machine, with all that others ran on it.
func (r *result) loadPanel() panel {
	line := series{name: "runnable threads"}
	for _, s := range r.samples {
		line.values = append(line.values, s.Load)
	}
	return panel{"load average of the machine", []series{line}}
}

// cpuPanel shows what all processes of a mesh use of a CPU.
func (r *result) cpuPanel() panel {
	p := panel{title: "CPU of all processes of a mesh, % of one"}
	for i, name := range r.names {
		line, last, at := series{name: name, colour: i}, math.NaN(), time.Duration(0)
		for _, s := range r.samples {
			now := 0.0
			for _, process := range s.Meshes[i].Processes {
				now += process.Figures[figureCPU]
			}
			line.values = append(line.values, 100*(now-last)/(s.At-at).Seconds())
			last, at = now, s.At
		}
		p.lines = append(p.lines, line)
	}
	return p
}
