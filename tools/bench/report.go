package main

import (
	"fmt"
	"html"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the medians of all rounds, system by system.
type report struct {
	systems []*system
	medians map[string]result
	waits   times  // medians, too
	about   string // machine, kernel, date, how it was measured
}

// newReport takes the medians of all rounds. Medians, because one disturbed round must not count.
func newReport(systems []*system, results map[string][]result, waits []times, b *bench) *report {
	r := &report{systems: systems, medians: map[string]result{}, waits: times{}}
	for _, name := range moments() {
		if len(waits) == 0 { // not measured
			break
		}
		r.waits[name] = medianOf(waits, func(t times) float64 { return t[name] })
	}
	for name, all := range results {
		r.medians[name] = median(all)
	}
	kernel, _ := exec.Command("uname", "-rm").Output()
	r.about = fmt.Sprintf(
		"%s, Linux %s, %d CPUs for both hosts, their pods and the load; %s; "+
			"medians of %d interleaved rounds of %s a measurement",
		cpuModel(), strings.TrimSpace(string(kernel)), runtime.NumCPU(), time.Now().Format("2006-01-02"), b.rounds,
		b.span)
	return r
}

// cpuModel returns the name of the CPU; on machines whose kernel tells none (arm64), the
// architecture.
func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// median returns the median of each figure on its own: they need not be of the same round.
func median(all []result) result {
	m := result{perCall: map[string]float64{}}
	for _, c := range columns {
		*c.of(&m) = medianOf(all, func(r result) float64 { return *c.of(&r) })
	}
	for kind := range all[0].perCall {
		m.perCall[kind] = medianOf(all, func(r result) float64 { return r.perCall[kind] })
	}
	return m
}

// medianOf returns the median of a figure; of an even number the upper one.
func medianOf[T any](all []T, figure func(T) float64) float64 {
	var values []float64
	for _, one := range all {
		values = append(values, figure(one))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// column is one figure of the table.
type column struct {
	title  string
	format string
	of     func(*result) *float64
	ratio  bool // more is better, and worth comparing
}

var columns = []column{
	{"TCP 1 stream, Gbit/s", "%.2f", func(r *result) *float64 { return &r.tcp1 }, true},
	{"4 streams", "%.2f", func(r *result) *float64 { return &r.tcp4 }, true},
	{"both ways", "%.2f", func(r *result) *float64 { return &r.both }, true},
	{"CPU s/Gbit", "%.2f", func(r *result) *float64 { return &r.cpu }, false},
	{"UDP 64 B, kpps without loss", "%.0f", func(r *result) *float64 { return &r.udp64 }, true},
	{"UDP 1400 B", "%.0f", func(r *result) *float64 { return &r.udp1400 }, true},
	{"RTT idle p50, us", "%.0f", func(r *result) *float64 { return &r.idle50 }, false},
	{"idle p99", "%.0f", func(r *result) *float64 { return &r.idle99 }, false},
	{"p99 under load", "%.0f", func(r *result) *float64 { return &r.busy99 }, false},
	{"b to a while a to b is overloaded", "%.2f", func(r *result) *float64 { return &r.reverse }, false},
}

// cells returns the table, its head first.
func (r *report) cells() [][]string {
	head := []string{""}
	for _, c := range columns {
		head = append(head, c.title)
	}
	rows := [][]string{append(head, "packets per call: TUN out, wire out, wire in, TUN in")}
	for _, s := range r.systems {
		m, row := r.medians[s.name], []string{s.name}
		for _, c := range columns {
			value := *c.of(&m)
			if strings.HasPrefix(c.title, "UDP") {
				value /= 1000
			}
			row = append(row, fmt.Sprintf(c.format, value))
		}
		calls := ""
		if s.user {
			calls = fmt.Sprintf("%.1f, %.1f, %.1f, %.1f", m.perCall["tun_read"], m.perCall["wire_write"],
				m.perCall["wire_read"], m.perCall["tun_write"])
		}
		rows = append(rows, append(row, calls))
	}
	return rows
}

// ratios compares the engines of meshd with each of the others, where more is better.
func (r *report) ratios() (rows [][]string) {
	head := []string{"compared"}
	for _, c := range columns {
		if c.ratio {
			head = append(head, strings.Split(c.title, ",")[0])
		}
	}
	rows = append(rows, head)
	for _, engine := range []string{kernelXDP, kernelTCX, autoEngine, userEngine, sealed} {
		our, ok := r.medians[engine]
		for _, s := range r.systems {
			// Ours are compared with others, and the one that chooses with the one that it could have chosen;
			// between other engines of ours each reader can divide.
			ours := s.kernel || s.user || s.name == sealed
			if !ok || ours && !(engine == autoEngine && s.name == userEngine) {
				continue
			}
			theirs, row := r.medians[s.name], []string{engine + " : " + s.name}
			for _, c := range columns {
				if c.ratio {
					row = append(row, fmt.Sprintf("%.2fx", *c.of(&our) / *c.of(&theirs)))
				}
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// isCost tells whether a figure is no time: its name has the unit.
func isCost(name string) bool {
	return strings.Contains(name, "% of") || strings.Contains(name, "kB/s") ||
		strings.HasSuffix(name, "MB resident")
}

// moments returns the table of what people wait for.
func (r *report) moments() [][]string {
	if len(r.waits) == 0 {
		return nil
	}
	rows := [][]string{{"meshd", "ms", "compared with `meshd version`"}}
	for _, name := range moments() {
		if isCost(name) {
			rows = append(rows, []string{name, fmt.Sprintf("%.1f", r.waits[name]), ""})
			continue
		}
		rows = append(
			rows,
			[]string{
				name,
				fmt.Sprintf("%.0f", r.waits[name]),
				fmt.Sprintf("%.1fx", r.waits[name]/r.waits[versionPrinted]),
			},
		)
	}
	return rows
}

// text returns the report for a terminal, in columns.
func (r *report) text() string {
	var b strings.Builder
	b.WriteString(r.about + "\n\n")
	for _, table := range [][][]string{transpose(r.cells()), r.ratios(), r.moments()} {
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, row := range table {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
		w.Flush()
		b.WriteString("\n")
	}
	return b.String()
}

// transpose turns rows into columns: there are more figures than systems.
func transpose(rows [][]string) [][]string {
	turned := make([][]string, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			turned[i] = append(turned[i], cell)
		}
	}
	return turned
}

// markdown returns docs/benchmarks.md. What a reader has to know to judge a figure stands beside it,
// since tables get copied without their page.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

Written by `+"`make bench BENCHFLAGS='-out docs'`"+`.
%s.

Two hosts made of network namespaces, joined by a veth pair that behaves like a wire: packets of
its MTU cross it, merged again on receiving. Hosts, pods and load share the CPUs, so only ratios within one
table mean anything, and a dedicated machine would show higher figures for every line.

![TCP and UDP throughput](benchmarks.svg)

`, strings.ReplaceAll(r.about, "; ", ";\n"))
	for _, table := range [][][]string{transpose(r.cells()), r.ratios(), r.moments()} {
		for i, row := range table {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
			}
		}
		b.WriteString("\n")
	}
	b.WriteString(
		`- *UDP without loss*: the highest rate of a paced sender, found by halving, of which not one packet is
  lost in 0.25 s; sizes are those of the IP packet in the pod.
- *RTT*: pings 5 ms apart on an idle mesh; p99 under load, while one TCP stream runs.
- *CPU*: all that the machine did during one TCP stream, load included, per Gbit that arrived.
- *b to a while a to b is overloaded*: the share that is left of 2000 packets/s from b to a when host a's
  uplink is shaped to 1 Mbit/s and a sends 21 Mbit/s into it.
- *start*: from exec until the first of 1000 packets/s between the pods arrives; the interface is made, or
  still there after ` + "`kill -9`" + `. *One node changed*: what the daemon says of the reload,
  reading the file included.
- *probing*: CPU time of the daemon while host b answers for 1000 peers that are asked every second. A veth
  pair has the sender's thread receive as well, so what the kernel takes holds work of host b, about a tenth
  of the figure. *In meshd's own code* is what is spent outside the kernel.
- Tunnels alone: no system has masquerade rules or connection tracking.
- *empty XDP* is plain routing on interfaces with a program that lets everything pass: what XDP costs on this
  lab's wire, where the kernel copies each packet for it. A network card with native XDP does not.
- *meshd sealed*, wireguard-go, nebula and tinc encrypt. meshd sealed is its process in user space, and
  wireguard-go is the same library set up by hand. nebula runs with its offloads, which it leaves off by
  default, and with an MTU of 1440. tinc is Debian's package.
`,
	)
	for _, s := range r.systems {
		if s.rival != "" {
			fmt.Fprintf(&b, "- %s: %s\n", s.name, s.version())
		}
	}
	return b.String()
}

// svg draws TCP throughput and lossless UDP as bars.
func (r *report) svg() string {
	const (
		left, width, bar, gap = 190, 420, 18, 6
		panelHead             = 44
	)
	panels := []int{0, 4} // of columns
	height := len(panels)*(panelHead+len(r.systems)*(bar+gap)) + 20
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" `+
		`font-family="sans-serif" font-size="12">`+"\n", left+width+90, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	y := 0
	for _, p := range panels {
		c, most := columns[p], 0.0
		for _, s := range r.systems {
			m := r.medians[s.name]
			most = max(most, *c.of(&m))
		}
		fmt.Fprintf(&b, `<text x="10" y="%d" font-weight="bold">%s</text>`+"\n", y+26, html.EscapeString(c.title))
		y += panelHead
		for _, s := range r.systems {
			m := r.medians[s.name]
			value, colour, shown := *c.of(&m), "#9aa5b1", *c.of(&m)
			if s.kernel || s.user {
				colour = "#1f6feb"
			}
			if strings.HasPrefix(c.title, "UDP") {
				shown /= 1000
			}
			fmt.Fprintf(&b,
				`<text x="%d" y="%d" text-anchor="end">%s</text>`+
					`<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+
					`<text x="%.1f" y="%d">%s</text>`+"\n",
				left-8, y+bar-5, html.EscapeString(s.name), left, y, max(1, value/most*width), bar, colour,
				left+value/most*width+6, y+bar-5, fmt.Sprintf(c.format, shown))
			y += bar + gap
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}
