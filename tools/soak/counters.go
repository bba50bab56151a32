package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"example.org/meshd/internal/nstest"
)

// A counters holds what queues and sockets of a mesh have lost, by where: "a eth0 rx". All of them may
// explain a packet that did not arrive.
type counters map[string]uint64

// countersOf reads all counters of a mesh.
func countersOf(ctx context.Context, m *mesh) (counters, error) {
	c := counters{}
	for _, n := range m.routers {
		if err := c.read(strings.TrimPrefix(n.Name, m.lab.Switch().Name), n); err != nil {
			return nil, err
		}
	}
	for i, h := range m.hosts {
		if err := c.read("host "+h.name, h.Namespace); err != nil {
			return nil, err
		}
		if err := c.read("pod "+h.name, m.pods[i].Namespace); err != nil {
			return nil, err
		}
		s, err := h.client.Status(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: status of %s: %w", m.name, h.name, err)
		}
		for reason, n := range s.Totals.Drops {
			c["meshd "+h.name+" "+reason] += n
		}
	}
	return c, nil
}

// read adds the counters of a namespace.
func (c counters) read(name string, n *nstest.Namespace) error {
	return n.Do(func() error {
		dev, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		c.devices(name, string(dev))
		snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		c.protocols(name, string(snmp))
		snmp6, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil {
			return err
		}
		c.protocols6(name, string(snmp6))
		return nil
	})
}

// losses are the counters of protocols that tell of packets for which there was no room, or no time.
var losses = []string{"RcvbufErrors", "SndbufErrors", "InDiscards", "OutDiscards", "ReasmFails"}

// devices reads what interfaces dropped (/proc/net/dev): fields 4 and 12 behind the name.
func (c counters) devices(name, text string) {
	for line := range strings.Lines(text) {
		device, rest, ok := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if !ok || len(words) < 16 {
			continue
		}
		for way, at := range map[string]int{"rx": 3, "tx": 11} {
			n, _ := strconv.ParseUint(words[at], 10, 64) // the kernel writes numbers
			c[name+" "+strings.TrimSpace(device)+" "+way] += n
		}
	}
}

// protocols reads /proc/net/snmp: pairs of lines, names and values.
func (c counters) protocols(name, text string) {
	var names []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(names) == 0 || names[0] != words[0] {
			names = words
			continue
		}
		for i := 1; i < min(len(names), len(words)); i++ {
			c.protocol(name, strings.TrimSuffix(words[0], ":"), names[i], words[i])
		}
		names = nil
	}
}

// protocols6 reads /proc/net/snmp6: a name and a value on each line.
func (c counters) protocols6(name, text string) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) != 2 {
			continue
		}
		protocol, counter, ok := strings.Cut(words[0], "6")
		if ok {
			c.protocol(name, protocol+"6", counter, words[1])
		}
	}
}

// protocol adds one counter, if it tells of lost packets.
func (c counters) protocol(name, protocol, counter, value string) {
	for _, loss := range losses {
		if counter == loss {
			n, _ := strconv.ParseUint(value, 10, 64) // the kernel writes numbers
			c[name+" "+protocol+" "+counter] += n
		}
	}
}

// since returns what has grown.
func (c counters) since(before counters) counters {
	grown := counters{}
	for where, n := range c {
		if n > before[where] {
			grown[where] = n - before[where]
		}
	}
	return grown
}

// sum adds up all counters.
func (c counters) sum() (n uint64) {
	for _, v := range c {
		n += v
	}
	return n
}
