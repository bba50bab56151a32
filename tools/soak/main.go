// Command soak is `make soak`: three meshes side by side, one with each way to move packets, under traffic
// that is checked byte by byte, for minutes or for hours. It fails on a byte that was lost or altered, on
// growth, on a leak, and on a problem in health, and writes docs/soak.md.
//
// The load is low and paced: what is looked for is what time does, not what load does (tools/bench).
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
	"sync"
	"syscall"
	"time"

	"example.org/meshd/internal/nstest"
)

// labPrefix begins the names of all namespaces, by which a later run finds those of one that was killed.
const labPrefix = "meshsoak"

// main reads the flags; a signal ends the soak early, and it fails then.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s := soak{}
	flag.StringVar(&s.binary, "meshd", "bin/meshd", "the daemon to try")
	flag.DurationVar(&s.long, "for", 10*time.Minute, "how long traffic flows, at least 20s")
	flag.DurationVar(&s.reloads, "reload", time.Minute, "time between two edits of the file")
	flag.DurationVar(&s.switches, "switch", 0, "time between two changes of engine, keys or transport of "+
		"each mesh; 0: none. Loss and health are not judged then")
	flag.IntVar(&s.chunk, "tcp", 16, "KiB that a TCP connection sends four times a second; each eighth time "+
		"eight times as much")
	only := flag.String("only", "", "meshes, separated by commas (default user, kernel and sealed)")
	out := flag.String("out", "", "directory for soak.md and soak.svg (default: only print)")
	flag.Parse()
	s.only = strings.Split(*only, ",")
	if err := s.run(ctx, *out); err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\n", err)
		os.Exit(1)
	}
}

// soak is what the flags say.
type soak struct {
	binary                  string
	long, reloads, switches time.Duration
	only                    []string // names of meshes; one empty name: all
	chunk                   int      // KiB of most writes of TCP
}

// The meshes, by how they move packets.
var meshes = []struct {
	name  string
	state settings
}{
	{"user", settings{engine: `engine = "user"`}},
	{"kernel", settings{engine: `engine = "kernel"`}},
	{"sealed", settings{engine: `engine = "auto"`, keys: true, sealed: true}},
}

// result is what a soak has found.
type result struct {
	soak     time.Duration
	began    time.Time
	switches time.Duration // between two changes of a mesh; 0: none
	names    []string      // of the meshes
	samples  []sample
	accounts []account // by mesh
	crews    []crew
	ledger   *ledger
	mu       sync.Mutex // of what follows, while traffic flows
	trouble  []string   // what else went wrong
	edits    int        // files that were put into force
	changes  []change   // of engine, keys and transport
}

// A change is one step of a switch.
type change struct {
	at   time.Duration
	mesh string
	to   string
}

// fails notes something that went wrong beside the traffic.
func (r *result) fails(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.trouble) < mostFindings {
		r.trouble = append(r.trouble, time.Now().Format(time.TimeOnly)+" "+err.Error())
	}
}

// run soaks, prints the report, and returns an error if anything is wrong.
func (s *soak) run(ctx context.Context, out string) (err error) {
	if err := nstest.Available(); err != nil {
		return err
	}
	if s.long < 20*time.Second || s.chunk < 1 || s.chunk > 1<<10 {
		return fmt.Errorf("-for %v: want 20s at least; -tcp %d: want 1 to 1024", s.long, s.chunk)
	}
	if s.binary, err = filepath.Abs(s.binary); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", labPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	nstest.Sweep(labPrefix)
	r := &result{soak: s.long, switches: s.switches}
	all, err := s.build(ctx, dir)
	defer func() {
		for _, m := range all {
			err = errors.Join(err, m.close())
		}
	}()
	if err != nil {
		return err
	}
	if err := s.measure(ctx, r, all); err != nil {
		return err
	}
	faults := r.judge()
	fmt.Print(r.text(faults))
	if out != "" {
		if err := r.write(out, faults); err != nil {
			return err
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("%d faults", len(faults))
	}
	return nil
}

// build makes the meshes, one after the other. If it fails, it returns those that need to be closed.
func (s *soak) build(ctx context.Context, dir string) (all []*mesh, err error) {
	for _, kind := range meshes {
		if s.only[0] != "" && !slices.Contains(s.only, kind.name) {
			continue
		}
		m, err := newMesh(ctx, kind.name, dir, s.binary, kind.state, kind.state.sealed || s.switches > 0)
		all = append(all, m)
		if err != nil {
			return all, err
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no mesh %q", s.only)
	}
	return all, nil
}

// measure has traffic flow, and edits files and samples meanwhile.
func (s *soak) measure(ctx context.Context, r *result, all []*mesh) (err error) {
	r.ledger = &ledger{tell: func(mesh int, f *finding) {
		f.Events = all[mesh].said()
		fmt.Fprintf(os.Stderr, "%s\n", f.whole())
	}}
	before := make([]counters, len(all))
	for i, m := range all {
		r.names = append(r.names, m.name)
		if before[i], err = countersOf(ctx, m); err != nil {
			return err
		}
	}
	flowing, end := context.WithTimeout(ctx, s.long)
	defer end()
	r.began = time.Now()
	traffics := make([]traffic, len(all))
	chunk := s.chunk << 10
	for i, m := range all {
		if err := traffics[i].start(flowing, r.ledger, i, m, chunk); err != nil {
			end()
			return errors.Join(err, traffics[i].stop())
		}
	}
	var editors sync.WaitGroup
	for _, m := range all {
		editors.Go(func() { s.edit(flowing, r, m) })
	}
	s.sample(flowing, r, all)
	editors.Wait()
	if ctx.Err() != nil {
		r.fails(errors.New("the soak was interrupted"))
		ctx = context.WithoutCancel(ctx) // to end in order
	}
	for i, m := range all {
		if err := traffics[i].stop(); err != nil {
			return err
		}
		after, err := countersOf(ctx, m)
		if err != nil {
			return err
		}
		r.accounts = append(r.accounts, r.ledger.account(i, after.since(before[i])))
	}
	for i, m := range all {
		if s.switches > 0 { // processes are compared in one state
			if err := m.applyAll(ctx, stateOf(r.names[i]), 0); err != nil {
				return err
			}
		}
		crews, err := m.crews(ctx)
		if err != nil {
			return err
		}
		r.crews = append(r.crews, crews...)
	}
	return nil
}

// stateOf returns the settings that a mesh begins with.
func stateOf(name string) settings {
	for _, m := range meshes {
		if m.name == name {
			return m.state
		}
	}
	return settings{}
}

// account adds up the flows of a mesh by kind.
func (l *ledger) account(mesh int, lost counters) account {
	a := account{counters: lost}
	for _, kind := range kinds {
		sum := l.sums(mesh, func(name string) bool {
			name = strings.TrimSuffix(name, " answer")
			return strings.HasSuffix(name, " "+kind.name+"4") || strings.HasSuffix(name, " "+kind.name+"6")
		})
		a.kinds = append(a.kinds, kindAccount{kind.name, sum})
	}
	return a
}

// samplesWanted is how many samples a soak takes; at most one a second, and at least one each 30 s:
// what lasts for two samples must not take minutes.
const samplesWanted = 120

// interval returns the time between two samples.
func interval(soak time.Duration) time.Duration {
	return min(30*time.Second, max(time.Second, soak/samplesWanted))
}

// sample samples until ctx ends.
func (s *soak) sample(ctx context.Context, r *result, all []*mesh) {
	ticker := time.NewTicker(interval(s.long))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		taken, err := take(ctx, time.Since(r.began), r.ledger, all)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.fails(err)
			continue
		}
		r.samples = append(r.samples, taken)
	}
}
