package link

import (
	"errors"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// The pair is as GRO needs it, silent, comes back as it was, and goes.
func TestMerger(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		first, changed, err := SetMerger(3)
		if err != nil || len(changed) != 0 || first.Entry == first.Exit || first.Entry != Index("meshd-gro0") || first.Exit != Index("meshd-gro1") {
			t.Fatalf("%+v, %v, %v", first, changed, err)
		}
		look := func() string {
			return output(t, n, "ip", "-d", "addr", "show", "meshd-gro0") + output(t, n, "ip", "-d", "addr", "show", "meshd-gro1") +
				output(t, n, "ethtool", "-k", "meshd-gro0") + output(t, n, "ethtool", "-k", "meshd-gro1")
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
		for _, c := range []struct{ does, tells string }{
			{"ip link set meshd-gro0 down", "meshd-gro0: was down"},
			{"ip link set meshd-gro1 down mtu 1500", "meshd-gro1: mtu was 1500"},
			{"ip link set meshd-gro1 up addrgenmode eui64", "meshd-gro1: addr_gen_mode was 0"},
			{"ethtool -K meshd-gro0 tso on", "meshd-gro0: tx-tcp-segmentation was on"},
			{"ethtool -K meshd-gro1 gro off", "meshd-gro1: rx-gro was off"},
		} {
			words := strings.Fields(c.does)
			output(t, n, words[0], words[1:]...)
			m, changed, err := SetMerger(3)
			if err != nil || m != first || !strings.Contains(strings.Join(changed, "; "), c.tells) || look() != want {
				t.Errorf("%s: %+v, %q, %v\n%s", c.does, m, changed, err, look())
			}
		}
		if _, changed, err := SetMerger(3); err != nil || len(changed) != 0 {
			t.Errorf("again: %q, %v", changed, err)
		}
		for _, want := range []bool{true, false} {
			if found, err := DeleteMerger(); err != nil || found != want || Exists("meshd-gro0") || Exists("meshd-gro1") {
				t.Errorf("found %v, %v", found, err)
			}
		}
	})
}

// Whoever deletes the pair at any moment has it made again, and no error.
func TestMergerIsDeletedMeanwhile(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		for range 15 {
			if _, _, err := SetMerger(3); err != nil {
				t.Fatal(err)
			}
			deleted := make(chan error)
			go func() {
				deleted <- n.Do(func() error {
					_, err := DeleteMerger()
					return err
				})
			}()
			_, _, err := SetMerger(3)
			if err := errors.Join(err, <-deleted); err != nil {
				t.Fatal(err)
			}
		}
	})
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

// What others call so is theirs.
func TestMergerOfOthers(t *testing.T) {
	for _, theirs := range []string{"link add meshd-gro0 type bridge", "link add meshd-gro1 type veth peer name other", "link add meshd-gro0 type veth peer name other"} {
		nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
			must(t, n.IP(theirs))
			before := output(t, n, "ip", "link")
			if m, _, err := SetMerger(3); err == nil || !strings.Contains(err.Error(), "and meshd did not make it: `ip link del meshd-gro") {
				t.Errorf("%s: %+v, %v", theirs, m, err)
			}
			if found, err := DeleteMerger(); found || err != nil {
				t.Errorf("%s: %v, %v", theirs, found, err)
			}
			if after := output(t, n, "ip", "link"); after != before {
				t.Errorf("%s: %s", theirs, after)
			}
		})
	}
}
