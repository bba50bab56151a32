package kernel

import (
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/mesh"
)

// errFull says that a mesh is too large for the maps.
var errFull = errors.New("the kernel engine has no room for the mesh")

const (
	// chunkSize is how many nodes one map of counters is for (CHUNK in bpf/maps.h).
	chunkSize = 1024
	maxChunks = mesh.MaxNodes / chunkSize
)

// chunks are the counters of nodes: a map of maps, each of which has room for chunkSize numbers. They
// are made as numbers need them, so that three nodes do not take the memory of sixteen thousand on
// each CPU, and stay as long as the handle.
//
// provide and begin are for the owner. lookup may be called by anybody meanwhile.
type chunks struct {
	all  *ebpf.Map
	spec *ebpf.MapSpec // of one of them
	made [maxChunks]atomic.Pointer[ebpf.Map]
	used map[uint32]bool // numbers whose counters may not be zero
}

// provide makes the chunks that numbers need. Those that an earlier meshd has left are replaced: only
// CAP_SYS_ADMIN may open a map by its number. It takes some milliseconds where there is one to make,
// so it is no work for a holder of mu.
func (c *chunks) provide(numbers map[string]uint32) error {
	fresh := map[uint32]*ebpf.Map{}
	err := c.makeFor(numbers, fresh)
	descriptors := map[uint32]uint32{}
	for place, one := range fresh {
		descriptors[place] = uint32(one.FD())
	}
	if err == nil {
		// The kernel waits until no program uses what was there: once for a batch, since Linux 6.8.
		err = put(c.all, descriptors)
	}
	for place, one := range fresh {
		if err == nil {
			c.made[place].Store(one)
			continue
		}
		err = errors.Join(err, one.Close())
	}
	return err
}

// makeFor makes chunks, by their places.
func (c *chunks) makeFor(numbers map[string]uint32, fresh map[uint32]*ebpf.Map) error {
	for _, number := range numbers {
		place := number / chunkSize
		if place >= maxChunks {
			return fmt.Errorf("make counters: %w", errFull)
		}
		if fresh[place] != nil || c.made[place].Load() != nil {
			continue
		}
		one, err := ebpf.NewMap(c.spec)
		if err != nil {
			return fmt.Errorf("make counters: %w", err)
		}
		fresh[place] = one
	}
	return nil
}

// begin has counters of numbers, which provide has made room for, begin at zero.
func (c *chunks) begin(numbers iter.Seq[uint32]) error {
	for number := range numbers {
		if !c.used[number] {
			c.used[number] = true
			continue
		}
		zero := make([]meshCounters, ebpf.MustPossibleCPU())
		one := c.made[number/chunkSize].Load()
		if err := again(func() error { return one.Update(number%chunkSize, zero, ebpf.UpdateExist) }); err != nil {
			return fmt.Errorf("set counters to zero: %w", err)
		}
	}
	return nil
}

// lookup reads the counters of a number, one for each CPU.
func (c *chunks) lookup(number uint32) (cpus []meshCounters, err error) {
	one := c.made[number/chunkSize].Load()
	if one == nil {
		return nil, ebpf.ErrKeyNotExist
	}
	return cpus, one.Lookup(number%chunkSize, &cpus)
}

// manyOfChunk is from how many numbers of a chunk on all of it is read with one call. A call for each
// of 10,000 nodes takes 25 ms of CPU, each second; a chunk has as many bytes as 40 calls cost.
const manyOfChunk = 64

// A copyOfChunks is what chunks held at one moment, as far as they were read at once.
type copyOfChunks struct {
	*chunks
	booted time.Time        // when the clock of what is counted began
	read   [maxChunks]*page // nil: lookup asks the map
}

// A page is what a chunk holds, by number and CPU.
type page struct {
	numbers  []uint32
	counters []meshCounters
}

// pages are used again: they are read several times a second, and a page has a quarter of a megabyte on two
// CPUs.
var pages = sync.Pool{New: func() any {
	return &page{make([]uint32, chunkSize), make([]meshCounters, chunkSize*ebpf.MustPossibleCPU())}
}}

// copyFor reads chunks of which many of some numbers are. The caller releases the copy.
func (c *chunks) copyFor(numbers iter.Seq[uint32]) *copyOfChunks {
	all := &copyOfChunks{chunks: c, booted: booted()}
	var wanted [maxChunks]int
	for number := range numbers {
		wanted[number/chunkSize]++
	}
	for place, n := range wanted {
		if one := c.made[place].Load(); n >= manyOfChunk && one != nil {
			all.read[place] = readChunk(one)
		}
	}
	return all
}

// readChunk returns all of a chunk; nil if the kernel cannot read it at once, as before Linux 5.13.
func readChunk(one *ebpf.Map) *page {
	p := pages.Get().(*page)
	var at ebpf.MapBatchCursor
	n, err := one.BatchLookup(&at, p.numbers, p.counters, nil) // an array's, so in the order of its keys
	if n != chunkSize || err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		pages.Put(p)
		return nil
	}
	return p
}

// release gives the pages back. What lookup has returned must not be used any more.
func (c *copyOfChunks) release() {
	for _, p := range c.read {
		if p != nil {
			pages.Put(p)
		}
	}
}

// lookup returns the counters of a number, one for each CPU.
func (c *copyOfChunks) lookup(number uint32) ([]meshCounters, error) {
	p := c.read[number/chunkSize]
	if p == nil {
		return c.chunks.lookup(number)
	}
	cpus := len(p.counters) / chunkSize
	at := int(number%chunkSize) * cpus
	return p.counters[at : at+cpus], nil
}

// close closes what was made.
func (c *chunks) close() (err error) {
	for i := range c.made {
		err = errors.Join(err, c.made[i].Load().Close())
	}
	return err
}
