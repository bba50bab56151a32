package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// A screen is a terminal, and how many busy peers the mesh has that is shown there.
type screen struct{ peers, width, height int }

// What dashboards are measured with, on a terminal that answers no question.
var dashboards = []screen{{100, 80, 24}, {100, 140, 40}, {1000, 140, 40}, {10000, 140, 40}}

// Figures of a dashboard. All values on the screen change all the time, the worst case.
const (
	firstPicture    = "first picture"        // ms, from exec until the first values are there
	terminalBytes   = "kB/s to the terminal" // over ssh it is the price of watching
	dashboardCPU    = "% of one CPU"         // at one picture a second
	dashboardMemory = "MB resident"          // after that, with the history of each peer
)

// named is the name of one figure.
func (s screen) named(figure string) string {
	return fmt.Sprintf("meshtui, %d peers, %dx%d: %s", s.peers, s.width, s.height, figure)
}

// dashboardFigures names the figures of all dashboards, in the order of the report.
func dashboardFigures() (names []string) {
	for _, s := range dashboards {
		for _, figure := range []string{firstPicture, terminalBytes, dashboardCPU, dashboardMemory} {
			names = append(names, s.named(figure))
		}
	}
	return names
}

// takeDashboards measures each dashboard once.
func (b *bench) takeDashboards(ctx context.Context, all times) error {
	for _, s := range dashboards {
		if err := b.dashboard(ctx, s, all); err != nil {
			return fmt.Errorf("dashboard of %d peers: %w", s.peers, err)
		}
	}
	return nil
}

// dashboard measures meshtui against a daemon that this process plays.
func (b *bench) dashboard(ctx context.Context, s screen, all times) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "meshbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "meshd.sock")
	server, err := control.Listen(socket, busyMesh(s.peers), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	// The daemon is played by this process: a real one would need as many hosts, and its own
	// work would be in the figures.
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-served)
	}()

	return b.meshtui(ctx, socket, s, all)
}

// meshtui measures meshtui at a socket, on a terminal that this process plays.
func (b *bench) meshtui(ctx context.Context, socket string, s screen, all times) error {
	master, tty, err := nstest.OpenPTY(s.width, s.height)
	if err != nil {
		return err
	}
	defer master.Close()
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(b.binary), "meshtui"), "--socket", socket)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	// A session and a controlling terminal of its own, as a shell gives: without them there is no
	// SIGWINCH and no job control. Pdeathsig ends it even if this process is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	// With the tty closed here, a read of master ends (EIO) when meshtui does.
	if err := errors.Join(cmd.Start(), tty.Close()); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	// The words are drawn with the first snapshot, and not before there is one.
	if err := readUntil(master, began.Add(20*time.Second), "live 1s"); err != nil {
		return err
	}
	all[s.named(firstPicture)] = ms(time.Since(began))
	return measureSteady(master, cmd.Process.Pid, s, all)
}

// measureSteady measures a meshtui that has drawn its first picture on a terminal.
func measureSteady(master *os.File, pid int, s screen, all times) error {
	// The first seconds have the drawing of everything, and garbage of the start: they are no steady
	// state.
	const settle, span = 5 * time.Second, 20 * time.Second
	if _, err := readFor(master, settle); err != nil {
		return err
	}
	before, _, err := cpuOf(pid)
	if err != nil {
		return err
	}
	n, err := readFor(master, span)
	if err != nil {
		return err
	}
	after, _, err := cpuOf(pid)
	all[s.named(terminalBytes)] = float64(n) / 1000 / span.Seconds()
	all[s.named(dashboardCPU)] = 100 * (after - before).Seconds() / span.Seconds()
	resident, residentErr := residentOf(pid)
	all[s.named(dashboardMemory)] = resident
	return errors.Join(err, residentErr)
}

// readUntil reads what meshtui draws until words are in it, or fails at a deadline. Words that the
// terminal's cursor movements cut in two are not found.
func readUntil(f *os.File, deadline time.Time, words string) error {
	var seen bytes.Buffer
	b := make([]byte, 65536)
	for !bytes.Contains(seen.Bytes(), []byte(words)) {
		if err := f.SetReadDeadline(deadline); err != nil {
			return err
		}
		n, err := f.Read(b)
		if err != nil {
			return fmt.Errorf("wait for %q: %w after %q", words, err, seen.String())
		}
		seen.Write(b[:n])
	}
	return nil
}

// readFor counts what comes in a span of time.
func readFor(f *os.File, span time.Duration) (bytes int, err error) {
	b := make([]byte, 65536)
	if err := f.SetReadDeadline(time.Now().Add(span)); err != nil {
		return 0, err
	}
	for {
		n, err := f.Read(b)
		bytes += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return bytes, nil
		}
		if err != nil {
			return bytes, err
		}
	}
}

// residentOf returns the memory of a process in MB (proc_pid_status(5)).
func residentOf(pid int) (float64, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "VmRSS:" {
			// The kernel says kB and means 1024 bytes; 2 % are no matter here.
			kB, err := strconv.ParseFloat(words[1], 64)
			return kB / 1000, err
		}
	}
	return 0, errors.New("the kernel does not tell VmRSS")
}

// busyMesh is a daemon whose peers all send and receive, at changing rates, and all answer probes.
func busyMesh(peers int) control.Source {
	began := time.Now()
	return control.Source{
		Events: control.NewEvents(),
		Status: func() control.Status {
			now := time.Now()
			s := control.Status{
				Schema:        control.Schema,
				Node:          "a",
				BootID:        "x",
				Started:       began,
				UptimeSeconds: now.Sub(began).Seconds(),
				Now:           now,
				Totals:        control.Totals{Drops: map[string]uint64{}},
				Config:        control.Config{Generation: 1, Applied: began},
				Health:        control.Health{Level: control.OK},
			}
			var rxBytes, rxPackets uint64
			for i := range peers {
				p := busyPeer(i, began, now)
				s.Peers = append(s.Peers, p)
				rxBytes, rxPackets = rxBytes+*p.RxBytes, rxPackets+*p.RxPackets
			}
			slices.SortFunc(s.Peers, func(a, b control.Peer) int { return strings.Compare(a.Name, b.Name) })
			s.Totals.RxBytes, s.Totals.RxPackets = &rxBytes, &rxPackets
			s.Totals.TxBytes, s.Totals.TxPackets = new(uint64(0)), new(uint64(0))
			return s
		},
		History: busyHistory,
	}
}

// busyPeer is one peer. Each has another rate, so each row of the screen changes with each snapshot: that is
// the worst case for telling and drawing only what changed. All that probing tells changes as well.
func busyPeer(i int, began, now time.Time) control.Peer {
	seconds := now.Sub(began).Seconds()
	n := uint64(seconds * float64(1000+i*i%977))
	probes := uint64(seconds) + uint64(i%50)
	rtt := func(share uint64) *float64 { return new(float64(n%97_000_011/share) / 1e6) } // measured in ns
	address := fmt.Sprintf("192.0.%d.%d:8285", i/250, i%250)
	var forms []control.ProbeForm
	for _, form := range []string{"data", "large", "dscp", "forwarded"} {
		forms = append(forms, control.ProbeForm{Form: form, Measured: true, Sent: probes, Loss: new(0.0)})
	}
	return control.Peer{
		Name:         fmt.Sprintf("node-%d", i),
		Address:      address,
		Subnets:      []string{fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)},
		Routes:       []string{},
		State:        control.Up,
		Since:        &began,
		LastSeen:     &now,
		RTTMS:        rtt(2),
		RTTMinMS:     new(0.1),
		RTTP95MS:     rtt(1),
		RTTLastMS:    rtt(3),
		JitterMS:     rtt(4),
		Loss:         new(0.0),
		MTU:          1472,
		MTUSource:    "underlay",
		ProbesTx:     probes,
		ProbesRx:     probes,
		Probes:       forms,
		ConfigSHA256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		ConfigMatch:  new(true),
		RxPackets:    &n,
		TxPackets:    new(n / 2),
		RxBytes:      new(n * 700),
		TxBytes:      new(n * 300),
		Drops:        map[string]uint64{},
		Addresses:    []control.PeerAddress{{Address: address, State: control.Up, RTTMS: rtt(2), Active: true}},
		RouteStates:  []control.RouteState{},
	}
}

// busyHistory is five minutes of a peer or of the node.
func busyHistory(peer, _ string) (*control.History, error) {
	h := &control.History{Schema: control.Schema, Peer: peer, Span: "5m", StepSeconds: 1, End: time.Now()}
	for i := range 300 {
		v := new(float64((i * i) % 1009))
		for _, list := range []*[]*float64{
			&h.RxBytes, &h.TxBytes, &h.RxPackets, &h.TxPackets, &h.Drops, &h.RTTMS, &h.Loss} {
			*list = append(*list, v)
		}
	}
	return h, nil
}
