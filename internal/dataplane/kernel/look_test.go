package kernel

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// subjectOf returns the subject of the first condition of a kind; empty if there is none.
func (p *Engine) subjectOf(kind mesh.Kind) string {
	for _, c := range p.Conditions() {
		if c.Kind == kind {
			return c.Subject
		}
	}
	return ""
}

// other attaches a program of somebody else that sees packets first, and lets them pass.
func other(t *testing.T, device string, attach ebpf.AttachType) link.Link {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Name: "other", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if !noErrors(t, err) {
		return nil
	}
	defer program.Close()
	l, err := link.AttachTCX(link.TCXOptions{Program: program, Interface: indexOf(device), Attach: attach,
		Anchor: link.Head()})
	noErrors(t, err)
	return l
}

// A program in front of ours is named as long as it is there, on each hook.
func TestProgramInFront(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		p := quiet()
		p.does(t, w)
		for device, attach := range map[string]ebpf.AttachType{
			"eth0": ebpf.AttachTCXIngress, "tun0": ebpf.AttachTCXEgress,
		} {
			if front := p.subjectOf(mesh.ProgramInFront); front != "" {
				t.Errorf("in front before: %s", front)
			}
			l := other(t, device, attach)
			if l == nil {
				return
			}
			p.Look()
			if front := p.subjectOf(mesh.ProgramInFront); !strings.Contains(front, device) {
				t.Errorf("in front on %s: %q", device, front)
			}
			noErrors(t, l.Close())
			p.Look()
		}
		if front := p.subjectOf(mesh.ProgramInFront); front != "" {
			t.Errorf("in front afterwards: %s", front)
		}
		noErrors(t, p.Remove(t.Context()))
	})
}

// The queueing discipline that the kernel gives an interface is not somebody's, whatever the default
// is called; one with a handle is, as long as it is there.
func TestShaped(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		p := quiet()
		p.does(t, w)
		tc := func(words string) {
			t.Helper()
			if out, err := exec.Command("tc", strings.Fields(words)...).CombinedOutput(); err != nil {
				t.Errorf("tc %s: %v\n%s", words, err, out)
			}
			p.Look()
		}
		for _, kind := range []string{"tbf rate 10mbit burst 32k latency 50ms", "pfifo limit 10"} {
			if subject := p.subjectOf(mesh.TUNShaped); subject != "" || p.settings.Shaped != 0 {
				t.Errorf("shaped by %q", subject)
			}
			tc("qdisc add dev tun0 root " + kind)
			want, _, _ := strings.Cut(kind, " ")
			if subject := p.subjectOf(mesh.TUNShaped); subject != want || p.settings.Shaped != 1 {
				t.Errorf("shaped by %q, want %q", subject, want)
			}
			tc("qdisc del dev tun0 root")
		}
		tc("qdisc add dev tun0 clsact") // filters, and no queue
		if subject := p.subjectOf(mesh.TUNShaped); subject != "" {
			t.Errorf("shaped by %q", subject)
		}
		noErrors(t, p.Remove(t.Context()))
	})
}

// An interface without Ethernet headers gets a program that looks for none.
func TestBareUnderlay(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		if bare(indexOf("eth0")) || !bare(indexOf("tun0")) {
			t.Errorf("bare: eth0 %v, tun0 %v", bare(indexOf("eth0")), bare(indexOf("tun0")))
		}
		if out, err := exec.Command("ip", "tuntap", "add", "l3", "mode", "tun").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
			return
		}
		w.Kernel.Underlay = append(w.Kernel.Underlay, indexOf("l3"))
		p := quiet()
		p.does(t, w)
		for device, program := range map[string]*ebpf.Program{"eth0": p.handle().In, "l3": p.handle().InBare} {
			info, err := program.Info()
			if !noErrors(t, err) {
				continue
			}
			id, _ := info.ID()
			r, err := link.QueryPrograms(link.QueryOptions{Target: indexOf(device), Attach: ebpf.AttachTCXIngress})
			if noErrors(t, err) && (len(r.Programs) != 1 || r.Programs[0].ID != id) {
				t.Errorf("%s has %v, want program %d", device, r.Programs, id)
			}
		}
		// Where meshd may choose, the socket takes datagrams in while meshd runs. The kernel detaches some
		// time after the last reference to a link is gone.
		has := func(want int) {
			t.Helper()
			n := -1
			for end := time.Now().Add(10 * time.Second); n != want && time.Now().Before(end); {
				r, err := link.QueryPrograms(link.QueryOptions{Target: indexOf("l3"), Attach: ebpf.AttachTCXIngress})
				if !noErrors(t, err) {
					return
				}
				n = len(r.Programs)
			}
			if n != want {
				t.Errorf("l3 has %d programs, want %d", n, want)
			}
		}
		w.Kernel.Use, w.Kernel.Receive = dataplane.IfPossible, dataplane.AnyReceive
		p.does(t, w)
		has(0)
		if r := p.Read(); r.Refused == "" || r.Receive != dataplane.TCX {
			t.Errorf("%+v", r)
		}
		noErrors(t, p.StandIn())
		has(int(boolean(p.handle().folder != "")))
		p.does(t, w)
		has(0)
		noErrors(t, p.Remove(t.Context()))
	})
}
