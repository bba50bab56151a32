package kernel

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// The pair is as GRO needs it, silent, comes back as it was, and goes.
func TestMerger(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		first, changes, err := setMerger(3)
		made := merger{indexOf(mergerEntry), indexOf(mergerExit)}
		if err != nil || len(changes) != 0 || first != made || made.entry == made.exit {
			t.Errorf("%+v, %v, %v", first, changes, err)
		}
		look := func() string {
			return output(t, n, "ip", "-d", "addr", "show", mergerEntry) +
				output(t, n, "ip", "-d", "addr", "show", mergerExit) +
				output(t, n, "ethtool", "-k", mergerEntry) + output(t, n, "ethtool", "-k", mergerExit)
		}
		want := look()
		for word, count := range map[string]int{
			"state UP": 2, "> mtu 65535": 2, "numrxqueues 3": 2, "numtxqueues 3": 2,
			"inet": 0, "tcp-segmentation-offload: off": 1, "generic-receive-offload: on": 1,
		} {
			if got := strings.Count(want, word); got != count {
				t.Errorf("%d of %q in\n%s", got, word, want)
			}
		}
		for _, c := range []struct{ does, subject, field, old, now string }{
			{"ip link set meshd-gro0 down", mergerEntry, "state", "down", "up"},
			{"ip link set meshd-gro1 down mtu 1500", mergerExit, "mtu", "1500", "65535"},
			{"ip link set meshd-gro1 up addrgenmode eui64", mergerExit, "addr_gen_mode", "0", "1"},
			{"ethtool -K meshd-gro0 tso on", mergerEntry, "tx-tcp-segmentation", "on", "off"},
			{"ethtool -K meshd-gro1 gro off", mergerExit, "rx-gro", "off", "on"},
		} {
			words := strings.Fields(c.does)
			output(t, n, words[0], words[1:]...)
			m, changes, err := setMerger(3)
			tells := mesh.Change{Op: mesh.Repaired, Kind: mesh.ChangedInterface,
				Subject: c.subject, Field: c.field, Old: c.old, New: c.now}
			if err != nil || m != first || !slices.Contains(changes, tells) || look() != want {
				t.Errorf("%s: %+v, %v, %v\n%s", c.does, m, changes, err, look())
			}
		}
		if _, changes, err := setMerger(3); err != nil || len(changes) != 0 {
			t.Errorf("again: %v, %v", changes, err)
		}
		for _, want := range []bool{true, false} {
			found, err := deleteMerger()
			if err != nil || found != want || indexOf(mergerEntry) != 0 || indexOf(mergerExit) != 0 {
				t.Errorf("found %v, %v", found, err)
			}
		}
	})
}

// Whoever deletes the pair at any moment has it made again, and no error.
func TestMergerIsDeletedMeanwhile(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		for range 15 {
			if _, _, err := setMerger(3); err != nil {
				t.Fatal(err)
			}
			deleted := make(chan error)
			go func() {
				deleted <- n.Do(func() error {
					_, err := deleteMerger()
					return err
				})
			}()
			_, _, err := setMerger(3)
			if err := errors.Join(err, <-deleted); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Who else is at the merger's exit can be asked on each kernel, also where there is no tcx.
func TestOthersAreKnown(t *testing.T) {
	n := newNeighbourhood(t)
	p := programsOf(t, n.mesh)
	n.attach(p, "tcx")
	exit := n.index(n.host, mergerExit)
	if err := n.host.Do(func() error {
		front, behind, err := p.handle().others(exit)
		if len(front)+len(behind) > 0 {
			t.Errorf("%v, %v", front, behind)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestKernelBefore(t *testing.T) {
	for _, c := range []struct {
		major, minor int
		old          bool
	}{{2, 6, false}, {5, 1, false}, {99, 0, true}, {99, 99, true}} {
		if release, old := kernelBefore(c.major, c.minor); old != c.old || release == "" {
			t.Errorf("%s is before %d.%d: %v", release, c.major, c.minor, old)
		}
	}
}

// An interface that another program made stays, whatever its name.
func TestMergerOfOthers(t *testing.T) {
	for name, theirs := range map[string]string{
		"a bridge":      "link add meshd-gro0 type bridge",
		"half an exit":  "link add meshd-gro1 type veth peer name other",
		"half an entry": "link add meshd-gro0 type veth peer name other",
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				if !noErrors(t, n.IP(theirs)) {
					return
				}
				before := output(t, n, "ip", "link")
				if m, _, err := setMerger(3); !errors.Is(err, errForeign) {
					t.Errorf("%+v, %v", m, err)
				}
				if found, err := deleteMerger(); found || err != nil {
					t.Errorf("%v, %v", found, err)
				}
				if after := output(t, n, "ip", "link"); after != before {
					t.Error(after)
				}
			})
		})
	}
}

// output returns what a command prints in a namespace.
func output(t *testing.T, n *nstest.Namespace, name string, args ...string) string {
	t.Helper()
	out, err := n.Run(name, args...)
	noErrors(t, err)
	return out
}
