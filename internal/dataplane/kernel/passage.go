package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/mesh"
)

// Packets of TCP enter the merger at one end, and our program takes them from the other. A program of
// somebody else in front of it may end them there, and no counter would tell. So what enters is
// compared with what comes out:
//
//	all come out     nothing to do, whoever else is there
//	some do not      the merger is off at once: packets go to the TUN unmerged. The owner
//	                 attaches our program anew, in front of all others, and the merger is on again
//	again and again  the merger stays off, and a condition names who is in front
const (
	// passageMoves is how many times in a row our program goes in front of others.
	passageMoves = 3
	// passagePause is how long the merger stays off after those; when it works for as long, all is
	// forgotten.
	passagePause = 10 * time.Minute
	// passageMany is how many lost packets, after which none came out, are no accident.
	passageMany = 10
	// passageTime is how long a packet may be on its way from one end to the other.
	passageTime = 20 * time.Millisecond
)

// ends are the counts of packets at both ends of the merger, since its programs were loaded.
type ends struct {
	in, out uint64
	dropped uint64 // by the kernel, since the backlog was full
	strays  uint64 // came out, and never went in: of nodes, by the kernel's decapsulation
}

// missing is how many packets are on their way, or were lost.
func (e ends) missing() int64 { return int64(e.in - e.out - e.dropped) }

// A passage is what is known of the way through the merger. mu guards it.
type passage struct {
	began  bool
	lost   int64  // packets that did not come out in all, known already
	strays uint64 // as of the first reading
	in     uint64
	off    error     // why the merger is off; nil: it is not off for want of packets
	front  []string  // who was in front of our program then
	past   []string  // who was, before our program went in front
	moves  int       // times that our program was to go in front, in a row
	on     time.Time // when it last did
	again  time.Time // when it may next
}

// judge compares what entered, by an earlier reading, with what has come out by a later one. It
// returns how many packets were lost since the last time, 0 if that is no reason to do anything.
func (c *passage) judge(earlier, later ends) (lost int64) {
	missing := ends{in: earlier.in, out: later.out, dropped: later.dropped}.missing()
	entered, began := int64(earlier.in-c.in), c.began
	if lost = missing - c.lost; !began {
		c.lost, lost = missing, 0
	}
	c.began, c.in = true, earlier.in
	if lost <= 0 { // others came out meanwhile: missing is too small, and what is lost stays lost
		return 0
	}
	c.lost = missing
	// TCP copes with some. But if a program has just come, most of this time's packets came before it did.
	ended := later.out == earlier.out && lost >= passageMany
	if lost*10 < entered && !ended {
		return 0
	}
	return lost
}

// fail turns the merger off after packets were lost, and plans the next try.
func (c *passage) fail(lost int64, front []string, now time.Time) {
	if now.Sub(c.on) > passagePause {
		c.moves = 0
	}
	c.moves++
	c.front, c.again = front, now
	if c.moves > passageMoves {
		c.again = now.Add(passagePause)
	}
	why := fmt.Errorf("%d packets that entered %s did not come out of %s", lost, mergerEntry, mergerExit)
	if len(front) > 0 {
		why = fmt.Errorf("%w: in front of meshd's program there is %s", why, strings.Join(front, ", "))
	}
	c.off = remedied{why, fmt.Sprintf("tc filter show dev %s ingress; bpftool net show dev %[1]s", mergerExit)}
}

// due tells whether the merger is off, and it is time to try again.
func (c *passage) due(now time.Time) bool { return c.off != nil && !now.Before(c.again) }

// WatchMerger looks whether packets are lost in the merger, and turns it off if so. It returns whether
// Apply has something to do, which is to try again. It is to be called every second or so, from any
// goroutine.
func (e *Engine) WatchMerger() (again bool) {
	s := e.hold()
	if s.handle == nil {
		return false
	}
	defer func() { _ = s.release() }()
	e.mu.Lock()
	on, off, exit := e.settings.Merger != 0 || e.settings.Decap != 0, e.passage.off != nil, e.passed
	decap := e.settings.Decap != 0
	e.mu.Unlock()
	var err error
	switch {
	case decap:
		again, err = e.watchDecap(s.handle)
	case off:
		again, err = e.watchFront(s.handle, exit)
	case on:
		again, err = e.watchEnds(s.handle, exit)
	}
	e.passageTrouble.about(e.log, err, "watch_failed", "cannot tell whether packets are lost in the merger")
	return again
}

// watchFront looks whether who was in front of our program has gone.
func (e *Engine) watchFront(h *handle, exit int) (again bool, err error) {
	front, _, err := h.others(exit)
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &e.passage
	if err == nil && len(c.front) > 0 && len(front) == 0 {
		c.again = time.Time{}
	}
	return c.due(time.Now()), err
}

// watchEnds compares what enters with what comes out.
func (e *Engine) watchEnds(h *handle, exit int) (again bool, err error) {
	earlier, later, err := twice(h.mergerEnds)
	if err != nil {
		return false, err
	}
	front, behind, othersErr := h.others(exit) // before the lock
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &e.passage
	if e.handle() != h || e.settings.Merger == 0 {
		return false, nil
	}
	e.note(behind)
	lost := c.judge(earlier, later)
	if lost == 0 {
		return false, othersErr
	}
	if err := e.reconfigure(func(s *meshSettings) { s.Merger = 0 }); err != nil {
		return false, err
	}
	c.fail(lost, front, time.Now())
	e.log.Warn("packets were lost in the merger: TCP goes on unmerged", "error", c.off, "event", "unmerged")
	e.publish(func(s *shown) { s.unmerged = c.off })
	return c.due(time.Now()), othersErr
}

// twice takes a reading, and another one a moment later if packets are on their way, or lost.
func twice(read func() (ends, error)) (earlier, later ends, err error) {
	earlier, err = read()
	if err != nil || earlier.missing() <= 0 {
		return earlier, earlier, err
	}
	time.Sleep(passageTime)
	later, err = read()
	return earlier, later, err
}

// pass is for the owner, before programs are placed. If packets were lost and it is time to try again,
// it detaches our program, which place then attaches in front of all others, and returns that as a
// repair. While the merger has to stay off, it notes why TCP is not merged.
func (e *Engine) pass() (changes []mesh.Change, err error) {
	e.mu.Lock()
	if exit := e.exit(); e.passed != exit { // another pair, or device
		e.passage, e.passed = passage{}, exit
	}
	c, now := &e.passage, time.Now()
	due, front := c.due(now), c.front
	if due {
		past := slices.Concat(c.past, front)
		*c = passage{moves: c.moves, on: now, past: past}
		e.publish(func(s *shown) { s.past = past })
	}
	if e.unmerged == nil {
		e.unmerged = c.off
	}
	e.mu.Unlock()
	at := attachment{stageMerge, e.merger.exit}
	if !due || e.attached[at] == nil {
		return nil, nil
	}
	return []mesh.Change{{Op: mesh.Repaired, Kind: mesh.ChangedInterface, Subject: mergerExit,
		Field: "first program", Old: strings.Join(front, ", "), New: "meshd"}}, e.take(at)
}

// note shows readers which programs, of those that were in front of ours, are still behind it. The
// caller holds mu.
func (e *Engine) note(behind []string) {
	past := slices.DeleteFunc(slices.Clone(e.passage.past),
		func(p string) bool { return !slices.Contains(behind, p) })
	if !slices.Equal(past, e.shown.Load().past) {
		e.publish(func(s *shown) { s.past = past })
	}
}

// mergerEnds reads what entered the merger and what came out of it.
func (h *handle) mergerEnds() (e ends, err error) {
	if e, err = h.countedEnds(); err == nil {
		e.dropped, err = mergerOverflow()
	}
	return e, err
}

// countedEnds reads what the programs have counted.
func (h *handle) countedEnds() (e ends, err error) {
	// MERGER_IN, MERGER_OUT and MERGER_STRAYS in bpf/maps.h
	for i, n := range []*uint64{&e.in, &e.out, &e.strays} {
		var cpus []uint64
		if err := h.Merging.Lookup(uint32(i), &cpus); err != nil {
			return e, fmt.Errorf("read counters of the merger: %w", err)
		}
		for _, c := range cpus {
			*n += c
		}
	}
	return e, nil
}

// others returns which programs are asked about packets of the merger's exit before ours is, and which
// are not since ours is, by their numbers, and by names where this process may know them.
func (h *handle) others(exit int) (front, behind []string, err error) {
	info, err := h.Merged.Info()
	if err != nil {
		return nil, nil, err
	}
	ours, _ := info.ID()
	all, err := link.QueryPrograms(link.QueryOptions{Target: exit, Attach: stages[stageMerge].attach})
	// Before Linux 6.6: it does not know the kind of place (EINVAL).
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.EINVAL) {
		return nil, nil, fmt.Errorf("list programs at %s: %w", mergerExit, err)
	}
	isOurs := func(p link.AttachedProgram) bool { return p.ID == ours }
	if err != nil || !slices.ContainsFunc(all.Programs, isOurs) {
		return filtersAround(exit)
	}
	list := &front
	for _, p := range all.Programs {
		if p.ID == ours {
			list = &behind
			continue
		}
		*list = append(*list, programName(p.ID))
	}
	return front, behind, nil
}

// programName returns the name of a program, or words with its number: only CAP_SYS_ADMIN may open it.
func programName(id ebpf.ProgramID) string {
	if p, err := ebpf.NewProgramFromID(id); err == nil {
		defer p.Close()
		if info, err := p.Info(); err == nil && info.Name != "" {
			return fmt.Sprintf("%s (program %d)", info.Name, id)
		}
	}
	return fmt.Sprintf("program %d", id)
}

// filtersAround is others for filters of clsact.
func filtersAround(exit int) (front, behind []string, err error) {
	device := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: exit}}
	there, err := retry(func() ([]netlink.Filter, error) {
		return netlink.FilterList(device, netlink.HANDLE_MIN_INGRESS)
	})
	if err != nil && !absent(err) {
		return nil, nil, fmt.Errorf("list filters at %s: %w", mergerExit, err)
	}
	list := &front
	for _, f := range there {
		if isOurs(f) {
			list = &behind
			continue
		}
		*list = append(*list, fmt.Sprintf("a filter %q of priority %d", f.Type(), f.Attrs().Priority))
	}
	return front, behind, nil
}
