package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What a node costs in meshes of 10, 100, 1,000 and 10,000 nodes. As in large.go only host a has a daemon,
// and nobody answers it.
var scaleSizes = []int{10, 100, 1000, 10000}

// The ways of joining that are measured; of the encrypted one the figures are the daemon's, without those of
// the process in user space that encrypts.
var scaleEngines = []string{"user", "kernel", sealed}

// Columns of docs/scale.md.
const (
	scaleStart     = "start, ms"
	scaleStartCPU  = "its CPU, ms"
	scaleChange    = "one change, ms"
	scaleChangeCPU = "a change's CPU, ms"
	scaleRSS       = "RSS, MB"
	scaleIdle      = "idle, % of a CPU"
	scaleStatus    = "status, kB"
	scaleTUI       = "meshtui, % of a CPU"
	scaleMaps      = "kernel maps, MB"
	scaleHelper    = "RSS of what encrypts, MB"
)

var scaleColumns = []string{scaleStart, scaleStartCPU, scaleChange, scaleChangeCPU, scaleRSS, scaleIdle,
	scaleStatus, scaleTUI, scaleMaps, scaleHelper}

// scaleGoals are what a mesh of 10,000 nodes may cost at most.
var scaleGoals = []struct {
	column string
	most   float64
}{{scaleStart, 300}, {scaleChange, 50}, {scaleRSS, 100}, {scaleIdle, 3}}

// A scaleRow is what one size costs with one engine; failed tells why there is no figure.
type scaleRow struct {
	nodes  int
	engine string
	costs  times
	failed error
}

// takeScale measures all sizes once with each engine.
func (b *bench) takeScale(ctx context.Context) (rows []scaleRow, err error) {
	keys, err := publicKeys(scaleSizes[len(scaleSizes)-1])
	if err != nil {
		return nil, err
	}
	for _, engine := range scaleEngines {
		for _, nodes := range scaleSizes {
			row := scaleRow{nodes: nodes, engine: engine, costs: times{}}
			row.failed = b.inLab(1472, func(l *lab) error { return b.scale(ctx, l, row, keys) })
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			fmt.Printf("%s, %d nodes: %v %v\n", engine, nodes, row.costs, row.failed)
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// publicKeys makes keys of nodes that are not there.
func publicKeys(n int) (keys []string, err error) {
	for range n {
		private, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		keys = append(keys, base64.StdEncoding.EncodeToString(private.PublicKey().Bytes()))
	}
	return keys, nil
}

// scaleMesh is a file of so many nodes, the last of which has another address after each edit. With keys it
// is encrypted; the first is of this host.
func scaleMesh(nodes int, engine string, edit int, keys []string) string {
	doc := meshOf(nodes)
	last := nodes - 1
	doc = strings.Replace(doc, fmt.Sprintf("172.18.%d.%d\"", last/250, 1+last%250),
		fmt.Sprintf("%s\"", editedAddress(edit)), 1)
	if engine != sealed {
		return strings.Replace(doc, `engine = "user"`, fmt.Sprintf("engine = %q", engine), 1)
	}
	doc = strings.Replace(doc, "[dataplane]\nengine = \"user\"\n", "transport = \"wireguard\"\n", 1)
	var b strings.Builder
	for i, node := range strings.SplitAfter(doc, "[[node]]\n") {
		if i > 0 {
			fmt.Fprintf(&b, "public_key = %q\n", keys[i-1])
		}
		b.WriteString(node)
	}
	return b.String()
}

// scale measures one size.
func (b *bench) scale(ctx context.Context, l *lab, row scaleRow, keys []string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := errors.Join(l.hosts[0].IP("route add default via 192.0.2.2"),
		l.hosts[1].IP("route add blackhole default")); err != nil {
		return err
	}
	helper := 0
	spawn := func(args ...string) error { return l.spawn(0, b.binary, args...) }
	if row.engine == sealed {
		private, public, err := newKeys()
		if err != nil {
			return err
		}
		keys = append([]string{public[0]}, keys[1:]...)
		if err := os.WriteFile(filepath.Join(l.dir, "private.key"), []byte(private[0]+"\n"), 0o400); err != nil {
			return err
		}
		const script = `mkdir -p /run/wireguard && mount --bind "$0" /run/wireguard &&
			exec env CREDENTIALS_DIRECTORY="$0" "$@"`
		spawn = func(args ...string) error {
			return l.spawn(0, "sh", append([]string{"-c", script, l.dir, b.binary}, args...)...)
		}
	}
	file := filepath.Join(l.dir, "scale.toml")
	document := func(edit int) string { return scaleMesh(row.nodes, row.engine, edit, keys) }
	if err := os.WriteFile(file, []byte(document(0)), 0o644); err != nil {
		return err
	}
	if row.engine == sealed {
		if err := spawn("wireguard-user", "-c", file); err != nil {
			return err
		}
		helper = l.processes[0].Process.Pid
		if err := wait(ctx, 2*time.Second); err != nil { // it is there before the daemon
			return err
		}
	}
	ready, done, err := listen(filepath.Join(l.dir, "notify"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	began := time.Now()
	if err := spawn("run", "-c", file, "--socket", l.socket(0)); err != nil {
		return err
	}
	select {
	case <-ready:
	case <-ctx.Done():
		return fmt.Errorf("wait for READY=1: %w", ctx.Err())
	}
	row.costs[scaleStart] = ms(time.Since(began))
	cpu, err := workOf(l.processes[len(l.processes)-1].Process.Pid)
	if err != nil {
		return err
	}
	row.costs[scaleStartCPU] = ms(cpu)
	if err := b.scaleSteady(ctx, l, file, document, row.costs); err != nil || helper == 0 {
		return err
	}
	row.costs[scaleHelper], err = residentOf(helper)
	return err
}

// scaleSteady measures a daemon that runs.
func (b *bench) scaleSteady(ctx context.Context, l *lab, file string, document func(edit int) string,
	costs times) error {
	pid := l.processes[len(l.processes)-1].Process.Pid
	// Peers are new for a while, and are asked more often.
	const settled, span = 35 * time.Second, 10 * time.Second
	if err := wait(ctx, settled); err != nil {
		return err
	}
	before, err := workOf(pid)
	if err != nil {
		return err
	}
	if err := wait(ctx, span); err != nil {
		return err
	}
	after, err := workOf(pid)
	costs[scaleIdle] = 100 * (after - before).Seconds() / span.Seconds()
	resident, residentErr := residentOf(pid)
	maps, mapsErr := mapMemory(pid)
	size, statusErr := statusSize(ctx, l.socket(0))
	costs[scaleRSS], costs[scaleMaps], costs[scaleStatus] = resident, maps, size
	if err := errors.Join(err, residentErr, mapsErr, statusErr); err != nil {
		return err
	}
	look, looked := screen{len(scaleSizes), 140, 40}, times{}
	if err := b.meshtui(ctx, l.socket(0), look, looked); err != nil {
		return err
	}
	costs[scaleTUI] = looked[look.named(dashboardCPU)]
	var took []times
	for edit := range edits {
		one, err := l.oneEdit(ctx, file, document(1+edit), pid)
		if err != nil {
			return err
		}
		took = append(took, one)
	}
	costs[scaleChange] = medianOf(took, func(t times) float64 { return t[edited] })
	costs[scaleChangeCPU] = medianOf(took, func(t times) float64 { return t[editCPU] })
	return nil
}

// wait waits, unless ctx ends.
func wait(ctx context.Context, span time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(span):
		return nil
	}
}

// statusSize returns how many kB GET /v1/status answers.
func statusSize(ctx context.Context, socket string) (float64, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://meshd/v1/status", nil)
	if err != nil {
		return 0, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	n, err := io.Copy(io.Discard, answer.Body)
	return float64(n) / 1000, err
}

// mapMemory returns how many MB the BPF maps of a process take, as the kernel counts them (memlock in
// /proc/PID/fdinfo).
func mapMemory(pid int) (sum float64, err error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	seen := map[string]bool{}
	for _, path := range paths {
		text, _ := os.ReadFile(path) // closed meanwhile
		fields := map[string]string{}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		if id := fields["map_id"]; id != "" && !seen[id] {
			seen[id] = true
			bytes, _ := strconv.ParseFloat(fields["memlock"], 64) // the kernel writes numbers
			sum += bytes / 1e6
		}
	}
	return sum, err
}

// scaleMarkdown is docs/scale.md without its hundred daemons.
func scaleMarkdown(rows []scaleRow) string {
	var b strings.Builder
	for _, engine := range scaleEngines {
		columns := slices.Clone(scaleColumns)
		columns = slices.DeleteFunc(columns, func(c string) bool {
			return c == scaleMaps && engine != "kernel" || c == scaleHelper && engine != sealed
		})
		fmt.Fprintf(&b, "\n### %s\n\n| nodes | %s |\n|---%s|\n", engineTitle(engine), strings.Join(columns, " | "),
			strings.Repeat("|---", len(columns)))
		for _, row := range rows {
			if row.engine != engine {
				continue
			}
			fmt.Fprintf(&b, "| %d |", row.nodes)
			for _, c := range columns {
				if v, ok := row.costs[c]; ok {
					fmt.Fprintf(&b, " %s |", scaleFigure(v))
				} else {
					b.WriteString(" - |")
				}
			}
			b.WriteString("\n")
			if row.failed != nil {
				fmt.Fprintf(&b, "\n%d nodes: %v\n", row.nodes, row.failed)
			}
		}
	}
	b.WriteString("\n### Goals at 10,000 nodes\n\n| figure | goal | " + strings.Join(scaleEngines, " | ") +
		" |\n|---|---" + strings.Repeat("|---", len(scaleEngines)) + "|\n")
	for _, goal := range scaleGoals {
		fmt.Fprintf(&b, "| %s | %g |", goal.column, goal.most)
		for _, row := range rows {
			if row.nodes != scaleSizes[len(scaleSizes)-1] {
				continue
			}
			v, ok := row.costs[goal.column]
			switch {
			case !ok:
				b.WriteString(" not measured |")
			case v <= goal.most:
				fmt.Fprintf(&b, " %s, met |", scaleFigure(v))
			default:
				fmt.Fprintf(&b, " %s, **missed** |", scaleFigure(v))
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// engineTitle is the heading of an engine's table.
func engineTitle(engine string) string {
	if engine == sealed {
		return "Encrypted, by the process in user space"
	}
	return strings.ToUpper(engine[:1]) + engine[1:] + " engine"
}

// scaleFigure writes a figure with three digits, and all of those before the point.
func scaleFigure(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
