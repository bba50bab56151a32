package kernel

import (
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"example.org/meshd/internal/mesh"
)

// Packets that do not come out of the merger are lost once they had the time to, and some lost ones
// among many are no reason to do anything.
func TestJudge(t *testing.T) {
	for name, test := range map[string]struct {
		before         passage
		earlier, later ends
		lost           int64
	}{
		"all came": {passage{began: true, in: 10}, ends{in: 90, out: 90},
			ends{in: 90, out: 90}, 0},
		"on their way": {passage{began: true, in: 10}, ends{in: 90, out: 50},
			ends{in: 90, out: 90}, 0},
		"more came since": {passage{began: true, in: 10}, ends{in: 90, out: 50},
			ends{in: 190, out: 190}, 0},
		"none came": {passage{began: true, in: 10}, ends{in: 20, out: 10},
			ends{in: 20, out: 10}, 10},
		"one of one": {passage{began: true, in: 10}, ends{in: 11, out: 10},
			ends{in: 11, out: 10}, 1},
		"one of a hundred": {passage{began: true, in: 10}, ends{in: 110, out: 109},
			ends{in: 110, out: 109}, 0},
		"none since a moment ago": {passage{began: true, in: 10}, ends{in: 9010, out: 8990},
			ends{in: 9010, out: 8990}, 20},
		"others came since": {passage{began: true, in: 10}, ends{in: 9010, out: 8990},
			ends{in: 9010, out: 8995}, 0},
		"counted as dropped": {passage{began: true, in: 10}, ends{in: 20, out: 10, dropped: 10},
			ends{in: 20, out: 10, dropped: 10}, 0},
		"known to be lost": {passage{began: true, in: 20, lost: 10}, ends{in: 20, out: 10},
			ends{in: 20, out: 10}, 0},
		"of an earlier meshd": {passage{}, ends{in: 20, out: 10}, ends{in: 20, out: 10}, 0},
		"others dropped as well": {passage{began: true, in: 10}, ends{in: 20, out: 10, dropped: 50},
			ends{in: 20, out: 10, dropped: 50}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := test.before
			if lost := c.judge(test.earlier, test.later); lost != test.lost {
				t.Errorf("%d are lost, want %d", lost, test.lost)
			}
			if lost := c.judge(test.later, test.later); lost != 0 {
				t.Errorf("lost again: %d", lost)
			}
		})
	}
}

// Our program goes in front of others a few times, and then the merger stays off for a while.
func TestMovesEnd(t *testing.T) {
	now := time.Now()
	var c passage
	for move := range passageMoves {
		if c.fail(1, nil, now); !c.due(now) {
			t.Errorf("move %d does not happen", move)
		}
		c = passage{moves: c.moves, on: now}
		now = now.Add(time.Second)
	}
	if c.fail(1, []string{"other"}, now); c.due(now) || !strings.Contains(c.off.Error(), "other") {
		t.Errorf("it goes on: %v", c.off)
	}
	if now = now.Add(passagePause); !c.due(now) {
		t.Error("there is no further try")
	}
	c = passage{moves: c.moves, on: now}
	if now = now.Add(time.Second); !c.due(now) {
		if c.fail(1, nil, now); c.due(now) {
			t.Error("a try that fails at once is the first of some")
		}
	}
	c = passage{moves: c.moves, on: now}
	now = now.Add(2 * passagePause) // it worked for long
	if c.fail(1, nil, now); !c.due(now) {
		t.Error("what was long ago is held against it")
	}
}

// inFrontOf attaches a program of somebody else in front of all at an interface, which gives a verdict
// on every packet.
func (n *neighbourhood) inFrontOf(device string, verdict int32) link.Link {
	n.t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "other", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}})
	if err != nil {
		n.t.Fatal(err)
	}
	defer p.Close()
	var l link.Link
	if err := n.host.Do(func() (err error) {
		l, err = link.AttachTCX(link.TCXOptions{Program: p, Interface: indexOf(device),
			Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	return l
}

// watch has an engine look at the merger in the host.
func (n *neighbourhood) watch(p *Engine) (again bool) {
	_ = n.host.Do(func() error { again = p.WatchMerger(); return nil })
	return again
}

// A program that ends packets in front of ours in the merger is noticed: TCP goes on unmerged at once,
// and merged once our program is in front. Status names the other program for as long as it is there.
func TestProgramEndsPackets(t *testing.T) {
	for name, verdict := range map[string]int32{"pass": 0, "drop": 2} { // TCX_PASS, TCX_DROP
		t.Run(name, func(t *testing.T) {
			n := newNeighbourhood(t)
			p := programsOf(t, n.mesh)
			n.attach(p, "tcx")
			post := func(word string) {
				b := n.generator.outer(n.mesh.Peers[1].Underlay().AddrPort, 0, tcpFrom("word:"+word))
				n.do(func() error { return send(frame(n.address, 0x0800, b[14:])) })
			}
			arrives := func(word string) {
				t.Helper()
				post(word)
				come := func(b []byte) bool { return strings.Contains(string(b), "word:"+word) }
				if _, err := n.tun.Next(10*time.Second, come); err != nil {
					t.Fatalf("%s: %v", word, err)
				}
			}
			arrives("first")
			if n.watch(p) || len(p.Conditions()) != 0 {
				t.Errorf("all is well, and there is %v", p.Conditions())
			}
			other := n.inFrontOf(mergerExit, verdict)
			post("lost")
			for deadline := time.Now().Add(10 * time.Second); !n.watch(p); {
				if time.Now().After(deadline) {
					t.Fatal("nothing is noticed")
				}
			}
			all := p.Conditions()
			if len(all) != 1 || all[0].Kind != mesh.Unmerged || !strings.Contains(all[0].Cause, "other") {
				t.Errorf("%+v", all)
			}
			arrives("unmerged")
			n.attach(p, "tcx")
			arrives("merged")
			var seen ends
			err := n.host.Do(func() (err error) { seen, err = p.handle().mergerEnds(); return err })
			if err != nil || seen.in != 3 || seen.out != 2 {
				t.Errorf("%v, %+v", err, seen)
			}
			all = p.Conditions()
			if n.watch(p) || len(all) != 1 || all[0].Kind != mesh.ProgramMoved ||
				!strings.Contains(all[0].Cause, "other") {
				t.Errorf("%+v", all)
			}
			if err := other.Close(); err != nil {
				t.Fatal(err)
			}
			if again := n.watch(p); again || len(p.Conditions()) != 0 {
				t.Errorf("it is gone, and there is %+v", p.Conditions())
			}
		})
	}
}
