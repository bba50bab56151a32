package main

import (
	"context"
	"regexp"
	"strings"
	"syscall"
	"time"

	"example.org/meshd/internal/nstest"
)

var (
	createdBy = regexp.MustCompile(`(?m)^created by (\S+)`)
	ofRuntime = regexp.MustCompile(`^(runtime|os/signal)[./]`)
)

// goroutines counts those in the stacks that a Go program writes at SIGQUIT, by the function that started
// them, without those of Go's runtime.
func goroutines(stacks string) map[string]int {
	by := map[string]int{}
	for _, m := range createdBy.FindAllStringSubmatch(stacks, -1) {
		if !ofRuntime.MatchString(m[1]) {
			by[m[1]]++
		}
	}
	return by
}

// quit ends a process, and returns its goroutines.
func quit(d *nstest.Daemon) (map[string]int, error) {
	if err := syscall.Kill(d.PID(), syscall.SIGQUIT); err != nil {
		return nil, err
	}
	if _, err := d.Exit(); err != nil {
		return nil, err
	}
	_, stacks, _ := strings.Cut(d.Log(), "SIGQUIT")
	return goroutines(stacks), nil
}

// settle is how long a process runs before its goroutines are counted.
const settle = 10 * time.Second

// crews ends all processes of a mesh, starts them again, and ends them again.
func (m *mesh) crews(ctx context.Context) (all []crew, err error) {
	after, err := m.quitAll()
	if err != nil {
		return nil, err
	}
	if err := m.startAll(ctx); err != nil {
		return nil, err
	}
	time.Sleep(settle)
	fresh, err := m.quitAll()
	if err != nil {
		return nil, err
	}
	for i := range after {
		all = append(all, crew{m.name, after[i].process, after[i].after, fresh[i].after})
	}
	return all, nil
}

// quitAll ends all processes of a mesh.
func (m *mesh) quitAll() (all []crew, err error) {
	for _, h := range m.hosts {
		h.client.Close()
		for _, d := range []*nstest.Daemon{h.daemon, h.helper} {
			if d == nil {
				continue
			}
			c := crew{mesh: m.name, process: h.name}
			if d == h.helper {
				c.process += " helper"
			}
			if c.after, err = quit(d); err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}
