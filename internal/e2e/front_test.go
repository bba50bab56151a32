package e2e

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// What a program of tcx may say of a packet (enum tcx_action_base in linux/bpf.h): the kernel goes on without
// the programs behind it, or drops the packet.
const (
	tcxPass = 0
	tcxDrop = 2
)

// inFront attaches a program of somebody else in front of all others, which ends each packet with a verdict.
func inFront(
	t *testing.T, n *nstest.Namespace, device string, at ebpf.AttachType, verdict int32,
) (remove func()) {
	t.Helper()
	var l link.Link
	err := n.Do(func() error {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "stranger", Type: ebpf.SchedCLS,
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}})
		if err != nil {
			return err
		}
		defer program.Close() // the link keeps it
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		l, err = link.AttachTCX(link.TCXOptions{Program: program, Interface: i.Index, Attach: at,
			Anchor: link.Head()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// textsOf returns the texts of the problems of a kind.
func textsOf(s control.Status, kind string) (texts []string) {
	for _, p := range s.Health.Problems {
		if p.Kind == kind {
			texts = append(texts, p.Text)
		}
	}
	return texts
}

// A program of somebody else that keeps packets from meshd's is named, in both directions, and health is as
// before once it is gone. Packets of pods pass all the time.
func TestProgramInFrontIsNamed(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newWorld(t).startAll(engineFile(t, "kernel", "tcx"))
	known(t, m.w2, "worker")
	known(t, m.w, "worker2")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if err := m.PodW.Background(ctx, "ping", "-q", "-i", "0.02", "10.244.2.3"); err != nil {
		t.Fatal(err)
	}
	well := func(s control.Status) bool { return s.Health.Level == control.OK && len(problems(s)) == 0 }
	waitStatus(t, m.w2, "all is well", well)
	devices := map[string]ebpf.AttachType{"eth0": ebpf.AttachTCXIngress, "mesh0": ebpf.AttachTCXEgress}
	var remove []func()
	for device, at := range devices {
		remove = append(remove, inFront(t, m.Worker2.Namespace, device, at, tcxPass))
	}
	s := waitStatus(t, m.w2, "the program is named", func(s control.Status) bool {
		return len(textsOf(s, "programs_bypassed")) == len(devices) && len(textsOf(s, "program_in_front")) == 1
	})
	if s.Health.Level != control.Degraded {
		t.Errorf("health is %s, and the file asks for the kernel engine", s.Health.Level)
	}
	for device := range devices {
		for _, text := range append(textsOf(s, "programs_bypassed"), textsOf(s, "program_in_front")...) {
			if !strings.Contains(text, device) {
				t.Errorf("%s is missing in %q", device, text)
			}
		}
	}
	run(t, m.PodW2b, "ping", "-c", "5", "-i", "0.02", "10.244.1.2")
	for _, one := range remove {
		one()
	}
	waitStatus(t, m.w2, "all is well again", well)
}

// A program that comes in front of meshd's at the merger's exit, and drops what comes there, is noticed while
// TCP goes on, and meshd's goes in front of it.
func TestProgramInFrontOfMerger(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	// Else TCP comes in superpackets, with nothing to merge.
	if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
		t.Fatal(err)
	}
	m := w.startAll(engineFile(t, "kernel", "tcx"))
	known(t, m.w2, "worker")
	known(t, m.w, "worker2")
	transfer(t, m.PodW, m.PodW2b, "10.244.2.3:9000", 1<<20)
	remove := inFront(t, m.Worker2.Namespace, "meshd-gro1", ebpf.AttachTCXIngress, tcxDrop)
	transfer(t, m.PodW, m.PodW2b, "10.244.2.3:9001", 4<<20)
	waitStatus(t, m.w2, "the program is named", func(s control.Status) bool {
		return hasProblem(s, "program_moved")
	})
	transfer(t, m.PodW, m.PodW2b, "10.244.2.3:9002", 4<<20)
	remove()
	waitStatus(t, m.w2, "all is well again", func(s control.Status) bool {
		return s.Health.Level == control.OK && len(problems(s)) == 0
	})
}
