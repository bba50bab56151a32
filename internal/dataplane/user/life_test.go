package user

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
)

// run starts the rig's loops.
func (r *rig) run(ctx context.Context) <-chan error {
	done := make(chan error, 2)
	for _, loop := range []dataplane.Loop{r.out, r.in} {
		go func() { done <- loop.Run(ctx) }()
	}
	return done
}

// drained is a TUN that still holds batches when it is woken.
type drained struct {
	*fakeTun
	left [][][]byte
}

func (d *drained) Read(memory []byte, frames [][]byte) (int, error) {
	n, err := d.fakeTun.Read(memory, frames)
	if err != nil && len(d.left) > 0 {
		n = copy(frames, d.left[0])
		d.left = d.left[1:]
	}
	return n, err
}

// What has been read, and what the queue still holds, is forwarded before a loop
// ends; waking it for a sign of life loses nothing either.
func TestStopForwardsWhatIsLeft(t *testing.T) {
	r := newRig(t)
	batch := [][]byte{frame(udp4("10.244.0.2", "10.244.1.2", 63, 0))}
	r.out.worker.Tun = &drained{r.tun, [][][]byte{batch, batch, batch}}
	done := r.run(t.Context())
	r.tun.feed <- batch
	if err := r.Alive(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if len(r.wire.sent) != 4 {
		t.Errorf("%d of 4 packets sent", len(r.wire.sent))
	}
	if err := r.Alive(t.Context()); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// A loop that hangs in a call is named, and no stop waits for it for long.
func TestHangingLoopIsNoticed(t *testing.T) {
	r := newRig(t)
	inCall, release := make(chan struct{}), make(chan struct{})
	r.wire.refuses = func(*packet.Burst) error {
		close(inCall)
		<-release
		return nil
	}
	done := r.run(t.Context())
	if err := r.Alive(t.Context()); err != nil {
		t.Error(err)
	}
	r.tun.feed <- [][]byte{frame(udp4("10.244.0.2", "10.244.1.2", 63, 0))}
	<-inCall
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := r.Alive(ctx)
	if err == nil || !strings.Contains(err.Error(), `"tun to wire" hangs`) ||
		strings.Contains(err.Error(), "wire to tun") {
		t.Errorf("alive: %v", err)
	}
	if err := r.Stop(); err == nil {
		t.Error("stop says nothing of a loop that hangs")
	}
	close(release)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// deafWire is a socket that cannot be woken.
type deafWire struct{ *fakeWire }

func (deafWire) Wake() error { return nil }

// The loop of each of our own addresses gives a sign of life, and one that hangs is named by its address.
func TestLoopsOfAllAddressesLive(t *testing.T) {
	r := newPathRig(t, twoUplinks(ours4, ours6), ours4, ours6)
	done := make(chan error, 3)
	for _, loop := range []dataplane.Loop{r.out, r.ins[ours4], r.ins[ours6]} {
		go func() { done <- loop.Run(t.Context()) }()
	}
	if err := r.Alive(t.Context()); err != nil {
		t.Error(err)
	}
	second := &r.out.worker.Sockets[1]
	second.Wire = deafWire{r.wires[ours6]}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := r.Alive(ctx); err == nil || !strings.Contains(err.Error(), ours6) ||
		strings.Contains(err.Error(), ours4) {
		t.Errorf("alive: %v", err)
	}
	second.Wire = r.wires[ours6]
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A socket that goes on failing ends its loop, so that somebody makes a new one;
// one that recovers does not.
func TestFailingSocket(t *testing.T) {
	r := newRig(t)
	done := r.run(t.Context())
	broken := errors.New("broken")
	for range receiveFailures {
		r.wire.fail <- broken
	}
	if err := <-done; !errors.Is(err, broken) {
		t.Errorf("the loop ended with %v", err)
	}
	if err := r.Alive(t.Context()); err == nil || !strings.Contains(err.Error(), `"wire to tun" has ended`) {
		t.Errorf("alive: %v", err)
	}
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// flooded is a TUN whose queue is never empty.
type flooded struct {
	*fakeTun
	batch [][]byte
}

func (f *flooded) Read(memory []byte, frames [][]byte) (int, error) {
	n, err := f.fakeTun.Read(memory, frames)
	if err != nil {
		n = copy(frames, f.batch)
	}
	return n, err
}

// A flood is no reason for a loop not to end.
func TestStopUnderFlood(t *testing.T) {
	r := newRig(t)
	r.out.worker.Tun = &flooded{r.tun, [][]byte{frame(udp4("10.244.0.2", "10.244.1.2", 63, 0))}}
	done := r.run(t.Context())
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if len(r.wire.sent) == 0 {
		t.Error("nothing was forwarded")
	}
}
