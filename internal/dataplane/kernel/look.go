package kernel

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
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
	now.front = e.shown.Load().inFront()
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

// A standing is a place where a tcx program of ours is.
type standing struct {
	attachment
	device string // its name
}

// standings returns where programs are that others could stand in front of. It is the owner's. The
// merger is not among them: it is looked after by itself.
func (p *places) standings() (all []standing) {
	for _, at := range inOrder(p.attached) {
		_, byLink := p.attached[at].(linked)
		if byLink && (at.stage == stageIn || at.stage == stageOut) {
			all = append(all, standing{at, nameOf(at.device)})
		}
	}
	return all
}

// ids returns the numbers of the programs.
func (h *handle) ids() (map[ebpf.ProgramID]bool, error) {
	all := map[ebpf.ProgramID]bool{}
	for _, p := range []*ebpf.Program{h.In, h.InBare, h.Out, h.Merged, h.Decap} {
		info, err := p.Info()
		if err != nil {
			return nil, err
		}
		if id, known := info.ID(); known {
			all[id] = true
		}
	}
	return all, nil
}

// inFront returns the programs of others that see packets before ours do, with their interfaces.
func (s *shown) inFront() (front []string) {
	for _, at := range s.standings {
		r, err := link.QueryPrograms(link.QueryOptions{
			Target: at.attachment.device, Attach: stages[at.stage].attach})
		if err != nil { // the interface is gone
			continue
		}
		for _, p := range r.Programs {
			if s.ids[p.ID] {
				break
			}
			if isTap(p.ID) { // it lets each packet pass
				continue
			}
			front = append(front, fmt.Sprintf("program %d%s on %s", p.ID, called(p.ID), at.device))
		}
	}
	return front
}

// called returns the name of a program in brackets, of letters, digits, "_" and "." (bpf_obj_name_cpy);
// empty without CAP_SYS_ADMIN.
func called(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name == "" {
		return ""
	}
	return " (" + info.Name + ")"
}

// receives tells whether programs are to take datagrams in.
func (s *shown) receives() bool { return s.attached && s.receive != dataplane.Socket }

// conditions tells who else is there.
func (s *shown) conditions() (all []mesh.Condition) {
	if len(s.front) > 0 {
		all = append(all, mesh.Condition{Kind: mesh.ProgramInFront, Severity: mesh.Info,
			Subject: strings.Join(s.front, ", ")})
	}
	if s.shaped != "" {
		all = append(all, mesh.Condition{Kind: mesh.TUNShaped, Severity: s.severity, Subject: s.shaped,
			Remedy: "it works and costs speed alone; `dataplane.engine = \"auto\"` makes this a hint"})
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
