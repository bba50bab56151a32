package filter

import (
	"testing"

	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/nstest"
)

// While the rules at the encrypted interface are replaced, again and again, they drop no packet that is for
// what is behind this node before and after. The kernel publishes a set of intervals later than the rules
// that look into it.
func TestInnerIsReplacedWithoutLoss(t *testing.T) {
	for name, newInner := range inners {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				q := opened(t, n, "meshd-wg")
				surround(t, n)
				few := sealed("10.244.1.0/24", "fd00:0:0:1::/64")
				more := sealed("10.244.1.0/24", "203.0.112.0/20", "192.0.2.0/24", "192.0.4.0/24", "192.0.6.0/25",
					"fd00:0:0:1::/64", "fd01::/56")
				i, index := newInner(), indexOf(t, "meshd-wg")
				defer i.Close()
				set := func(s GuardSettings) {
					t.Helper()
					if changed, err := i.Set(s, index); err != nil || !changed {
						t.Fatalf("changed %v, %v", changed, err)
					}
				}
				set(few)
				stop, ended := sendsToPod(q.Writer())
				const rounds = 25
				for range rounds {
					set(more)
					set(few)
				}
				close(stop)
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				if drops, err := i.Drops(); err != nil || drops != 0 {
					t.Errorf("dropped %v, %v", drops, err)
				}
			})
		})
	}
}

// sendsToPod sends to a pod, in both families, until stop is closed.
func sendsToPod(write func([][]byte) error) (stop chan struct{}, ended chan error) {
	stop, ended = make(chan struct{}), make(chan error, 1)
	go func() {
		frame := [][]byte{make([]byte, virtio.HeaderSize), nil}
		for i := 0; ; i++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			frame[1] = datagram("10.244.9.9", "10.244.1.5", "for a pod")
			if i%2 == 1 {
				frame[1] = datagram("fd00:0:0:9::9", "fd00:0:0:1::5", "for a pod")
			}
			if err := write(frame); err != nil {
				ended <- err
				return
			}
		}
	}()
	return stop, ended
}
