package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/control"
)

// What a mesh of thousands of nodes costs, with each engine. Only host a has a daemon: all other nodes are
// addresses behind host b, which drops what is sent to them.
//
//	start    from exec until the daemon says READY=1, as a service manager hears it
//	edit     one node gets another address and another subnet: from the moment the file is in its place
//	         until POST /v1/reload is answered, which is what `meshd reload` waits for
//	in map   from the same moment until the node's new address is in the map that programs read
//	CPU      what the daemon, and the kernel for it, worked until then. On a machine that does other work as
//	         well, it alone tells two versions apart
const (
	manyNodes = 10000
	edits     = 5 // of which the median counts
)

var engines = []string{"kernel", "user"}

// Steps that are measured with many nodes.
const (
	started      = "start until ready"
	startCPU     = "start, CPU"
	startedAgain = "start after kill -9 until ready"
	edited       = "one node edited, until the answer"
	editedInMap  = "one node edited, until in the kernel's map"
	editCPU      = "one node edited, CPU"
)

// largeMoments names the figures of many nodes, in the order of the report.
func largeMoments() (names []string) {
	for _, engine := range engines {
		for _, step := range []string{started, startCPU, startedAgain, edited, editedInMap, editCPU} {
			if step != editedInMap || engine == "kernel" {
				names = append(names, ofEngine(step, engine))
			}
		}
	}
	return names
}

// ofEngine names a step with an engine.
func ofEngine(step, engine string) string {
	return fmt.Sprintf("%s, %d nodes, %s engine", step, manyNodes, engine)
}

// large measures starts and edits of many nodes with an engine.
func (l *lab) large(ctx context.Context, binary, engine string, all times) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	// Probes of all others leave, and are not answered.
	if err := errors.Join(l.hosts[0].IP("route add default via 192.0.2.2"),
		l.hosts[1].IP("route add blackhole default")); err != nil {
		return err
	}
	file := filepath.Join(l.dir, "large.toml")
	if err := os.WriteFile(file, []byte(largeMesh(engine, 0)), 0o644); err != nil {
		return err
	}
	ready, done, err := listen(filepath.Join(l.dir, "notify"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	for _, step := range []string{started, startedAgain} {
		began := time.Now()
		if err := l.spawn(0, binary, "run", "-c", file, "--socket", l.socket(0)); err != nil {
			return err
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return fmt.Errorf("wait for READY=1: %w", ctx.Err())
		}
		all[ofEngine(step, engine)] = ms(time.Since(began))
		daemon := l.processes[len(l.processes)-1]
		if step == startedAgain {
			return l.edits(ctx, file, engine, daemon.Process.Pid, all)
		}
		cpu, err := workOf(daemon.Process.Pid)
		all[ofEngine(startCPU, engine)] = ms(cpu)
		if err := errors.Join(err, daemon.Process.Kill()); err != nil {
			return err
		}
		_ = daemon.Wait() // killed
	}
	return nil
}

// largeMesh is a file whose last node has another address and another subnet after each edit.
func largeMesh(engine string, edit int) string {
	last := manyNodes - 1
	return strings.NewReplacer(`engine = "user"`, fmt.Sprintf("engine = %q", engine),
		fmt.Sprintf("172.18.%d.%d\"", last/250, 1+last%250), fmt.Sprintf("%s\"", editedAddress(edit)),
		fmt.Sprintf("10.%d.%d.0/24", last/250, last%250), fmt.Sprintf("10.200.%d.0/24", edit),
	).Replace(meshOf(manyNodes))
}

// editedAddress is the address of the last node after an edit.
func editedAddress(edit int) netip.Addr { return netip.AddrFrom4([4]byte{172, 19, 0, byte(1 + edit)}) }

// edits edits the file several times, and takes medians.
func (l *lab) edits(ctx context.Context, file, engine string, pid int, all times) error {
	var senders *ebpf.Map
	if engine == "kernel" {
		var err error
		if senders, err = mapOf(pid, "senders"); err != nil {
			return err
		}
		defer senders.Close()
	}
	var took []times
	for edit := range edits {
		one, err := l.edit(ctx, file, largeMesh(engine, 1+edit), pid, senders, editedAddress(1+edit))
		if err != nil {
			return err
		}
		took = append(took, one)
	}
	for step := range took[0] {
		all[ofEngine(step, engine)] = medianOf(took, func(t times) float64 { return t[step] })
	}
	return nil
}

// oneEdit is edit without a look at a map.
func (l *lab) oneEdit(ctx context.Context, file, doc string, pid int) (times, error) {
	return l.edit(ctx, file, doc, pid, nil, netip.Addr{})
}

// edit saves a file, has it read, and measures until then. senders may be nil.
func (l *lab) edit(ctx context.Context, file, doc string, pid int, senders *ebpf.Map,
	address netip.Addr) (times, error) {
	// The work that the start, or the last edit, has left for later must not be in this one.
	if err := wait(ctx, 2*time.Second); err != nil {
		return nil, err
	}
	client := control.NewClient(l.socket(0))
	defer client.Close()
	if err := os.WriteFile(file+".new", []byte(doc), 0o644); err != nil {
		return nil, err
	}
	before, err := workOf(pid)
	if err != nil {
		return nil, err
	}
	began, inMap := time.Now(), make(chan time.Duration, 1)
	if err := os.Rename(file+".new", file); err != nil {
		return nil, err
	}
	go func() { inMap <- untilIn(ctx, senders, address, began) }()
	answer, err := client.Reload(ctx)
	t := times{edited: ms(time.Since(began))}
	after, workErr := workOf(pid)
	t[editedInMap], t[editCPU] = ms(<-inMap), ms(after-before)
	if err := errors.Join(err, workErr); err != nil {
		return nil, err
	}
	if !answer.Reload.OK {
		return nil, fmt.Errorf("reload: %s", answer.Reload.Error)
	}
	return t, nil
}

// workOf returns the CPU time of a process so far, in ns where cpuOf counts ticks of 10 ms. Threads that
// have ended are not in it; those of a Go program seldom end. See Documentation/scheduler/sched-stats.rst.
func workOf(pid int) (sum time.Duration, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, errors.Join(err, fmt.Errorf("process %d has ended", pid))
	}
	for _, path := range threads {
		line, err := os.ReadFile(path)
		if err != nil { // it has just ended
			continue
		}
		var worked, waited int64
		if _, err := fmt.Sscan(string(line), &worked, &waited); err != nil {
			return 0, fmt.Errorf("read %s: %w", path, err)
		}
		sum += time.Duration(worked)
	}
	return sum, nil
}

// untilIn waits until an address is a key of a map, and returns how long that took.
func untilIn(ctx context.Context, senders *ebpf.Map, address netip.Addr, began time.Time) time.Duration {
	var key []byte // the address, and a port of zero
	if senders != nil {
		key = make([]byte, senders.KeySize())
		copy(key, address.AsSlice())
	}
	for senders != nil && ctx.Err() == nil {
		if value, err := senders.LookupBytes(key); err == nil && value != nil {
			break
		}
		time.Sleep(200 * time.Microsecond)
	}
	return time.Since(began)
}

// mapOf opens a BPF map that a process has open, by its name.
func mapOf(pid int, name string) (*ebpf.Map, error) {
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return nil, err
	}
	for _, path := range descriptors {
		file, err := os.Open(path)
		if err != nil { // closed meanwhile
			continue
		}
		id := ebpf.MapID(0)
		for lines := bufio.NewScanner(file); lines.Scan(); {
			_, _ = fmt.Sscanf(lines.Text(), "map_id:\t%d", &id) // most lines are about something else
		}
		file.Close()
		if id == 0 {
			continue
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, err
		}
		if info, err := m.Info(); err == nil && info.Name == name {
			return m, nil
		}
		m.Close()
	}
	return nil, fmt.Errorf("process %d has no map %q", pid, name)
}

// listen plays the service manager of all daemons that are started from now on, and yields each READY=1.
// It reads all that they say: a daemon whose words nobody takes waits.
func listen(path string) (ready <-chan struct{}, done func() error, err error) {
	if err := os.Setenv("NOTIFY_SOCKET", path); err != nil {
		return nil, nil, err
	}
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, nil, err
	}
	said := make(chan struct{}, 1)
	go func() {
		for message := make([]byte, 4096); ; {
			n, err := heard.Read(message)
			if err != nil {
				return
			}
			if slices.Contains(strings.Split(string(message[:n]), "\n"), "READY=1") {
				select {
				case said <- struct{}{}:
				default: // after a reload, which has an answer of its own
				}
			}
		}
	}()
	return said, func() error { return errors.Join(heard.Close(), os.Unsetenv("NOTIFY_SOCKET")) }, nil
}

// takeLarge measures many nodes once with each engine.
func (b *bench) takeLarge(ctx context.Context, all times) error {
	for _, engine := range engines {
		if err := b.inLab(1472, func(l *lab) error { return l.large(ctx, b.binary, engine, all) }); err != nil {
			return fmt.Errorf("%d nodes, %s engine: %w", manyNodes, engine, err)
		}
	}
	return nil
}

// alone measures some figures alone, and prints medians and extremes.
func (b *bench) alone(
	ctx context.Context, take func(context.Context, times) error, names []string, unit string,
) error {
	var rounds []times
	for round := range b.rounds {
		taken := times{}
		if err := take(ctx, taken); err != nil {
			return err
		}
		fmt.Printf("round %d of %d is measured\n", round+1, b.rounds)
		rounds = append(rounds, taken)
	}
	for _, name := range names {
		var values []float64
		for _, one := range rounds {
			values = append(values, one[name])
		}
		slices.Sort(values)
		median := medianOf(rounds, func(t times) float64 { return t[name] })
		fmt.Printf("%-75s %6.4g %s  (%.4g to %.4g)\n", name, median, unit, values[0], values[len(values)-1])
	}
	return nil
}
