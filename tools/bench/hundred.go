package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/typed"
)

// hundredDaemons is how many real daemons form one mesh. All run on this machine, so their CPU time counts,
// and not how soon they are ready.
const hundredDaemons = 100

// A hundred is what a mesh of as many real daemons costs, and what one that is edited all the time does.
type hundred struct {
	allUp          time.Duration // from the first start until each sees all others up
	rss            float64       // MB, median
	idle           float64       // % of a CPU, of one daemon, median
	alarms         int           // problems worse than a hint, of all daemons, in the time after
	churn          time.Duration
	edits          int // that were saved, ten a second
	generations    int // that were in force
	churned        float64
	grown          float64 // MB that the edited daemon has more than before
	final          bool    // the last file is in force
	pinged, ponged int     // from the edited host to another one meanwhile
}

// hundredNode is a node of it: name, the first three bytes of its address, the last one, and its subnet.
const hundredNode = "[[node]]\nname = %q\naddress = \"%s.%d\"\nsubnets = [\"10.%d.%d.0/24\"]\n"

// hundredMesh is the file of all daemons; churned names one more node, which nobody is. 0: there is none.
func hundredMesh(churned int) string {
	var b strings.Builder
	b.WriteString("[network]\ncidr = \"10.0.0.0/8\"\n[probe]\ninterval = \"5s\"\n" +
		"[dataplane]\nengine = \"user\"\n")
	for i := range hundredDaemons {
		fmt.Fprintf(&b, hundredNode, fmt.Sprintf("n%d", i), "192.0.2", 1+i, 1, i)
	}
	if churned > 0 {
		fmt.Fprintf(&b, hundredNode, fmt.Sprintf("c%d", churned), "198.51.100", 1+churned%250, 2, churned%250)
	}
	return b.String()
}

// takeHundred builds the mesh, measures it, and edits one file ten times a second for a time.
func (b *bench) takeHundred(ctx context.Context, churn time.Duration) (r hundred, err error) {
	dir, err := os.MkdirTemp("", "meshbench")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	nstest.Sweep("meshbench")
	lab, err := nstest.NewLab(fmt.Sprintf("meshbench%d", os.Getpid()))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	hosts, err := hundredHosts(lab)
	if err != nil {
		return r, err
	}
	var daemons []*nstest.Daemon
	defer func() {
		for _, d := range daemons {
			d.Kill() // nothing of them stays, and a hundred ends one by one take long
		}
	}()
	began := time.Now()
	for i, h := range hosts {
		file := filepath.Join(dir, fmt.Sprintf("%d.toml", i))
		if err := os.WriteFile(file, []byte(hundredMesh(0)), 0o644); err != nil {
			return r, err
		}
		d, err := h.Meshd(b.binary, file, dir)
		if err != nil {
			return r, err
		}
		daemons = append(daemons, d)
	}
	if err := allUp(ctx, daemons); err != nil {
		return r, err
	}
	r.allUp = time.Since(began)
	if err := wait(ctx, 45*time.Second); err != nil { // what starts have lost is told for half a minute
		return r, err
	}
	if err := r.steady(ctx, daemons); err != nil {
		return r, err
	}
	r.churn = churn
	return r, r.edit(ctx, hosts[0], daemons[0])
}

// hundredHosts makes the hosts, each of which knows where the others are: the machine's neighbour table,
// which all namespaces share, has no room for all pairs.
func hundredHosts(lab *nstest.Lab) (hosts []*nstest.Host, err error) {
	hardware := func(i int) string { return fmt.Sprintf("02:00:00:00:00:%02x", 1+i) }
	for i := range hundredDaemons {
		h, err := lab.Host(fmt.Sprintf("n%d", i), fmt.Sprintf("192.0.2.%d/24", 1+i))
		if err != nil {
			return nil, err
		}
		lines := []string{"link set eth0 address " + hardware(i)}
		for j := range hundredDaemons {
			if i != j {
				lines = append(lines, fmt.Sprintf("neigh replace 192.0.2.%d lladdr %s nud permanent dev eth0", 1+j,
					hardware(j)))
			}
		}
		if err := h.IP(lines...); err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// allUp waits until each daemon sees all others up.
func allUp(ctx context.Context, daemons []*nstest.Daemon) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for _, d := range daemons {
		for {
			s, err := statusOf(ctx, d)
			down := slices.ContainsFunc(s.Peers, func(p control.Peer) bool { return p.State != control.Up })
			if err == nil && len(s.Peers) == hundredDaemons-1 && !down {
				break
			}
			if err := wait(ctx, 200*time.Millisecond); err != nil {
				return fmt.Errorf("wait until all peers of %s are up: %w\n%s", d.Host.Name, err, d.Log())
			}
		}
	}
	return nil
}

// statusOf asks a daemon once.
func statusOf(ctx context.Context, d *nstest.Daemon) (control.Status, error) {
	client := control.NewClient(d.Socket)
	defer client.Close()
	return client.Status(ctx)
}

// steady measures all daemons for a while in which nothing happens.
func (r *hundred) steady(ctx context.Context, daemons []*nstest.Daemon) error {
	const span = 20 * time.Second
	var before []time.Duration
	for _, d := range daemons {
		cpu, err := workOf(d.PID())
		if err != nil {
			return err
		}
		before = append(before, cpu)
	}
	if err := wait(ctx, span); err != nil {
		return err
	}
	var rss, idle []float64
	for i, d := range daemons {
		cpu, err := workOf(d.PID())
		if err != nil {
			return err
		}
		resident, err := residentOf(d.PID())
		if err != nil {
			return err
		}
		rss, idle = append(rss, resident), append(idle, 100*(cpu-before[i]).Seconds()/span.Seconds())
		s, err := statusOf(ctx, d)
		if err != nil {
			return err
		}
		for _, p := range s.Health.Problems {
			if p.Level != control.Info {
				r.alarms++
			}
		}
	}
	slices.Sort(rss)
	slices.Sort(idle)
	r.rss, r.idle = rss[len(rss)/2], idle[len(idle)/2]
	return nil
}

var pingSum = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// edit saves another file ten times a second, under traffic.
func (r *hundred) edit(ctx context.Context, h *nstest.Host, d *nstest.Daemon) error {
	first, err := statusOf(ctx, d)
	resident, residentErr := residentOf(d.PID())
	work, workErr := workOf(d.PID())
	if err := errors.Join(err, residentErr, workErr); err != nil {
		return err
	}
	ping := h.Command("ping", "-q", "-i", "0.01", "-w", fmt.Sprint(int(r.churn.Seconds())), "-I", "10.1.0.0",
		"10.1.1.0")
	var out strings.Builder
	ping.Stdout = &out
	if err := ping.Start(); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < r.churn; r.edits++ {
		if err := errors.Join(os.WriteFile(d.Config+".new", []byte(hundredMesh(1+r.edits)), 0o644),
			os.Rename(d.Config+".new", d.Config)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	_ = ping.Wait() // it fails where one was lost, which the sum tells
	if sum := pingSum.FindStringSubmatch(out.String()); sum != nil {
		_, err = fmt.Sscan(sum[1]+" "+sum[2], &r.pinged, &r.ponged)
	}
	after, workErr := workOf(d.PID())
	r.churned = 100 * (after - work).Seconds() / r.churn.Seconds()
	last := fmt.Sprintf("c%d", r.edits)
	for deadline := time.Now().Add(10 * time.Second); !r.final && time.Now().Before(deadline); {
		s, err := statusOf(ctx, d)
		if err != nil {
			return err
		}
		r.generations = int(s.Config.Generation - first.Config.Generation)
		r.final = len(s.Peers) == hundredDaemons &&
			slices.ContainsFunc(s.Peers, func(p control.Peer) bool { return p.Name == last })
	}
	now, residentErr := residentOf(d.PID())
	r.grown = now - resident
	return errors.Join(err, workErr, residentErr)
}

// markdown is the part of docs/scale.md about the hundred daemons.
func (r *hundred) markdown() string {
	final := "The last file is in force"
	if !r.final {
		final = "**The last file is not in force**"
	}
	return fmt.Sprintf(`%d daemons of the user engine run on this machine at once. They probe every 5 s: 9,900
pairs that ask each other every second take all of its CPUs. From the first start until each daemon sees all
others up, %.0f s pass. Then one of them has %.1f MB resident, and uses %.2f %% of a CPU (medians). All of
them together tell %d problems worse than a hint.

One of the files is edited %d times in %s, ten times a second: another node comes, and the one before goes.
%d generations were in force; what is saved while a change is applied is taken together.
%s. The daemon used %.0f %% of a CPU, and has %.1f MB more than before.
Of %d pings through it meanwhile %d were lost.
`, hundredDaemons, r.allUp.Seconds(), r.rss, r.idle, r.alarms, r.edits, typed.Brief(r.churn), r.generations,
		final, r.churned, r.grown, r.pinged, r.pinged-r.ponged)
}

// runScale measures sizes and the hundred daemons, and writes docs/scale.md and docs/scale.svg.
func (b *bench) runScale(ctx context.Context, churn time.Duration, out string) error {
	rows, err := b.takeScale(ctx)
	if err != nil {
		return err
	}
	text := nstest.Measured("make scale") + "\n" + scaleMarkdown(rows)
	fmt.Print(text)
	if out != "" {
		if err := errors.Join(nstest.Rewrite(filepath.Join(out, "scale.md"), "scale", text),
			os.WriteFile(filepath.Join(out, "scale.svg"), []byte(scaleSVG(rows)), 0o644)); err != nil {
			return err
		}
	}
	hundred, err := b.takeHundred(ctx, churn)
	if err != nil {
		return fmt.Errorf("%d daemons: %w", hundredDaemons, err)
	}
	text = nstest.Measured("make scale") + "\n\n" + hundred.markdown()
	fmt.Print(text)
	if out == "" {
		return nil
	}
	return nstest.Rewrite(filepath.Join(out, "scale.md"), "hundred", text)
}
