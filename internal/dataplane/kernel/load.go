package kernel

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// load brings programs and maps into the kernel, or takes over what an earlier meshd has pinned.
// The verifier's whole log is in the error as an *ebpf.VerifierError.
func (e *Engine) load() error {
	// Before Linux 5.11 maps count as locked memory. A process that may not raise the limit may
	// still have enough; if not, loading fails and says so.
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	folder, unpinned := e.pins()
	if folder != "" {
		// Programs of another layout go first: until ours are there user space forwards everything.
		if _, err := cleanUpBut(folder); err != nil {
			return err
		}
	}
	h, err := loadHandle(folder)
	if errors.Is(err, ebpf.ErrMapIncompatible) { // maps that no meshd of this layout made
		if err = errors.Join(removePins(folder), os.Mkdir(folder, 0o700)); err == nil {
			h, err = loadHandle(folder)
		}
	}
	if err != nil {
		return explain(err)
	}
	if folder != "" {
		_ = e.lock.Close() // nil at first
		e.lock = hold(folder)
	}
	h.unpinned = unpinned // no error: programs that end with meshd are better than none
	if err := e.takeOver(h); err != nil {
		return errors.Join(err, e.leave())
	}
	if unpinned != nil {
		e.log.Warn("packets stop while meshd is not running: the programs cannot be pinned",
			"error", unpinned, "event", "unpinned")
	}
	return nil
}

// loadHandle loads the object file. Maps that are pinned in the folder are used in place of new ones.
func loadHandle(folder string) (*handle, error) {
	spec, err := loadMesh()
	if err != nil {
		return nil, err
	}
	if folder != "" {
		for _, m := range spec.Maps {
			m.Pinning = ebpf.PinByName
		}
	}
	h := &handle{folder: folder}
	h.references.Store(1)
	options := &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: folder}}
	err = undisturbed(func() error { return spec.LoadAndAssign(&h.objects, options) })
	h.flowTable = spec.Maps[meshMapFlowing].InnerMap
	h.chunks = chunks{all: h.Counted, spec: spec.Maps[meshMapCounted].InnerMap, used: map[uint32]bool{}}
	return h, err
}

// takeOver makes programs ours that were just loaded: what pinned maps say of the mesh, and what an
// earlier meshd has attached. Its counts begin anew, as all that a meshd counts.
func (e *Engine) takeOver(h *handle) error {
	t := newTables()
	if h.folder != "" {
		var err error
		if t, err = h.readTables(); err == nil {
			err = errors.Join(h.chunks.provide(t.numbers), h.chunks.begin(maps.Keys(t.nodes)), h.endFlows())
		}
		if err != nil {
			err = fmt.Errorf("take over pinned maps: %w", err)
			return errors.Join(err, h.release())
		}
	}
	// Probes of this meshd have heard few peers yet, and the meshd before knew them: without this,
	// packets would take the way through user space until each peer has answered.
	e.mu.Lock()
	for name, number := range t.numbers {
		if _, known := e.known[name]; !known {
			e.known[name] = t.directive(number)
		}
	}
	for prefix, name := range t.carried() {
		if _, said := e.carried[prefix]; !said {
			e.carried[prefix] = name
		}
	}
	e.tables = t
	e.settings.Mark, e.settings.Before = h.newMarks()
	e.settings.Tag, e.settings.TagBefore = h.newTags()
	e.publish(func(s *shown) { s.handle, s.numbers = h, t.numbers })
	e.mu.Unlock()
	return e.adopt()
}

// explain says what an error of the kernel means for whoever wants the engine.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the capabilities CAP_BPF and CAP_NET_ADMIN are needed: %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("this kernel is too old: %w", err)
	case errors.As(err, &verifier) && len(verifier.Log) > 0:
		last := strings.TrimSpace(verifier.Log[len(verifier.Log)-1])
		return fmt.Errorf("the kernel's verifier rejects a program: %s: %w", last, err)
	}
	return err
}
