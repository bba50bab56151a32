package kernel

import (
	"errors"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// A handle is a set of loaded programs and their maps. Its maps do not change for as long as it is
// used, but for chunks of counters that are added; what is in them does.
//
// Who uses a handle holds a reference, and the last one to release it closes the descriptors. So
// readers ask the kernel without a lock, and the owner takes programs away without a wait.
type handle struct {
	objects
	chunks     chunks                   // what is in Counted
	flows      atomic.Pointer[ebpf.Map] // what is in Flowing; nil: nothing, and no flows are counted
	flowTable  *ebpf.MapSpec
	xdp        *ebpf.Program // of the owner alone; nil until it is wanted
	folder     string        // of pins; empty if nothing is pinned
	unpinned   error         // why nothing is pinned
	references atomic.Int64  // the first is the owner's; 0: closed
}

// objects are what is always loaded; the XDP program is loaded only where it is wanted.
type objects struct {
	meshMaps
	In     *ebpf.Program `ebpf:"mesh_in"`
	InBare *ebpf.Program `ebpf:"mesh_in_bare"`
	Merged *ebpf.Program `ebpf:"mesh_merged"`
	Decap  *ebpf.Program `ebpf:"mesh_decap"`
	Out    *ebpf.Program `ebpf:"mesh_out"`
}

// acquire takes a reference. It returns false if the handle is closed already.
func (h *handle) acquire() bool {
	for {
		n := h.references.Load()
		if n == 0 {
			return false
		}
		if h.references.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives a reference back.
func (h *handle) release() error {
	if h.references.Add(-1) > 0 {
		return nil
	}
	return errors.Join(h.In.Close(), h.InBare.Close(), h.Merged.Close(), h.Decap.Close(), h.Out.Close(),
		h.xdp.Close(), h.chunks.close(), h.flows.Load().Close(), h.meshMaps.Close())
}

// program returns the program of a stage for an interface. It is for the owner.
func (h *handle) program(at attachment) (*ebpf.Program, error) {
	switch at.stage {
	case stageMerge:
		return h.Merged, nil
	case stageDecap:
		return h.Decap, nil
	case stageIn:
		if bare(at.device) {
			return h.InBare, nil
		}
		return h.In, nil
	case stageXDP:
		return h.loadXDP()
	}
	return h.Out, nil
}

// loadXDP loads the program that needs a newer kernel than the others.
func (h *handle) loadXDP() (*ebpf.Program, error) {
	if h.xdp != nil {
		return h.xdp, nil
	}
	spec, err := loadMesh()
	if err != nil {
		return nil, err
	}
	var loaded struct {
		XDP *ebpf.Program `ebpf:"mesh_xdp"`
	}
	options := &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		"configured": h.Configured, "nodes": h.Nodes, "prefixes4": h.Prefixes4, "prefixes6": h.Prefixes6,
		"senders": h.Senders, "owns": h.Owns, "carriers": h.Carriers, "counted": h.Counted, "handed": h.Handed,
		"merging": h.Merging, "flowing": h.Flowing,
	}}
	err = undisturbed(func() error { return spec.LoadAndAssign(&loaded, options) })
	h.xdp = loaded.XDP
	return h.xdp, err
}

// shown is what readers see of the engine. It is immutable: writers publish a changed copy.
type shown struct {
	*handle                          // nil: no programs forward
	numbers  map[string]uint32       // of the nodes in the maps, by name
	kept     map[string]mesh.Traffic // counted for nodes, and by programs, that are gone; by name, or noPeer
	attached bool                    // the programs are where they belong
	receive  dataplane.Receive       // where they take datagrams
	refused  string                  // why not where they should; may be empty
	noFOU    string                  // why not by FOU, where the file does not say; may be empty
	unmerged error                   // why TCP is not merged; nil: it is, or is not to be
	past     []string                // programs that ended packets in the merger, and now are behind ours
	seen                             // who else is there
	severity mesh.Severity           // of what keeps packets from programs

	standings []standing              // where programs are
	ids       map[ebpf.ProgramID]bool // of those
	underlay  []string                // names of the interfaces where datagrams come in
	forward6  string                  // the TUN, if the underlay is IPv6
}

// noPeer is the name under which counts are kept that belong to no peer. No node has it.
const noPeer = ""

// hold returns what there is to see, and keeps its maps open until release.
func (e *Engine) hold() *shown {
	for {
		s := e.shown.Load()
		if s.handle == nil || s.acquire() {
			return s
		}
		// The owner has just taken these programs away, and published that before.
	}
}

// look calls f with what there is to see, until nothing was published meanwhile: else numbers may
// stand for other nodes than f takes them for. It never waits: each further round means that
// a writer has got on.
func look[T any](e *Engine, f func(*shown) T) T {
	for {
		s := e.hold()
		result := f(s)
		if s.handle != nil {
			_ = s.release() // what cannot be closed cannot be used either
		}
		if e.shown.Load() == s {
			return result
		}
	}
}

// publish shows readers a changed copy. The caller holds mu.
func (e *Engine) publish(change func(*shown)) {
	next := *e.shown.Load()
	change(&next)
	e.shown.Store(&next)
}
