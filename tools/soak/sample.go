package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// A sample is what was measured at one time.
type sample struct {
	At     time.Duration // since traffic began
	Load   float64       // of the machine, over a minute
	Meshes []meshSample
}

// A meshSample is what was measured of one mesh. Delays are round trips since the sample before, in ms.
type meshSample struct {
	Processes     []reading
	P50, P99, Max float64
	Missing       float64   // datagrams that were sent and have not arrived: on their way, or lost
	Problems      []problem // of all daemons, without those of level info
}

// A problem is one of a daemon's health.
type problem struct {
	host, kind, peer string
}

func (p problem) String() string { return strings.TrimSpace(p.host + " " + p.kind + " " + p.peer) }

// A reading is what one process used.
type reading struct {
	Process string             // "a", or "a helper"
	Figures map[string]float64 // by figure
}

// Figures of a process. RSS is of anonymous memory: pages of the program itself come and go with the machine.
const (
	figureRSS     = "RSS, MiB"
	figureFDs     = "file descriptors"
	figureThreads = "threads"
	figureMaps    = "BPF maps"
	figureEntries = "BPF map entries"
	figureCPU     = "CPU, s" // since the process began
)

// take samples all meshes.
func take(ctx context.Context, at time.Duration, l *ledger, meshes []*mesh) (s sample, err error) {
	s = sample{At: at, Load: loadAverage()}
	for i, m := range meshes {
		var of meshSample
		for _, h := range m.hosts {
			for _, d := range []*nstest.Daemon{h.daemon, h.helper} {
				if d == nil {
					continue
				}
				r := reading{Process: h.name}
				if d == h.helper {
					r.Process += " helper"
				}
				if r.Figures, err = figuresOf(d.PID()); err != nil {
					return s, fmt.Errorf("%s: %s, %s: %w\n%s", m.name, r.Process, d.State(), err, tail(d.Log()))
				}
				of.Processes = append(of.Processes, r)
			}
			status, err := h.client.Status(ctx)
			if err != nil {
				return s, fmt.Errorf("%s: status of %s: %w", m.name, h.name, err)
			}
			of.Problems = append(of.Problems, problems(h.name, status)...)
		}
		delays := l.delaysOf(i)
		of.P50, of.P99, of.Max = percentile(delays, 50), percentile(delays, 99), percentile(delays, 100)
		all := l.sums(i, func(name string) bool { return !strings.Contains(name, " tcp") })
		of.Missing = float64(all.sent) - float64(all.arrived)
		s.Meshes = append(s.Meshes, of)
	}
	return s, nil
}

// tail returns the end of a log.
func tail(log string) string { return log[max(0, len(log)-4096):] }

// problems returns what a status says is wrong.
func problems(name string, s control.Status) (all []problem) {
	for _, p := range s.Health.Problems {
		if p.Level != control.Info {
			all = append(all, problem{name, p.Kind, p.Peer})
		}
	}
	return all
}

// percentile returns a percentile of sorted round trips, in ms; 0 of none.
func percentile(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := min(len(sorted)-1, len(sorted)*percent/100)
	return float64(sorted[at].Microseconds()) / 1000
}

// loadAverage returns the first figure of /proc/loadavg.
func loadAverage() (load float64) {
	text, _ := os.ReadFile("/proc/loadavg") // 0 if it is not there: it judges nothing
	_, _ = fmt.Sscan(string(text), &load)
	return load
}

// figuresOf measures a process.
func figuresOf(pid int) (map[string]float64, error) {
	folder := fmt.Sprintf("/proc/%d/", pid)
	all := map[string]float64{}
	status, err := os.ReadFile(folder + "status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		n, _ := strconv.ParseFloat(words[1], 64) // of the two lines that are used, a number
		switch words[0] {
		case "RssAnon:":
			all[figureRSS] = n / 1024
		case "Threads:":
			all[figureThreads] = n
		}
	}
	stat, err := os.ReadFile(folder + "stat")
	if err != nil {
		return nil, err
	}
	// Behind the name, which may have anything in it, utime and stime are the 12th and 13th (proc(5)).
	words := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, word := range words[11:13] {
		ticks, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return nil, err
		}
		all[figureCPU] += ticks / 100 // USER_HZ
	}
	return all, countDescriptors(folder, all)
}

// countDescriptors counts the descriptors of a process, and what is in those that are BPF maps.
func countDescriptors(folder string, all map[string]float64) error {
	entries, err := os.ReadDir(folder + "fdinfo")
	if err != nil {
		return err
	}
	all[figureFDs] = float64(len(entries))
	var seen []ebpf.MapID
	for _, e := range entries {
		info, err := os.ReadFile(folder + "fdinfo/" + e.Name())
		if errors.Is(err, os.ErrNotExist) { // closed meanwhile
			continue
		}
		if err != nil {
			return err
		}
		_, after, isMap := strings.Cut(string(info), "map_id:\t")
		id, _ := strconv.Atoi(strings.SplitN(after, "\n", 2)[0])
		if !isMap || slices.Contains(seen, ebpf.MapID(id)) {
			continue
		}
		seen = append(seen, ebpf.MapID(id))
		all[figureMaps]++
		all[figureEntries] += float64(elements(ebpf.MapID(id)))
	}
	return nil
}

// elements counts what is in a map that may hold more or less; 0 of an array, or of a map that is gone.
func elements(id ebpf.MapID) (n int) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return 0
	}
	defer m.Close()
	if m.Type() != ebpf.Hash && m.Type() != ebpf.LPMTrie && m.Type() != ebpf.LRUHash {
		return 0
	}
	key := make([]byte, m.KeySize())
	for next, err := m.NextKeyBytes(nil); err == nil && next != nil && n < int(m.MaxEntries()); n++ {
		copy(key, next)
		next, err = m.NextKeyBytes(key)
	}
	return n
}
