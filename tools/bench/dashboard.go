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
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// What a dashboard of 100 busy peers costs, on a terminal that answers no question.
var dashboards = []struct{ width, height int }{{80, 24}, {140, 40}}

// firstPicture names the time from exec until the first values are on the screen, ms.
func firstPicture(width, height int) string {
	return fmt.Sprintf("meshtui, 100 peers, %dx%d: first picture", width, height)
}

// terminalBytes names what is drawn while all values change. Over ssh it is the price of watching.
func terminalBytes(width, height int) string {
	return fmt.Sprintf("meshtui, %dx%d: kB/s to the terminal", width, height)
}

// dashboardCPU names the CPU time that meshtui takes while it is watched.
func dashboardCPU(width, height int) string {
	return fmt.Sprintf("meshtui, %dx%d: %% of one CPU", width, height)
}

// dashboardMemory names the resident memory after that, with the history of each peer.
func dashboardMemory(width, height int) string {
	return fmt.Sprintf("meshtui, %dx%d: MB resident", width, height)
}

// dashboard measures meshtui against a daemon that this process plays.
func (b *bench) dashboard(ctx context.Context, width, height int, all times) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "meshbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "meshd.sock")
	server, err := control.Listen(socket, busyMesh(100), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	// The daemon is played by this process: a real one with 100 peers would need 100 hosts, and its own
	// work would be in the figures.
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-served)
	}()

	master, tty, err := nstest.OpenPTY(width, height)
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
	all[firstPicture(width, height)] = ms(time.Since(began))
	return measureSteady(master, cmd.Process.Pid, width, height, all)
}

// measureSteady measures a meshtui that has drawn its first picture on a terminal.
func measureSteady(master *os.File, pid, width, height int, all times) error {
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
	all[terminalBytes(width, height)] = float64(n) / 1000 / span.Seconds()
	all[dashboardCPU(width, height)] = 100 * (after - before).Seconds() / span.Seconds()
	resident, residentErr := residentOf(pid)
	all[dashboardMemory(width, height)] = resident
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

// busyMesh is a daemon whose peers all send and receive, at changing rates.
func busyMesh(peers int) control.Source {
	began := time.Now()
	// Each peer has another rate, so each row of the screen changes with each snapshot: that is the
	// worst case for drawing only what changed.
	grown := func(i int) uint64 { return uint64(time.Since(began).Seconds() * float64(1000+i*i%977)) }
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
			}
			var rxBytes, rxPackets uint64
			for i := range peers {
				n := grown(i)
				s.Peers = append(
					s.Peers,
					control.Peer{
						Name:        fmt.Sprintf("node-%d", i),
						Address:     fmt.Sprintf("192.0.2.%d:8285", i),
						Subnets:     []string{fmt.Sprintf("10.%d.0.0/16", i)},
						State:       control.Up,
						LastSeen:    &now,
						RTTMS:       new(float64(n%97) / 7),
						Loss:        new(0.0),
						RxPackets:   &n,
						TxPackets:   new(n / 2),
						RxBytes:     new(n * 700),
						TxBytes:     new(n * 300),
						ConfigMatch: new(true),
						Drops:       map[string]uint64{},
					},
				)
				rxBytes, rxPackets = rxBytes+n*700, rxPackets+n
			}
			s.Totals.RxBytes, s.Totals.RxPackets = &rxBytes, &rxPackets
			s.Totals.TxBytes, s.Totals.TxPackets = new(uint64(0)), new(uint64(0))
			return s
		},
		History: func(peer, _ string) (*control.History, error) {
			h := &control.History{Schema: control.Schema, Peer: peer, Span: "5m", StepSeconds: 1, End: time.Now()}
			for i := range 300 {
				v := new(float64((i * i) % 1009))
				h.RxBytes, h.TxBytes, h.RxPackets, h.TxPackets = append(h.RxBytes, v), append(h.TxBytes,
					v), append(h.RxPackets, v), append(
					h.TxPackets,
					v,
				)
				h.Drops, h.RTTMS, h.Loss = append(h.Drops, v), append(h.RTTMS, v), append(h.Loss, v)
			}
			return h, nil
		},
	}
}
