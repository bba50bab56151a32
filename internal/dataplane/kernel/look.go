package kernel

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/mesh"
)

// Packets that a program sends pass neither captures nor the queueing discipline of the TUN, and
// a program of somebody else in front of ours may keep all packets from it. The kernel has no
// news of the first and the last, so this host is looked at every second.

// seen is who else is at the interfaces where our programs are.
type seen struct {
	captured bool     // somebody captures on the TUN
	shaped   string   // kind of the queueing discipline that somebody gave the TUN; empty: the kernel's own
	front    []string // programs in front of ours, each with its interface
}

// Look looks who else is at the TUN and in front of our programs, and has user space send where
// programs would bypass somebody. It is to be called every second or so, and at news of interfaces
// and of queueing disciplines; from any goroutine.
func (e *Engine) Look() {
	e.watching.about(e.log, e.look(), "watch_failed",
		"cannot tell who else is at the TUN: a capture may see incoming packets only")
}

// look is Look, with its error. It asks the kernel before it takes the lock.
func (e *Engine) look() error {
	e.mu.Lock()
	tun := int(e.settings.Tun)
	e.mu.Unlock()
	if e.handle() == nil || tun == 0 {
		return nil
	}
	now, err := lookAt(tun)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.handle() == nil || int(e.settings.Tun) != tun {
		return nil
	}
	watched, shaped := boolean(now.captured), boolean(now.shaped != "")
	if watched != e.settings.Watched || shaped != e.settings.Shaped {
		if err := e.reconfigure(func(s *meshSettings) { s.Watched, s.Shaped = watched, shaped }); err != nil {
			return err
		}
	}
	e.publish(func(s *shown) { s.seen = now })
	return nil
}

// lookAt looks who is at the TUN.
func lookAt(tun int) (now seen, err error) {
	sockets, err := os.ReadFile("/proc/net/packet")
	if err != nil {
		return now, err
	}
	now.captured = captured(string(sockets), tun)
	queues, err := retry(func() ([]netlink.Qdisc, error) {
		return netlink.QdiscList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: tun}})
	})
	if err != nil {
		return now, fmt.Errorf("list queueing disciplines: %w", err)
	}
	now.shaped = shaped(queues)
	return now, nil
}

// shaped returns the kind of the queueing discipline that somebody gave an interface: unlike the one
// that the kernel gives by itself, it has a handle (qdisc_create in net/sched/sch_api.c).
func shaped(queues []netlink.Qdisc) string {
	for _, q := range queues {
		if a := q.Attrs(); a.Parent == netlink.HANDLE_ROOT && a.Handle != 0 {
			return q.Type()
		}
	}
	return ""
}

// conditions tells who else is there.
func (s *shown) conditions() (all []mesh.Condition) {
	if s.shaped != "" {
		all = append(all, mesh.Condition{Kind: mesh.TUNShaped, Severity: s.severity, Subject: s.shaped})
	}
	return all
}

// captured tells whether /proc/net/packet has a socket for all packets of an interface, or of every
// one.
func captured(sockets string, device int) bool {
	// Columns; packet_seq_show in the kernel's net/packet/af_packet.c.
	const protocol, index = 3, 4
	everything := fmt.Sprintf("%04x", unix.ETH_P_ALL)
	for line := range strings.Lines(sockets) {
		words := strings.Fields(line)
		if len(words) <= index || words[protocol] != everything {
			continue
		}
		if words[index] == "0" || words[index] == strconv.Itoa(device) {
			return true
		}
	}
	return false
}
