package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ruleCounts are how many rules about who may reach whom are measured, each beside none.
var ruleCounts = []int{10, 10_000}

// ruledSystems are the ways in which packets come to where they are judged.
var ruledSystems = []string{userEngine, kernelTCX, sealed}

// Names of what rules change.
const (
	ruledTCP = "%s, %d rules: TCP, Gbit/s"
	ruledUDP = "%s, %d rules: packets of 64 B a second of CPU"
)

// ruledFigures names the figures of rules, in the order of the report.
func (b *bench) ruledFigures() (all []string) {
	for _, name := range ruledSystems {
		if b.only != nil && !slices.Contains(b.only, name) {
			continue
		}
		for _, n := range ruleCounts {
			all = append(all, fmt.Sprintf(ruledTCP, name, n), fmt.Sprintf(ruledUDP, name, n))
		}
	}
	return all
}

// takeRuled measures what rules cost, as a share of what the same daemons do without any in the same minute.
func (b *bench) takeRuled(ctx context.Context, all times) error {
	for _, s := range systems(b.binary, false) {
		if !slices.Contains(ruledSystems, s.name) || b.only != nil && !slices.Contains(b.only, s.name) {
			continue
		}
		if missing := s.missing(); missing != "" {
			return fmt.Errorf("%s: there is no %s", s.name, missing)
		}
		err := b.inLab(s.mtu, func(l *lab) error {
			if err := s.start(l); err != nil {
				return err
			}
			return l.ruled(ctx, b, s, all)
		})
		if err != nil {
			return fmt.Errorf("rules: %s: %w", s.name, err)
		}
	}
	return nil
}

// A ruledResult is what two hosts do with some rules.
type ruledResult struct{ tcp, udp float64 } // Gbit/s; packets for each second of CPU, see labCPU

// labCPU returns the CPU time of what moves packets: this process, which sends and receives them and in whose
// time the kernel does most of the rest, the daemons, and the kernel's threads for what is left over. What
// other programs of this machine use does not count.
func (l *lab) labCPU() (seconds float64, err error) {
	kernel, err := exec.Command("pgrep", "ksoftirqd").Output()
	if err != nil {
		return 0, err
	}
	pids := []int{os.Getpid()}
	for _, p := range l.processes {
		pids = append(pids, p.Process.Pid)
	}
	for _, text := range strings.Fields(string(kernel)) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			return 0, err
		}
		pids = append(pids, pid)
	}
	for _, pid := range pids {
		used, _, err := cpuOf(pid)
		if err != nil {
			return 0, err
		}
		seconds += used.Seconds()
	}
	return seconds, nil
}

// ruled measures each number of rules between two measurements without any: a machine that slows down
// meanwhile slows all of them.
func (l *lab) ruled(ctx context.Context, b *bench, s *system, all times) error {
	without, err := l.withRules(ctx, b, 0)
	for _, n := range ruleCounts {
		if err != nil {
			return err
		}
		var some, again ruledResult
		if some, err = l.withRules(ctx, b, n); err == nil {
			again, err = l.withRules(ctx, b, 0)
		}
		share := func(with, before, behind float64) float64 { return 100 * with / ((before + behind) / 2) }
		all[fmt.Sprintf(ruledTCP, s.name, n)] = share(some.tcp, without.tcp, again.tcp)
		all[fmt.Sprintf(ruledUDP, s.name, n)] = share(some.udp, without.udp, again.udp)
		without = again
	}
	return err
}

// withRules has both hosts apply the file with so many rules, and measures.
func (l *lab) withRules(ctx context.Context, b *bench, rules int) (r ruledResult, err error) {
	if err := l.applyRules(b.binary, rules); err != nil {
		return r, err
	}
	if err := l.reachable(ctx); err != nil {
		return r, err
	}
	bits, err := l.tcp(ctx, b.span, 0)
	if err != nil {
		return r, err
	}
	const rate = 20_000 // which all systems carry, unless somebody else has the CPUs
	before, err := l.labCPU()
	if err != nil {
		return r, err
	}
	sent, err := l.udp(ctx, 0, 64, rate, b.span)
	if err == nil && sent.received < sent.sent/2 {
		err = fmt.Errorf("%d packets of %d arrived", sent.received, sent.sent)
	}
	after, cpuErr := l.labCPU()
	return ruledResult{bits / b.span.Seconds() / 1e9, float64(sent.received) / (after - before)},
		errors.Join(err, cpuErr)
}

// applyRules rewrites the file of both hosts. All rules are about the pod of host b, and the last one allows
// what is measured. Masquerading is on, as in most meshes: it tracks connections, with rules and without.
func (l *lab) applyRules(binary string, rules int) error {
	files, err := filepath.Glob(filepath.Join(l.dir, "*.toml"))
	if err != nil || len(files) != 1 {
		return errors.Join(err, fmt.Errorf("%d files", len(files)))
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	doc, _, _ := strings.Cut(string(text), "[[allow]]")
	doc = strings.Replace(doc, "[masquerade]\nenabled = false\n", "[masquerade]\nenabled = true\n", 1)
	var more strings.Builder
	for i := 1; i < rules; i++ {
		fmt.Fprintf(&more, "[[allow]]\nfrom = [\"172.20.%d.%d/32\"]\nto = [\"b\"]\nproto = [\"tcp/%d\"]\n",
			i/256, i%256, 1000+i%1000)
	}
	if rules > 0 {
		more.WriteString("[[allow]]\nfrom = [\"a\"]\nto = [\"b\"]\n" +
			"proto = [\"tcp/5001\", \"udp/7000\", \"icmp\"]\n")
	}
	doc += more.String()
	if err := os.WriteFile(files[0], []byte(doc), 0o644); err != nil {
		return err
	}
	for i, h := range l.hosts {
		if _, err := h.Run(binary, "reload", "--socket", l.socket(i)); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second) // the look at all rules that follows an edit is not measured
	return nil
}
