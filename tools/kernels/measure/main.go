// Command measure runs in the virtual machine of `make bench-kernels`: it joins two hosts in several ways,
// and counts the instructions that the only CPU executes for a byte, a round trip and a packet between their
// pods. The senders, both hosts and the receivers are in each figure.
//
//	measure [-repeats 3] LOAD[,...] MODE[@bridge] ...
//	                      measures modes, and prints a line for each figure
//	measure serve         answers the loads, in the pod of host b
//	measure LOAD ADDRESS  is a load, in the pod of host a, and prints its figure
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"

	"example.org/meshd/internal/nstest"
)

// main serves, loads or measures.
func main() {
	repeats := flag.Int("repeats", 3, "how often each load is measured in a lab")
	flag.Parse()
	if err := run(flag.Args(), *repeats); err != nil {
		fmt.Fprintf(os.Stderr, "measure: %v\n", err)
		os.Exit(1)
	}
}

// run is one of the three commands.
func run(args []string, repeats int) error {
	// Each thread that waits in a system call keeps a P of its own, and no collector runs meanwhile: of what
	// this program executes, next to nothing is Go's runtime.
	runtime.GOMAXPROCS(16)
	debug.SetGCPercent(-1)
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) == 2 && strings.Contains(args[1], ":"):
		figure, err := loads[args[0]](args[1])
		if err == nil {
			fmt.Println(figure)
		}
		return err
	}
	if len(args) == 0 {
		return errors.New("there is no load")
	}
	if err := nstest.Available(); err != nil {
		return err
	}
	var errs []error
	for _, word := range args[1:] {
		name, pods, _ := strings.Cut(word, "@")
		var absent *absentError
		switch err := measure(name, pods == "bridge", strings.Split(args[0], ","), repeats); {
		case errors.As(err, &absent):
			fmt.Printf("ABSENT %s %v\n", word, absent)
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", word, err))
		}
	}
	return errors.Join(errs...)
}

// measure joins two fresh hosts in a way, and prints the figures of some loads.
func measure(name string, bridged bool, loads []string, repeats int) (err error) {
	m, ok := modes[name]
	if !ok {
		return errors.New("there is no such mode")
	}
	l, err := newLab(m.mtu, bridged)
	defer func() { err = errors.Join(err, l.close()) }()
	if err != nil {
		return err
	}
	if err := m.join(l); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if err := l.spawn(l.pods[1].Command(program, "serve")); err != nil {
		return err
	}
	// Both ways are known to all neighbours then.
	if out, err := l.pods[0].Run("ping", "-c", "3", "-i", "0.2", "-W", "5", podB); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	word := name
	if bridged {
		word += "@bridge"
	}
	for _, load := range loads {
		figures := []string{}
		for range repeats {
			cmd := l.pods[0].Command(program, load, podB+":9000")
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("%s: %w", load, err)
			}
			figures = append(figures, strings.TrimSpace(string(out)))
		}
		fmt.Printf("FIGURE %s %s %s\n", word, load, strings.Join(figures, " "))
	}
	return nil
}

// output runs a program on this machine, and returns what it printed; an error has what it said.
func output(name string, args ...string) (string, error) {
	var said strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, said.String(), out)
	}
	return strings.TrimSpace(string(out)), nil
}
