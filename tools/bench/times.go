package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// The moments that people wait for, in ms, and what probing and the dashboard cost. Starts are from exec
// until the first of 1000 packets/s from pod a arrives at pod b.
type times map[string]float64

// moments are the names of times, in the order of the report.
func moments() (names []string) {
	for _, nodes := range sizes {
		names = append(names, moment("start", nodes), moment("start after kill -9", nodes),
			moment("one node changed", nodes))
	}
	names = append(names, largeMoments()...)
	names = append(append(names, statusAnswer), probingCosts()...)
	names = append(names, versionPrinted)
	return append(names, dashboardFigures()...)
}

const versionPrinted = "`meshd version`"

var sizes = []int{3, 10000} // of a mesh, in nodes

// moment names a time with a mesh of a size.
func moment(what string, nodes int) string { return fmt.Sprintf("%s, %d nodes", what, nodes) }

// takeTimes measures each moment once.
func (b *bench) takeTimes(ctx context.Context) (times, error) {
	all := times{}
	for _, nodes := range sizes {
		err := b.inLab(1472, func(l *lab) error { return l.moments(ctx, b.binary, nodes, all) })
		if err != nil {
			return nil, fmt.Errorf("%d nodes: %w", nodes, err)
		}
	}
	if err := b.takeLarge(ctx, all); err != nil {
		return nil, err
	}
	if err := b.takeProbing(ctx, all); err != nil {
		return nil, err
	}
	if err := b.takeDashboards(ctx, all); err != nil {
		return nil, err
	}
	began := time.Now()
	err := exec.Command(b.binary, "version").Run()
	all[versionPrinted] = ms(time.Since(began))
	return all, err
}

// ms is a duration in milliseconds, with fractions.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// meshOf is a file with hosts a and b and others that do not exist.
func meshOf(nodes int) string {
	var doc strings.Builder
	doc.WriteString("[network]\ncidr = \"10.0.0.0/8\"\n[dataplane]\nengine = \"user\"\n")
	// Nodes that do not exist cost what real ones cost: an entry in each table, a route, and a probe
	// that is not answered.
	for i := range nodes {
		name, address, subnet := fmt.Sprintf("node-%d", i), fmt.Sprintf("172.18.%d.%d", i/250,
			1+i%250), fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)
		if i < 2 {
			name, address, subnet = string(rune('a'+i)), fmt.Sprintf("192.0.2.%d",
				i+1), fmt.Sprintf("10.244.%d.0/24", i+1)
		}
		fmt.Fprintf(&doc, "[[node]]\nname = %q\naddress = %q\nsubnets = [%q]\n", name, address, subnet)
	}
	return doc.String()
}

// moments measures with a mesh of a size.
func (l *lab) moments(ctx context.Context, binary string, nodes int, all times) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	files := [2]string{filepath.Join(l.dir, "a.toml"), filepath.Join(l.dir, "b.toml")}
	for _, file := range files {
		if err := os.WriteFile(file, []byte(meshOf(nodes)), 0o644); err != nil {
			return err
		}
	}
	start := func(host int) error {
		return l.spawn(host, binary, "run", "-c", files[host], "--socket", l.socket(host))
	}
	// Host b is up first: what is measured is how long host a takes, with a peer that answers.
	if err := start(1); err != nil {
		return err
	}
	if err := l.ready(ctx, 1); err != nil {
		return err
	}
	arrival, err := l.stream(ctx)
	if err != nil {
		return err
	}
	for _, what := range []string{"start", "start after kill -9"} {
		took, err := arrival(func() error { return start(0) })
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		all[moment(what, nodes)] = ms(took)
		if what == "start" {
			daemon := l.processes[len(l.processes)-1]
			if err := daemon.Process.Kill(); err != nil {
				return err
			}
			_ = daemon.Wait() // killed
		}
	}
	changed := strings.Replace(meshOf(nodes), fmt.Sprintf("\"node-%d\"", nodes-1), "\"changed\"", 1)
	// A reload while the start is not done would have its rest in it.
	if err := l.ready(ctx, 0); err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(files[0]+".new", []byte(changed), 0o644), os.Rename(files[0]+".new",
		files[0])); err != nil {
		return err
	}
	took, err := l.reloaded(ctx, filepath.Join(l.dir, filepath.Base(binary)+".0.log"))
	all[moment("one node changed", nodes)] = ms(took)
	return err
}

var secondGeneration = regexp.MustCompile(`generation=2 duration=(\S+)`)

// reloaded waits for the second generation in a daemon's log, which costs that
// nothing, and returns how long it took.
func (l *lab) reloaded(ctx context.Context, log string) (time.Duration, error) {
	for {
		text, err := os.ReadFile(log)
		if err != nil {
			return 0, err
		}
		if found := secondGeneration.FindSubmatch(text); found != nil {
			return time.ParseDuration(string(found[1]))
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no second generation: %w\n%s", ctx.Err(), text)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ready waits until the daemon of a host forwards.
func (l *lab) ready(ctx context.Context, host int) error {
	client := control.NewClient(l.socket(host))
	defer client.Close()
	return eventually(func() error {
		s, err := client.Status(ctx)
		if err == nil && s.Config.Generation == 0 {
			err = errors.New("not yet forwarding")
		}
		return err
	})
}

// stream sends 1000 packets/s from pod a to pod b until ctx ends. arrival tells
// how long it takes from a start until one of them arrives.
func (l *lab) stream(
	ctx context.Context) (arrival func(start func() error) (time.Duration, error), err error) {
	var from, to net.PacketConn
	for _, end := range []struct {
		conn *net.PacketConn
		pod  *nstest.Namespace
		port string
	}{{&from, l.pods[0], ":0"}, {&to, l.pods[1], ":7000"}} {
		if err := end.pod.Do(func() (err error) {
			*end.conn, err = net.ListenPacket("udp4",
				end.port)
			return err
		}); err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = (*end.conn).Close() })
	}
	go func() {
		target := &net.UDPAddr{IP: net.ParseIP(podB), Port: 7000}
		for tick := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-tick.C {
			_, _ = from.WriteTo([]byte("are you there?"), target) // there is no way yet
		}
	}()
	return func(start func() error) (time.Duration, error) {
		packet := make([]byte, 100)
		for { // what is on its way from before
			if err := to.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
				return 0, err
			}
			if _, _, err := to.ReadFrom(packet); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				return 0, err
			}
		}
		began := time.Now()
		if err := start(); err != nil {
			return 0, err
		}
		if err := to.SetReadDeadline(began.Add(20 * time.Second)); err != nil {
			return 0, err
		}
		_, _, err := to.ReadFrom(packet)
		return time.Since(began), err
	}, nil
}
