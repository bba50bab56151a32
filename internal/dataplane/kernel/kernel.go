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
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
)

// Settings is how packets come to the programs, and what those know besides the mesh.
type Settings struct {
	TUN      int            // its interface's index
	MTU      int            // largest inner packet that fits every way, bytes: routes' own MTUs are not what bpf_fib_lookup tells
	Address  netip.AddrPort // where datagrams for this node go
	Underlay []int          // indices of interfaces on which they come in
	Receive  string         // where they are taken: "auto", "xdp", "tcx", "socket"
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
	refused  []string          // why XDP is not where it should be
	watched  bool              // somebody captures on the TUN
	finishes map[string]bool   // peers that are meshd
	past     dataplane.Traffic // of nodes that are gone

	noTCX    bool   // a test plays a kernel before 6.6
	folder   string // of pins; empty if nothing is pinned
	unpinned error  // why
}

// objects are what is always loaded; the XDP program only where it is wanted.
type objects struct {
	meshMaps
	In  *ebpf.Program `ebpf:"mesh_in"`
	Out *ebpf.Program `ebpf:"mesh_out"`
}

func (o *objects) Close() error { return errors.Join(o.In.Close(), o.Out.Close(), o.meshMaps.Close()) }

// attachment is a place that a program can be at.
type attachment struct {
	program string // "out", "in", "xdp"
	device  int
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
		err = errors.Join(os.RemoveAll(folder), os.Mkdir(folder, 0o700))
		if err == nil {
			err = p.load()
		}
	}
	if err != nil {
		return nil, explain(err)
	}
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

// detach takes the programs from everywhere.
func (p *Programs) detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for at := range p.attached {
		errs = append(errs, p.take(at))
	}
	return errors.Join(errs...)
}

// take takes a program from where it is attached. The caller holds mu.
func (p *Programs) take(at attachment) error {
	h := p.attached[at]
	delete(p.attached, at)
	return h.remove()
}

// SetMesh makes the maps say what a mesh is. What comes is there before what goes is gone,
// and each node changes at one packet boundary, so that nothing is lost meanwhile.
func (p *Programs) SetMesh(m dataplane.Mesh) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next, err := p.tables.next(m, p.finishes)
	if err != nil {
		return err
	}
	if err := p.change(next); err != nil {
		return fmt.Errorf("write the kernel's tables: %w", err)
	}
	p.tables = next
	return p.configure()
}

// change brings the maps from the tables in force to others.
func (p *Programs) change(next tables) error {
	o, old := &p.objects, &p.tables
	zero := make([]meshCounters, ebpf.MustPossibleCPU())
	for number := range next.nodes {
		if _, known := old.nodes[number]; known {
			continue
		}
		if err := o.Counted.Update(number, zero, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	if err := errors.Join(put(o.Nodes, old.nodes, next.nodes), put(o.Senders, old.senders, next.senders),
		put(o.Prefixes4, old.prefixes4, next.prefixes4), put(o.Prefixes6, old.prefixes6, next.prefixes6)); err != nil {
		return err
	}
	if err := errors.Join(drop(o.Prefixes4, old.prefixes4, next.prefixes4), drop(o.Prefixes6, old.prefixes6, next.prefixes6),
		drop(o.Senders, old.senders, next.senders), drop(o.Nodes, old.nodes, next.nodes)); err != nil {
		return err
	}
	for number := range old.nodes {
		if _, stays := next.nodes[number]; stays {
			continue
		}
		t, err := p.traffic(number)
		if err := errors.Join(err, o.Counted.Delete(number)); err != nil {
			return err
		}
		p.past.Add(t)
	}
	return nil
}

// put writes what is new or another one.
func put[K, V comparable](m *ebpf.Map, old, next map[K]V) error {
	for key, value := range next {
		if before, there := old[key]; there && before == value {
			continue
		}
		if err := m.Update(key, value, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes what is gone.
func drop[K, V comparable](m *ebpf.Map, old, next map[K]V) error {
	for key := range old {
		if _, stays := next[key]; stays {
			continue
		}
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// Finishes says whether a peer is meshd, which finishes checksums that were left to a device.
// Until that is known user space sends to it.
func (p *Programs) Finishes(peer string, yes bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finishes[peer] = yes
	number, known := p.tables.numbers[peer]
	if !known || number == self {
		return nil
	}
	node := p.tables.nodes[number]
	node.Finishes = boolean(yes)
	p.tables.nodes[number] = node
	if err := p.objects.Nodes.Update(number, node, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write the kernel's tables: %w", err)
	}
	return nil
}

func boolean(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// Attach puts the programs where settings say, and takes them from everywhere else.
func (p *Programs) Attach(s Settings) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settings = s
	if err := p.configure(); err != nil {
		return err
	}
	wanted := map[attachment]bool{{"out", s.TUN}: true}
	for _, device := range s.Underlay {
		if s.way() != "socket" {
			wanted[attachment{"in", device}] = true
		}
		if s.way() == "xdp" {
			wanted[attachment{"xdp", device}] = true
		}
	}
	p.refused = nil
	for at := range wanted {
		if p.attached[at] != nil {
			continue
		}
		h, err := p.attach(at)
		switch {
		case err == nil:
			p.attached[at] = h
		case at.program == "xdp": // the file is for hosts with and without
			p.refused = append(p.refused, fmt.Sprintf("%s has no native XDP that fits: %v", nameOf(at.device), explain(err)))
			delete(wanted, at)
		default:
			return fmt.Errorf("attach the program %q to %s: %w", at.program, nameOf(at.device), explain(err))
		}
	}
	for at := range p.attached {
		if wanted[at] {
			continue
		}
		if err := p.take(at); err != nil {
			return err
		}
	}
	return nil
}

// Receive tells in words where packets are taken, and why not where settings ask for.
func (p *Programs) Receive() (where string, refused []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	where = p.settings.way()
	if where == "xdp" && len(p.refused) == len(p.settings.Underlay) {
		where = "tcx"
	}
	return where, p.refused
}

// nameOf returns the name of an interface, or its number if it has gone.
func nameOf(device int) string {
	i, err := net.InterfaceByIndex(device)
	if err != nil {
		return fmt.Sprintf("the interface with index %d", device)
	}
	return i.Name
}

// program returns what is to be at a place.
func (p *Programs) program(at attachment) (*ebpf.Program, error) {
	switch at.program {
	case "xdp":
		return p.xdpProgram()
	case "in":
		return p.objects.In, nil
	}
	return p.objects.Out, nil
}

// xdpProgram loads the program that needs a newer kernel than the others.
func (p *Programs) xdpProgram() (*ebpf.Program, error) {
	if p.xdp != nil {
		return p.xdp, nil
	}
	spec, err := loadMesh()
	if err != nil {
		return nil, err
	}
	o := &p.objects
	var loaded struct {
		XDP *ebpf.Program `ebpf:"mesh_xdp"`
	}
	err = spec.LoadAndAssign(&loaded, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		"configured": o.Configured, "nodes": o.Nodes, "prefixes4": o.Prefixes4, "prefixes6": o.Prefixes6,
		"senders": o.Senders, "counted": o.Counted, "handed": o.Handed,
	}})
	p.xdp = loaded.XDP
	return p.xdp, err
}

// Watched tells what Watch was told last.
func (p *Programs) Watched() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watched
}

// Watch has packets out go by the TUN's queue, or not: a capture on the TUN sees only those.
func (p *Programs) Watch(yes bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watched == yes {
		return nil
	}
	p.watched = yes
	return p.configure()
}

// configure writes the settings, as soon as both they and the mesh are known. The caller
// holds mu.
func (p *Programs) configure() error {
	s := p.settings
	if !s.Address.IsValid() || p.tables.numbers == nil {
		return nil
	}
	value := meshSettings{Tun: uint32(s.TUN), Mtu: uint32(s.MTU), Tun4: p.tables.tun4, Tun6: p.tables.tun6,
		Own: bytesOf(s.Address.Addr()), Port: networkOrder(s.Address.Port())}
	value.V6, value.Watched = boolean(s.Address.Addr().Is6()), boolean(p.watched)
	return p.objects.Configured.Update(uint32(0), value, ebpf.UpdateAny)
}

// networkOrder returns a number whose bytes in memory are those of n on the wire.
func networkOrder(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

// Counters returns what was counted, by name, and the sum of it with what is gone.
func (p *Programs) Counters() (peers map[string]dataplane.Traffic, total dataplane.Traffic, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	peers, total = map[string]dataplane.Traffic{}, p.past
	for name, number := range p.tables.numbers {
		if number == self {
			continue
		}
		t, err := p.traffic(number)
		if err != nil {
			return nil, total, fmt.Errorf("read the kernel's counters: %w", err)
		}
		peers[name] = t
		total.Add(t)
	}
	return peers, total, nil
}

// LastSeen returns when the programs took the last packet of a peer; the zero time if they
// never did.
func (p *Programs) LastSeen(peer string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	number, known := p.tables.numbers[peer]
	if !known || number == self {
		return time.Time{}
	}
	t, err := p.traffic(number)
	if err != nil {
		return time.Time{}
	}
	return t.LastSeen
}

// traffic reads the counters of a number.
func (p *Programs) traffic(number uint32) (t dataplane.Traffic, err error) {
	var cpus []meshCounters
	if err := p.objects.Counted.Lookup(number, &cpus); err != nil {
		return t, err
	}
	var seen uint64
	for _, c := range cpus {
		t.RxPackets += c.RxPackets
		t.RxBytes += c.RxBytes
		t.TxPackets += c.TxPackets
		t.TxBytes += c.TxBytes
		for i, n := range c.Drops {
			t.Drops[i] += n
		}
		seen = max(seen, c.Seen)
	}
	if seen != 0 {
		t.LastSeen, err = sinceBoot(seen)
	}
	return t, err
}

// sinceBoot turns a reading of the clock that runs since the boot into a time.
func sinceBoot(ns uint64) (time.Time, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, os.NewSyscallError("clock_gettime", err)
	}
	return time.Now().Add(time.Duration(ns) - time.Duration(now.Nano())), nil
}

// handovers are the names of enum handover in bpf/mesh.h.
var handovers = [...]string{"no_route", "ttl_expired", "too_big", "no_underlay_route", "unusual", "from_socket", "unknown_sender", "fragment", "to_this_node", "plain_peer", "capture"}

// Handed returns how many packets, or superpackets, were left to user space, by reason.
func (p *Programs) Handed() (map[string]uint64, error) {
	handed := map[string]uint64{}
	for i, name := range handovers {
		var cpus []uint64
		if err := p.objects.Handed.Lookup(uint32(i), &cpus); err != nil {
			return nil, fmt.Errorf("read the kernel's counters: %w", err)
		}
		for _, n := range cpus {
			handed[name] += n
		}
	}
	return handed, nil
}
