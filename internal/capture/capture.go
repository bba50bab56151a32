// Package capture copies the inner packets of this node's mesh, or of one peer, as pcapng (IETF draft
// draft-ietf-opsawg-pcapng): what pods have sent and what they get, without outer headers, sealed or not.
//
//	tap        copies of packets, made by programs at the interface of the mesh (dataplane.Tap)
//	reader     who asked; it gets blocks of pcapng until it has had enough
//
// A packet socket on the TUN would take the way through user space, since programs have to leave packets to
// the queue where captures see them; a tap does not. While nobody captures there is no tap. A reader that is
// too slow loses copies, and the statistics of the interface in the file say how many; it delays no packet.
package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/plan"
)

// Bounds of a capture.
const (
	mostSnap = 65535     // bytes of a packet
	mostTime = time.Hour // of a capture
	// lookEvery is the time between two looks at what else there is to do: flush, tell what was lost.
	lookEvery = 500 * time.Millisecond
)

// Options is what a Keeper needs of others.
type Options struct {
	Log *slog.Logger
	// Plan returns the plan in force; nil: there is none.
	Plan func() *plan.Plan
	Open func(device string, o dataplane.TapOptions) (dataplane.Tap, error)
}

// A Keeper captures. Its methods may be called from any goroutine.
type Keeper struct {
	o Options

	mu    sync.Mutex
	taken [dataplane.Taps]bool
}

// New returns a Keeper that does nothing until it is asked.
func New(o Options) *Keeper { return &Keeper{o: o} }

// take returns a place for a tap; ok is false if all are taken.
func (k *Keeper) take() (place int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	place = slices.Index(k.taken[:], false)
	if place >= 0 {
		k.taken[place] = true
	}
	return place, place >= 0
}

// free gives a place back.
func (k *Keeper) free(place int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.taken[place] = false
}

// Capture answers POST /v1/capture: it writes pcapng to w until ctx ends, w fails, or what r asks for has
// been written. ok is false if there is no such peer. An error before the first write that is no
// *control.Refusal is the asker's fault.
func (k *Keeper) Capture(ctx context.Context, r control.CaptureRequest, w io.Writer) (ok bool, err error) {
	o, err := optionsOf(r)
	if err != nil {
		return false, err
	}
	p := k.o.Plan()
	if p == nil {
		return false, &control.Refusal{Code: "not_ready", Message: "no file is in force yet"}
	}
	if r.Peer != "" {
		peer, known := p.Engine.Mesh.Peer(r.Peer)
		if !known || r.Peer == p.Self.Name {
			return false, nil
		}
		o.Peer = slices.Concat(peer.Subnets, peer.Routes)
	}
	if o.Place, ok = k.take(); !ok {
		return true, &control.Refusal{Code: "busy", Message: fmt.Sprintf(
			"%d captures are running already: end one of them", dataplane.Taps)}
	}
	defer k.free(o.Place)
	tap, err := k.o.Open(p.Device(), o)
	if err != nil {
		return true, &control.Refusal{Code: "failed", Message: err.Error()}
	}
	k.o.Log.Info("a capture begins", "peer", r.Peer, "interface", p.Device(), "event", "capture_began")
	c := &capture{tap: tap, request: r, device: p.Device(), plan: k.o.Plan, began: time.Now()}
	err = c.run(ctx, w)
	k.o.Log.Info("a capture has ended", "peer", r.Peer, "packets", c.written, "lost", c.lost,
		"event", "capture_ended")
	if err = errors.Join(err, tap.Close()); err != nil {
		return true, &control.Refusal{Code: "failed", Message: err.Error()}
	}
	return true, nil
}

// optionsOf checks what somebody asks for.
func optionsOf(r control.CaptureRequest) (o dataplane.TapOptions, err error) {
	o.Snap = mostSnap
	if r.Snap != 0 {
		o.Snap = r.Snap
	}
	if r.Host != "" {
		host, err := netip.ParseAddr(r.Host)
		if err != nil || host.Zone() != "" {
			return o, fmt.Errorf("host must be an IP address, not %q", r.Host)
		}
		o.Host = host.Unmap()
	}
	o.Port = uint16(r.Port)
	switch {
	case o.Snap < 1, o.Snap > mostSnap:
		return o, fmt.Errorf("snap must be 1 to %d bytes", mostSnap)
	case r.Port < 0, r.Port > 65535:
		return o, errors.New("port must be 1 to 65535")
	case r.Count < 0:
		return o, errors.New("count must not be negative")
	case r.Seconds < 0, r.Seconds > mostTime.Seconds():
		return o, fmt.Errorf("seconds must be 0 to %.0f", mostTime.Seconds())
	}
	return o, nil
}

// A capture is one that runs.
type capture struct {
	tap     dataplane.Tap
	request control.CaptureRequest
	device  string
	plan    func() *plan.Plan
	began   time.Time

	file          *pcapgo.NgWriter
	written, lost uint64
	told          time.Time // when the statistics were written last
}

// run writes a whole file.
func (c *capture) run(ctx context.Context, w io.Writer) (err error) {
	snap := c.request.Snap
	if snap == 0 {
		snap = mostSnap
	}
	c.file, err = pcapgo.NewNgWriterInterface(w, pcapgo.NgInterface{Name: c.device, OS: "Linux",
		LinkType: layers.LinkTypeRaw, SnapLength: uint32(snap), TimestampResolution: 9},
		pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{OS: "Linux", Application: "meshd"}})
	if err == nil {
		err = c.file.Flush() // the reader sees at once that it has begun
	}
	if err != nil {
		return err
	}
	last := mostTime
	if c.request.Seconds > 0 {
		last = time.Duration(c.request.Seconds * float64(time.Second))
	}
	for end := c.began.Add(last); c.goesOn(ctx, end); {
		if err := c.next(end); err != nil {
			return err
		}
	}
	return c.statistics(true)
}

// goesOn tells whether there is more to capture. Packets take another interface once encryption begins, or
// ends: that is another file.
func (c *capture) goesOn(ctx context.Context, end time.Time) bool {
	enough := c.request.Count > 0 && c.written >= uint64(c.request.Count)
	p := c.plan()
	return ctx.Err() == nil && time.Now().Before(end) && !enough && p != nil && p.Device() == c.device
}

// next writes the next packet, if one comes soon.
func (c *capture) next(end time.Time) error {
	until := time.Now().Add(lookEvery)
	if end.Before(until) {
		until = end
	}
	one, err := c.tap.Next(until)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.statistics(false)
	case err != nil:
		return err
	}
	way := pcapgo.NgEpbFlagDirectionOutbound
	if one.Incoming {
		way = pcapgo.NgEpbFlagDirectionInbound
	}
	info := gopacket.CaptureInfo{Timestamp: one.At, CaptureLength: len(one.Bytes),
		Length: max(one.Length, len(one.Bytes))}
	if err := c.file.WritePacketWithOptions(info, one.Bytes,
		pcapgo.NgPacketOptions{Flags: &pcapgo.NgEpbFlags{Direction: way}}); err != nil {
		return err
	}
	c.written++
	if !c.tap.Waiting() {
		if err := c.file.Flush(); err != nil {
			return err
		}
	}
	if time.Since(c.told) >= lookEvery {
		return c.statistics(false)
	}
	return nil
}

// statistics writes how many packets were lost, if that is news or the end: a reader that goes in between
// knows it, too. The last block of a file counts.
func (c *capture) statistics(end bool) error {
	_, lost, err := c.tap.Counts()
	if err != nil {
		return err
	}
	c.told = time.Now()
	if lost != c.lost || end {
		c.lost = lost
		s := pcapgo.NgInterfaceStatistics{LastUpdate: c.told, StartTime: c.began,
			PacketsReceived: c.written + lost, PacketsDropped: lost}
		if end {
			s.EndTime = c.told
		}
		if err := c.file.WriteInterfaceStats(0, s); err != nil {
			return err
		}
	}
	return c.file.Flush()
}
