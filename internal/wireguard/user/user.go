// Package user is WireGuard for kernels that have none: a process of its own with the same binary, which
// moves packets between a TUN and wireguard-go. meshd and wg(8) set it as they set an interface of the
// kernel, through a socket in wireguard.Folder. This package reads no key and no file.
//
//	helper   this process
//	TUN      the interface as the kernel knows it; made here, set up and routed by meshd
//	device   wireguard-go behind one TUN: keys, peers, sessions
//
// It is not a part of meshd's own process because sessions live in the device and cannot be taken out of it:
// they have to outlive restarts and upgrades of meshd. The TUN outlives the helper as well: what is routed
// into it is dropped then, and does not leave in the clear.
//
// Memory: wireguard-go holds each packet in 64 KiB and bounds its queues only in packets (QueueStagedSize and
// PreallocatedBuffersPerPool are constants there). Few packets are on their way at once (flight.go), those
// that wait for silent peers are dropped when they become too many (memory.go), and the service has a limit.
package user

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	wireguardgo "golang.zx2c4.com/wireguard/device"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/device"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/rate"
	"example.org/meshd/internal/task"
	"example.org/meshd/internal/wireguard"
)

// Options are what a helper is started with.
type Options struct {
	Interface string // wireguard.Interface, but for tests
	Log       *slog.Logger
	Ready     func() // called once, when the TUN is there and the socket answers
}

// Run is the helper: it makes the TUN, and moves packets until ctx ends. It needs CAP_NET_ADMIN, and write
// access to wireguard.Folder. The error is ErrRuns where another process is the interface already.
//
// When another program deletes the TUN, Run makes another one with a new device, which has neither key nor
// peers until meshd sets them again. A TUN that was renamed gets its name back and keeps its sessions.
func Run(ctx context.Context, o Options) error {
	s, err := listen(wireguard.Folder, o.Interface)
	if err != nil {
		return err
	}
	defer s.close()
	counted := make(chan struct{}, 1)
	h := &helper{Options: o, server: s, maker: device.New(o.Log), counted: counted}
	defer h.stop()
	if err := h.first(ctx); err != nil {
		return err
	}
	o.Ready()
	news := make(chan struct{}, 1) // one that waits covers all that come after it
	return task.RunAll(ctx, o.Log,
		task.New("socket", s.run),
		task.New("interfaces", func(ctx context.Context) error {
			return link.Watch(ctx, func() bool { wake(news); return true })
		}),
		task.New("memory", func(ctx context.Context) error { relieve(ctx, &s.device, counted); return nil }),
		task.New("device", func(ctx context.Context) error { h.run(ctx, news); return nil }))
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A helper is the state of Run. It belongs to one goroutine.
type helper struct {
	Options
	server  *server
	maker   *device.Device  // of TUNs
	counted chan<- struct{} // wakes relieve

	index  int // of the TUN behind device
	queue  *queue
	device *wireguardgo.Device // nil: there is none

	repairs, failures rate.Lines // about the interface
	quiet             bool       // the repair under way is not worth a line
}

// tries is how often the interface is made when the helper starts, settle apart. A kernel that has no TUN
// fails each time; a meshd that starts takes down what an earlier run has left, and finds the new interface
// once.
const tries = 10

// first makes the TUN and the device. It returns nil when ctx ends.
func (h *helper) first(ctx context.Context) (err error) {
	for range tries {
		if err = h.look(); err == nil {
			return err
		}
		if sleep(ctx, settle); ctx.Err() != nil {
			return nil
		}
	}
	return err
}

// settle is how long a new device is left alone: another program may delete the TUN again and again.
const settle = 200 * time.Millisecond

// run follows the TUN until ctx ends.
func (h *helper) run(ctx context.Context, news chan struct{}) {
	var wait backoff.Backoff
	for {
		var ended <-chan struct{}
		if h.device != nil {
			ended = h.device.Wait()
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-ended:
		}
		before := h.device
		err := h.look()
		switch {
		case err != nil:
			pause := wait.Next()
			if n := h.failures.Add(time.Now()); n > 0 {
				h.Log.Error("cannot make the interface, trying again", "interface", h.Interface, "error", err,
					"in", pause, "count", n, "event", "interface_failed")
			}
			sleep(ctx, pause)
			wake(news)
		case h.device != before:
			sleep(ctx, settle)
			fallthrough
		default:
			wait.Reset()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// look makes the TUN and the device as they should be, and has the device learn the TUN's MTU. It does
// little if they are.
func (h *helper) look() error {
	changes, _, err := h.maker.Make(h.Interface)
	if err != nil {
		return err
	}
	h.quiet = false
	for _, c := range changes {
		n := h.repairs.Add(time.Now())
		if h.quiet = n == 0; !h.quiet {
			h.Log.Warn("another program changed the interface, it is repaired", "interface", h.Interface,
				"field", c.Field, "was", c.Old, "count", n, "event", "interface_repaired")
		}
	}
	index := link.Index(h.Interface)
	if h.device != nil && !over(h.device) && index == h.index {
		h.queue.changed()
		return nil
	}
	h.stop()
	return h.start(index)
}

// over tells whether a device has ended, as it does when its TUN is deleted.
func over(d *wireguardgo.Device) bool {
	select {
	case <-d.Wait():
		return true
	default:
		return false
	}
}

// start puts a device behind the TUN with an index.
func (h *helper) start(index int) error {
	q, err := openQueue(h.Interface, h.counted)
	if err != nil {
		return err
	}
	// q is the device's from now on.
	d := wireguardgo.NewDevice(q, &bind{conn.NewDefaultBind(), q.flight}, newLogger(h.Log))
	// Without a key it sends nothing. Its port is one of the kernel's choice until meshd sets another.
	if err := d.Up(); err != nil {
		d.Close()
		return fmt.Errorf("start WireGuard on %q: %w", h.Interface, err)
	}
	h.index, h.queue, h.device = index, q, d
	h.server.device.Store(d)
	if !h.quiet {
		h.Log.Info("WireGuard runs in user space", "interface", h.Interface, "event", "wireguard_started")
	}
	return nil
}

// stop ends the device. The TUN stays.
func (h *helper) stop() {
	if h.device != nil {
		h.server.device.Store(nil)
		h.device.Close()
		h.device = nil
	}
}
