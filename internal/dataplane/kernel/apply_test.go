package kernel

import (
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// onHost runs a test body in a namespace with a TUN, an underlay and pins of its own, and tells it
// what is wanted there. The body must not call Fatal.
func onHost(t *testing.T, body func(t *testing.T, w dataplane.Wanted)) {
	t.Helper()
	withBPFFS(t, "mode=0700", func(t *testing.T) {
		for _, line := range []string{
			"tuntap add tun0 mode tun", "link set tun0 up",
			"link add eth0 type veth peer name wire", "link set eth0 up", "link set wire up",
		} {
			if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v\n%s", line, err, out)
				return
			}
		}
		body(t, wantedOver(meshOver(false), "tun0", dataplane.TCX, indexOf("eth0")))
	})
}

// does has an engine do what is wanted, and returns the way back and the changes.
func (p *Engine) does(t *testing.T, w dataplane.Wanted) (undo func() error, changes []mesh.Change) {
	t.Helper()
	_, err := p.Prepare(t.Context(), w)
	noErrors(t, err)
	undo, changes, err = p.Apply(t.Context(), w)
	if !noErrors(t, err) {
		undo = func() error { return nil }
	}
	return undo, changes
}

// quiet returns an engine that pins where it should.
func quiet() *Engine { return New(slog.New(slog.DiscardHandler)) }

// Programs that are loaded ahead have their maps filled and are nowhere attached; Apply attaches these. The
// way back leaves nothing.
func TestLoadAhead(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		p := quiet()
		undo, err := p.Load(t.Context(), w)
		if !noErrors(t, err) {
			return
		}
		if p.Forwards() || len(pinnedLinks(t)) > 0 || len(p.held(t).nodes) != len(w.Mesh.Peers) {
			t.Errorf("loaded: it forwards: %v, links %v, %+v", p.Forwards(), pinnedLinks(t), p.held(t).nodes)
		}
		loaded := p.handle()
		back, _ := p.does(t, w)
		if !p.Forwards() || p.handle() != loaded {
			t.Errorf("applied: it forwards: %v, with other programs: %v", p.Forwards(), p.handle() != loaded)
		}
		noErrors(t, back())
		noErrors(t, undo())
		if p.Forwards() || p.handle() != nil || len(pinnedLinks(t)) > 0 {
			t.Errorf("undone: it forwards: %v, links %v", p.Forwards(), pinnedLinks(t))
		}
	})
}

// pinnedLinks returns the kernel's numbers of pinned links, by the names of the pins. A link that
// was attached anew has another number.
func pinnedLinks(t *testing.T) map[string]link.ID {
	t.Helper()
	pins, err := filepath.Glob(pinned + "/net-*/link-*")
	noErrors(t, err)
	ids := map[string]link.ID{}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		if !noErrors(t, err) {
			continue
		}
		if info, err := l.Info(); noErrors(t, err) {
			ids[filepath.Base(pin)] = info.ID
		}
		noErrors(t, l.Close())
	}
	return ids
}

// nothingIsLeft tells whether a host is as without meshd.
func nothingIsLeft(t *testing.T) {
	t.Helper()
	if removed, err := CleanUp(); removed || err != nil {
		t.Errorf("something was left: %v, %v", removed, err)
	}
	if _, err := os.Lstat(pinned); err == nil {
		t.Errorf("%s was left", pinned)
	}
}

// The next meshd goes on with the programs of the one before, at the same places, and does not
// attach them anew, by which packets would be lost. It knows which peers finish checksums.
func TestTakeOver(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		w.Kernel.Receive = dataplane.XDP
		first := quiet()
		first.does(t, w)
		noErrors(t, first.Learn("b", directive(true)))
		before := pinnedLinks(t)
		if len(before) != 4 {
			t.Errorf("pinned %v", before)
		}
		next := quiet()
		next.does(t, w)
		if after := pinnedLinks(t); !maps.Equal(after, before) {
			t.Errorf("pinned %v, before %v", after, before)
		}
		if node := next.tables.nodes[next.tables.numbers["b"]]; node.Path.Finishes == 0 {
			t.Errorf("forgot what is known of b: %+v", node)
		}
		if r := next.Read(); !r.Forwards || r.Receive != dataplane.XDP || r.Totals != (mesh.Traffic{}) {
			t.Errorf("%+v", r)
		}
		w.Kernel.Receive = dataplane.Socket // what is not wanted any more goes
		next.does(t, w)
		out := attachment{stageOut, indexOf("tun0")}.pin()
		if left := slices.Collect(maps.Keys(pinnedLinks(t))); !slices.Equal(left, []string{out}) {
			t.Errorf("left %v", left)
		}
		noErrors(t, next.Remove(t.Context()))
		nothingIsLeft(t)
	})
}

// Apply mends what others have done, tells it, and changes nothing where nothing is wrong.
func TestRepair(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		p := quiet()
		if _, changes := p.does(t, w); len(changes) != 0 {
			t.Errorf("at first: %v", changes)
		}
		before := pinnedLinks(t)
		if _, changes := p.does(t, w); len(changes) != 0 || !maps.Equal(pinnedLinks(t), before) {
			t.Errorf("again: %v", changes)
		}
		if found, err := deleteMerger(); !found || err != nil {
			t.Errorf("found %v, %v", found, err)
		}
		want := mesh.Change{Op: mesh.Repaired, Kind: mesh.ChangedInterface, Subject: mergerEntry, Old: "deleted"}
		if _, changes := p.does(t, w); !slices.Contains(changes, want) || indexOf(mergerEntry) == 0 {
			t.Errorf("%v", changes)
		}
		noErrors(t, p.Remove(t.Context()))
		nothingIsLeft(t)
	})
}

// Undo returns to the programs before, or to none.
func TestUndo(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		p := quiet()
		none, _ := p.does(t, w)
		before := pinnedLinks(t)
		other := w
		other.Kernel.Receive = dataplane.Socket
		other.Mesh.Peers = append([]mesh.Peer{}, w.Mesh.Peers[:2]...)
		back, _ := p.does(t, other)
		if r := p.Read(); r.Receive != dataplane.Socket || len(p.tables.nodes) != 2 {
			t.Errorf("%+v", r)
		}
		noErrors(t, back())
		if r := p.Read(); r.Receive != dataplane.TCX || len(p.tables.nodes) != 3 {
			t.Errorf("undone %+v", r)
		}
		if after := pinnedLinks(t); len(after) != len(before) {
			t.Errorf("pinned %v, before %v", after, before)
		}
		noErrors(t, none())
		if p.Forwards() {
			t.Error("programs forward")
		}
		nothingIsLeft(t)
	})
}

// Apply that fails leaves programs as they were, or none.
func TestApplyFails(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		p := quiet()
		gone := w
		gone.Kernel.Underlay = []int{1 << 20}
		if _, _, err := p.Apply(t.Context(), gone); err == nil || p.Forwards() {
			t.Errorf("%v, forwards %v", err, p.Forwards())
		}
		nothingIsLeft(t)
		p.does(t, w)
		before := pinnedLinks(t)
		if _, _, err := p.Apply(t.Context(), gone); err == nil {
			t.Error("programs are at an interface that is not there")
		}
		if r := p.Read(); !r.Forwards || !maps.Equal(pinnedLinks(t), before) {
			t.Errorf("%+v, pinned %v, before %v", r, pinnedLinks(t), before)
		}
		gone = w
		gone.Interface = "tun1"
		if _, _, err := p.Apply(t.Context(), gone); err == nil || !p.Forwards() {
			t.Errorf("without the TUN: %v, forwards %v", err, p.Forwards())
		}
		noErrors(t, p.Remove(t.Context()))
		nothingIsLeft(t)
	})
}

// Where XDP cannot be, tcx takes its place, and status says why.
func TestFallBackToTCX(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		// A bridge has no native XDP.
		if !noErrors(t, exec.Command("ip", "link", "add", "plain", "type", "bridge").Run()) {
			return
		}
		plain, err := net.InterfaceByName("plain")
		if !noErrors(t, err) {
			return
		}
		w.Kernel.Receive, w.Kernel.Underlay = dataplane.XDP, []int{plain.Index}
		p := quiet()
		p.does(t, w)
		if r := p.Read(); !r.Forwards || r.Receive != dataplane.TCX || r.Refused == "" {
			t.Errorf("%+v", r)
		}
		w.Kernel.Underlay = append(w.Kernel.Underlay, indexOf("eth0")) // one of two has it
		p.does(t, w)
		if r := p.Read(); r.Receive != dataplane.XDP || r.Refused == "" {
			t.Errorf("%+v", r)
		}
		noErrors(t, p.Remove(t.Context()))
		nothingIsLeft(t)
	})
}
