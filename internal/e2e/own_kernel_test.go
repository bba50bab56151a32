//go:build modules

// For machines whose kernel belongs to the tests alone: what these change is shared by all namespaces.

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// ownKernel skips a test unless MESH_OWN_KERNEL is set, as the trial of kernels sets it.
func ownKernel(t *testing.T) {
	t.Helper()
	if os.Getenv("MESH_OWN_KERNEL") == "" {
		t.Skip("it changes the clock, or a limit of the whole kernel: `make test-kernels` runs it")
	}
}

// setting sets a sysctl of the whole kernel until the test ends, and returns a function that resets it.
func setting(t *testing.T, key, value string) (reset func()) {
	t.Helper()
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(value)
	t.Cleanup(func() { write(string(before)) })
	return func() { write(string(before)) }
}

// The clock jumps by an hour, forwards and back: packets go on, and no peer is taken for silent.
func TestClockJumps(t *testing.T) {
	ownKernel(t)
	m := newMesh(t)
	// Known as meshd it is before its first answer, and unknown until then.
	waitPeer(t, m.w2, "worker", "up", func(p control.Peer) bool { return p.State == control.Up })
	stream := startTimed(t, m.PodW2b, m.PodW, "10.244.2.3:7000", "10.244.1.2:7000", 200)
	for _, jump := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
		now := unix.NsecToTimeval(time.Now().Add(jump).UnixNano())
		if err := unix.Settimeofday(&now); err != nil {
			t.Fatal(err)
		}
		was := time.Now() // with a reading of the monotonic clock
		eventually(t, fmt.Sprintf("packets arrive after a jump of %v", jump),
			func() bool { return stream.since(was) > 200 }, func() string { return "" })
		// As long as it takes to call a peer down.
		for time.Since(was) < 15*time.Second {
			s := status(t, m.w2)
			if kinds := problems(s); len(kinds) > 0 || peer(t, s, "worker").State != control.Up {
				t.Fatalf("after a jump of %v: %q, %+v", jump, kinds, peer(t, s, "worker"))
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	if lost, _, _ := stream.finish(); lost > 0 {
		t.Errorf("%d packets were lost", lost)
	}
}

// A neighbour table without room is told, and so is its end.
func TestNeighbourTableFull(t *testing.T) {
	ownKernel(t)
	m := newMesh(t)
	known(t, m.w2, "worker")
	var resets []func()
	for _, n := range []string{"1", "2", "3"} {
		resets = append(resets, setting(t, "net.ipv4.neigh.default.gc_thresh"+n, "8"))
	}
	full := func(s control.Status) bool { return slices.Contains(problems(s), "neighbours_full") }
	i := 0
	waitStatus(t, m.w2, "the table is full", func(s control.Status) bool {
		for range 30 {
			i++
			// Nobody has these addresses.
			_, _ = m.Worker2.Run("ping", "-c", "1", "-W", "0.01", fmt.Sprintf("172.18.%d.%d", 100+i/250, 1+i%250))
		}
		return full(s)
	})
	for _, reset := range resets {
		reset()
	}
	deadline := time.Now().Add(10 * patience)
	for full(status(t, m.w2)) {
		if time.Now().After(deadline) {
			t.Fatal("it is told for ever")
		}
		time.Sleep(time.Second)
	}
	run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2")
}

// A connection table without room drops new connections of pods, which is the kernel's doing. Those that
// there are go on, meshd's own datagrams need no room, and afterwards new ones pass.
func TestConntrackFull(t *testing.T) {
	ownKernel(t)
	nstest.Share(t, nstest.Loaded)
	m := newMesh(t)
	known(t, m.w2, "worker")
	known(t, m.w, "worker2")
	stream := startTimed(t, m.PodW2b, m.PodW, "10.244.2.3:7000", "10.244.1.2:7000", 200)
	reset := setting(t, "net.netfilter.nf_conntrack_max", "16")
	refused := func() bool {
		_, err := m.PodW2a.Run("ping", "-c", "1", "-W", "1", "10.244.1.2")
		return err != nil
	}
	eventually(t, "new connections are dropped", refused, func() string { return "" })
	was := time.Now()
	eventually(t, "packets of an old connection arrive", func() bool { return stream.since(was) > 1000 },
		func() string { return "" })
	if p := peer(t, status(t, m.w2), "worker"); p.State != control.Up {
		t.Errorf("%+v", p)
	}
	reset()
	eventually(t, "new connections pass", func() bool { return !refused() }, func() string { return "" })
	waitStatus(t, m.w2, "all is well", func(s control.Status) bool { return len(problems(s)) == 0 })
	if lost, _, _ := stream.finish(); lost > 0 {
		t.Errorf("%d packets of the old connection were lost", lost)
	}
}
