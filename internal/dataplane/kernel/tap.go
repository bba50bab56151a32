package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
)

// A tap is programs in front of all others at one interface, and a ring in which they leave their copies. It
// is no part of an Engine, and needs none: with the user engine, and where packets are sealed, it is the
// same.
type tap struct {
	objects tapObjects
	hooks   []hook
	reader  *ringbuf.Reader
	record  ringbuf.Record
	ids     []ebpf.ProgramID
	booted  time.Time // when the clock of copies was 0
}

// tapping are the programs of all taps of this process, which nobody else has put in front of ours.
var tapping sync.Map // ebpf.ProgramID -> nothing

// OpenTap begins to copy the packets of an interface.
func OpenTap(device string, o dataplane.TapOptions) (dataplane.Tap, error) {
	return openTap(device, o, link.AttachTCX)
}

// openTap is OpenTap; attachTCX may play a kernel without.
func openTap(device string, o dataplane.TapOptions,
	attachTCX func(link.TCXOptions) (link.Link, error)) (dataplane.Tap, error) {
	at, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("find the interface %q: %w", device, err)
	}
	// As load does.
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	t := &tap{}
	if err := t.load(o); err != nil {
		return nil, fmt.Errorf("load the programs of a capture: %w", explain(err))
	}
	var boot unix.Timespec
	if err = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err == nil {
		t.booted = time.Now().Add(-time.Duration(boot.Nano()))
		t.reader, err = ringbuf.NewReader(t.objects.Ring)
	}
	for _, one := range []struct {
		program *ebpf.Program
		attach  ebpf.AttachType
	}{{t.objects.TapIn, ebpf.AttachTCXIngress}, {t.objects.TapOut, ebpf.AttachTCXEgress}} {
		if err == nil {
			err = t.attach(one.program, one.attach, at.Index, o.Place, attachTCX)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach the programs of a capture to %s: %w", device, explain(err)),
			t.Close())
	}
	return t, nil
}

// load brings the programs into the kernel, with what they look for in them: what is switched off costs
// nothing.
func (t *tap) load(o dataplane.TapOptions) error {
	spec, err := loadTap()
	if err != nil {
		return err
	}
	var host [4]uint32
	family := uint32(0)
	if o.Host.IsValid() {
		family = 6
		if o.Host.Is4() {
			family = 4
		}
		for i, b := range o.Host.AsSlice() {
			host[i/4] |= uint32(b) << (8 * (i % 4)) // as a program on a little-endian machine reads them
		}
	}
	by := uint32(0)
	if len(o.Peer) > 0 {
		by = 1
	}
	for name, value := range map[string]any{tapVarSnap: uint32(o.Snap), tapVarByPeer: by, tapVarByHost: family,
		tapVarHost: host, tapVarByPort: uint32(o.Port)} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if err := undisturbed(func() error { return spec.LoadAndAssign(&t.objects, nil) }); err != nil {
		return err
	}
	for _, p := range o.Peer {
		m, key := t.objects.Peer6, any(tapPrefix6{Length: uint32(p.Bits()), Address: p.Addr().As16()})
		if p.Addr().Is4() {
			m, key = t.objects.Peer4, tapPrefix4{Length: uint32(p.Bits()), Address: p.Addr().As4()}
		}
		if err := m.Put(key, uint32(0)); err != nil {
			return errors.Join(fmt.Errorf("note the prefix %s: %w", p, err), t.objects.Close())
		}
	}
	return nil
}

// attach puts a program in front of all others in one direction. It is not pinned: a capture ends with meshd.
func (t *tap) attach(program *ebpf.Program, to ebpf.AttachType, device, place int,
	attachTCX func(link.TCXOptions) (link.Link, error)) error {
	if info, err := program.Info(); err == nil {
		if id, known := info.ID(); known {
			tapping.Store(id, nil)
			t.ids = append(t.ids, id)
		}
	}
	l, err := attachTCX(link.TCXOptions{Program: program, Interface: device, Attach: to, Anchor: link.Head()})
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		f := tapFilter{filtered{device, to == ebpf.AttachTCXEgress, uint16(filterTap + place)}}
		t.hooks = append(t.hooks, f)
		return f.Update(program)
	case err == nil:
		t.hooks = append(t.hooks, linked{l, false})
	}
	return err
}

// A tapFilter is a hook of a tap on kernels without tcx. One that a meshd left that was killed is replaced by
// the next capture, and removed when programs are taken over.
type tapFilter struct{ at filtered }

func (f tapFilter) Update(p *ebpf.Program) error { return addFilter(f.at, p.FD()) }
func (f tapFilter) remove() error                { return deleteFilter(f.at) }

// isTap tells whether a program is one of a tap.
func isTap(id ebpf.ProgramID) bool {
	_, is := tapping.Load(id)
	return is
}

// Next implements dataplane.Tap.
func (t *tap) Next(until time.Time) (dataplane.Copy, error) {
	for {
		t.reader.SetDeadline(until)
		if err := t.reader.ReadInto(&t.record); err != nil {
			return dataplane.Copy{}, err
		}
		if c, ok := copyOf(t.record.RawSample, t.booted); ok {
			return c, nil
		}
	}
}

// copyOf reads a struct copy of tap.c, and what follows. ok is false if it is none.
func copyOf(b []byte, booted time.Time) (c dataplane.Copy, ok bool) {
	const head = 24
	if len(b) < head {
		return c, false
	}
	kept := binary.LittleEndian.Uint32(b[12:])
	if uint64(kept) > uint64(len(b)-head) {
		return c, false
	}
	return dataplane.Copy{At: booted.Add(time.Duration(binary.LittleEndian.Uint64(b))),
		Length: int(binary.LittleEndian.Uint32(b[8:])), Incoming: binary.LittleEndian.Uint32(b[16:]) != 0,
		Bytes: b[head : head+kept]}, true
}

// Waiting implements dataplane.Tap.
func (t *tap) Waiting() bool { return t.reader.AvailableBytes() > 0 }

// Counts implements dataplane.Tap.
func (t *tap) Counts() (kept, lost uint64, err error) {
	for i, sum := range []*uint64{&kept, &lost} {
		var each []uint64
		if err := t.objects.Tapped.Lookup(uint32(i), &each); err != nil {
			return 0, 0, fmt.Errorf("read how much was captured: %w", err)
		}
		for _, n := range each {
			*sum += n
		}
	}
	return kept, lost, nil
}

// Close implements dataplane.Tap.
func (t *tap) Close() error {
	var errs []error
	for _, h := range t.hooks {
		errs = append(errs, h.remove())
	}
	if t.reader != nil {
		errs = append(errs, t.reader.Close())
	}
	errs = append(errs, t.objects.Close())
	for _, id := range t.ids {
		tapping.Delete(id)
	}
	return errors.Join(errs...)
}
