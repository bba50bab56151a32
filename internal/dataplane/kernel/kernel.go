// Package kernel is the kernel engine: eBPF programs that take plain packets from the TUN
// to the wire and back without a way through user space. The programs are in bpf/mesh.c,
// whose opening comment has the picture.
//
//	plain        what the programs forward by themselves
//	handed over  everything else: it goes on to the TUN's queue or the socket, where the
//	             user engine treats it as if there were no programs
//	number       a node in the maps; 0 is this one. A name keeps its number as long as
//	             it is in the mesh
//
// So the kernel engine is the user engine with a way around it: both know the same mesh,
// and what is counted is the sum of both.
package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	devices "example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
)

// Settings is how packets come to the programs, and what those know besides the mesh.
type Settings struct {
	TUN      int            // its interface's index
	MTU      int            // largest inner packet that fits every way, bytes: routes' own MTUs are not what bpf_fib_lookup tells
	Address  netip.AddrPort // where datagrams for this node go
	Underlay []int          // indices of interfaces on which they come in
	Receive  string         // where they are taken: "auto", "xdp", "tcx", "socket"
	Spread   bool           // each flow is sent from a port of its own
	Optional bool           // where the programs cannot run, user space does it all
}

// way returns where packets are taken if the file leaves it to us. Native XDP is for those
// who ask for it: nearly every driver resets its rings, and with them the link, when the
// first program comes, and gives up receive offloads as long as it is there (virtio_net
// refuses for them; a veth's peer loses segmentation offload).
func (s *Settings) way() string {
	if s.Receive == "auto" {
		return "tcx"
	}
	return s.Receive
}

// Programs are loaded programs and their maps. Methods may be called from any goroutine.
type Programs struct {
	mu       sync.Mutex
	objects  objects
	xdp      *ebpf.Program // nil until it is wanted
	tables   tables
	attached map[attachment]hook
	settings Settings
	merger   devices.Merger  // where packets of TCP are merged; zero: nowhere
	made     devices.Merger  // the last that there was
	unmerged error           // why there is none
	mark     meshMark        // in front of what XDP has accepted: a secret, new for each load
	before   meshMark        // that of the meshd before; the same if there is none
	marking  []meshDevice    // where a mark is believed: where XDP is, or comes to
	refused  []string        // why XDP is not where it should be
	watched  bool            // somebody captures on the TUN
	finishes map[string]bool // peers that are meshd
	past     mesh.Traffic    // of nodes that are gone

	noTCX    bool   // a test plays a kernel before 6.6
	folder   string // of pins; empty if nothing is pinned
	unpinned error  // why
}

// objects are what is always loaded; the XDP program only where it is wanted.
type objects struct {
	meshMaps
	In     *ebpf.Program `ebpf:"mesh_in"`
	Merged *ebpf.Program `ebpf:"mesh_merged"`
	Out    *ebpf.Program `ebpf:"mesh_out"`
}

func (o *objects) Close() error {
	return errors.Join(o.In.Close(), o.Merged.Close(), o.Out.Close(), o.meshMaps.Close())
}

// Load brings programs and maps into the kernel, or takes over what an earlier meshd has
// pinned. The error says in words why it cannot: a capability that is missing, a kernel that
// is too old, the verifier's last line. The verifier's whole log is in it as an
// *ebpf.VerifierError.
func Load() (*Programs, error) {
	folder, unpinned := pinFolder()
	return load(folder, unpinned)
}

// load is Load with pins in a folder, or without if that is empty.
func load(folder string, unpinned error) (*Programs, error) {
	// Before Linux 5.11 maps count as locked memory. Who may not raise the limit has perhaps
	// enough, and hears of it otherwise.
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	p := &Programs{tables: newTables(), attached: map[attachment]hook{}, finishes: map[string]bool{}, folder: folder, unpinned: unpinned}
	// Programs of another layout go first: until ours are there user space does it all.
	if folder != "" {
		if _, err := cleanUpBut(folder); err != nil {
			return nil, err
		}
	}
	err := p.load()
	if errors.Is(err, ebpf.ErrMapIncompatible) { // somebody else's
		err = errors.Join(removePins(folder), os.Mkdir(folder, 0o700))
		if err == nil {
			err = p.load()
		}
	}
	if err != nil {
		return nil, explain(err)
	}
	p.newMark()
	if err := p.adopt(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// load loads the object; pinned maps are used instead of new ones.
func (p *Programs) load() error {
	spec, err := loadMesh()
	if err != nil {
		return err
	}
	if p.folder != "" {
		for _, m := range spec.Maps {
			m.Pinning = ebpf.PinByName
		}
	}
	return spec.LoadAndAssign(&p.objects, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: p.folder}})
}

// Unpinned returns why packets would not flow on without meshd; nil if they would.
func (p *Programs) Unpinned() error { return p.unpinned }

// explain says what an error of the kernel means for whoever wants the engine.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the capabilities CAP_BPF and CAP_NET_ADMIN are needed: %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("this kernel is too old: %w", err)
	case errors.As(err, &verifier) && len(verifier.Log) > 0:
		return fmt.Errorf("the kernel's verifier refuses: %s: %w", strings.TrimSpace(verifier.Log[len(verifier.Log)-1]), err)
	}
	return err
}

// Close detaches the programs and gives up the maps, pinned ones, too.
func (p *Programs) Close() error {
	err := errors.Join(p.detach(), p.objects.Close(), p.xdp.Close())
	if p.folder != "" {
		_, cleanErr := CleanUp()
		err = errors.Join(err, cleanErr)
	}
	return err
}
